"""Unmodified models, converted: they learn one task after another and forget nothing."""

from __future__ import annotations

import copy
import io
import pickle

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounterWithBackend
from torch.func import functional_call
from torch.utils.checkpoint import checkpoint

from rsn2_kernels.nn import TaskLayer, active, checkpoint_contexts, convert_, slot_modules

OPTIMIZERS = {
    "adam": lambda parameters: torch.optim.Adam(parameters, lr=0.01, weight_decay=0.1),
    "adamw_amsgrad": lambda parameters: torch.optim.AdamW(parameters, lr=0.01, weight_decay=0.1, amsgrad=True),
    "sgd_momentum": lambda parameters: torch.optim.SGD(parameters, lr=0.01, momentum=0.9, weight_decay=0.1),
}


def freeze(model: nn.Module, slot: int) -> None:
    for layer in slot_modules(model).values():
        layer.freeze(slot)


def outputs(model: nn.Module, x: Tensor, slot: int) -> Tensor:
    with active(slot), torch.no_grad():
        return model.eval()(x)


@pytest.fixture
def converted(example, claim_share):
    """A model of three slots that own weights, one that draws batches, all in training mode."""
    model, batch = example
    convert_(model, 3)
    for slot in range(3):
        claim_share(model, slot, 0.3)
    return model, batch


@pytest.mark.parametrize(
    ("optimizer", "made"),
    [("adam", "before_claims"), ("adamw_amsgrad", "after_claims"), ("sgd_momentum", "before_claims")],
)
def test_two_tasks_one_optimizer_nothing_is_forgotten(example, claim_share, train, bytes_of, optimizer, made):
    model, batch = example
    x = batch(6)
    convert_(model, 2)
    if made == "after_claims":
        claim_share(model, 0)
        claim_share(model, 1)
    shared = OPTIMIZERS[optimizer](model.parameters())
    if made == "before_claims":
        claim_share(model, 0)
    start = bytes_of(model, 0)
    train(model, 0, shared, [batch(6) for _ in range(3)])
    freeze(model, 0)
    first, learned = outputs(model, x, 0), bytes_of(model, 0)
    assert sum(learned[name] != start[name] for name in start) > len(start) // 3  # it did learn

    if made == "before_claims":
        claim_share(model, 1)
    untrained = bytes_of(model, 1)
    train(model, 1, shared, [batch(6) for _ in range(3)])
    assert bytes_of(model, 0) == learned
    assert torch.equal(outputs(model, x, 0), first)
    assert sum(bytes_of(model, 1)[name] != untrained[name] for name in untrained) > len(untrained) // 3

    # Batches of both tasks, too.
    model.train()
    shared.zero_grad(set_to_none=False)
    with active(torch.tensor([0, 1, 0, 1, 1, 1])):
        model(x).square().sum().backward()
    shared.step()
    assert bytes_of(model, 0) == learned
    assert torch.equal(outputs(model, x, 0), first)


def test_clipping_and_gradient_scaling_leave_a_finished_task_alone(converted, bytes_of, device):
    model, batch = converted
    freeze(model, 0)
    before = bytes_of(model, 0)
    optimizer = torch.optim.Adam(model.parameters(), weight_decay=0.1)
    scaler = torch.amp.GradScaler(device.type, init_scale=4.0)
    for _ in range(2):
        optimizer.zero_grad(set_to_none=False)
        with active(1):
            loss = model(batch(4)).square().mean()
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 0.1)
        assert norm.isfinite() and norm > 0
        scaler.step(optimizer)
        scaler.update()
    assert bytes_of(model, 0) == before


@pytest.mark.parametrize("training", [False, True])
def test_mixed_batch_equals_the_tasks_one_by_one(converted, training, same_rows):
    model, batch = converted
    x, slots = batch(9), torch.tensor([2, 0, 1, 1, 0, 2, 2, 0, 1])
    model.train(training)
    for module in model.modules():
        if isinstance(module, nn.Dropout) or hasattr(module, "dropout") and isinstance(module.dropout, float):
            module.p = module.dropout = 0.0
    freeze(model, 1)
    alone = copy.deepcopy(model)
    with active(slots):
        mixed = model(x)
    mixed.square().sum().backward()
    for slot in range(3):
        rows = slots == slot
        with active(slot):
            y = alone(x[rows])
        same_rows(mixed[rows], y)
        y.square().sum().backward()
    for (name, tensor), expected in zip(model.state_dict().items(), alone.state_dict().values(), strict=True):
        if name.endswith(("running_mean", "running_var")):
            same_rows(tensor, expected)
        else:
            assert torch.equal(tensor, expected), name
    for (name, parameter), other in zip(model.named_parameters(), alone.parameters(), strict=True):
        if parameter.grad is None:
            assert other.grad is None, name
        else:
            torch.testing.assert_close(parameter.grad, other.grad, rtol=1e-4, atol=1e-5, msg=name)


def test_one_compilation_serves_twelve_slots(small_example, claim_share):
    model, x = small_example
    convert_(model, 12)
    for slot in range(12):
        claim_share(model, slot, 0.05)
        if slot > 1:
            freeze(model, slot)
    torch._dynamo.reset()
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(model.eval(), fullgraph=True, backend=counter)
    for slot in range(12):
        with active(slot):
            y, expected = compiled(x), model(x)
        torch.testing.assert_close(y, expected, rtol=1e-5, atol=1e-6)
        if slot < 2:
            own = model_parameters(model, slot)
            found, wanted = (torch.autograd.grad(result.square().sum(), own) for result in (y, expected))
            torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)
    assert counter.frame_count == 1


def model_parameters(model: nn.Module, slot: int) -> list[nn.Parameter]:
    return [parameter for layer in slot_modules(model).values() for parameter in layer.parameters_of(slot)]


def test_a_compiled_model_trains_and_forgets_nothing(claim_share, bytes_of):
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(64, 5),
        nn.BatchNorm1d(5),
        nn.LayerNorm(5),
    )
    convert_(model, 2)
    claim_share(model, 0)
    claim_share(model, 1)
    freeze(model, 0)
    eager, before = copy.deepcopy(model), bytes_of(model, 0)
    torch._dynamo.reset()
    compiled = torch.compile(model.train(), fullgraph=True, backend="aot_eager")
    x, slots = torch.randn(8, 3, 6, 6), torch.tensor([0, 1, 1, 0, 1, 1, 1, 0])
    for given in (slots, torch.tensor(1)):
        with active(given):
            compiled(x).square().sum().backward()
            eager.train()(x).square().sum().backward()
    assert bytes_of(model, 0) == before
    for (name, tensor), expected in zip(model.state_dict().items(), eager.state_dict().values(), strict=True):
        torch.testing.assert_close(tensor, expected, rtol=1e-4, atol=1e-5, msg=name)
    for parameter, other in zip(model.parameters(), eager.parameters(), strict=True):
        torch.testing.assert_close(parameter.grad, other.grad, rtol=1e-3, atol=1e-4)


def test_checkpointing_recomputes_under_the_slots_of_the_first_pass(converted):
    model, batch = converted
    model.eval()
    x = batch(4)
    with active(1):
        model(x).square().sum().backward()
    expected = [None if p.grad is None else p.grad.clone() for p in model.parameters()]
    model.zero_grad(set_to_none=True)
    with active(1):
        y = checkpoint(model, x, use_reentrant=False, context_fn=checkpoint_contexts)
    y.square().sum().backward()  # after the block: the second pass happens here
    for parameter, wanted in zip(model.parameters(), expected, strict=True):
        assert (parameter.grad is None and wanted is None) or torch.equal(parameter.grad, wanted)

    with active(1):
        y = checkpoint(model, x, use_reentrant=False)
    with pytest.raises(RuntimeError, match="no slot given and none active"):
        y.square().sum().backward()
    with pytest.raises(RuntimeError, match="checkpoint_contexts: no slot is active"):
        checkpoint(model, x, use_reentrant=False, context_fn=checkpoint_contexts)


class WithSlots(nn.Module):
    """The slots as an input, for export."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor, slots: Tensor) -> Tensor:
        with active(slots):
            return self.model(x)


@pytest.mark.parametrize("slots", [torch.tensor(1), torch.tensor([2, 0, 1, 1])], ids=["one", "mixed"])
def test_export(small_example, claim_share, slots):
    model, x = small_example
    convert_(model, 3)
    for slot in range(3):
        claim_share(model, slot)
    wrapped = WithSlots(model.eval())
    program = torch.export.export(wrapped, (x, slots))
    for other in (slots, slots.flip(0) if slots.dim() else torch.tensor(0)):
        torch.testing.assert_close(program.module()(x, other), wrapped(x, other), rtol=1e-5, atol=1e-6)


def saved_and_loaded(model: nn.Module) -> nn.Module:
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


COPIES = {
    "deepcopy": copy.deepcopy,
    "pickle": lambda model: pickle.loads(pickle.dumps(model)),
    "torch_save": saved_and_loaded,
}


@pytest.mark.parametrize("how", COPIES)
def test_copies_are_whole_and_train_alone(converted, train, bytes_of, how):
    model, batch = converted
    freeze(model, 0)
    x = batch(3)
    duplicate = COPIES[how](model)
    assert type(duplicate) is type(model)
    for slot in range(3):
        assert torch.equal(outputs(duplicate, x, slot), outputs(model, x, slot))
    before, twin = bytes_of(model, 1), bytes_of(duplicate, 1)
    train(duplicate, 1, torch.optim.SGD(duplicate.parameters(), lr=0.1), [batch(4)])
    assert bytes_of(model, 1) == before
    assert bytes_of(duplicate, 1) != twin
    assert bytes_of(duplicate, 0) == bytes_of(model, 0)
    with pytest.raises(RuntimeError, match="no slot given"):
        duplicate(x)


def test_conversion_to_float64_and_shared_memory(converted, train, bytes_of):
    model, batch = converted
    x = batch(3)
    before = [outputs(model, x, slot) for slot in range(3)]
    parameters = list(model.parameters())
    model.share_memory()
    assert all(parameter.is_shared() for parameter in model.parameters() if parameter.numel())
    assert [torch.equal(outputs(model, x, slot), before[slot]) for slot in range(3)] == [True] * 3
    model.to(torch.float64)
    assert all(now is then for now, then in zip(model.parameters(), parameters, strict=True))
    x = x.double() if x.is_floating_point() else x
    for slot in range(3):
        torch.testing.assert_close(outputs(model, x, slot), before[slot].double(), rtol=1e-4, atol=1e-5)
    changed = bytes_of(model, 2)
    train(model, 2, torch.optim.Adam(model.parameters(), lr=0.1), [x])
    assert bytes_of(model, 2) != changed
    assert not torch.equal(outputs(model, x, 2), before[2].double())


def test_state_dict_into_a_model_whose_slots_own_other_counts(example, claim_share):
    model, batch = example
    other = copy.deepcopy(model)
    convert_(model, 3)
    convert_(other, 1)
    for slot in range(3):
        claim_share(model, slot, 0.1 + slot / 10)
    claim_share(other, 0, 0.5)
    freeze(model, 1)
    state = model.state_dict()
    for strict in (True, False):
        found = other.load_state_dict(state, strict=strict)
        assert not found.missing_keys and not found.unexpected_keys
    x = batch(4)
    for slot in range(3):
        assert torch.equal(outputs(other, x, slot), outputs(model, x, slot))
    again = other.state_dict()
    assert list(again) == list(state) and all(torch.equal(again[name], state[name]) for name in state)
    assert all(layer.is_frozen(1) and not layer.is_frozen(0) for layer in slot_modules(other).values())
    for layer, twin in zip(slot_modules(other).values(), slot_modules(model).values(), strict=True):
        if isinstance(layer, TaskLayer):  # claims after loading are the claims without it
            mask = layer.free()
            layer.claim(0, mask)
            twin.claim(0, mask)
            assert torch.equal(layer.values[0], twin.values[0])


def test_functional_call_computes_with_what_it_is_given(converted):
    model, batch = converted
    model.eval()
    x = batch(4)
    given = {name: (parameter * 1.25).detach().requires_grad_() for name, parameter in model.named_parameters()}
    with active(torch.tensor([0, 1, 1, 0])):
        unchanged = model(x)
        y = functional_call(model, given, (x,))
        assert torch.equal(model(x), unchanged)
    changed = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in changed.parameters():
            parameter.mul_(1.25)
    with active(torch.tensor([0, 1, 1, 0])):
        expected = changed(x)
    assert not torch.equal(y, unchanged)
    torch.testing.assert_close(y, expected, rtol=1e-4, atol=1e-5)
    y.square().sum().backward()
    expected.square().sum().backward()
    for name, parameter in changed.named_parameters():
        if parameter.grad is not None:
            torch.testing.assert_close(given[name].grad, parameter.grad, rtol=1e-3, atol=1e-4, msg=name)


def test_slots_added_after_training(converted, claim_share, train, bytes_of):
    model, batch = converted
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    train(model, 0, optimizer, [batch(4)])
    freeze(model, 0)
    x = batch(3)
    before = [outputs(model, x, slot) for slot in range(3)]
    for layer in slot_modules(model).values():
        assert layer.add_slot() == 3
    claim_share(model, 3, 0.05)
    assert all(torch.equal(outputs(model, x, slot), before[slot]) for slot in range(3))
    optimizer.add_param_group({"params": model_parameters(model, 3)})
    learned, fresh = bytes_of(model, 0), bytes_of(model, 3)
    train(model, 3, optimizer, [batch(4)])
    assert bytes_of(model, 0) == learned
    assert bytes_of(model, 3) != fresh
