"""When training stops, and what is remembered of it."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class EarlyStopping:
    """Stop when the validation loss, summed over the tasks that train together, gets no better.

    An epoch is better when its loss is more than ``min_delta`` below the best one so far; after ``patience`` epochs in
    a row that are not, training ends. The paper's protocol is the default.

    Attributes:
        patience: epochs without improvement, at least 1.
        min_delta: what counts as improvement, at least 0.
        restore_best: whether the weights of the best epoch are put back at the end, as the paper does.
    """

    patience: int = 3
    min_delta: float = 0.01
    restore_best: bool = True

    def __post_init__(self) -> None:
        if isinstance(self.patience, bool) or not isinstance(self.patience, int) or self.patience < 1:
            raise ValueError(f"EarlyStopping: patience must be an int of at least 1, got {self.patience!r}")
        if not 0 <= self.min_delta < math.inf:
            raise ValueError(f"EarlyStopping: min_delta must be at least 0, got {self.min_delta!r}")
        object.__setattr__(self, "min_delta", float(self.min_delta))  # of NumPy's, a checkpoint could not be read


@dataclass
class History:
    """What happened while training.

    Attributes:
        epochs: a dict per epoch: ``epoch`` (from 1), ``seconds``, and ``loss``, ``val_loss``, ``val_metrics`` by task.
        best_epoch: the number of the epoch that early stopping found best, the last one without it. The network has its
            weights, unless ``restore_best`` is False.
        stopped_early: whether early stopping ended the training.
    """

    epochs: list[dict[str, Any]] = field(default_factory=list)
    best_epoch: int = 0
    stopped_early: bool = False


@dataclass
class Patience:
    """The state of early stopping: best loss so far, and epochs since."""

    best: float = math.inf
    waited: int = 0

    def is_better(self, loss: float, settings: EarlyStopping) -> bool:
        """Take the loss of an epoch."""
        if loss < self.best - settings.min_delta:
            self.best, self.waited = loss, 0
            return True
        self.waited += 1
        return False
