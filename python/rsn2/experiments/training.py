"""What experiments share: dense controls, test results, sizes."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from rsn2.metrics import accuracy, bytes_of_tensors, f1_per_class, mean_squared_error
from rsn2.network import MultitaskNetwork
from rsn2_kernels.nn import TaskLayer

Loss = Callable[[Tensor, Tensor], Tensor]


class OrdinaryNetworks(nn.Module):
    """Ordinary networks that ``rsn2.fit`` trains as it trains a ``MultitaskNetwork``: what results are compared
    with."""

    def __init__(self) -> None:
        super().__init__()
        self._finished: set[str] = set()

    @property
    def tasks(self) -> list[str]:
        raise NotImplementedError

    def parts_of(self, task: str) -> list[nn.Module]:
        """The modules that give the task's outputs, one after another; training the task trains all of them."""
        raise NotImplementedError

    def task_number(self, task: str) -> int:
        return self.tasks.index(task)

    def task_layers(self, task: str) -> dict[str, Any]:
        return {}

    def trunk_layers(self) -> dict[str, Any]:
        return {}

    def own_modules(self, task: str) -> dict[str, nn.Module]:
        return {f"part {number}": part for number, part in enumerate(self.parts_of(task))}

    def parameters_of(self, task: str) -> list[nn.Parameter]:
        return [parameter for part in self.parts_of(task) for parameter in part.parameters()]

    def is_finished(self, task: str) -> bool:
        return task in self._finished

    def freeze(self, task: str) -> None:
        self._finished.add(task)

    def thaw(self, task: str) -> None:
        self._finished.discard(task)

    def forward(self, x: Any, task: str | None = None) -> Any:
        if isinstance(x, Mapping):
            return {name: self(part, task=name) for name, part in x.items()}
        assert task is not None
        for part in self.parts_of(task):
            x = part(x)
        return x


class DenseNetworks(OrdinaryNetworks):
    """One ordinary network per task: the dense control."""

    def __init__(self, networks: Mapping[str, nn.Module]) -> None:
        super().__init__()
        self.networks = nn.ModuleDict(networks)

    @property
    def tasks(self) -> list[str]:
        return list(self.networks)

    def parts_of(self, task: str) -> list[nn.Module]:
        return [self.networks[task]]


@torch.no_grad()
def outputs_of(net: nn.Module, task: str, batches: Iterable[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """Outputs and targets of all rows, in evaluation mode."""
    was_training, device = net.training, next(net.parameters()).device
    net.eval()
    pairs = [(net(x.to(device), task=task), y.to(device)) for x, y in batches]
    net.train(was_training)
    return torch.cat([outputs for outputs, _ in pairs]), torch.cat([target for _, target in pairs])


def evaluate(net: nn.Module, task: str, batches: Iterable[tuple[Tensor, Tensor]], loss_fn: Loss, *, num_classes: int,
             f1: bool = True) -> dict[str, Any]:  # fmt: skip
    """Loss and, for classes, accuracy and F1 of each class, for a number (``num_classes=0``) the mean squared error."""
    outputs, target = outputs_of(net, task, batches)
    found: dict[str, Any] = {"loss": loss_fn(outputs, target).item()}
    if not num_classes:
        return found | {"mse": mean_squared_error(outputs, target)}
    found["accuracy"] = accuracy(outputs, target)
    if f1:
        # A head may be wider than there are classes.
        found["f1"] = f1_per_class(outputs, target, max(num_classes, outputs.shape[1]))[:num_classes]
    return found


def digest(*tensors: Tensor) -> str:
    """SHA-256 over the bytes of tensors: equal only when every bit is."""
    found = hashlib.sha256()
    for tensor in tensors:
        found.update(f"{tensor.dtype} {list(tensor.shape)} ".encode())
        found.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return found.hexdigest()


def task_layers(module: nn.Module) -> dict[str, TaskLayer]:
    """The layers of a network that tasks own weights of, by name."""
    return {name: layer for name, layer in module.named_modules() if isinstance(layer, TaskLayer)}


def bytes_of_network(net: nn.Module) -> dict[str, int]:
    """What a network needs to give outputs, part by part.

    Returns:
        ``values`` and ``positions`` of task layers, ``biases`` of task layers, ``dense`` (all parameters and buffers of
        other layers), and ``index``, which the kernels derive from the positions and which is in memory only.
    """
    layers = task_layers(net).values()
    tensors = [layer.flat_bias for layer in layers if layer.flat_bias is not None]
    packed = {
        t.untyped_storage().data_ptr() for layer in layers for t in (*layer.parameters(), *layer.buffers()) if t.numel()
    }
    others = [t for t in (*net.parameters(), *net.buffers()) if t.untyped_storage().data_ptr() not in packed]
    return {
        "values": bytes_of_tensors(layer.flat_values for layer in layers),
        "positions": bytes_of_tensors(layer.positions for layer in layers),
        "biases": bytes_of_tensors(tensors),
        "dense": bytes_of_tensors(others),
        "index": bytes_of_tensors(layer.index for layer in layers),
    }


def sizes_of(net: MultitaskNetwork | DenseNetworks, path: Path) -> dict[str, Any]:
    """Weights owned per layer, and bytes in memory and in the file that is written to ``path``.

    The file of a network that is not a ``MultitaskNetwork`` holds its parameters as safetensors, too.

    Returns:
        ``owned_per_layer`` (``{layer: {task: weights}}``, a shared slot counts for all who use it), ``owned_per_slot``
        (``{layer: {tasks joined by "+": weights}}``, every weight counts once), ``weights_per_layer`` (owned or free),
        ``owned_weights`` (all of ``owned_per_slot``) and ``bytes``.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    owned: dict[str, dict[str, int]]
    if isinstance(net, MultitaskNetwork):
        net.save(path, closed=True)
        owned, per_slot, weights = net.owned_weights(), _owned_per_slot(net), _weights_per_layer(net)
    else:
        from safetensors.torch import save_file

        save_file(
            {
                name: tensor.detach().clone(memory_format=torch.contiguous_format)
                for name, tensor in net.state_dict().items()
            },
            path,
        )
        owned = {}
        for task, network in net.networks.items():
            for name, parameter in network.named_parameters():
                if parameter.dim() > 1:
                    owned.setdefault(name.removesuffix(".weight"), {})[task] = parameter.numel()
        per_slot, weights = owned, {name: sum(per_task.values()) for name, per_task in owned.items()}
    return {
        "owned_per_layer": owned,
        "owned_per_slot": per_slot,
        "weights_per_layer": weights,
        "owned_weights": sum(sum(counts.values()) for counts in per_slot.values()),
        "bytes": bytes_of_network(net) | {"file": path.stat().st_size},
    }


def _owned_per_slot(net: MultitaskNetwork) -> dict[str, dict[str, int]]:
    users: dict[str, dict[int, list[str]]] = {}
    owned: dict[str, dict[int, int]] = {}
    for task in net.tasks:
        for name, (layer, slot) in net.task_layers(task).items():
            users.setdefault(name, {}).setdefault(slot, []).append(task)
            owned.setdefault(name, {})[slot] = layer.values[slot].numel()
    return {
        name: {"+".join(tasks): owned[name][slot] for slot, tasks in slots.items()} for name, slots in users.items()
    }


def _weights_per_layer(net: MultitaskNetwork) -> dict[str, int]:
    return {name: layer.numel for task in net.tasks for name, (layer, _) in net.task_layers(task).items()}
