"""The GPU that is measured, and a stand-in on the CPU that lets everything run dry."""

from __future__ import annotations

import gc
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor

POISON = 255
"""The byte that is left in free memory: NaN in every float dtype, -1 in every integer one."""


class Replay:
    """A function whose work can be repeated. On a GPU it was captured, and repeating it costs the host one call.

    Attributes:
        result: what the function returned; after a repetition it holds the new values.
    """

    def __init__(self, function: Callable[[], Any]) -> None:
        self._function = function
        self.result = function()

    def __call__(self) -> None:
        self.result = self._function()


class _Captured(Replay):
    def __init__(self, function: Callable[[], Any], stream: torch.cuda.Stream) -> None:
        self._graph = torch.cuda.CUDAGraph()
        torch.cuda.synchronize()
        with torch.cuda.stream(stream):
            function()  # cuBLAS, cuDNN and Triton prepare themselves on a first call, which is not captured
            stream.synchronize()
            gc.disable()  # what is thrown away must not call CUDA now
            try:
                self._graph.capture_begin()  # torch.cuda.graph would empty the allocator's cache each time
                try:
                    self.result = function()
                finally:
                    self._graph.capture_end()
            finally:
                gc.enable()
        torch.cuda.synchronize()

    def __call__(self) -> None:
        self._graph.replay()


class StandIn:
    """The CPU in place of a GPU: events are clocks, graphs plain calls, streams nothing."""

    is_gpu = False
    name = "cpu (dry)"
    torch_device = torch.device("cpu")
    l2_bytes = 1 << 14
    num_multiprocessors = 1

    def synchronize(self) -> None:
        return

    def capture(self, function: Callable[[], Any]) -> Replay:
        return Replay(function)

    def samples_ms(self, function: Callable[[], Any], count: int, calls: int = 1) -> list[float]:
        """``count`` times how long ``calls`` calls take."""
        found = []
        for _ in range(count):
            start = time.perf_counter()
            for _ in range(calls):
                function()
            found.append((time.perf_counter() - start) * 1e3)
        return found

    def no_synchronisation(self) -> AbstractContextManager[None]:
        """Within it, waiting for the device is an error."""
        return nullcontext()

    @contextmanager
    def side_stream(self) -> Iterator[None]:
        """Another stream is the current one, ordered behind what was the current one, and the other way afterwards."""
        yield

    def count(self) -> int:
        return 1

    def poison(self, sizes: Sequence[int]) -> None:
        """Leave ``POISON`` in free memory of these numbers of bytes, and in some of every size up to 64 MiB."""
        ladder = [512 << step for step in range(18 if self.is_gpu else 12)]
        blocks = [
            torch.full((size,), POISON, dtype=torch.uint8, device=self.torch_device)
            for size in [*ladder, *ladder, *sizes, *sizes]
            if size > 0
        ]
        del blocks

    def is_alive(self) -> bool:
        """Whether the device still answers: after an illegal access it does not, until the process ends."""
        return True

    def free_cache(self) -> None:
        """Give memory back to the device when little is left there."""

    def free_bytes(self) -> int:
        return 1 << 40


class Gpu(StandIn):
    """The current CUDA device."""

    is_gpu = True
    torch_device = torch.device("cuda", 0)

    def __init__(self) -> None:
        properties = torch.cuda.get_device_properties(0)
        self.name = properties.name
        self.l2_bytes = properties.L2_cache_size
        self.num_multiprocessors = properties.multi_processor_count
        self._capture_stream = torch.cuda.Stream()  # one, since memory is cached per stream

    def synchronize(self) -> None:
        torch.cuda.synchronize()

    def capture(self, function: Callable[[], Any]) -> Replay:
        return _Captured(function, self._capture_stream)

    def samples_ms(self, function: Callable[[], Any], count: int, calls: int = 1) -> list[float]:
        marks = [torch.cuda.Event(enable_timing=True) for _ in range(2 * count)]
        for start, end in zip(marks[::2], marks[1::2], strict=True):
            start.record()
            for _ in range(calls):
                function()
            end.record()
        torch.cuda.synchronize()
        return [start.elapsed_time(end) for start, end in zip(marks[::2], marks[1::2], strict=True)]

    @contextmanager
    def no_synchronisation(self) -> Iterator[None]:
        torch.cuda.synchronize()
        try:
            torch.cuda.set_sync_debug_mode("error")  # it warns that it is a prototype, which may be an error
            yield
        finally:
            torch.cuda.set_sync_debug_mode("default")

    @contextmanager
    def side_stream(self) -> Iterator[None]:
        stream, main = torch.cuda.Stream(), torch.cuda.current_stream()
        stream.wait_stream(main)
        with torch.cuda.stream(stream):
            yield
        main.wait_stream(stream)

    def count(self) -> int:
        return torch.cuda.device_count()

    def is_alive(self) -> bool:
        try:
            torch.zeros(1, device=self.torch_device).item()
        except RuntimeError:
            return False
        return True

    def free_cache(self) -> None:
        free, total = torch.cuda.mem_get_info()
        if free < total // 2:
            torch.cuda.empty_cache()

    def free_bytes(self) -> int:
        torch.cuda.empty_cache()
        return torch.cuda.mem_get_info()[0]


def query(what: str) -> str | None:
    """A number of the first GPU, by nvidia-smi; None where that is absent or does not know."""
    command = ["nvidia-smi", f"--query-gpu={what}", "--format=csv,noheader,nounits", "--id=0"]
    try:
        run = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return None
    text = run.stdout.strip()
    return text if run.returncode == 0 and text and "N/A" not in text else None


def open_device(*, dry: bool) -> StandIn:
    """The GPU, or the stand-in.

    Raises:
        SystemExit: not dry, and torch sees no GPU.
    """
    # float32 means float32; what TF32 does is asked for where it is wanted.
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.benchmark = not dry
    if dry:
        return StandIn()
    if not torch.cuda.is_available():
        raise SystemExit(f"torch {torch.__version__} sees no GPU here; --dry runs on the CPU")
    torch.cuda.set_device(0)
    return Gpu()


def num_bytes(*tensors: Tensor) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
