"""Layers whose weights belong to slots, and the way to put them into a model."""

from rsn2_kernels.nn._active import active, active_slots, checkpoint_contexts
from rsn2_kernels.nn._slots import SlotModule, slot_modules
from rsn2_kernels.nn._store import TaskLayer
from rsn2_kernels.nn.batch_norm import TaskBatchNorm1d, TaskBatchNorm2d
from rsn2_kernels.nn.convert import Conversion, ConversionError, ConversionReport, convert_
from rsn2_kernels.nn.multihead_attention import TaskMultiheadAttention
from rsn2_kernels.nn.normalization import TaskGroupNorm, TaskLayerNorm
from rsn2_kernels.nn.task_conv import TaskConv1d, TaskConv2d
from rsn2_kernels.nn.task_embedding import TaskEmbedding
from rsn2_kernels.nn.task_linear import TaskLinear

__all__ = [
    "Conversion",
    "ConversionError",
    "ConversionReport",
    "SlotModule",
    "TaskBatchNorm1d",
    "TaskBatchNorm2d",
    "TaskConv1d",
    "TaskConv2d",
    "TaskEmbedding",
    "TaskGroupNorm",
    "TaskLayer",
    "TaskLayerNorm",
    "TaskLinear",
    "TaskMultiheadAttention",
    "active",
    "active_slots",
    "checkpoint_contexts",
    "convert_",
    "slot_modules",
]
