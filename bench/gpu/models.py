"""H: whole models of eight tasks, a step of training and a pass, against a dense model for each task."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from rsn2.models import resnet18
from rsn2_kernels.nn import TaskConv2d, TaskLinear, active, convert_, slot_modules

from .points import Case, Maker, Point, Points, Scene
from .timing import Way

SLOTS, DENSITY = 8, 0.1


def points(scene: Scene) -> Points:
    for rows in (64, 1024):
        for kind in ("mlp 4x4096", "conv 4x128 at 28x28", "resnet18 at 32x32"):
            for what in ("pass", "training step"):
                yield _point(scene, kind, rows, what)


def _dense(scene: Scene, kind: str) -> tuple[nn.Module, tuple[int, ...]]:
    """A dense model of a kind, and the shape of one row."""
    torch.manual_seed(scene.seed)  # layers draw from it
    if kind.startswith("resnet18"):
        channels, side = ((4, 8), 8) if scene.dry else ((64, 128, 256, 512), 32)
        return resnet18(channels=channels).whole().to(scene.where), (3, side, side)
    if kind.startswith("mlp"):
        size = scene.size(4096)
        return nn.Sequential(*(nn.Linear(size, size, device=scene.where) for _ in range(4))), (size,)
    channels, side = (8, 5) if scene.dry else (128, 28)
    convolutions = (nn.Conv2d(channels, channels, 3, padding=1, device=scene.where) for _ in range(4))
    return nn.Sequential(*convolutions), (channels, side, side)


class _Masked(nn.Module):
    """The mask multiplied in every call, as libraries of continual learning do."""

    def __init__(self, mask: Tensor) -> None:
        super().__init__()
        self.register_buffer("mask", mask)

    def forward(self, weight: Tensor) -> Tensor:
        return weight * self.mask


def _of_slot(model: nn.Module, slot: int, *, masked: bool = False) -> nn.Module:
    """An ordinary model of one slot."""
    alone = copy.deepcopy(model)
    for name, layer in slot_modules(model).items():
        dense = layer.to_dense(slot)  # type: ignore[operator]  # only the kinds of layers have it, not what they share
        if masked and isinstance(layer, (TaskLinear, TaskConv2d)):
            parametrize.register_parametrization(dense, "weight", _Masked(layer.mask(slot).to(dense.weight.dtype)))
        alone.set_submodule(name, dense)
    return alone.train(model.training)


def _point(scene: Scene, kind: str, rows: int, what: str) -> Point:
    def make() -> Case:
        dense, shape = _dense(scene, kind)
        count = 2 * SLOTS if scene.dry else rows
        x = scene.randn(count, *shape)
        which = torch.arange(count, device=scene.where) % SLOTS
        ours = _claimed(scene, dense).train(what != "pass")
        models = [_of_slot(ours, slot) for slot in range(SLOTS)]
        parts = [x[which == slot] for slot in range(SLOTS)]

        def run(model: nn.Module) -> Callable[[], list[Tensor]]:
            def forward() -> Tensor:
                with active(which):
                    return model(x)

            return _trained(scene, forward, list(ours.parameters())) if what != "pass" else _passed(scene, forward)

        def separate(models: list[nn.Module], graph: bool) -> Way:
            works = []
            for model, part in zip(models, parts, strict=True):
                forward = _bound(model, part)
                works.append(_trained(scene, forward, list(model.parameters())) if what != "pass"
                             else _passed(scene, forward))  # fmt: skip

            def picked(found: list[Tensor]) -> list[Tensor]:
                return found if what == "pass" else [torch.stack(found).mean()]

            return Way([lambda: [one for work in works for one in work()]], graph=graph, pick=picked)

        def compiled() -> Way | str:
            if scene.dry:
                return "left out when dry"
            return Way([run(torch.compile(ours))], graph=False, pick=_in_parts(which, what))

        others: dict[str, Maker] = {
            "ours, graph": lambda: Way([run(ours)], graph=True, pick=_in_parts(which, what)),
            "ours, compiled": compiled,
            "dense models": lambda: separate(models, True),
            "dense models, eager": lambda: separate(models, False),
            "masked models": lambda: separate([_of_slot(ours, slot, masked=True) for slot in range(SLOTS)], True),
        }

        def exact() -> list[Tensor]:
            with torch.no_grad():
                outputs = [copy.deepcopy(model).double()(part.double())
                           for model, part in zip(models, parts, strict=True)]  # fmt: skip
            # The slots have the same number of rows. Gradients are compared in the other blocks.
            return outputs if what == "pass" else [torch.stack([y.square().mean() for y in outputs]).mean()]

        return Case(Way([run(ours)], graph=False, pick=_in_parts(which, what)), others, exact)

    settings: dict[str, Any] = {"what": what, "model": kind, "rows": rows, "slots": SLOTS, "density": DENSITY}
    return Point("H", settings, make)


def _claimed(scene: Scene, dense: nn.Module) -> nn.Module:
    """The model with slots, each of which owns a tenth of every linear and convolutional layer."""
    convert_(dense, SLOTS)
    for layer in slot_modules(dense).values():
        if not isinstance(layer, (TaskLinear, TaskConv2d)):
            continue
        draw = torch.rand(layer.weight_shape, generator=scene.generator, device=scene.where)
        owner = (draw / DENSITY).to(torch.int16)
        for slot in range(SLOTS):
            layer.claim(slot, owner == slot)
    return dense


def _bound(model: nn.Module, part: Tensor) -> Callable[[], Tensor]:
    return lambda: model(part)


def _passed(scene: Scene, forward: Callable[[], Tensor]) -> Callable[[], list[Tensor]]:
    def work() -> list[Tensor]:
        with torch.no_grad(), torch.autocast(scene.where.type, dtype=torch.bfloat16):
            return [forward()]

    return work


def _trained(scene: Scene, forward: Callable[[], Tensor], parameters: list[nn.Parameter]) -> Callable[[], list[Tensor]]:
    """A step, which gives its loss."""
    optimizer = torch.optim.SGD(parameters, lr=1e-9)  # so small that every repetition works on the same numbers

    def work() -> list[Tensor]:
        optimizer.zero_grad()
        with torch.autocast(scene.where.type, dtype=torch.bfloat16):
            loss = forward().float().square().mean()
        loss.backward()
        optimizer.step()
        return [loss.detach()]

    return work


def _in_parts(which: Tensor, what: str) -> Callable[[list[Tensor]], list[Tensor]]:
    if what != "pass":
        return lambda losses: losses
    return lambda found: [found[0][which == slot] for slot in range(SLOTS)]
