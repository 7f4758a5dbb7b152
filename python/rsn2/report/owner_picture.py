"""Who owns which weight, as a picture: one pixel per weight, one colour per owner."""

from __future__ import annotations

import base64
import struct
import zlib
from collections.abc import Sequence

import torch
from torch import Tensor

from rsn2.report.page import SERIES, text

FREE_COLOUR = "#e4e7ea"


def png_of(indices: Tensor, colours: Sequence[str]) -> bytes:
    """A PNG file with a palette.

    Args:
        indices: ``[H, W]`` of integers, each the number of a colour.
        colours: at most 256, as ``#rrggbb``.

    Raises:
        ValueError: the shape, the number of colours or an index does not fit.
    """
    if indices.dim() != 2 or indices.numel() == 0 or len(colours) > 256:
        raise ValueError(
            f"png_of: indices must be [H, W] and colours at most 256, got {list(indices.shape)} and {len(colours)}"
        )
    if int(indices.min()) < 0 or int(indices.max()) >= len(colours):
        raise ValueError(
            f"png_of: indices must be in 0..{len(colours) - 1}, got {int(indices.min())}..{int(indices.max())}"
        )
    height, width = indices.shape
    rows = indices.to(torch.uint8).numpy()
    palette = b"".join(bytes.fromhex(colour.removeprefix("#")) for colour in colours)
    scanlines = b"".join(b"\0" + line.tobytes() for line in rows)  # 0: no filter
    header = struct.pack(">IIBBBBB", width, height, 8, 3, 0, 0, 0)  # 8 bits per pixel, palette
    chunks = ((b"IHDR", header), (b"PLTE", palette), (b"IDAT", zlib.compress(scanlines, 9)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(kind, content) for kind, content in chunks)


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def owner_picture(masks: Sequence[Tensor], title: str, *, corner: int = 128, pixels: int = 2) -> str:
    """An ``<img>`` of the upper left corner of a layer's weight.

    Args:
        masks: bool ``[O, I]`` per slot; no two of them overlap.
        title: what it shows, for those who cannot see it.
        corner: at most so many outputs and inputs are drawn.
        pixels: side of a weight on the screen.

    Raises:
        ValueError: there is no mask, or two of them overlap.
    """
    if not masks:
        raise ValueError("owner_picture: masks must not be empty")
    owners = torch.zeros_like(masks[0], dtype=torch.int64)
    for slot, mask in enumerate(masks, start=1):
        if bool((owners[mask] != 0).any()):
            raise ValueError(
                f"owner_picture: masks must not overlap, but slot {slot - 1} shares weights with an earlier one"
            )
        owners[mask] = slot
    owners = owners[:corner, :corner]
    colours = [FREE_COLOUR, *(SERIES[slot % len(SERIES)] for slot in range(len(masks)))]
    encoded = base64.b64encode(png_of(owners, colours)).decode()
    height, width = (side * pixels for side in owners.shape)
    return (
        f'<img class="map" width="{width}" height="{height}" alt="{text(title)}" src="data:image/png;base64,{encoded}">'
    )
