"""The points: all of PERFORMANCE's goals are there, and small ones of each kind agree with their alternatives."""

from __future__ import annotations

import re

import pytest

from bench import e2e, memory
from bench.measure import prove
from bench.ops import task_conv2d, task_linear, task_linear_gradients, task_linear_scaling
from bench.ops.task_conv2d import Conv
from bench.ops.task_linear import Linear
from bench.registry import BEST_DENSE, Point, points

NOT_HERE = ("torch.compile frozen", "torch.compile", "onnxruntime", "DeepSparse", "SparseProp")
SMALL = Linear(12, 20, 9, 0.3)
SMALL_CONV = Conv(6, 5, 0.3, size=7, B=3)

GOALS = {  # op, what, settings: must and reach against whom
    ("task_linear", "forward", "1000x1000", 512, 0.05, 1): {BEST_DENSE: (6, 9), "torch CSR": (3, 5)},
    ("task_linear", "forward", "4096x4096", 512, 0.10, 1): {BEST_DENSE: (4.2, 6), "SparseProp": (5, 8)},
    ("task_linear", "forward", "1000x1000", 512, 0.20, 1): {BEST_DENSE: (2.6, 3.5), "DeepSparse": (1.4, 2)},
    ("task_linear", "forward", "4096x4096", 512, 0.25, 1): {BEST_DENSE: (2.1, 2.8)},
    ("task_linear", "forward", "1000x1000", 16, 0.10, 1): {BEST_DENSE: (2.5, 4)},
    ("task_linear", "forward", "1000x1000", 64, 0.10, 1): {BEST_DENSE: (2.5, 4)},
    ("task_linear", "forward", "4096x4096", 1, 0.10, 1): {BEST_DENSE: (4, 7)},
    ("task_linear", "forward", "256x43264", 512, 0.20, 1): {BEST_DENSE: (2.3, 3.3)},
    ("task_linear", "forward+backward", "1000x1000", 512, 0.10, 1): {"F.linear": (5, 8)},
    ("task_linear", "forward+backward", "1000x1000", 512, 0.20, 1): {"F.linear": (3, 4.5)},
    ("task_conv2d", "forward", "64x64x3x3@28", 64, 0.10, 1): {BEST_DENSE: (2.8, 4.5)},
    ("task_conv2d", "forward", "32x32x3x3@28", 64, 0.20, 1): {BEST_DENSE: (1.7, 2.8)},
    ("task_conv2d", "forward+backward", "32x32x3x3@28", 64, 0.10, 1): {BEST_DENSE: (2.8, 4.5)},
    ("task_conv2d", "forward+backward", "64x64x3x3@28", 64, 0.20, 1): {BEST_DENSE: (1.8, 2.8)},
    ("task_linear", "forward", "1000x1000", 512, 0.10, 10): {BEST_DENSE: (4, 6), "ours, one task": (1.25, 1.1)},
}


def test_the_goals_are_the_tables():
    known = {}
    for point in points("cpu"):
        if isinstance(point, Point) and point.threads is None and point.dtype == "float32":
            keys = ("shape", "rows", "density", "slots")
            found = {goal.against: (goal.must, goal.reach) for goal in point.goals}
            known[(point.op, point.what, *(point.settings[key] for key in keys))] = found
    for key, wanted in GOALS.items():
        assert wanted.items() <= known[key].items(), key


def test_the_goals_of_whole_epochs():
    assert {kind: (network.goal.must, network.goal.reach) for kind, network in e2e.NETWORKS.items()} == {
        "fully_connected": (3.5, 6), "conv": (2, 3),
    }  # fmt: skip


@pytest.mark.parametrize("suite", ["cpu", "sweep"])
def test_names_differ(suite):
    names = [point.name for point in points(suite)]
    assert len(names) == len(set(names)) > 20


def test_quick_has_something_of_everything():
    quick = [point for point in points("cpu") if point.quick]
    assert {point.op for point in quick} == {"task_linear", "task_conv2d"} and len(quick) <= 20


def test_unknown_suite():
    with pytest.raises(ValueError, match="suite must be one of cpu, sweep"):
        list(points("gpu"))


CASES = {
    "forward": (task_linear.forward, SMALL),
    "forward, tasks mixed": (task_linear.forward, SMALL._replace(num_slots=3)),
    "forward, bfloat16": (task_linear.forward, SMALL._replace(dtype="bfloat16")),
    "forward, float16": (task_linear.forward, SMALL._replace(dtype="float16")),
    "gradient of the input": (task_linear_gradients.grad_input, SMALL),
    "gradient of the values": (task_linear_gradients.grad_values, SMALL),
    "both": (task_linear_gradients.forward_backward, SMALL),
    "both, tasks mixed": (task_linear_gradients.forward_backward, SMALL._replace(num_slots=3)),
    "two threads over one": (lambda spec: task_linear_scaling.two_over_one(task_linear.forward, spec), SMALL),
    "convolution": (task_conv2d.forward, SMALL_CONV),
    "convolution, strided": (task_conv2d.forward, SMALL_CONV._replace(stride=2)),
    "convolution, both": (task_conv2d.forward_backward, SMALL_CONV),
}


@pytest.mark.parametrize("name", CASES)
def test_alternatives_agree(name, set_num_threads):
    make, spec = CASES[name]
    ready = prove(Point("op", name, {}, lambda: make(spec)), NOT_HERE)
    assert ready.wrong == {} and "ours" in ready.calls and len(ready.calls) > 1
    expected = re.compile("left out in this run|oneDNN failed|onnx.* not installed")
    assert all(expected.match(why) for why in ready.absent.values()), ready.absent


def test_bytes():
    counted = memory.count(Linear(64, 96, 8, 0.10, 3))
    owned = counted["values_bytes"] // 4
    assert counted["gradients_bytes"] == 4 * owned and counted["adam_bytes"] == 8 * owned
    assert counted["masked_dense_bytes"] == 16 * 64 * 96
    parts = sum(counted[f"{part}_bytes"] for part in ("values", "gradients", "adam", "positions", "index"))
    assert counted["trained_task_bytes"] == parts
    assert counted["figure"] == parts / counted["masked_dense_bytes"]
    # Two other tasks of the same density, without gradients and optimizer.
    assert counted["other_tasks_resident_bytes"] > 1.5 * counted["values_bytes"]


def test_losses_that_differ_are_refused():
    e2e.check_losses([2.0, 1.0], [2.0, 1.00005])
    for masked in ([2.0, 1.01], [2.0], [2.0, float("nan")]):
        with pytest.raises(AssertionError):
            e2e.check_losses([2.0, 1.0], masked)
    with pytest.raises(AssertionError):
        e2e.check_losses([], [])
