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
    """Bytes of all tensors that a module holds, shared storage once; gradients are not counted.

    Parameters, buffers, and plain attributes: what task layers derive and share is neither of the first two.
    """
    plain = (value for part in module.modules() for value in vars(part).values() if isinstance(value, Tensor))
    return bytes_of_tensors([*module.parameters(), *module.buffers(), *plain])


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
