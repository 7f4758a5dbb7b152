"""How many bytes a network and what trains it take in memory."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer


def bytes_of_tensors(tensors: Iterable[Tensor]) -> int:
    """Bytes of the storages behind the tensors; a storage that several of them view counts once."""
    storages = {}
    for tensor in tensors:
        storage = tensor.untyped_storage()
        storages[tensor.device, storage.data_ptr()] = storage.nbytes()
    return sum(storages.values())


def bytes_of_module(module: nn.Module) -> int:
    """Bytes of all parameters and buffers of a module, shared storage once; gradients are not counted."""
    return bytes_of_tensors([*module.parameters(), *module.buffers()])


def bytes_of_gradients(module: nn.Module) -> int:
    """Bytes of the gradients that a module's parameters hold now."""
    return bytes_of_tensors(p.grad for p in module.parameters() if p.grad is not None)


def bytes_of_optimizer(optimizer: Optimizer) -> int:
    """Bytes of all tensors in an optimizer's state (momentum, moments, step counts); parameters are not counted."""
    return bytes_of_tensors(_tensors_in(optimizer.state))


def _tensors_in(value: Any) -> Iterable[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from _tensors_in(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _tensors_in(item)
