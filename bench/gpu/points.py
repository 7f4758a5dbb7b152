"""A point of the benchmark: one line of results, our way of doing some work beside others' ways."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ..registry import Goal
from . import goals
from .device import StandIn, num_bytes
from .timing import DRY, FULL, Pace, Way, time_way

# The largest relative error, in the norm, that a result may have against float64.
ERROR = {torch.float32: 1e-5, torch.bfloat16: 1e-2, torch.float16: 1e-2, "tf32": 1e-3}
OURS = "ours"
COLD_BYTES = 180_000_000
"""Three times the second-level cache of an H200."""


@dataclass(frozen=True)
class Scene:
    """Where the points are measured.

    Attributes:
        seed: of all inputs.
        dry: shapes shrink, and a time means nothing.
        generator: draws on the device.
    """

    device: StandIn
    seed: int
    dry: bool
    generator: torch.Generator

    @property
    def where(self) -> torch.device:
        return self.device.torch_device

    @property
    def pace(self) -> Pace:
        return DRY if self.dry else FULL

    @property
    def cold_bytes(self) -> int:
        return 2000 if self.dry else max(COLD_BYTES, 3 * self.device.l2_bytes)

    def size(self, number: int) -> int:
        """A size of the matrix, smaller when dry."""
        return max(8, number // 64) if self.dry else number

    def randn(self, *size: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.randn(size, generator=self.generator, device=self.where, dtype=dtype)


Maker = Callable[[], "Way | str"]


@dataclass
class Case:
    """A point, ready to be measured.

    Attributes:
        ours: our way, or None where only ceilings are measured.
        others: what makes the other ways, one at a time; a text says why one is absent here.
        exact: the float64 result.
        weight_bytes: what a call of ours reads of the weights.
        facts: more that the line shall say.
    """

    ours: Way | None
    others: dict[str, Maker]
    exact: Callable[[], Any]
    weight_bytes: int = 0
    facts: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Point:
    """One line.

    Attributes:
        block: the letter of the part of the matrix.
        settings: what identifies the point, in words and numbers.
        make: prepares it.
        dtype: of the values, by which its error is judged.
        tf32: whether torch allows TF32.
    """

    block: str
    settings: dict[str, Any]
    make: Callable[[], Case]
    dtype: torch.dtype = torch.bfloat16
    tf32: bool = False

    @property
    def name(self) -> str:
        return " ".join([self.block, *(f"{key}={value}" for key, value in self.settings.items())])

    @property
    def goals(self) -> list[Goal]:
        return goals.of(self.block, self.settings)


def relative_error(ours: Any, exact: Any) -> float:
    """``||ours - exact|| / ||exact||`` over a tensor or a list of them.

    Raises:
        AssertionError: shapes differ.
    """
    if isinstance(exact, Tensor):
        ours, exact = [ours], [exact]
    wrong = largest = 0.0
    for own, truth in zip(ours, exact, strict=True):
        if own.shape != truth.shape:
            raise AssertionError(f"want shape {list(truth.shape)}, got {list(own.shape)}")
        wrong += (own.double() - truth).square().sum().item()
        largest += truth.square().sum().item()
    return (wrong / largest) ** 0.5 if largest else wrong**0.5


def check(scene: Scene, way: Way, exact: Any, bound: float) -> float:
    """The way's error, measured in poisoned memory.

    Raises:
        AssertionError: it is too large, or not a number.
    """
    truth = [exact] if isinstance(exact, Tensor) else list(exact)
    scene.device.poison([tensor.numel() * size for tensor in truth for size in (2, 4)])
    error = relative_error(way.pick(way.calls[0]()), exact)
    if not error <= bound:
        raise AssertionError(f"the relative error is {error:.3g}, and {bound:g} is allowed")
    return error


def measure(scene: Scene, point: Point) -> dict[str, Any]:
    """The line of a point.

    Raises:
        AssertionError, RuntimeError: ours is wrong or fails; nothing is timed then.
    """
    try:
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = point.tf32
        return _measured(scene, point)
    finally:
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False


def _measured(scene: Scene, point: Point) -> dict[str, Any]:
    case = point.make()
    bound = ERROR["tf32" if point.tf32 else point.dtype]
    line: dict[str, Any] = {**case.facts, "weight_bytes": case.weight_bytes, "absent": {}, "wrong": {}, "error": {}}
    exact = case.exact()
    ways: dict[str, Way] = {}
    if case.ours is not None:
        line["error"][OURS] = check(scene, case.ours, exact, bound)
        ways[OURS] = case.ours
    times = {name: [time_way(scene.device, way, scene.pace)] for name, way in ways.items()}
    goals = point.goals
    again = {goal.against for goal in goals} | {OURS}
    for name, make in case.others.items():
        try:
            made = make()
            if isinstance(made, str):
                line["absent"][name] = made
                continue
            line["error"][name] = check(scene, made, exact, max(bound, 1e-2))
            times[name] = [time_way(scene.device, made, scene.pace)]
        except Exception as error:  # of libraries that are not ours: what they cannot do is said, and the rest goes on
            if not scene.device.is_alive():
                raise
            line["absent" if not isinstance(error, AssertionError) else "wrong"][name] = _short(error)
            continue
        if name in again and goals:
            ways[name] = made
        del made
    if goals and OURS in ways:  # a second time in the opposite order, so that a drift shows
        for name in reversed(ways):
            times[name].append(time_way(scene.device, ways[name], scene.pace))
    line["times"] = {name: min(found, key=lambda timing: timing["us"]) for name, found in times.items()}
    line["spread"] = {name: max(t["us"] for t in found) / min(t["us"] for t in found) for name, found in times.items()}
    if OURS in times:
        own = line["times"][OURS]["us"]
        line["ratio"] = {name: timing["us"] / own for name, timing in line["times"].items() if name != OURS}
        line["gb_per_s"] = 1e-3 * case.weight_bytes / own
        line["goals"] = [judged(goal, line["ratio"]) for goal in goals]
    return line


def judged(goal: Goal, ratio: dict[str, float]) -> dict[str, Any]:
    """A goal's entry in the line; ``verdict`` is ``reach``, ``pass``, ``MISS`` or ``absent``."""
    entry = {"against": goal.against, "must": goal.must, "reach": goal.reach, "at_most": goal.at_most}
    figure = ratio.get(goal.against)
    if figure is None:
        return {**entry, "figure": None, "verdict": "absent"}
    figure = 1 / figure if goal.at_most else figure
    verdict = "reach" if goal.is_met(figure, goal.reach) else "pass" if goal.is_met(figure) else "MISS"
    return {**entry, "figure": figure, "verdict": verdict}


def _short(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else ''}"[:200]


def packed_bytes(values: Tensor, index: Tensor) -> int:
    return num_bytes(values, index)


Points = Iterator[Point]
