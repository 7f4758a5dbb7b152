"""What is measured of a network: how right it is, what it forgets, its bytes and its time."""

from rsn2.metrics.classification import accuracy, f1_per_class, mean_squared_error, predicted_labels
from rsn2.metrics.other_work import OtherWork
from rsn2.metrics.retention import backward_transfer, forgetting
from rsn2.metrics.size import bytes_of_gradients, bytes_of_module, bytes_of_optimizer, bytes_of_tensors
from rsn2.metrics.timing import Timing, time_in_turns

__all__ = [
    "OtherWork",
    "Timing",
    "accuracy",
    "backward_transfer",
    "bytes_of_gradients",
    "bytes_of_module",
    "bytes_of_optimizer",
    "bytes_of_tensors",
    "f1_per_class",
    "forgetting",
    "mean_squared_error",
    "predicted_labels",
    "time_in_turns",
]
