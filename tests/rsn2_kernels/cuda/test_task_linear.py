"""task_linear's GPU kernels against the reference, each of them for every shape, whatever the table would choose."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from rsn2_kernels.formats import PackedWeight, pack, unpack
from rsn2_kernels.formats.gather_index import gather_index
from rsn2_kernels.testing import LINEAR_SHAPES, assert_as_accurate

FLOAT, DOUBLE, BFLOAT16, FLOAT16 = torch.float32, torch.float64, torch.bfloat16, torch.float16
HALVES = [(BFLOAT16, BFLOAT16), (FLOAT16, FLOAT16), (BFLOAT16, FLOAT), (FLOAT16, FLOAT)]  # x, values
FLOATS = [(FLOAT, FLOAT), (DOUBLE, DOUBLE)]
ROUTES = [  # kernel, rows of a tile, dtypes; float32 on "tiles" is TF32
    *[("few", rows, dtypes) for rows in (1, 4, 8) for dtypes in [*HALVES, (FLOAT, FLOAT)]],
    *[("tiles", rows, dtypes) for rows in (16, 32, 64, 128) for dtypes in HALVES],
    *[("tiles", rows, (FLOAT, FLOAT)) for rows in (16, 32)],
    *[("wide", rows, (FLOAT, FLOAT)) for rows in (32, 64)],
    ("wide", 32, (DOUBLE, DOUBLE)),
]
SOME_ROUTES = [  # every kernel, one width
    ("few", 4, (FLOAT, FLOAT)),
    ("few", 8, (BFLOAT16, FLOAT)),
    ("tiles", 16, (BFLOAT16, BFLOAT16)),
    ("tiles", 128, (FLOAT16, FLOAT16)),
    ("tiles", 32, (FLOAT, FLOAT)),
    ("wide", 64, (FLOAT, FLOAT)),
    ("wide", 32, (DOUBLE, DOUBLE)),
]
SHAPES = {  # B, I, O, T
    **LINEAR_SHAPES,
    "one_row": (1, 300, 70, 3),
    "one_output": (9, 300, 1, 2),
    "one_input": (40, 1, 130, 2),
    "tile_exactly": (64, 512, 64, 1),
    "tile_and_one": (65, 257, 65, 2),
    "slots_200": (64, 60, 40, 200),
    "no_inputs": (3, 0, 5, 2),
    "no_outputs": (3, 5, 0, 2),
}


def name_of(route: tuple[str, int, tuple[torch.dtype, torch.dtype]]) -> str:
    kernel, rows, dtypes = route
    return "-".join([kernel, str(rows), *(str(dtype).removeprefix("torch.") for dtype in dict.fromkeys(dtypes))])


every_route = pytest.mark.parametrize("route", ROUTES, ids=name_of)
some_routes = pytest.mark.parametrize("route", SOME_ROUTES, ids=name_of)


@cache
def _indexed(weight: PackedWeight) -> PackedWeight:
    return weight._replace(index=gather_index(weight.positions))


class Kernels:
    """The emulated operators, with a kernel forced or left to the table."""

    def __init__(self, ops: Any) -> None:
        self.ops = ops

    def force(self, route: tuple[Any, ...] | None = None, splits: int = 1) -> None:
        kernel, rows = route[:2] if route else ("few", 0)
        self.ops.task_linear_route(kernel, rows, splits)

    def forward(self, problem: Any) -> Tensor:
        frozen = problem.frozen and _indexed(problem.frozen)
        return replace(problem, weight=_indexed(problem.weight), frozen=frozen).forward(self.ops)

    def check(self, problem: Any, route: tuple[Any, ...] | None = None) -> None:
        """About as accurate as plain PyTorch; in float64 exact; on TF32 both from rounded inputs."""
        if problem.x.dtype == DOUBLE:
            problem = problem.with_exact_sums()
            torch.testing.assert_close(self.forward(problem), problem.exact("forward"), rtol=0, atol=0)
            return
        if route and route[0] == "tiles" and problem.x.dtype == FLOAT:
            problem = replace(problem, x=rounded_to_tf32(problem.x)).with_values(rounded_to_tf32(problem.weight.values))
        factor = 3 if problem.x.dtype == FLOAT else 2  # other chains of sums than BLAS: see Problem.check
        assert_as_accurate(self.forward(problem), problem.plain("forward"), problem.exact("forward"), factor)


@pytest.fixture(scope="module")
def ops(emulated: Any) -> Iterator[Any]:
    library = torch.library.Library("rsn2_emulated", "FRAGMENT")
    library.define("task_linear_route(str kernel, int tile_rows, int splits) -> ()")
    library.define(
        "decode(Tensor like, Tensor values, Tensor index, Tensor[] frozen, int slot, int panel, int span) -> Tensor"
    )
    yield emulated
    library._destroy()


@pytest.fixture
def kernels(ops: Any) -> Iterator[Kernels]:
    kernels = Kernels(ops)
    yield kernels
    kernels.force(None)


def rounded_to_tf32(x: Tensor) -> Tensor:
    """The 19 bits that tensor cores take, ties away from zero."""
    return ((x.contiguous().view(torch.int32) + 0x1000) & -0x2000).view(torch.float32)


def make(make_linear: Any, shape: Any, route: tuple[Any, ...], **options: Any) -> Any:
    x, values = route[2]
    return make_linear(SHAPES.get(shape, shape), dtype=x, value_dtype=values, **options)


@every_route
@pytest.mark.parametrize("shape", SHAPES)
def test_matches_reference(kernels, make_linear, shape, route):
    kernels.force(route)
    kernels.check(make(make_linear, shape, route), route)


@pytest.mark.parametrize("dtypes", [*HALVES, *FLOATS], ids=str)
@pytest.mark.parametrize("is_one", [True, False], ids=["one_slot", "one_per_row"])
@pytest.mark.parametrize("batch", [1, 2, 7, 9, 33, 70, 300])
def test_what_the_table_chooses(kernels, make_linear, batch, is_one, dtypes):
    problem = make_linear((batch, 2100, 70, 2), dtype=dtypes[0], value_dtype=dtypes[1], density=0.02)
    kernels.check(replace(problem, slots=torch.tensor(1)) if is_one else problem)


@every_route
@pytest.mark.parametrize("splits", [2, 3, 9])
def test_parts_of_the_inputs(kernels, make_linear, route, splits):
    """Also more parts than spans: some are empty."""
    problem = make(make_linear, (11, 700, 66, 2), route)
    kernels.force(route, splits)
    kernels.check(problem, route)
    kernels.check(replace(problem, slots=torch.tensor(1), activation="relu", bias=None), route)


@some_routes
@pytest.mark.parametrize("density", [0.002, 0.3, 1.0])
def test_every_density(kernels, make_linear, density, route):
    kernels.force(route)
    kernels.check(make(make_linear, (17, 270, 35, 1), route, density=density), route)


@some_routes
@pytest.mark.parametrize("splits", [1, 2])
@pytest.mark.parametrize("activation", ["none", "relu"])
@pytest.mark.parametrize("has_bias", [True, False], ids=["bias", "no_bias"])
def test_frozen_bias_and_activation(kernels, make_linear, make_frozen, route, has_bias, activation, splits):
    problem = make(make_linear, (12, 530, 70, 3), route)
    problem = replace(problem, activation=activation, bias=problem.bias if has_bias else None)
    kernels.force(route, splits)
    if route == ("tiles", 32, (FLOAT, FLOAT)):  # no sum of two weights is rounded where only one store owns
        frozen = make_frozen(problem)
        frozen = frozen._replace(values=rounded_to_tf32(frozen.values) * 0)
        kernels.check(replace(problem, frozen=frozen), route)
        return
    kernels.check(replace(problem, frozen=make_frozen(problem)), route)


@some_routes
def test_only_the_frozen_store_owns(kernels, make_linear, make_frozen, route):
    problem = make(make_linear, "divides_nothing", route)
    nothing = pack(torch.randn(17, 33).to(problem.weight.values.dtype), torch.zeros(3, 17, 33, dtype=torch.bool))
    frozen = make_frozen(problem)
    if route[0] == "tiles" and route[2][0] == FLOAT:
        frozen = frozen._replace(values=rounded_to_tf32(frozen.values))
    kernels.force(route)
    kernels.check(replace(problem, weight=nothing, frozen=frozen), route)


@some_routes
@pytest.mark.parametrize("splits", [1, 2])
@pytest.mark.parametrize("slot", [-1, 3, 2**40, -(2**63)])
def test_rows_of_an_unknown_slot_are_nan(kernels, make_linear, route, slot, splits):
    problem = make(make_linear, (9, 530, 70, 3), route)
    kernels.force(route, splits)
    slots = problem.slots.clone()
    slots[[0, 4, 5]] = slot
    y = kernels.forward(replace(problem, slots=slots))
    known = slots != slot
    assert y[~known].isnan().all()
    assert torch.equal(y[known], kernels.forward(problem)[known])
    y = kernels.forward(replace(problem, slots=torch.tensor(slot), activation="relu"))
    assert y.shape == (9, 70)
    assert y.isnan().all()


@some_routes
@pytest.mark.parametrize("splits", [1, 2])
def test_a_slot_without_weights_gives_its_bias(kernels, make_linear, route, splits):
    problem = make(make_linear, "divides_nothing", route)
    masks = torch.zeros(3, 17, 33, dtype=torch.bool)
    masks[0], masks[0, 4], masks[2, 4] = True, False, True  # nothing for slot 1
    dtype = problem.weight.values.dtype
    problem = replace(problem, weight=pack(torch.randn(17, 33).to(dtype), masks), slots=torch.tensor([1, 0, 1, 2, 1]))
    kernels.force(route, splits)
    assert torch.equal(kernels.forward(problem)[problem.slots == 1], problem.bias[1].to(problem.x.dtype).expand(3, 17))
    kernels.check(problem, route)
    kernels.check(replace(problem, slots=torch.tensor(1)), route)
    nothing = pack(torch.randn(17, 33).to(dtype), torch.zeros(3, 17, 33, dtype=torch.bool))
    y = kernels.forward(replace(problem, weight=nothing))
    assert torch.equal(y, problem.bias[problem.slots].to(y.dtype))


def as_transposed(x: Tensor) -> Tensor:
    return x.t().contiguous().t()


def as_every_other_column(x: Tensor) -> Tensor:
    return x.repeat_interleave(2, 1)[:, ::2]


def as_unaligned(x: Tensor) -> Tensor:
    whole = x.new_empty(x.numel() + 1)
    return whole[1:].view_as(x).copy_(x)


def as_wider_rows(x: Tensor) -> Tensor:
    """Each row from a multiple of 16 bytes on, and what follows it NaN."""
    whole = x.new_full((x.shape[0], -(-x.shape[1] // 8) * 8 + 8), torch.nan)
    return whole[:, : x.shape[1]].copy_(x)


def as_one_row_expanded(x: Tensor) -> Tensor:
    return x[:1].expand_as(x)


@some_routes
@pytest.mark.parametrize(
    "view", [as_transposed, as_every_other_column, as_unaligned, as_wider_rows, as_one_row_expanded]
)
@pytest.mark.parametrize("width", [261, 264])
def test_any_strides(kernels, make_linear, route, view, width):
    problem = make(make_linear, (9, width, 21, 3), route)
    slots = problem.slots.repeat(2, 1).t()[:, 0]
    problem = replace(problem, x=view(problem.x), slots=slots)
    kernels.force(route)
    kernels.check(problem, route)
    same = replace(problem, x=problem.x.contiguous(), bias=problem.bias.t().contiguous().t())
    assert torch.equal(kernels.forward(problem), kernels.forward(same))


@some_routes
def test_values_that_are_not_aligned(kernels, make_linear, route):
    problem = make(make_linear, (9, 300, 70, 2), route, density=0.5)
    kernels.force(route)
    aligned = kernels.forward(problem)
    assert torch.equal(kernels.forward(problem.with_values(as_unaligned(problem.weight.values))), aligned)


def test_offsets_of_64_bits(kernels, make_linear, tmp_path):
    """Rows of x that lie 2^31 numbers and more apart, in a file with holes."""
    problem = make_linear((4, 40, 21, 2), dtype=BFLOAT16)
    stride = 2**30 + 8
    storage = torch.UntypedStorage.from_file(str(tmp_path / "x"), True, 2 * (3 * stride + 40))
    x = torch.empty(0, dtype=BFLOAT16).set_(storage, 0, (4, 40), (stride, 1))
    x.copy_(problem.x)
    for route in (("few", 4), ("tiles", 16)):
        kernels.force(route)
        assert torch.equal(kernels.forward(replace(problem, x=x)), kernels.forward(problem))


@every_route
def test_every_order_of_threads_gives_the_same_bits(kernels, ops, make_linear, make_frozen, route):
    shape = (20, 4400, 18, 3) if route[0] == "few" else (20, 1100, 70, 3)  # several rounds through shared memory
    problem = make(make_linear, shape, route)
    problem = replace(problem, frozen=make_frozen(problem))
    kernels.force(route)
    first = kernels.forward(problem)
    try:
        for order in (1, 2, 3):
            ops.set_order(order)
            assert torch.equal(kernels.forward(problem), first)
    finally:
        ops.set_order(0)


@every_route
@pytest.mark.parametrize("splits", [1, 2])
def test_a_mixed_batch_equals_the_slots_one_by_one(kernels, make_linear, route, splits):
    problem = make(make_linear, (70, 530, 70, 5), route)
    kernels.force(route, splits)
    mixed = kernels.forward(problem)
    for slot in problem.slots.unique().tolist():
        assert torch.equal(mixed[problem.slots == slot], kernels.forward(problem.of_one_slot(slot)))
    order = torch.randperm(70, generator=torch.Generator().manual_seed(0))
    assert torch.equal(mixed[order], kernels.forward(problem.rows(order)))


@pytest.mark.parametrize("dtypes", [*HALVES, (FLOAT, FLOAT)], ids=str)
def test_every_width_of_tiles_gives_the_same_bits(kernels, make_linear, dtypes):
    problem = make_linear((70, 530, 70, 2), dtype=dtypes[0], value_dtype=dtypes[1])
    results = []
    for rows in (16, 32) if dtypes[0] == FLOAT else (16, 32, 64, 128):
        kernels.force(("tiles", rows))
        results.append(kernels.forward(problem))
    assert all(torch.equal(result, results[0]) for result in results)


@some_routes
def test_nan_in_other_slots_changes_nothing(kernels, make_linear, route):
    problem = make(make_linear, (30, 530, 70, 3), route)
    problem = replace(problem, slots=torch.ones(30, dtype=torch.int64))
    kernels.force(route)
    expected = kernels.forward(problem)
    values = [torch.full_like(v, torch.nan) for v in problem.weight.values.split(problem.num_owned)]
    values[1] = problem.weight.values.split(problem.num_owned)[1]
    spoiled = problem.with_values(torch.cat(values))
    spoiled = replace(spoiled, bias=torch.full_like(problem.bias, torch.nan))
    spoiled.bias[1] = problem.bias[1]
    assert torch.equal(kernels.forward(spoiled), expected)
    assert torch.equal(kernels.forward(replace(spoiled, slots=torch.tensor(1))), expected)


@some_routes
def test_relu_keeps_nan(kernels, make_linear, route):
    problem = make(make_linear, "divides_nothing", route, density=1 / 3)
    kernels.force(route)
    x = torch.full_like(problem.x, torch.nan)
    assert kernels.forward(replace(problem, x=x, activation="relu")).isnan().all()


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    st.integers(0, 80), st.integers(1, 600), st.integers(1, 140), st.integers(1, 6),
    st.sampled_from([0.01, 0.05, 0.15]), st.booleans(), st.integers(1, 3), st.integers(0, 99),
    st.sampled_from(ROUTES),
)  # fmt: skip
def test_any_shape(kernels, make_linear, batch, inputs, outputs, num_slots, density, is_one, splits, seed, route):
    problem = make(make_linear, (batch, inputs, outputs, num_slots), route, density=density, seed=seed)
    kernels.force(route, splits)
    kernels.check(replace(problem, slots=torch.tensor(num_slots - 1)) if is_one else problem, route)


X = torch.zeros(5, 33)
BAD = {
    "dimensions": (dict(x=torch.zeros(33)), r"x must have shape \[B, I\], got 1 dimensions"),
    "integers": (dict(x=X.long()), r"x must be float32, float64, bfloat16 or float16, got Long"),
    "dtypes": (dict(x=X.double()), r"values must have the dtype of x, Double, or be float32 beside 16 bits, got Float"),
    "slots": (dict(slots=torch.zeros(4, dtype=torch.int64)), r"slots must have shape \[\] or \[5\]"),
    "slots_dtype": (dict(slots=torch.zeros(5, dtype=torch.int32)), r"slots must be int64"),
    "bias": (dict(bias=torch.zeros(3, 16)), r"bias must be \[T, 17\] with the dtype of values"),
    "activation": (dict(activation="gelu"), r"activation must be 'none' or 'relu', got 'gelu'"),
}  # fmt: skip


@pytest.mark.parametrize(("changes", "message"), BAD.values(), ids=BAD)
def test_bad_arguments(kernels, make_linear, changes, message):
    with pytest.raises(ValueError, match="^task_linear: " + message):
        kernels.forward(replace(make_linear("divides_nothing"), **changes))


@pytest.mark.parametrize("dtypes", [*HALVES, (FLOAT, FLOAT)], ids=str)
@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    st.integers(1, 150), st.integers(1, 600), st.integers(1, 4), st.sampled_from([0.01, 0.1, 0.3, 1.0]), st.booleans(),
    st.integers(0, 99),
)  # fmt: skip
def test_expanded_tiles(ops, make_linear, make_frozen, dtypes, outputs, inputs, num_slots, density, has_frozen, seed):
    """Every tile of every slot: the weights, zeros elsewhere, and a second store on top."""
    x, values = dtypes
    problem = make_linear((1, inputs, outputs, num_slots), dtype=x, value_dtype=values, density=density, seed=seed)
    weight = _indexed(problem.weight)
    frozen = _indexed(make_frozen(problem)) if has_frozen else None
    second = [frozen.values, frozen.index] if frozen else []
    round_tile = rounded_to_tf32 if x == FLOAT else lambda tile: tile.to(x)
    for slot in range(num_slots):
        dense = round_tile(unpack(weight.values, weight.positions, slot).float())
        if frozen:
            more = unpack(frozen.values, frozen.positions, slot).float()
            dense = torch.where(more == 0, dense, round_tile(dense.float() + more))
        dense = torch.nn.functional.pad(dense.float(), (0, -inputs % 256, 0, -outputs % 64))
        for panel in range(0, -(-outputs // 16), 4):
            for span in range(-(-inputs // 256)):
                tile = ops.decode(problem.x, weight.values, weight.index, second, slot, panel, span)
                expected = dense[16 * panel : 16 * panel + 64, 256 * span : 256 * span + 256]
                assert torch.equal(tile.float(), expected)
