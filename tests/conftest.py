"""What all tests share: the CPU levels of this machine, and memory that shows what nobody wrote."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest
import torch
from hypothesis import settings

from rsn2_kernels._build import native
from rsn2_kernels._schema import HAS_NATIVE

# The same examples every time, and no folder of examples beside the sources.
settings.register_profile("suite", database=None, deadline=None, derandomize=True, max_examples=60)
settings.load_profile("suite")

CPU_LEVELS = native().available_cpu_levels() if HAS_NATIVE else ["reference"]


@pytest.fixture(autouse=True)
def every_test_alike() -> Iterator[None]:
    """The same random numbers whatever ran before; no compiled code left over, of which torch.compile bears little."""
    torch.manual_seed(0)
    yield
    if "torch._dynamo" in sys.modules:
        torch._dynamo.reset()


@pytest.fixture(params=CPU_LEVELS)
def cpu_level(request: pytest.FixtureRequest) -> Iterator[str]:
    """Runs a test at every CPU level that this machine has; once, on the reference, without the native library."""
    if not HAS_NATIVE:
        yield request.param
        return
    before = native().cpu_level()
    native().set_cpu_level(request.param)
    yield request.param
    native().set_cpu_level(before)


@pytest.fixture
def compiled(cpu_level: str) -> str:
    """A CPU level of the compiled kernels. For what they promise beyond the reference, such as the bits of a result."""
    if cpu_level == "reference":
        pytest.skip("the reference does not promise this; no compiled kernels here")
    return cpu_level


@pytest.fixture
def nan_filled() -> Iterator[None]:
    """PyTorch's deterministic mode, which fills every fresh tensor with NaN: an element a kernel forgot is seen."""
    torch.use_deterministic_algorithms(True)
    assert torch.utils.deterministic.fill_uninitialized_memory
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture
def set_num_threads() -> Iterator[object]:
    """``torch.set_num_threads``, undone after the test."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)
