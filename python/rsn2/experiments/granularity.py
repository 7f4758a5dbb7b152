"""Single weights against vectors and blocks: what it costs in accuracy to claim what tensor cores multiply faster."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from rsn2.experiments import exp3
from rsn2.experiments.experiment import Column, Experiment, Variant
from rsn2.experiments.protocol import DENSE, SMOKE, Recipe, units_of_stage
from rsn2.experiments.protocol import Settings as CommonSettings

SIZES = ((1, 1), (1, 16), (16, 16), (32, 32))
KEEPS = (0.1, 0.05)


@dataclass(frozen=True)
class Settings(CommonSettings):
    """See the common settings.

    Attributes:
        widths: of the fully connected network; those of the hidden layers divide by the blocks.
        block: rows and columns of what is claimed as a whole in the hidden layers after the first.
    """

    output_scope: str = "tensor"
    widths: tuple[int, ...] = (784, 1024, 1024, 1024, 1024, 10)
    block: tuple[int, int] = (1, 1)


def sizes_of_claims() -> Experiment:
    """Two tasks in one fully connected network, which claim single weights, vectors or blocks."""
    stages = ("digits", "fashion")
    ours = Settings(stages=stages)
    return Experiment(
        name="granularity",
        title="Single weights against vectors of 16 and blocks of 16x16 and 32x32",
        description=(
            "One network 784-1024x4-10 (3 958 784 weights) holds MNIST digits and then Fashion-MNIST, each in the same "
            "share of the weights of every layer, 10 or 5 %. In the three 1024x1024 layers a task claims single "
            "weights, 1x16 vectors along the inputs, or whole blocks of 16x16 or 32x32 (at most 0.5 % fewer weights, "
            "since only whole ones are taken), whichever have the largest sums of gradient sizes; in the first and "
            "last layer, whose sizes do not divide, always single weights. The largest of a layer as a whole are "
            "taken, in the output layer too, since blocks cannot be chosen row by row."
        ),
        variants={
            **{
                f"{rows}x{columns}-{keep:g}": Variant(
                    f"{rows}x{columns}, keep {100 * keep:g} %", replace(ours, keep=keep, block=(rows, columns)), stages
                )
                for keep in KEEPS
                for rows, columns in SIZES
            },
            "control": Variant(
                "dense control, one network per task", replace(ours, stages=(), **DENSE), stages, is_control=True
            ),
        },
        smoke=SMOKE | {"widths": (784, 64, 64, 64, 10), "keep": 0.25},
        columns=(
            Column("digits", "accuracy", "Digits, %"),
            Column("fashion", "accuracy", "Fashion, %"),
        ),
        run_unit=units_of_stage(Recipe(exp3.tasks, exp3.network, exp3.control, claim_options=claim_options)),
    )


def claim_options(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Blocks where they fit: the layers from one hidden layer to the next."""
    rows, columns = settings["block"]
    return {"scope": "tensor", "granularity": {"hidden1": (1, 1), "hidden*": (rows, columns)}}
