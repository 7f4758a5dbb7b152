"""Lines of results as runs write them, with figures that are easy to check."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from typing import Any

import pytest

from rsn2.experiments import load_experiment

ENVIRONMENT = {"rsn2_kernels": "0.1.0", "torch": "2", "python": "3", "device": "cpu", "processor": "P", "threads": 2,
               "cpu_level": "avx2", "commit": "0123456789abcdef"}  # fmt: skip


def _line(experiment: str, variant: str, stage: str, *, seed: int = 0, smoke: bool = False, keep: float = 0.1,
         accuracy: float = 0.9, losses: dict[str, float] | None = None, settings_hash: str = "",
         **metrics: Any) -> dict[str, Any]:  # fmt: skip
    """A line of ``stage``; its tasks have all the same accuracy, and F1 of it for each of ten classes."""
    own = stage.split("+")
    is_dense = variant == "control"
    return {
        "experiment": experiment,
        "variant": variant,
        "seed": seed,
        "stage": stage,
        "settings_hash": settings_hash or f"{experiment}{variant}{smoke}",
        "settings": {"kind": "dense" if is_dense else "rsn2", "keep": 1.0 if is_dense else keep, "smoke": smoke},
        "metrics": {
            "tasks": {task: {"accuracy": accuracy, "mse": 0.016, "loss": 0.25, "f1": [accuracy] * 10} for task in own},
            "losses_after": losses if losses is not None else dict.fromkeys(own, 0.25),
            "outputs_of_earlier_tasks": "no earlier tasks" if losses is None else "the same bits",
            "claim_seconds": None if is_dense else 1.0,
            "epochs": 10,
            "seconds_per_epoch": 2.0,
            "owned_per_layer": {"hidden": dict.fromkeys(own, 100)},
            "owned_weights": 100 * len(own),
            "bytes": {"values": 400, "positions": 50, "biases": 8, "dense": 0, "index": 60, "file": 1000},
            **metrics,
        },
        "wall_seconds": 30.0,
        "peak_memory_bytes": 5_000_000,
        "environment": ENVIRONMENT,
    }


@pytest.fixture
def line() -> Callable[..., dict[str, Any]]:
    """Makes a line, see ``_line``."""
    return _line


@pytest.fixture
def exp3_lines() -> list[dict[str, Any]]:
    """Experiment 3 in full, seeds 0 and 1: ours at 97 and 98 %, the dense controls at 99 and 99.5 %."""
    found = []
    for seed in (0, 1):
        own = {"accuracy": 0.97 + 0.01 * seed, "seed": seed}
        dense = {"accuracy": 0.99 + 0.005 * seed, "seed": seed}
        sizes = {
            "owned_per_slot": {"hidden": {"digits": 100, "fashion": 100}},
            "weights_per_layer": {"hidden": 1000},
            "owned_weights": 200,
        }
        found += [
            _line("exp3", "ours", "digits", **own),
            _line("exp3", "ours", "fashion", losses={"fashion": 0.5, "digits": 0.25}, **sizes, **own),
            _line("exp3", "control", "digits", **dense),
            _line("exp3", "control", "fashion", **dense),
        ]
    return found


@pytest.fixture
def exp3():
    return load_experiment("exp3")


@pytest.fixture
def parsed() -> Callable[[str], ElementTree.Element]:
    """Reads an ``<svg>`` as XML."""
    return lambda svg: ElementTree.fromstring(svg.replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1))


@pytest.fixture
def svg_of() -> Callable[[str], str]:
    """The last ``<svg>`` of some HTML: those before it belong to the key."""
    return lambda html: html[html.rindex("<svg ") : html.rindex("</svg>") + len("</svg>")]
