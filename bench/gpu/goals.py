"""What our time is to be beside another's on an H200: cold weights, times of replayed graphs, products without bias."""

from __future__ import annotations

from typing import Any

from ..registry import Goal

S2, S3, S5 = "4096x4096", "14336x4096", "8192x28672"
FEW = {0.05: (4, 5.5), 0.1: (3, 3.8), 0.25: (2, 2.4)}  # must, reach: one to four rows
SIXTEEN = {0.05: (2.6, 3.5), 0.1: (2.4, 3.1), 0.25: (1.8, 2.3)}
FLOAT32 = {0.05: (5, 7.7), 0.1: (2.5, 3.9), 0.25: (1.1, 1.5)}  # 256 rows and more, no TF32
BLOCKS = {64: (4.5, 6.5), 32: (3, 4), 16: (1.7, 2.5)}  # density 0.1, 1024 rows and more
MIXED = {  # (slots, rows, density): against
    (8, 64, 0.1): {"dense models, eager": (5, 7), "dense models": (2.8, 3.5)},
    (16, 1024, 0.05): {"dense models": (1.6, 2.3)},
}
CONV = {"28x28x128": 1.5, "14x14x256": 2.2, "7x7x512": 2.2}  # 64 images of 8 slots, against a loop of cuDNN
HBM_SHARE = 0.8
"""Gate 0: of the bandwidth of a copy, for one row."""
MIXED_OVER_SINGLE = 1.1
"""Gate 3: a mixed batch's time over the sum of its tasks'."""


def of(block: str, settings: dict[str, Any]) -> list[Goal]:
    """The goals of a point."""
    if block in ("C", "C'") and settings["what"] == "forward":
        return _linear(settings)
    if block == "F" and settings["what"] == "forward" and settings["rows"] >= 1024 and settings["density"] == 0.1:
        bars = BLOCKS.get(settings["block"])  # none for what is not square
        return [] if bars is None else [Goal("F.linear", *bars)]
    if block == "E" and settings["shape"] == S2 and settings["what"] == "forward" and settings["ids"] == "uniform":
        found = MIXED.get((settings["slots"], settings["rows"], settings["density"]), {})
        return [Goal(against, *bars) for against, bars in found.items()]
    if block == "G" and (settings["what"], settings["slots"], settings["rows"]) == ("forward", 8, 64):
        must = CONV.get(settings["shape"]) if settings["density"] == 0.1 and settings["stride"] == 1 else None
        return [] if must is None else [Goal("cuDNN, task by task", must, must)]
    return []


def _linear(settings: dict[str, Any]) -> list[Goal]:
    shape, rows, density, dtype = (settings[name] for name in ("shape", "rows", "density", "dtype"))
    if shape not in (S2, S3, S5):
        return []
    if dtype == "float32":
        found = [Goal("F.linear", *FLOAT32[density])] if rows >= 256 else []
        return found + ([Goal("torch CSR", 1.5, 1.5)] if rows >= 64 and density == 0.1 else [])
    if dtype != "bfloat16":
        return []
    bars = None
    if shape == S3 and rows <= 16:
        bars = FEW[density] if rows <= 4 else SIXTEEN[density]
    elif shape in (S3, S5) and rows == 64:
        bars = (1.5, 2.2)
    elif rows >= 256:
        bars = (0.75, 0.95) if rows == 256 else (0.8, 0.95)
    found = [] if bars is None else [Goal("F.linear", *bars)]
    if density == 0.1:
        masked = (8, 12) if rows <= 16 else {256: (1.7, 2.2), 4096: (1.03, 1.06)}.get(rows)
        if shape == S3 and masked is not None:
            found.append(Goal("masked dense", *masked))
        if rows == 1 or rows >= 16 and rows <= 256:
            bar = 2.0 if rows == 1 else 4.0
            found.append(Goal("torch CSR", bar, bar))
    return found
