"""Base weights: the generator against its specification, number by number."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rsn2_kernels.formats import SeededBase, StoredBase, draw_seed
from rsn2_kernels.formats.base import random_words

MASK = (1 << 64) - 1


def splitmix64(seed: int, n: int) -> int:
    """Written from the text of rsn2_kernels.formats.base."""
    z = (seed + (n + 1) * 0x9E3779B97F4A7C15) & MASK
    z = ((z ^ z >> 30) * 0xBF58476D1CE4E5B9) & MASK
    z = ((z ^ z >> 27) * 0x94D049BB133111EB) & MASK
    return z ^ z >> 31


def test_is_the_published_splitmix64():
    """The first outputs for seed 1234567 in the test vectors of Rosetta Code and of Vigna's reference program."""
    assert [splitmix64(1234567, n) for n in range(3)] == [
        6457827717110365317, 3203168211198807973, 9817491932198370423
    ]  # fmt: skip


@given(st.integers(0, MASK), st.lists(st.integers(0, 2**40), min_size=1, max_size=20))
def test_words(seed, indices):
    words = random_words(seed, torch.tensor(indices)).tolist()
    assert [word & MASK for word in words] == [splitmix64(seed, n) for n in indices]


def uniform(seed: int, n: int, scale: float) -> float:
    return (2 * (splitmix64(seed, n) >> 40) / 2**24 - 1) * scale


def normal(seed: int, n: int, scale: float) -> float:
    word = splitmix64(seed, n)
    u, v = (word >> 40) / 2**24, (word >> 16 & 2**24 - 1) / 2**24
    return scale * math.sqrt(-2 * math.log1p(-u)) * math.cos(2 * math.pi * v)


GOLDEN_UNIFORM = [0.48312973976135254, -0.680179238319397, -0.44279778003692627, -0.3116186857223511]
GOLDEN_NORMAL = [0.9738802909851074, 0.17556285858154297, -0.4336116909980774, 0.9183230996131897]


@pytest.mark.parametrize("seed", [0, 1, 2**63, MASK])
def test_values(seed):
    indices = torch.tensor([[0, 1, 2], [1000, 2**33, 7]])
    for initializer, value in (("uniform", uniform), ("normal", normal)):
        found = SeededBase(seed, initializer, 0.3).at(indices, torch.float64)
        expected = torch.tensor([[value(seed, n, 0.3) for n in row] for row in indices.tolist()], dtype=torch.float64)
        torch.testing.assert_close(found, expected, rtol=1e-15, atol=1e-15)


def test_golden_values():
    """Frozen: files hold a seed in place of weights, and must mean the same weights for ever."""
    uniform, normal = (SeededBase(42, name, 1.0).at(torch.arange(4), torch.float32) for name in ("uniform", "normal"))
    assert uniform.tolist() == GOLDEN_UNIFORM
    assert normal.tolist() == pytest.approx(GOLDEN_NORMAL, rel=2e-7)  # libraries differ in the last bit of a logarithm


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16], ids=str)
def test_dtype(dtype):
    base = SeededBase(3, "normal", 1.0)
    found = base.at(torch.arange(100), dtype)
    assert found.dtype == dtype
    assert torch.equal(found, base.at(torch.arange(100), torch.float64).to(dtype))


def test_a_value_depends_on_its_position_alone():
    base = SeededBase(9, "normal", 2.0)
    whole = base.at(torch.arange(1000), torch.float32)
    some = torch.tensor([999, 3, 3, 500])
    assert torch.equal(base.at(some, torch.float32), whole[some])
    assert torch.equal(base.at(torch.arange(1000).view(10, 100), torch.float32), whole.view(10, 100))


@pytest.mark.parametrize(("initializer", "deviation"), [("uniform", 3**-0.5), ("normal", 1.0)])
def test_moments(initializer, deviation):
    values = SeededBase(5, initializer, 2.0).at(torch.arange(10**6), torch.float64)
    assert values.isfinite().all()
    assert abs(values.mean()) < 5 * 2 * deviation / 1000  # five standard errors
    assert values.std() == pytest.approx(2 * deviation, rel=0.005)
    neighbours = torch.corrcoef(torch.stack([values[:-1], values[1:]]))[0, 1]
    assert abs(neighbours) < 0.005
    others = SeededBase(6, initializer, 2.0).at(torch.arange(10**6), torch.float64)
    assert abs(torch.corrcoef(torch.stack([values, others]))[0, 1]) < 0.005


def test_uniform_stays_inside_its_bounds():
    values = SeededBase(5, "uniform", 0.1).at(torch.arange(10**6), torch.float32)
    assert values.min() >= -0.1 and values.max() < 0.1
    assert values.min() < -0.0999 and values.max() > 0.0999


def test_unknown_initializer():
    with pytest.raises(ValueError, match=r"initializer must be one of \('uniform', 'normal'\), got 'cauchy'"):
        SeededBase(0, "cauchy", 1.0).at(torch.arange(3), torch.float32)


def test_stored():
    weight = torch.randn(3, 4, dtype=torch.float64)
    assert torch.equal(StoredBase(weight).at(torch.tensor([5, 0]), torch.float64), weight.flatten()[[5, 0]])
    assert StoredBase(weight).at(torch.tensor([[5]]), torch.float32).dtype == torch.float32
    assert StoredBase(weight.t()).at(torch.tensor([1]), torch.float64) == weight[1, 0]


def test_drawn_seeds_follow_torch():
    torch.manual_seed(3)
    first = [draw_seed() for _ in range(20)]
    torch.manual_seed(3)
    assert [draw_seed() for _ in range(20)] == first
    assert len(set(first)) == 20 and all(0 <= seed < 2**64 for seed in first)
    assert any(seed >= 2**63 for seed in first)
