"""What all tests share: the device they run on, its levels, and memory that shows what nobody wrote."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator

import pytest
import torch
from hypothesis import settings
from torch import Tensor

from rsn2_kernels._build import native
from rsn2_kernels._schema import HAS_NATIVE

# The same examples every time, and no folder of examples beside the sources.
settings.register_profile("suite", database=None, deadline=None, derandomize=True, max_examples=60)
settings.load_profile("suite")

CPU_LEVELS = native().available_cpu_levels() if HAS_NATIVE else ["reference"]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--device", choices=["cpu", "cuda"], default="cpu", help="where the tests make their tensors")


def pytest_configure(config: pytest.Config) -> None:
    """With ``--device cuda`` torch makes tensors there from the start, also those that tests keep in their modules."""
    config.addinivalue_line("markers", "cpu_only: left out with --device cuda, with the reason why")
    if not is_on_gpu(config):
        return
    if not torch.cuda.is_available():
        raise pytest.UsageError(f"--device cuda: torch {torch.__version__} sees no GPU here")
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # without it cuBLAS may add in any order
    torch.set_default_device("cuda")
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False  # float32 means float32
    config.addinivalue_line("filterwarnings", "ignore:.*does not have a deterministic implementation:UserWarning")


def pytest_unconfigure(config: pytest.Config) -> None:
    if is_on_gpu(config):
        torch.set_default_device(None)


def is_on_gpu(config: pytest.Config) -> bool:
    return bool(config.getoption("--device") == "cuda")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "cpu_level" in metafunc.fixturenames:
        metafunc.parametrize("cpu_level", ["cuda"] if is_on_gpu(metafunc.config) else CPU_LEVELS, indirect=True)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """On a GPU what concerns the CPU is left out: its levels' bits (``compiled``), and what is marked ``cpu_only``."""
    if not is_on_gpu(config):
        return
    is_left_out = [
        item.get_closest_marker("cpu_only") is not None or "compiled" in getattr(item, "fixturenames", ())
        for item in items
    ]
    config.hook.pytest_deselected(items=[item for item, out in zip(items, is_left_out, strict=True) if out])
    items[:] = [item for item, out in zip(items, is_left_out, strict=True) if not out]


@pytest.fixture(scope="session")
def device() -> torch.device:
    """Where tests run. What they make without saying where is there already."""
    return torch.get_default_device()


@pytest.fixture
def same_rows(device: torch.device) -> Callable[[Tensor, Tensor], None]:
    """Holds the rows of a mixed batch against the same rows alone: the same bits on the CPU.

    On a GPU they agree up to roundings: how a sum is cut depends on how many rows and slots there are, and
    normalisations compute all slots at once, since Python does not look which ones are present.
    """

    def check(mixed: Tensor, alone: Tensor) -> None:
        if device.type == "cpu":
            torch.testing.assert_close(mixed, alone, rtol=0, atol=0)
        else:
            torch.testing.assert_close(mixed, alone, rtol=1e-4, atol=1e-5)

    return check


@pytest.fixture(autouse=True)
def every_test_alike(device: torch.device) -> Iterator[None]:
    """The same random numbers whatever ran before; no compiled code left over, of which torch.compile bears little.

    On a GPU in PyTorch's deterministic mode, as far as torch has it there: else its own sums over rows, as those of a
    normalisation's gradients, differ from run to run. Fresh tensors are filled with NaN by it.
    """
    torch.manual_seed(0)
    if device.type == "cuda":
        torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    if device.type == "cuda":
        torch.use_deterministic_algorithms(False)
    if "torch._dynamo" in sys.modules:
        torch._dynamo.reset()


@pytest.fixture
def cpu_level(request: pytest.FixtureRequest) -> Iterator[str]:
    """Runs a test at every CPU level that this machine has; once, on the reference, without the native library.

    On a GPU once, since there is one level, "cuda".
    """
    if not HAS_NATIVE or request.param == "cuda":
        yield request.param
        return
    before = native().cpu_level()
    native().set_cpu_level(request.param)
    yield request.param
    native().set_cpu_level(before)


@pytest.fixture
def compiled(cpu_level: str) -> str:
    """A CPU level of the compiled kernels. For what they promise beyond the reference, such as the bits of a result.

    With ``--device cuda`` tests that use it are left out.
    """
    if cpu_level == "reference":
        pytest.skip("the reference does not promise this; no compiled kernels here")
    return cpu_level


@pytest.fixture
def nan_filled(device: torch.device) -> Iterator[None]:
    """PyTorch's deterministic mode, which fills every fresh tensor with NaN: an element a kernel forgot is seen."""
    torch.use_deterministic_algorithms(True, warn_only=device.type == "cuda")  # torch has no such form of some there
    assert torch.utils.deterministic.fill_uninitialized_memory
    yield
    torch.use_deterministic_algorithms(device.type == "cuda", warn_only=device.type == "cuda")


@pytest.fixture
def set_num_threads() -> Iterator[object]:
    """``torch.set_num_threads``, undone after the test."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)
