"""What the library of CUDA kernels asks of Python, and which weights it leaves to Triton's kernels."""

from __future__ import annotations

from importlib import import_module, util
from typing import Any

import pytest
import torch

from rsn2_kernels import _answers, _build, _cuda
from rsn2_kernels.formats import gather_index, pack
from rsn2_kernels.formats.gather_index import BLOCK_SIZES


@pytest.fixture(autouse=True)
def _ieee(set_precision: Any) -> None:
    """No TF32 at first."""


def index_of(block: int, channels: int = 192) -> torch.Tensor:
    """The index of a weight claimed in blocks of this size, 0 for single weights."""
    mask = torch.zeros(1, 64, channels, dtype=torch.bool)
    mask[0, : block or 1, : block or 1] = True
    return gather_index(pack(torch.ones(64, channels), mask).positions)


def rule(block: int, dtype: torch.dtype = torch.bfloat16, channels: int = 192, frozen: int | None = None,
         is_conv: bool = False) -> bool:  # fmt: skip
    x = torch.zeros((1, channels, 1, 1) if is_conv else (1, channels), dtype=dtype)
    second = [] if frozen is None else [torch.zeros(0), torch.zeros(0), index_of(frozen)]
    return _answers.is_for_block_kernels(x, index_of(block), second, channels)


@pytest.mark.parametrize("block", BLOCK_SIZES)
def test_blocks_are_for_block_kernels(block):
    for is_conv in (False, True):
        assert rule(block, is_conv=is_conv) == (block > 0)
        assert rule(block, torch.float16, is_conv=is_conv) == (block > 0)


def test_blocks_that_are_not():
    assert not rule(32, channels=48)  # would reach from one tap into the next
    assert rule(16, channels=48)
    assert rule(32, frozen=32)
    assert not rule(32, frozen=16)
    assert not rule(32, frozen=0)
    assert not rule(0, frozen=32)
    assert not rule(32, torch.float64)


def test_float32_only_in_tf32():
    assert not rule(32, torch.float32)
    assert not rule(32, torch.float32, is_conv=True)
    torch.backends.cuda.matmul.fp32_precision = "tf32"
    assert rule(32, torch.float32)
    assert not rule(32, torch.float32, is_conv=True)
    torch.backends.cudnn.conv.fp32_precision = "tf32"
    assert rule(32, torch.float32, is_conv=True)
    assert not rule(0, torch.float32)
    assert not rule(32, torch.float64)


def test_tf32_as_torch_is_set():
    assert not _answers.allows_tf32()
    torch.backends.cuda.matmul.fp32_precision = "tf32"
    assert _answers.allows_tf32()
    assert not _answers.allows_tf32("conv")


def test_tf32_as_the_older_settings_say():
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    assert _answers.allows_tf32()
    torch.set_float32_matmul_precision("highest")
    assert not _answers.allows_tf32()
    torch.set_float32_matmul_precision(before)


def test_where_triton_serves_beside_the_library(monkeypatch):
    """Where both are there and neither was asked for by name."""
    found = {"triton": object()}
    monkeypatch.setattr(util, "find_spec", found.get)
    monkeypatch.setattr(_cuda, "_loaded", object())
    monkeypatch.delenv("RSN2_BACKEND", raising=False)
    assert _build.triton_key_beside_cuda() == "CUDA"
    assert _build.triton_key() is None  # the library has the key
    monkeypatch.setenv("RSN2_BACKEND", "cuda")
    assert _build.triton_key_beside_cuda() is None
    monkeypatch.delenv("RSN2_BACKEND")
    monkeypatch.setattr(_cuda, "_loaded", None)
    assert _build.triton_key_beside_cuda() is None
    monkeypatch.setattr(_cuda, "_loaded", object())
    found.clear()
    assert _build.triton_key_beside_cuda() is None


def test_triton_has_a_kernel_for_what_the_rule_sends():
    """The table of Triton's kernels reads those weights as blocks, in every result."""
    table = import_module("rsn2_kernels.triton_kernels._table")
    torch.backends.cuda.matmul.fp32_precision = "tf32"
    for block in BLOCK_SIZES[1:]:
        for dtype in (torch.bfloat16, torch.float16, torch.float32):
            for frozen in ([], [torch.zeros(0), torch.zeros(0), index_of(block)]):
                x, index = torch.zeros(1, 192, dtype=dtype), index_of(block)
                assert _answers.is_for_block_kernels(x, index, frozen, 192)
                for result in ("forward", "grad_input", "grad_values"):
                    precision = table.precision_of(x, False)
                    choice = table.choose(result, x, index, frozen, 1, 192, precision, False)
                    assert (choice.form, choice.block) == ("tiles", block)
