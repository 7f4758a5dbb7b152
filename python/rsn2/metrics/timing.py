"""Wall time of functions, measured in turns so that a busy machine slows all of them alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Timing:
    """Repeated measurements of one function, in milliseconds."""

    samples_ms: tuple[float, ...]

    def median_ms(self) -> float:
        """The median."""
        return statistics.median(self.samples_ms)

    def quantile_ms(self, share: float) -> float:
        """The smallest sample that at least `share` of the samples do not exceed.

        Raises:
            ValueError: `share` is not in (0, 1].
        """
        if not 0 < share <= 1:
            raise ValueError(f"quantile_ms: share must be in (0, 1], got {share}")
        ordered = sorted(self.samples_ms)
        return next(value for rank, value in enumerate(ordered, start=1) if rank >= share * len(ordered))


def time_in_turns(
    functions: Mapping[str, Callable[[], object]],
    *,
    repeats: int = 11,
    block: int = 1,
    warmups: int = 1,
    rest_seconds: float = 0.0,
) -> dict[str, Timing]:
    """Time functions in blocks, one block of each in turn.

    Args:
        functions: what to time, by name.
        repeats: blocks of each function.
        block: measured calls in a block.
        warmups: unmeasured calls at the beginning of each block.
        rest_seconds: pause before each block. Threads of OpenMP and onnxruntime spin for a while after a call, and
            would take the cores from whoever comes next; 0.03 is enough.

    Where CUDA is in use, the device is waited for.

    Raises:
        ValueError: there is no function, or `repeats` or `block` is below 1, or another number is negative.
    """
    if not functions or repeats < 1 or block < 1 or warmups < 0 or rest_seconds < 0:
        raise ValueError(
            f"time_in_turns: expected functions, repeats and block of at least 1, warmups and rest_seconds of at "
            f"least 0, got {len(functions)} functions, {repeats}, {block}, {warmups} and {rest_seconds}"
        )
    samples: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(repeats):
        for name, function in functions.items():
            time.sleep(rest_seconds)
            for call in range(-warmups, block):
                _wait_for_device()
                start = time.perf_counter()
                function()
                _wait_for_device()
                if call >= 0:
                    samples[name].append((time.perf_counter() - start) * 1e3)
    return {name: Timing(tuple(values)) for name, values in samples.items()}


def _wait_for_device() -> None:
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.synchronize()
