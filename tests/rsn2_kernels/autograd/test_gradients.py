"""What the gradients of every operator have in common: where they flow, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from torch.autograd import forward_ad

from rsn2_kernels import ops, reference
from rsn2_kernels.autograd._common import all_slots
from rsn2_kernels.formats import value_starts
from rsn2_kernels.testing import assert_as_accurate


def call(problem, **changes):
    """The public function of a problem's operator."""
    arguments = dict(x=problem.x, weight=problem.weight, slots=problem.slots, bias=problem.bias) | changes
    arguments |= dict(frozen=problem.frozen, activation=problem.activation)
    if problem.window:
        names = ("kernel_size", "stride", "padding", "dilation")
        return ops.task_conv2d(**arguments, **dict(zip(names, problem.window, strict=True)))
    return ops.task_linear(**arguments)


def dense_gradients(problem):
    """Gradients of x, flat values and bias by autograd through the reference, in float64."""
    problem = problem.double()
    leaves = [problem.x, problem.weight.values, problem.bias]
    leaves = [leaf.clone().requires_grad_() for leaf in leaves]
    problem = replace(problem, x=leaves[0], bias=leaves[2]).with_values(leaves[1])
    return torch.autograd.grad(problem.forward(reference), leaves, problem.grad_y)


@pytest.mark.parametrize("activation", ["none", "relu"])
@pytest.mark.parametrize("has_frozen", [True, False], ids=["frozen", "no_frozen"])
@pytest.mark.parametrize("is_one", [True, False], ids=["one_slot", "mixed"])
def test_equals_autograd_through_the_reference(make_problem, make_frozen, cpu_level, is_one, has_frozen, activation):
    """An answer that none of our gradient formulas takes part in."""
    problem = replace(make_problem(9, 3, dtype=torch.float64), activation=activation)
    if is_one:
        problem = replace(problem, slots=torch.tensor(1))
    if has_frozen:
        problem = replace(problem, frozen=make_frozen(problem))
    leaves = [leaf.clone().requires_grad_() for leaf in (problem.x, problem.weight.values, problem.bias)]
    y = call(problem, x=leaves[0], weight=problem.weight._replace(values=leaves[1]), bias=leaves[2])
    for ours, exact in zip(torch.autograd.grad(y, leaves, problem.grad_y), dense_gradients(problem), strict=True):
        torch.testing.assert_close(ours, exact, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    "dtypes",
    [(torch.bfloat16, torch.bfloat16), (torch.float16, torch.float16), (torch.bfloat16, torch.float32)],
    ids=["bfloat16", "float16", "bfloat16-float32"],
)
def test_gradients_of_16_bit_inputs(make_problem, make_layer, cpu_level, dtypes):
    problem = make_problem(9, 3, dtype=dtypes[0], value_dtype=dtypes[1])
    layer = make_layer(problem, (0, 2))
    x = problem.x.clone().requires_grad_()
    y = layer(x, problem.slots)
    assert y.dtype == dtypes[0]
    y.backward(problem.grad_y)
    assert_as_accurate(x.grad, problem.plain("grad_input"), problem.exact("grad_input"))
    for name, params in (("grad_values", layer.weight_params), ("grad_bias", layer.bias_params)):
        sizes = problem.num_owned if name == "grad_values" else [1] * 3
        plain, exact = problem.plain(name).to(dtypes[1]).split(sizes), problem.exact(name).split(sizes)
        for param, slot in zip(params, (0, 2), strict=True):
            assert_as_accurate(param.grad, plain[slot].view_as(param), exact[slot].view_as(param))


def test_parameters_get_what_their_slots_own(make_problem, make_layer, cpu_level, same_rows):
    problem = make_problem(67, 5)
    layer = make_layer(problem, (4, 1, 2))
    layer(problem.x, problem.slots).backward(problem.grad_y)
    values, bias = problem.grad_values().split(problem.num_owned), problem.grad_bias()
    for slot, weight_param, bias_param in zip((4, 1, 2), layer.weight_params, layer.bias_params, strict=True):
        same_rows(weight_param.grad, values[slot])
        same_rows(bias_param.grad, bias[slot])
    assert layer.weight.values.grad is None and layer.bias.grad is None


def test_gradients_have_storage_of_their_own(make_problem, make_layer, cpu_level):
    """One slot's gradient must not keep all of them in memory, and writing to it must not change another's."""
    problem = make_problem(20, 4)
    layer = make_layer(problem, (0, 1, 3))
    layer(problem.x, problem.slots).sum().backward()
    grads = [p.grad for p in layer.weight_params]
    assert len({grad.untyped_storage().data_ptr() for grad in grads}) == 3
    assert all(grad.untyped_storage().nbytes() == grad.nbytes for grad in grads)


def test_a_trainable_slot_without_rows_gets_zeros(make_problem, make_layer, cpu_level):
    problem = make_problem(6, 4)
    layer = make_layer(problem, (0, 3))
    layer(problem.x, torch.tensor(0)).sum().backward()
    for params in (layer.weight_params, layer.bias_params):
        assert params[0].grad.any()
        assert params[1].grad is not None and not params[1].grad.any()


def test_an_empty_batch_gives_zeros(make_problem, make_layer, cpu_level):
    problem = make_problem(3, 4)
    layer = make_layer(problem, (0, 3))
    x = problem.x[:0].clone().requires_grad_()
    layer(x, problem.slots[:0]).sum().backward()
    assert x.grad.shape == x.shape
    for param in (*layer.weight_params, *layer.bias_params):
        assert param.grad.shape == param.shape and not param.grad.any()


def called(profile):
    """Our operators that ran."""
    names = {event.name for event in profile.events()}
    return {name.removeprefix("rsn2_kernels::") for name in names if name.startswith("rsn2_kernels::")}


def test_only_what_is_asked_for_is_computed(make_problem, make_layer):
    problem = make_problem(6, 3)
    layer = make_layer(problem, (0,))
    with torch.profiler.profile() as profile:
        layer(problem.x, problem.slots).sum().backward()
    assert called(profile) == {problem.op, f"{problem.op}_grad_values", "task_grad_bias"}
    layer = make_layer(problem, ())
    with torch.profiler.profile() as profile:
        layer(problem.x.clone().requires_grad_(), problem.slots).sum().backward()
    assert called(profile) == {problem.op, f"{problem.op}_grad_input"}


def test_no_gradient_wanted_none_kept(make_problem, make_layer):
    problem = make_problem(6, 3)
    assert not make_layer(problem, ())(problem.x, problem.slots).requires_grad
    with torch.no_grad():
        assert not make_layer(problem, (0,))(problem.x, problem.slots).requires_grad


def test_expanded_gradient(make_problem, make_layer, cpu_level):
    """``sum().backward()`` hands over one number, expanded."""
    problem = make_problem(20, 3)
    results = []
    for make_gradient in (lambda y: torch.ones(()).expand_as(y), torch.ones_like):
        layer = make_layer(problem, (0, 1, 2))
        x = problem.x.clone().requires_grad_()
        y = layer(x, problem.slots)
        y.backward(make_gradient(y))
        results.append([x.grad, *(p.grad for p in layer.weight_params), *(p.grad for p in layer.bias_params)])
    for expanded, dense in zip(*results, strict=True):
        torch.testing.assert_close(expanded, dense)


def test_changes_between_forward_and_backward_are_refused(make_problem, make_layer):
    problem = make_problem(6, 3)
    layer = make_layer(problem, (0,))
    y = layer(problem.x.clone().requires_grad_(), problem.slots)
    with torch.no_grad():
        layer.weight.values.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


def test_autocast_makes_x_16_bit_and_leaves_the_rest(make_problem, make_layer, cpu_level, device):
    problem = make_problem(9, 3)
    layer = make_layer(problem, (0, 1, 2))
    x = problem.x.clone().requires_grad_()
    with torch.autocast(device.type, dtype=torch.bfloat16):
        y = layer(x, problem.slots)
    assert y.dtype == torch.bfloat16
    assert torch.equal(y, layer(problem.x.bfloat16(), problem.slots))
    y.sum().backward()
    assert x.grad.dtype == torch.float32
    assert {param.grad.dtype for param in (*layer.weight_params, *layer.bias_params)} == {torch.float32}
    with torch.autocast(device.type, dtype=torch.float16):
        assert layer(x, problem.slots).dtype == torch.float16
    wide = make_problem(9, 3, dtype=torch.float64)
    with torch.autocast(device.type, dtype=torch.bfloat16):
        assert call(wide).dtype == torch.float64


def test_second_derivatives_are_refused(make_problem):
    problem = make_problem(4, 2, dtype=torch.float64)
    x = problem.x.clone().requires_grad_()
    (grad,) = torch.autograd.grad(call(problem, x=x).pow(2).sum(), x, create_graph=True)
    with pytest.raises(NotImplementedError, match="grad_input: second derivatives are not implemented"):
        grad.sum().backward()


def test_a_gradient_penalty_is_refused(make_problem, make_layer):
    """The gradient of a sum depends on the Parameters alone, of which the flat values tell autograd nothing."""
    problem = make_problem(4, 2, dtype=torch.float64)
    layer = make_layer(problem, (0, 1))
    x = problem.x.clone().requires_grad_()
    (grad,) = torch.autograd.grad(layer(x, problem.slots).sum(), x, create_graph=True)
    assert torch.equal(grad, torch.autograd.grad(layer(x, problem.slots).sum(), x)[0])
    with pytest.raises(NotImplementedError, match=r"task_\w+: second derivatives are not implemented"):
        (layer(x, problem.slots).pow(2).mean() + grad.pow(2).sum()).backward()
    finished = make_layer(problem, ())  # nothing that trains: the gradient is a constant
    (grad,) = torch.autograd.grad(finished(x, problem.slots).sum(), x, create_graph=True)
    assert not grad.requires_grad


def test_second_derivatives_of_values_and_bias_are_refused(make_problem):
    problem = make_problem(4, 2, dtype=torch.float64)
    values, bias = problem.weight.values.clone().requires_grad_(), problem.bias.clone().requires_grad_()
    y = call(problem, weight=problem.weight._replace(values=values), bias=bias).pow(2).sum()
    grad_values, grad_bias = torch.autograd.grad(y, (values, bias), create_graph=True)
    with pytest.raises(NotImplementedError, match="grad_values: second derivatives are not implemented"):
        torch.autograd.grad(grad_values.sum(), values, retain_graph=True)
    with pytest.raises(NotImplementedError, match="task_grad_bias: second derivatives are not implemented"):
        torch.autograd.grad(grad_bias.sum(), bias)


def test_vmap_is_refused(make_problem):
    problem = make_problem(4, 2)
    with pytest.raises(NotImplementedError, match="torch.vmap is not implemented"):
        torch.func.vmap(lambda x: call(problem, x=x))(torch.stack([problem.x, problem.x]))


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")  # torch's own, when it loads forward mode
@pytest.mark.parametrize("wants_gradient", [True, False], ids=["gradient", "no_gradient"])
def test_forward_mode_is_refused(make_problem, wants_gradient):
    problem = make_problem(4, 2)
    x = problem.x.clone().requires_grad_(wants_gradient)
    with forward_ad.dual_level():
        assert torch.equal(call(problem), problem.forward())  # no tangent, no refusal
        with pytest.raises(NotImplementedError, match="forward-mode derivatives are not implemented"):
            call(problem, x=forward_ad.make_dual(x, torch.ones_like(x)))
        values = forward_ad.make_dual(problem.weight.values, torch.ones_like(problem.weight.values))
        with pytest.raises(NotImplementedError, match="forward-mode derivatives are not implemented"):
            call(problem, weight=problem.weight._replace(values=values))


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")
def test_functional_jvp_is_refused(make_problem):
    problem = make_problem(4, 2)
    with pytest.raises((NotImplementedError, RuntimeError), match="not implemented|functorch transforms"):
        torch.func.jvp(lambda x: call(problem, x=x), (problem.x,), (torch.ones_like(problem.x),))


def test_functional_transforms_are_refused(make_problem):
    problem = make_problem(4, 2, dtype=torch.float64)
    with pytest.raises(RuntimeError, match="torch.func.grad, vjp and jacrev are not implemented"):
        torch.func.grad(lambda x: call(problem, x=x).sum())(problem.x)


def test_flat_values_of_other_positions_get_their_own_numbers(make_problem, make_frozen):
    """How much each slot owns is kept with the positions, until they change."""
    first = make_problem(9, 3)
    positions = first.weight.positions
    owned = [last - start for start, last in pairwise(value_starts(positions))]
    assert all_slots(positions) == ([0, 1, 2], owned) == all_slots(positions)
    other = make_frozen(first).positions
    assert all_slots(other)[1] == [last - start for start, last in pairwise(value_starts(other))]
    moved = positions.clone()
    assert all_slots(moved) == ([0, 1, 2], owned)
    moved[5 + 3 + 1] -= 1  # slot 0 owns one less, slot 1 one more
    assert all_slots(moved)[1] == [owned[0] - 1, owned[1] + 1, owned[2]]
    with torch.inference_mode():
        unversioned = positions.clone()
    assert all_slots(unversioned) == ([0, 1, 2], owned)
