"""Arguments and table of kernels that run in Triton's interpreter, for the files of this folder.

test_interpreter.py beside this folder runs them in processes of their own, since the interpreter is chosen before
Triton is imported.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

from rsn2_kernels.triton_kernels import _table

LARGE = {  # each operation of the interpreter takes as long as a thousand numbers
    "lists": dict(J=32, BM=64),
    "lists, some pixels": dict(J=32, BM=16),
    "lists, grad_values": dict(J=128, BM=16),
    "tiles, float64": dict(BO=16, BC=64, BM=32),
    "tiles, float32": dict(BO=64, BC=128, BM=64),
    "tiles": dict(BO=64, BC=128, BM=64),
    "tiles, grad_input": dict(BO=64, BC=128, BM=64),
}
FORMS = {"lists": 1 << 40, "tiles": 0, "as_chosen": _table.MOST_PIXELS_OF_LISTS}


@pytest.fixture(params=["task_linear", "task_conv2d"])
def make_small(request: pytest.FixtureRequest, make_linear: Any, make_conv: Any) -> Callable[..., Any]:
    """Arguments of both forward operators in turn, for a number of rows and slots."""

    def make(batch: int, num_slots: int, **options: Any) -> Any:
        if request.param == "task_linear":
            return make_linear((batch, 40, 20, num_slots), **options)
        return make_conv((batch, 5, 18, num_slots, (4, 3), (2, 3), (1, 1), (0, 1, 1, 1), (1, 1)), **options)

    return make


@pytest.fixture(autouse=True)
def _nan_filled(nan_filled: None) -> None:
    """For every test of this file."""


def set_precision(name: str) -> None:
    """How torch makes float32 products on a GPU; it allows TF32 for convolutions unless told otherwise."""
    torch.backends.cuda.matmul.fp32_precision = torch.backends.cudnn.conv.fp32_precision = name


@pytest.fixture(autouse=True)
def sizes(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Kernels hold more at once than on a GPU, except in tests of the table's own sizes."""
    if "its_own_sizes" not in request.node.name:
        for name, large in LARGE.items():
            monkeypatch.setitem(_table.SIZES, name, large)


@pytest.fixture(autouse=True)
def _no_tf32() -> Iterator[None]:
    set_precision("ieee")
    yield
    set_precision("ieee")


@pytest.fixture
def use_form(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Make 16-bit products take the form of this name; float32 too, as if TF32 were allowed."""

    def use(form: str) -> None:
        monkeypatch.setattr(_table, "MOST_PIXELS_OF_LISTS", FORMS[form])
        if form == "tiles":
            set_precision("tf32")

    return use
