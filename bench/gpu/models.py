"""H: whole models of eight tasks, a step of training and a pass, against a dense model for each task."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from rsn2_kernels.nn import TaskConv2d, TaskLinear, active

from .points import Case, Maker, Point, Points, Scene
from .timing import Way

SLOTS, DENSITY = 8, 0.1


def points(scene: Scene) -> Points:
    for rows in (64, 1024):
        for kind in ("mlp 4x4096", "conv 4x128 at 28x28"):
            for what in ("pass", "training step"):
                yield _point(scene, kind, rows, what)


def _layers(scene: Scene, kind: str) -> tuple[list[nn.Module], tuple[int, ...]]:
    """Four dense layers of a kind, and the shape of one row."""
    if kind.startswith("mlp"):
        size = scene.size(4096)
        return [nn.Linear(size, size, device=scene.where) for _ in range(4)], (size,)
    channels, side = (8, 5) if scene.dry else (128, 28)
    return [nn.Conv2d(channels, channels, 3, padding=1, device=scene.where) for _ in range(4)], (channels, side, side)


def _point(scene: Scene, kind: str, rows: int, what: str) -> Point:
    def make() -> Case:
        dense, shape = _layers(scene, kind)
        count = 2 * SLOTS if scene.dry else rows
        x = scene.randn(count, *shape)
        which = torch.arange(count, device=scene.where) % SLOTS
        ours = nn.Sequential(*(_claimed(scene, layer) for layer in dense))
        models = [nn.Sequential(*(layer.to_dense(slot) for layer in ours)) for slot in range(SLOTS)]
        parts = [x[which == slot] for slot in range(SLOTS)]

        def run(model: nn.Module) -> Callable[[], list[Tensor]]:
            def forward() -> Tensor:
                with active(which):
                    return model(x)

            body = _trained(scene, forward, list(ours.parameters())) if what != "pass" else _passed(scene, forward)
            return lambda: body() or []

        def separate(graph: bool) -> Way:
            works = []
            for model, part in zip(models, parts, strict=True):
                forward = _bound(model, part)
                works.append(_trained(scene, forward, list(model.parameters())) if what != "pass"
                             else _passed(scene, forward))  # fmt: skip
            return Way([lambda: [one for work in works for one in work() or []]], graph=graph)

        def compiled() -> Way | str:
            if scene.dry:
                return "left out when dry"
            return Way([run(torch.compile(ours))], graph=False, pick=_in_parts(which, what))

        others: dict[str, Maker] = {
            "ours, graph": lambda: Way([run(ours)], graph=True, pick=_in_parts(which, what)),
            "ours, compiled": compiled,
            "dense models": lambda: separate(True),
            "dense models, eager": lambda: separate(False),
        }

        def exact() -> list[Tensor]:
            if what != "pass":
                return []
            with torch.no_grad():
                return [_wide(model, part) for model, part in zip(models, parts, strict=True)]

        return Case(Way([run(ours)], graph=False, pick=_in_parts(which, what)), others, exact)

    settings: dict[str, Any] = {"what": what, "model": kind, "rows": rows, "slots": SLOTS, "density": DENSITY}
    return Point("H", settings, make)


def _claimed(scene: Scene, dense: nn.Module) -> Any:
    kind = TaskLinear if isinstance(dense, nn.Linear) else TaskConv2d
    layer = kind.from_dense(dense, num_slots=SLOTS)
    draw = torch.rand(layer.weight_shape, generator=scene.generator, device=scene.where)
    owner = (draw / DENSITY).to(torch.int16)
    for slot in range(SLOTS):
        layer.claim(slot, owner == slot)
    return layer


def _bound(model: nn.Module, part: Tensor) -> Callable[[], Tensor]:
    return lambda: model(part)


def _passed(scene: Scene, forward: Callable[[], Tensor]) -> Callable[[], list[Tensor]]:
    def work() -> list[Tensor]:
        with torch.no_grad(), torch.autocast(scene.where.type, dtype=torch.bfloat16):
            return [forward()]

    return work


def _trained(scene: Scene, forward: Callable[[], Tensor], parameters: list[nn.Parameter]) -> Callable[[], None]:
    optimizer = torch.optim.SGD(parameters, lr=1e-9)  # so small that every repetition works on the same numbers

    def work() -> None:
        optimizer.zero_grad()
        with torch.autocast(scene.where.type, dtype=torch.bfloat16):
            loss = forward().float().square().mean()
        loss.backward()
        optimizer.step()

    return work


def _in_parts(which: Tensor, what: str) -> Callable[[list[Tensor]], list[Tensor]]:
    if what != "pass":
        return lambda found: []
    return lambda found: [found[0][which == slot] for slot in range(SLOTS)]


def _wide(model: nn.Module, part: Tensor) -> Tensor:
    y = part.double()
    for layer in model:
        weight, bias = layer.weight.double(), layer.bias.double()
        y = torch.nn.functional.linear(y, weight, bias) if isinstance(layer, nn.Linear) else (
            torch.nn.functional.conv2d(y, weight, bias, padding=1))  # fmt: skip
    return y
