"""Many rows of one slot: task_linear and its gradients as dense products, here by torch's own on the CPU."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from rsn2_kernels.formats import pack
from rsn2_kernels.formats.gather_index import gather_index
from rsn2_kernels.testing import assert_as_accurate

FLOAT, DOUBLE, BFLOAT16, FLOAT16 = torch.float32, torch.float64, torch.bfloat16, torch.float16
DTYPES = [(BFLOAT16, BFLOAT16), (FLOAT16, FLOAT16), (BFLOAT16, FLOAT), (FLOAT16, FLOAT), (FLOAT, FLOAT)]  # x, values
RESULTS = ("forward", "grad_input", "grad_values")
SHAPES = {  # B, I, O, T
    "one_row": (1, 300, 70, 2),
    "tiles_exactly": (64, 512, 64, 2),
    "just_beyond_tiles": (40, 513, 65, 3),
    "rows_of_eights": (33, 264, 40, 2),
    "one_output": (9, 300, 1, 2),
    "one_input": (40, 1, 130, 2),
    "many_tiles": (5, 1100, 150, 2),
}

all_dtypes = pytest.mark.parametrize("dtypes", DTYPES, ids=lambda pair: "-".join(str(d)[6:] for d in pair))
every_result = pytest.mark.parametrize("result", RESULTS)


@pytest.fixture
def tf32(set_precision: Callable[..., None]) -> Callable[..., None]:
    """torch allows TF32, which its CPU products do not use."""
    set_precision("tf32")
    return set_precision


@pytest.fixture
def dense(emulated: Any, tf32: Any) -> Iterator[Any]:
    """The operators, which compute every product densely that they may."""
    emulated.task_linear_dense_rows(1)
    yield emulated
    emulated.task_linear_dense_rows(1024)


@pytest.fixture
def make(make_linear: Callable[..., Any], make_frozen: Callable[..., Any]) -> Callable[..., Any]:
    """A problem whose rows all have the last slot."""

    def make(shape: Any, dtypes: Any, has_frozen: bool = False, **options: Any) -> Any:
        problem = make_linear(SHAPES.get(shape, shape), dtype=dtypes[0], value_dtype=dtypes[1], **options)
        frozen = indexed(make_frozen(problem)) if has_frozen else None
        last = torch.tensor(problem.weight.shape[0] - 1)
        return replace(problem, weight=indexed(problem.weight), frozen=frozen, slots=last)

    return make


def indexed(weight: Any) -> Any:
    return weight._replace(index=gather_index(weight.positions))


def check(ops: Any, problem: Any, *results: str) -> None:
    for result in results or RESULTS:
        factor = 3 if problem.x.dtype == FLOAT else 2
        assert_as_accurate(problem.get(result, ops), problem.plain(result), problem.exact(result), factor)


def products(compute: Callable[[], object]) -> set[str]:
    """Which of torch's own products it calls."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        compute()
    return {event.name for event in profile.events()} & {"aten::linear", "aten::mm", "aten::addmm"}


@all_dtypes
@pytest.mark.parametrize("has_frozen", [False, True], ids=["alone", "frozen"])
@pytest.mark.parametrize("shape", SHAPES)
def test_matches_reference(dense, make, shape, has_frozen, dtypes):
    check(dense, make(shape, dtypes, has_frozen))


@every_result
def test_products_are_torchs_own(dense, make, result):
    for dtypes in DTYPES:
        assert products(lambda dtypes=dtypes: make("one_row", dtypes).get(result, dense))


@every_result
def test_which_products_are_dense(emulated, tf32, make, result):
    """From 1024 rows of one slot on, where torch has tensor cores for the type."""

    def is_dense(rows: int, dtype: torch.dtype, mixed: bool = False) -> bool:
        problem = make((rows, 40, 20, 2), (dtype, dtype))
        if mixed:
            problem = replace(problem, slots=problem.slots.expand(rows))
        return bool(products(lambda: problem.get(result, emulated)))

    for dtype in (BFLOAT16, FLOAT16, FLOAT):
        assert is_dense(1024, dtype)
        assert not is_dense(1023, dtype)
        assert not is_dense(1024, dtype, mixed=True)
    assert not is_dense(1024, DOUBLE)
    tf32("ieee")
    assert not is_dense(1024, FLOAT)
    assert is_dense(1024, BFLOAT16)


def test_tf32_below_that_many_rows(emulated, tf32, make):
    """task_linear has a kernel of its own for it; the gradients stay in float32."""
    problem = make((40, 300, 70, 2), (FLOAT, FLOAT))
    allowed = {result: problem.get(result, emulated) for result in RESULTS}
    tf32("ieee")
    assert not torch.equal(allowed["forward"], problem.forward(emulated))
    torch.testing.assert_close(allowed["forward"], problem.forward(emulated), rtol=0, atol=0.02)
    for result in ("grad_input", "grad_values"):
        assert torch.equal(allowed[result], problem.get(result, emulated))


def test_a_compiled_graph_asks_for_tf32_when_it_runs(dense, tf32, make):
    problem = make("one_row", (FLOAT, FLOAT))
    library = torch.library.Library("rsn2_emulated", "FRAGMENT")
    torch.library.register_fake(
        "rsn2_emulated::task_linear", lambda x, *rest: x.new_empty(len(x), rest[7]), lib=library
    )
    compiled = torch.compile(lambda x: replace(problem, x=x).forward(dense) + 1, backend="aot_eager", fullgraph=True)
    wanted = problem.forward(dense) + 1
    assert torch.equal(compiled(problem.x), wanted)
    assert products(lambda: compiled(problem.x))
    tf32("ieee")
    assert not products(lambda: compiled(problem.x))
    library._destroy()


@all_dtypes
@pytest.mark.parametrize("has_bias", [True, False], ids=["bias", "no_bias"])
@pytest.mark.parametrize("activation", ["none", "relu"])
def test_bias_and_activation(dense, make, activation, has_bias, dtypes):
    for outputs in (70, 64, 3):
        problem = make((37, 300, outputs, 2), dtypes, True)
        bias = problem.bias if has_bias else None
        check(dense, replace(problem, activation=activation, bias=bias), "forward")


@all_dtypes
def test_relu_of_more_results_than_threads(dense, make, dtypes):
    check(dense, replace(make((701, 20, 151, 1), dtypes), activation="relu"), "forward")


@all_dtypes
def test_relu_keeps_nan(dense, make, dtypes):
    problem = make("one_row", dtypes)
    x = torch.full_like(problem.x, torch.nan)
    assert replace(problem, x=x, activation="relu").forward(dense).isnan().all()


@all_dtypes
@pytest.mark.parametrize("slot", [-1, 3, 2**40, -(2**63)])
def test_an_unknown_slot(dense, make, slot, dtypes):
    """NaN rows; no gradient for any slot's values."""
    problem = replace(make("just_beyond_tiles", dtypes, True), slots=torch.tensor(slot))
    for bias in (problem.bias, None):
        for activation in ("none", "relu"):
            assert replace(problem, bias=bias, activation=activation).forward(dense).isnan().all()
    assert problem.grad_input(dense).isnan().all()
    assert (problem.grad_values(dense) == 0).all()


@all_dtypes
def test_a_slot_without_weights(dense, make, make_frozen, dtypes):
    problem = make((20, 33, 17, 3), dtypes)
    masks = torch.zeros(3, 17, 33, dtype=torch.bool)
    masks[0, :5] = masks[1, 5:] = True
    problem = replace(problem, weight=indexed(pack(torch.randn(17, 33).to(dtypes[1]), masks)))  # nothing for slot 2
    assert torch.equal(problem.forward(dense), problem.bias[2].to(problem.x.dtype).expand(20, 17))
    assert (problem.grad_input(dense) == 0).all()
    assert (problem.grad_values(dense) == 0).all()
    assert problem.grad_values(dense, [2]).shape == (0,)
    check(dense, replace(problem, frozen=indexed(make_frozen(problem))))
    nothing = indexed(pack(torch.randn(17, 33).to(dtypes[1]), torch.zeros(3, 17, 33, dtype=torch.bool)))
    assert (replace(problem, weight=nothing).grad_input(dense) == 0).all()
    check(dense, replace(problem, weight=nothing, frozen=indexed(make_frozen(problem))), "forward", "grad_input")


@all_dtypes
@pytest.mark.parametrize("density", [0.002, 0.5, 1.0])
def test_every_density(dense, make, density, dtypes):
    check(dense, make((17, 270, 35, 1), dtypes, density=density))


@all_dtypes
def test_wanted_slots_in_any_order(dense, make, dtypes):
    problem = replace(make((40, 270, 35, 4), dtypes), slots=torch.tensor(1))
    every = problem.grad_values(dense).split(problem.num_owned)
    assert all((grads == 0).all() == (slot != 1) for slot, grads in enumerate(every))
    for wanted in ([2], [1], [3, 0], [1, 3, 2, 0], []):
        some = torch.cat([every[slot] for slot in wanted]) if wanted else every[0][:0]
        assert torch.equal(problem.grad_values(dense, wanted), some)


def test_more_wanted_slots_than_a_launch_takes(dense, make):
    check(dense, make((20, 60, 20, 131), (BFLOAT16, BFLOAT16)), "grad_values")


@all_dtypes
def test_others_values_change_nothing(dense, make, dtypes):
    problem = make((20, 270, 35, 3), dtypes)
    values = problem.weight.values.clone()
    values[: sum(problem.num_owned[:2])] = torch.nan
    bias = problem.bias.clone()
    bias[:2] = torch.nan
    spoiled = replace(problem, bias=bias).with_values(values)
    for result in RESULTS:
        assert torch.equal(spoiled.get(result, dense), problem.get(result, dense))


@all_dtypes
def test_no_inputs_or_no_outputs(dense, make, dtypes):
    """Nothing to multiply: the bias, and NaN where the slot is none."""
    problem = make((3, 0, 5, 2), dtypes)
    assert torch.equal(problem.forward(dense), problem.bias[1].to(problem.x.dtype).expand(3, 5))
    assert replace(problem, slots=torch.tensor(2), bias=None).forward(dense).isnan().all()
    assert make((3, 5, 0, 2), dtypes).forward(dense).shape == (3, 0)


@every_result
def test_same_bits_in_every_order_of_threads(dense, make, result):
    for dtypes in DTYPES:
        problem = make((20, 1100, 150, 3), dtypes, True, density=0.3)  # several rounds for each block
        problem = replace(problem, activation="relu")
        results = []
        for order in (0, 1, 2, 3):
            dense.set_order(order)
            results.append(problem.get(result, dense))
        dense.set_order(0)
        assert all(torch.equal(other, results[0]) for other in results)


def strided(tensor: Tensor, how: str) -> Tensor:
    """The same numbers, laid out differently."""
    if how == "transposed":
        return tensor.T.contiguous().T
    if how == "rows_apart":
        return torch.cat([tensor, torch.full_like(tensor, torch.nan)], 1)[:, : tensor.shape[1]]
    flat = torch.full((tensor.numel() + 1,), torch.nan, dtype=tensor.dtype)
    flat[1:] = tensor.flatten()
    return flat[1:].view(tensor.shape)


@all_dtypes
@pytest.mark.parametrize("how", ["transposed", "rows_apart", "off_by_one"])
def test_any_strides(dense, make, how, dtypes):
    problem = make((40, 270, 36, 2), dtypes)
    other = replace(problem, x=strided(problem.x, how), grad_y=strided(problem.grad_y, how))
    check(dense, other.with_values(strided(problem.weight.values[None], "off_by_one")[0]))


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    st.integers(1, 80), st.integers(1, 600), st.integers(1, 140), st.integers(1, 6),
    st.sampled_from([0.01, 0.05, 0.15]), st.booleans(), st.integers(0, 99), st.sampled_from(DTYPES),
)  # fmt: skip
def test_any_shape(dense, make, batch, inputs, outputs, num_slots, density, has_frozen, seed, dtypes):
    check(dense, make((batch, inputs, outputs, num_slots), dtypes, has_frozen, density=density, seed=seed))
