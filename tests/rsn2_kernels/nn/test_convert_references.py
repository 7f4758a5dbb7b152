"""What ``convert_`` says of models that keep their layers in plain attributes, and of layers that were frozen."""

from __future__ import annotations

import functools
from collections import OrderedDict

import pytest
import torch
from torch import nn

from rsn2_kernels.nn import ConversionError, TaskLinear, active, convert_


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(3, 3), nn.Linear(3, 3)
        self.relu = nn.ReLU()
        self.attention = nn.MultiheadAttention(4, 2)
        self.table = nn.Embedding(5, 3)


def plain(make):
    """A model with a plain attribute ``order``; past ``__setattr__``, which would make a child of a module."""
    model = Net()
    model.__dict__["order"] = make(model)
    return model


def unknown_module(model: Net) -> nn.Module:
    """A module that torch does not know as a part of the model."""
    return nn.Sequential(OrderedDict(first=model.fc1, relu=model.relu))


HELD = {
    "list": (lambda model: [model.fc1, model.relu, model.fc2], "fc1 and fc2"),
    "tuple_in_a_dict": (lambda model: {"a": (1, (model.fc2,)), "b": "text"}, "fc2"),
    "keys": (lambda model: {model.fc1: 1}, "fc1"),
    "set": (lambda model: {model.fc1}, "fc1"),
    "itself": (lambda model: model.fc1, "fc1"),
    "twice": (lambda model: [model.fc1, model.fc1], "fc1"),
    "method": (lambda model: model.fc1.forward, "fc1"),
    "partial": (lambda model: functools.partial(map, model.fc2), "fc2"),
    "part_of_what_goes_as_a_whole": (lambda model: [model.attention.out_proj], "attention.out_proj"),
    "unknown_module": (unknown_module, "fc1"),
}


@pytest.mark.parametrize("name", HELD)
def test_plain_references_to_what_would_be_replaced(name):
    make, places = HELD[name]
    model = plain(make)
    before = dict(model.named_modules())
    with pytest.raises(ConversionError, match="nothing was changed") as caught:
        convert_(model, 2)
    (obstacle,) = caught.value.obstacles
    assert obstacle.startswith(
        f"(the model) (Net): its plain attribute 'order' holds {places}, and would keep the dense"
    )
    assert dict(model.named_modules()) == before
    convert_(model, 2, where=lambda name, module: name not in places.split(" and ") and name != "attention")


def test_an_inner_module_is_named():
    model = nn.Sequential(OrderedDict(inner=plain(lambda net: [net.fc1])))
    with pytest.raises(ConversionError, match=r"inner \(Net\): its plain attribute 'order' holds inner\.fc1, and"):
        convert_(model, 2)


def cyclic(model: Net) -> list[object]:
    value: list[object] = [model.relu]
    value.append(value)
    return value


@pytest.mark.parametrize(
    "make",
    [
        lambda model: [model.relu, "fc1", 3, torch.zeros(2), None],
        lambda model: [model],  # its children are looked up when they are asked for
        lambda model: nn.Sequential(OrderedDict(model=model)),
        lambda model: model.forward,
        lambda model: [model.table],  # stays what it is
        lambda model: [nn.Linear(3, 3)],
        cyclic,
    ],
)
def test_references_that_stay_true(make):
    model = plain(make)
    convert_(model, 2)
    assert isinstance(model.fc1, TaskLinear)


def test_what_was_frozen_is_reported():
    model = nn.Sequential(OrderedDict(fc=nn.Linear(3, 4), norm=nn.BatchNorm1d(4), head=nn.Linear(4, 4),
                                      table=nn.Embedding(3, 2), kept=nn.Linear(4, 4)))  # fmt: skip
    for module in (model.fc, model.norm, model.kept):
        module.requires_grad_(False)
    model.head.bias.requires_grad_(False)
    report = convert_(model, 2, where=lambda name, module: name != "kept")
    assert {e.name: (e.kind, e.was_frozen, e.thaws) for e in report} == {
        "fc": ("claimed", True, True), "norm": ("per slot", True, True), "head": ("claimed", True, True),
        "table": ("frozen", False, False), "kept": ("frozen", True, False),
    }  # fmt: skip
    text = str(report)
    assert text.count("was frozen") == 3 and "3 WERE FROZEN: slots train what they claim or copy of these" in text
    model.fc.claim(1, model.fc.free())
    assert all(parameter.requires_grad for parameter in [*model.fc.parameters_of(1), *model.norm.parameters_of(1)])
    with active(1):
        model.norm(model.fc(torch.randn(5, 3))).square().sum().backward()
    assert model.fc.values[1].grad.abs().sum() > 0


def test_nothing_frozen_nothing_said():
    assert "FROZEN" not in str(convert_(nn.Sequential(nn.Linear(3, 4)), 2)).upper()
