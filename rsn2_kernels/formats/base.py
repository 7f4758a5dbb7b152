"""Base weights: the layer's initial values, from which claims take their starting values.

They are *seeded* (a 64-bit seed and a named initializer: any value can be computed from its position alone, so that
nothing needs to be kept) or *stored* (a dense tensor, as layers made from a trained one have).

The generator is specified bit for bit, since torch promises no stable streams. Value ``n`` (the flattened index in
the layer's own weight shape) comes from the 64-bit word ``w = mix(seed + (n + 1) * 0x9E3779B97F4A7C15)`` with

    mix(z):  z ^= z >> 30;  z *= 0xBF58476D1CE4E5B9;  z ^= z >> 27;  z *= 0x94D049BB133111EB;  z ^= z >> 31

(SplitMix64, all modulo 2^64). ``u = (w >> 40) / 2^24`` lies in [0, 1).

* ``uniform``: ``(2 u - 1) * scale``, in float64, rounded once to the dtype asked for.
* ``normal``: ``scale * sqrt(-2 ln(1 - u)) * cos(2 pi v)`` with ``v = ((w >> 16) & (2^24 - 1)) / 2^24``, likewise.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

INITIALIZERS = ("uniform", "normal")


_PIECE = 32_768
"""Values computed at once: the many steps of a piece stay in the cache, and torch starts no threads for them."""


def _signed(number: int) -> int:
    return number - (1 << 64) if number >= 1 << 63 else number


_GOLDEN = _signed(0x9E3779B97F4A7C15)
_MIX1 = _signed(0xBF58476D1CE4E5B9)
_MIX2 = _signed(0x94D049BB133111EB)


def _shift_right(words: Tensor, bits: int) -> Tensor:
    return (words >> bits) & ((1 << (64 - bits)) - 1)  # torch shifts int64 arithmetically


def random_words(seed: int, indices: Tensor) -> Tensor:
    """The 64-bit words of the generator at ``indices`` (int64), as int64."""
    z = _signed(seed % (1 << 64)) + (indices + 1) * _GOLDEN
    z = (z ^ _shift_right(z, 30)) * _MIX1
    z = (z ^ _shift_right(z, 27)) * _MIX2
    return z ^ _shift_right(z, 31)


class SeededBase(NamedTuple):
    """Initial values that are computed from their position.

    Attributes:
        seed: 64-bit.
        initializer: ``"uniform"`` or ``"normal"``.
        scale: half the width of the uniform distribution, or the standard deviation.
    """

    seed: int
    initializer: str
    scale: float

    def at(self, indices: Tensor, dtype: torch.dtype) -> Tensor:
        """Values at flattened positions ``indices`` (int64, any shape)."""
        pieces = [self._draw(piece, dtype) for piece in indices.reshape(-1).split(_PIECE)]
        return torch.cat(pieces).reshape(indices.shape)

    def dense(self, numel: int, dtype: torch.dtype) -> Tensor:
        """The values at positions 0 .. ``numel - 1``; not to be written to."""
        pieces = [torch.arange(first, min(first + _PIECE, numel)) for first in range(0, max(numel, 1), _PIECE)]
        return torch.cat([self._draw(piece, dtype) for piece in pieces])

    def _draw(self, indices: Tensor, dtype: torch.dtype) -> Tensor:
        words = random_words(self.seed, indices)
        u = _shift_right(words, 40).to(torch.float64) / (1 << 24)
        if self.initializer == "uniform":
            return ((2 * u - 1) * self.scale).to(dtype)
        if self.initializer == "normal":
            v = (_shift_right(words, 16) & ((1 << 24) - 1)).to(torch.float64) / (1 << 24)
            return (self.scale * (-2 * torch.log1p(-u)).sqrt() * torch.cos(2 * math.pi * v)).to(dtype)
        raise ValueError(f"initializer must be one of {INITIALIZERS}, got {self.initializer!r}")


class StoredBase(NamedTuple):
    """Initial values that were given: ``weight``, any shape."""

    weight: Tensor

    def at(self, indices: Tensor, dtype: torch.dtype) -> Tensor:
        """Values at flattened positions ``indices``."""
        return self.weight.reshape(-1)[indices].to(dtype)

    def dense(self, numel: int, dtype: torch.dtype) -> Tensor:
        """The values at positions 0 .. ``numel - 1``; not to be written to, since it may be ``weight`` itself."""
        return self.weight.reshape(-1)[:numel].to(dtype)


def draw_seed() -> int:
    """A seed from torch's global generator, so that ``torch.manual_seed`` decides it."""
    return int(torch.randint(-(1 << 63), (1 << 63) - 1, (), dtype=torch.int64, device="cpu")) % (1 << 64)
