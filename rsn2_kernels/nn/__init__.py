"""Layers whose weights belong to slots, and the way to put them into a model."""

from rsn2_kernels.nn._active import active, active_slots, checkpoint_contexts
from rsn2_kernels.nn._slots import SlotModule, slot_modules
from rsn2_kernels.nn._store import TaskLayer
from rsn2_kernels.nn.task_conv import TaskConv1d, TaskConv2d
from rsn2_kernels.nn.task_linear import TaskLinear

__all__ = [
    "SlotModule",
    "TaskConv1d",
    "TaskConv2d",
    "TaskLayer",
    "TaskLinear",
    "active",
    "active_slots",
    "checkpoint_contexts",
    "slot_modules",
]
