"""What kernels are written in, on the emulator: numbers, tensor cores, warps, copies, and faults that are found."""

from __future__ import annotations

import os
import sys
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16}
ALL_PATTERNS = torch.arange(-(2**15), 2**15, dtype=torch.int16)
IS_SANITIZED = "-fsanitize" in os.environ.get("RSN2_EMULATED_FLAGS", "")

drawn = settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)


def bits(x: Tensor) -> Tensor:
    """Bit patterns, those of all NaN being one."""
    kind = torch.int16 if x.element_size() == 2 else torch.int32
    return torch.where(x.isnan(), torch.full_like(x, float("nan")), x).view(kind)


# ---- numbers ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", DTYPES)
def test_every_16_bit_number_becomes_a_float_and_comes_back(emulated, name):
    x = ALL_PATTERNS.view(DTYPES[name])
    wide = emulated.selftest_convert(x, "float32")
    assert torch.equal(bits(wide), bits(x.float()))
    assert torch.equal(bits(emulated.selftest_convert(wide, name)), bits(x))


def hard_to_round(dtype: torch.dtype) -> Tensor:
    """Every number of the dtype, halfway to the next one, and a little to either side; infinities, NaN, subnormals."""
    wide = ALL_PATTERNS.view(dtype).float()
    finite = wide[wide.isfinite()].sort().values
    middle = finite[:-1] + (finite[1:] - finite[:-1]) / 2  # exact: a float has more digits
    up, down = (middle.nextafter(torch.full_like(middle, to)) for to in (float("inf"), float("-inf")))
    edges = [float("inf"), float("-inf"), float("nan"), 0.0, -0.0, 65519.0, 65520.0, 3.4e38, 1e-45, 2**-25, 2**-24.5]
    patterns = torch.randint(-(2**31), 2**31, (50_000,), generator=torch.Generator().manual_seed(3)).int()
    return torch.cat([wide, middle, up, down, torch.tensor(edges), -torch.tensor(edges), patterns.view(torch.float32)])


@pytest.mark.parametrize("name", DTYPES)
def test_rounding_is_that_of_torch(emulated, name):
    x = hard_to_round(DTYPES[name])
    assert torch.equal(bits(emulated.selftest_convert(x, name)), bits(x.to(DTYPES[name])))


def test_tf32_has_ten_digits_rounded_to_nearest_ties_away_from_zero(emulated):
    x = hard_to_round(torch.bfloat16)
    x = x[x.isfinite() & (x.abs() < 3e38) & (x.abs() > 1e-30)].double()
    step = 2.0 ** (x.abs().log2().floor() - 10)
    wanted = x.sign() * ((x.abs() / step + 0.5).floor() * step)
    assert torch.equal(emulated.selftest_convert(x.float(), "tf32").double(), wanted)
    odd = torch.tensor([float("inf"), float("-inf"), float("nan"), 0.0])
    assert torch.equal(bits(emulated.selftest_convert(odd, "tf32")), bits(odd))


# ---- tensor cores ----------------------------------------------------------------------------------------------------


def small_numbers(generator: torch.Generator, *shape: int) -> Tensor:
    """Exact in every dtype, and so are all sums of their products."""
    return torch.randint(-8, 9, shape, generator=generator) / 4


@pytest.mark.parametrize("transposes", [False, True])
@pytest.mark.parametrize("name", DTYPES)
@given(seed=st.integers(0, 2**32))
@drawn
def test_matrices_of_16_bits(emulated, name, transposes, seed):
    generator = torch.Generator().manual_seed(seed)
    a, b, d = (small_numbers(generator, 16, 16) for _ in range(3))
    wanted = d + (a @ b if transposes else a @ b.T)
    emulated.selftest_multiply(a.to(DTYPES[name]), b.to(DTYPES[name]), d, transposes)
    assert torch.equal(d, wanted)


@given(seed=st.integers(0, 2**32))
@drawn
def test_matrices_in_tf32(emulated, seed):
    generator = torch.Generator().manual_seed(seed)
    a, b, d = (small_numbers(generator, *shape) for shape in ((16, 8), (8, 8), (16, 8)))
    wanted = d + a @ b
    emulated.selftest_multiply(a, b, d, False)
    assert torch.equal(d, wanted)


def test_tf32_drops_what_tensor_cores_do_not_take(emulated):
    a, d = torch.zeros(16, 8), torch.zeros(16, 8)
    a[3, 5] = 1 + 2**-10 + 2**-13
    emulated.selftest_multiply(a, torch.eye(8), d, False)
    assert d[3, 5] == 1 + 2**-10 and d.count_nonzero() == 1


# ---- threads and warps -----------------------------------------------------------------------------------------------


def of_warp(emulated: Any, x: Tensor, what: str, arguments: Tensor | int = 0) -> Tensor:
    arguments = torch.as_tensor(arguments).expand(64).contiguous()
    return emulated.selftest_of_warp(x, arguments, what).view(2, 32)


@pytest.mark.parametrize("dtype", [torch.int64, torch.float64])
@given(seed=st.integers(0, 2**32))
@drawn
def test_shuffles(emulated, order, dtype, seed):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randint(-(2**50), 2**50, (64,), generator=generator).to(dtype)
    warps, lanes = x.view(2, 32), torch.arange(32)
    source = torch.randint(0, 32, (64,), generator=generator)
    assert torch.equal(of_warp(emulated, x, "shuffle", source), warps.gather(1, source.view(2, 32)))
    mask = int(torch.randint(0, 32, (1,), generator=generator))
    assert torch.equal(of_warp(emulated, x, "shuffle_xor", mask), warps[:, lanes ^ mask])
    assert torch.equal(
        of_warp(emulated, x, "shuffle_up", mask), warps[:, torch.where(lanes < mask, lanes, lanes - mask)]
    )
    assert torch.equal(of_warp(emulated, x, "sum_of_warp"), warps.sum(1, keepdim=True).expand(2, 32))


@given(ids=st.lists(st.integers(0, 5) | st.integers(0, 2**32 - 1), min_size=64, max_size=64))
@drawn
def test_votes(emulated, order, ids):
    x = torch.tensor(ids)
    warps, powers = x.view(2, 32), 2 ** torch.arange(32)
    voted = ((warps != 0) * powers).sum(1, keepdim=True)
    assert torch.equal(of_warp(emulated, x, "ballot"), voted.expand(2, 32))
    same = (warps[:, :, None] == warps[:, None, :]) * powers
    assert torch.equal(of_warp(emulated, x, "match_any"), same.sum(2))
    assert of_warp(emulated, x, "count_bits").flatten().tolist() == [number.bit_count() for number in ids]
    lowest = [(number & -number).bit_length() - 1 for number in ids]
    assert of_warp(emulated, x, "lowest_bit").flatten().tolist() == lowest


def test_who_a_thread_is(emulated, order):
    thread, blocks = torch.arange(64), 3
    found = emulated.selftest_places(thread, blocks, 4)
    count = found[:, :, 6]  # in the order in which they came
    assert torch.equal(count.sort(1).values, thread.expand(blocks, 64))
    for block in range(blocks):
        facts = [thread, *(torch.full((64,), fact) for fact in (64, block, blocks)), thread % 32, thread // 32]
        assert torch.equal(found[block, :, :6], torch.stack(facts, 1))
    first_to_last = {0: thread, 1: thread.flip(0)}
    if order in first_to_last:
        assert torch.equal(count[0], first_to_last[order])


def test_a_missing_barrier_is_seen_in_some_order(emulated):
    x = torch.arange(64, dtype=torch.int32)
    results = {True: [], False: []}
    for order in (0, 1, 2, 3):
        emulated.set_order(order)
        for has_barrier in (True, False):
            results[has_barrier].append(emulated.selftest_reverse(x, has_barrier))
    emulated.set_order(0)
    assert all(torch.equal(result, x.flip(0)) for result in results[True])
    assert not any(torch.equal(result, x.flip(0)) for result in results[False])


# ---- copies ----------------------------------------------------------------------------------------------------------


@given(seed=st.integers(0, 2**32))
@drawn
def test_copies_arrive_when_they_are_waited_for(emulated, order, seed):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randint(0, 2**31 - 1, (2, 32, 4), generator=generator, dtype=torch.int32)
    is_there = torch.randint(0, 2, (2, 32), generator=generator, dtype=torch.int32)
    at_once, one_left, none_left = emulated.selftest_copies(x, is_there)
    wanted = x * is_there[:, :, None]
    assert at_once.eq(-1).all()
    assert torch.equal(one_left[0], wanted[0]) and one_left[1].eq(-1).all()
    assert torch.equal(none_left, wanted)


# ---- faults ----------------------------------------------------------------------------------------------------------

FAULTS = {
    "ends_before_barrier": "threads wait for others that have ended or wait elsewhere",
    "waits_elsewhere": "threads wait for others that have ended or wait elsewhere",
    "different_functions": "the lanes of a warp call different functions",
    "unaligned_copy": "copy_async: an end is not aligned to 16 bytes",
    "unaligned_source": "copy_async: an end is not aligned to 16 bytes",
    "unaligned_matrix": "load_matrices: a row is not aligned to 16 bytes",
    "copy_not_waited_for": "a thread has ended with copies on their way",
    "copy_not_committed": "a thread has ended with copies on their way",
    "fails": "words of the kernel",
}


@pytest.mark.parametrize("what", FAULTS)
def test_faults_stop_the_kernel(emulated, order, what):
    like = torch.zeros(1)
    with pytest.raises(RuntimeError, match=f"emulated kernel: {FAULTS[what]}"):
        emulated.selftest_fault(like, what)
    emulated.selftest_fault(like, "none")  # the next kernel is none the worse for it


@pytest.mark.parametrize(
    ("num_blocks", "shared_bytes"), [(0, 4), (-1, 4), (2**31, 4), (1, -1), (1, 227 * 1024 + 1)], ids=str
)
def test_a_launch_that_a_gpu_refuses(emulated, num_blocks, shared_bytes):
    wanted = f"cannot be launched with {num_blocks} blocks, 64 threads, {shared_bytes} bytes"
    with pytest.raises(RuntimeError, match=wanted):
        emulated.selftest_places(torch.zeros(1), num_blocks, shared_bytes)


def test_the_most_shared_memory_there_is(emulated, shared_memory):
    assert emulated.selftest_places(torch.zeros(1), 1, shared_memory).shape == (1, 64, 7)
    with pytest.raises(RuntimeError, match=f"cannot be launched with 1 blocks, .*{shared_memory + 1} bytes"):
        emulated.selftest_places(torch.zeros(1), 1, shared_memory + 1)


@pytest.mark.skipif(not IS_SANITIZED, reason="only the address sanitizer sees it (make check-emulated)")
def test_the_address_sanitizer_sees_the_end_of_shared_memory(tmp_path):
    child = os.fork()
    if child == 0:
        sys.stderr.flush()
        os.dup2(os.open(tmp_path / "report", os.O_CREAT | os.O_WRONLY), 2)
        torch.ops.rsn2_emulated.selftest_fault(torch.zeros(1), "beyond_shared_memory")
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert status != 0
    report = (tmp_path / "report").read_text()
    assert "heap-buffer-overflow" in report and "selftest.cpp" in report
