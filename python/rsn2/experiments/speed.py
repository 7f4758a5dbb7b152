"""How long a training step takes: ours, the same network with masked dense layers, and the whole dense network."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from rsn2.experiments.tasks import Loss
from rsn2.metrics import time_in_turns
from rsn2.network import MultitaskNetwork
from rsn2_kernels.nn import TaskLayer

REPEATS = 9
MAY_DIFFER = 1e-4  # of a loss: float32 sums in another order
_PRUNED = (nn.Linear, nn.Conv2d)


class Masked(nn.Module):
    """Parametrization of a weight: times a mask, in every forward, as the paper trains."""

    def __init__(self, mask: Tensor) -> None:
        super().__init__()
        self.register_buffer("mask", mask)

    def forward(self, weight: Tensor) -> Tensor:
        return weight * cast(Tensor, self.mask)


def mask_like(dense: nn.Module, net: MultitaskNetwork, task: str) -> None:
    """Give a task's dense network the masks, values and biases that the task has in ``net``, in place.

    Raises:
        ValueError: their layers differ.
    """
    layers = net.task_layers(task)
    stem, head = ([name for name in layers if name.startswith(f"{kind}.{task}.")] for kind in ("stems", "heads"))
    order = [*stem, *(name for name in layers if name not in (*stem, *head)), *head]
    twins = [module for module in dense.modules() if isinstance(module, _PRUNED)]
    shapes = [tuple(twin.weight.shape) for twin in twins]
    if shapes != [layers[name][0].weight_shape for name in order]:
        raise ValueError(
            f"mask_like: the layers of {task} must be those of the dense network, got {order} for {shapes}"
        )
    for name, twin in zip(order, twins, strict=True):
        layer, slot = layers[name]
        _copy(layer, slot, twin)
    for ours, theirs in zip(_embeddings(net.stems[net.task_number(task)]), _embeddings(dense), strict=True):
        theirs.load_state_dict(ours.state_dict())


def _copy(layer: TaskLayer, slot: int, twin: nn.Linear | nn.Conv2d) -> None:
    mask = layer.mask(slot)
    with torch.no_grad():
        weight = torch.zeros(layer.numel)
        weight[layer.owned(slot)] = layer.values[slot].detach()
        twin.weight.copy_(weight.reshape(layer.weight_shape))
        if twin.bias is not None and layer.flat_bias is not None:
            twin.bias.copy_(layer.flat_bias[slot])
    parametrize.register_parametrization(twin, "weight", Masked(mask.to(twin.weight.dtype)))


def _embeddings(module: nn.Module) -> list[nn.Embedding]:
    return [found for found in module.modules() if isinstance(found, nn.Embedding)]


def _loss(network: Callable[[Tensor], Tensor], loss: Loss, x: Tensor, y: Tensor) -> Tensor:
    return loss(network(x), y)


def _step(network: Callable[[Tensor], Tensor], loss: Loss, x: Tensor, y: Tensor, optimizer: Any) -> None:
    optimizer.zero_grad()
    _loss(network, loss, x, y).backward()
    optimizer.step()


def time_of_steps(net: MultitaskNetwork, task: str, dense: Callable[[], nn.Module], loss: Loss, x: Tensor,
                  y: Tensor) -> dict[str, Any]:  # fmt: skip
    """Milliseconds of a training step (forward, backward, Adam), medians of steps in turns.

    Dense networks compute channels last. The loss of the masked network is compared with ours before the clock starts.

    Args:
        net: in which the task owns weights.
        task: its name.
        dense: makes the task's dense network.
        loss: of outputs and targets.
        x, y: one batch.

    Raises:
        RuntimeError: the losses differ.
    """
    masked, whole = dense(), dense()
    mask_like(masked, net, task)
    for network in (masked, whole):
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stubs lack it
    networks: dict[str, Callable[[Tensor], Tensor]] = {
        "ours": functools.partial(net, task=task),
        "masked dense": masked,
        "dense": whole,
    }
    own, other = (_loss(networks[name], loss, x, y).item() for name in ("ours", "masked dense"))
    if not abs(own - other) <= MAY_DIFFER * max(abs(other), 1e-3):  # also false for NaN
        raise RuntimeError(f"time_of_steps: the loss of {task} is {own}, with masked dense layers {other}")
    params = {
        "ours": net.parameters_of(task),
        "masked dense": list(masked.parameters()),
        "dense": list(whole.parameters()),
    }
    steps = {
        name: functools.partial(_step, network, loss, x, y, torch.optim.Adam(params[name]))
        for name, network in networks.items()
    }
    timings = time_in_turns(steps, repeats=REPEATS, block=1, warmups=1, rest_seconds=0.03)
    found: dict[str, Any] = {f"{name} ms".replace(" ", "_"): t.median_ms() for name, t in timings.items()}
    return found | {
        "masked_dense_over_ours": timings["masked dense"].median_ms() / timings["ours"].median_ms(),
        "dense_over_ours": timings["dense"].median_ms() / timings["ours"].median_ms(),
        "rows": len(y),
        "loss": own,
        "loss_of_masked_dense": other,
    }
