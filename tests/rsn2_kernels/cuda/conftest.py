"""The GPU kernels and their host code, run thread by thread on the emulator."""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from rsn2_kernels import _answers, _cuda
from rsn2_kernels._schema import SCHEMAS

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="session")
def emulated() -> Any:
    """``torch.ops`` of the GPU kernels as C++: same names and schemas, for tensors on the CPU."""
    if shutil.which("g++") is None:
        pytest.skip("the emulator needs g++")
    spec = importlib.util.spec_from_file_location("build_emulated", ROOT / "tools" / "build_emulated.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    library = torch.library.Library("rsn2_emulated", "DEF")
    for name, signature in SCHEMAS.items():
        library.define(name + signature)
    library.define("plan(Tensor slots, Tensor positions, Tensor index, int tile_rows) -> Tensor")
    library.define("set_order(int order) -> ()")
    library.define("set_most_shared_bytes(int bytes) -> ()")
    library.define("task_linear_dense_rows(int least_rows) -> ()")
    torch.ops.load_library(str(module.build()))
    torch.ops.rsn2_emulated.library = library  # lives as long as the operators are used
    return torch.ops.rsn2_emulated


@pytest.fixture(scope="session", autouse=True)
def answers() -> Iterator[list[torch.library.Library]]:
    """What host code of the GPU kernels asks of Python, in a list: empty when the CUDA library has its own."""
    libraries = [] if _cuda.is_loaded() else [_answers.register({}, None)]
    yield libraries
    for library in libraries:
        library._destroy()


@pytest.fixture(params=[99 * 1024, 227 * 1024], ids=["sm_89", "sm_90"])
def shared_memory(emulated: Any, request: pytest.FixtureRequest) -> Any:
    """What a block may have on consumer GPUs, and on an H100; other tests run with the smaller."""
    emulated.set_most_shared_bytes(request.param)
    yield request.param
    emulated.set_most_shared_bytes(99 * 1024)


@pytest.fixture(params=[0, 1, 2], ids=["first_to_last", "last_to_first", "any_order"])
def order(emulated: Any, request: pytest.FixtureRequest) -> Any:
    """Every order in which the threads of a block may run gives the same bits."""
    emulated.set_order(request.param)
    yield request.param
    emulated.set_order(0)
