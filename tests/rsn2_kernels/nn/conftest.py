"""The example models, and claims for whole models."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import Tensor, nn

from rsn2_kernels.nn import SlotModule, TaskConv2d, TaskLayer, TaskLinear, active, slot_modules


def _load_models() -> ModuleType:
    """Under a name of its own in ``sys.modules``, so that instances can be pickled."""
    name = "rsn2_example_models"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name("models.py"))
        assert spec is not None and spec.loader is not None
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
    return sys.modules[name]


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture
def models() -> ModuleType:
    return _load_models()


@pytest.fixture(params=["MLP", "ResNet18", "TransformerClassifier"])
def example(request: pytest.FixtureRequest) -> tuple[nn.Module, Callable[[int], Tensor]]:
    """A model and a function that draws a batch for it."""
    makers: dict[str, Callable[[int], Tensor]] = {
        "MLP": lambda rows: torch.randn(rows, 12),
        "ResNet18": lambda rows: torch.randn(rows, 3, 8, 8),
        "TransformerClassifier": lambda rows: torch.randint(1, 20, (rows, 5)),
    }
    return getattr(_load_models(), request.param)(), makers[request.param]


@pytest.fixture(params=["MLP", "ResNet18", "TransformerClassifier"])
def small_example(request: pytest.FixtureRequest) -> tuple[nn.Module, Tensor]:
    """The same with fewer layers, for what takes long per layer, and four rows."""
    models = _load_models()
    if request.param == "MLP":
        return models.MLP(), torch.randn(4, 12)
    if request.param == "ResNet18":
        return models.ResNet18(blocks=(1,)), torch.randn(4, 3, 6, 6)
    return models.TransformerClassifier(num_layers=1), torch.randint(1, 20, (4, 5))


def random_free(layer: TaskLayer, share: float) -> Tensor:
    """A mask of that share of all weights, drawn from the free ones."""
    free = layer.free().flatten().nonzero().squeeze(1)
    count = max(1, min(len(free), int(share * layer.numel)))
    mask = torch.zeros(layer.numel, dtype=torch.bool)
    mask[free[torch.randperm(len(free))[:count]]] = True
    return mask.reshape(layer.weight_shape)


@pytest.fixture
def draw() -> Callable[[TaskLayer, float], Tensor]:
    return random_free


@pytest.fixture
def claim_share() -> Callable[..., None]:
    """Claim a random share of the free weights of every layer of a model for a slot."""

    def claim(model: nn.Module, slot: int | str, share: float = 0.3, **options: object) -> None:
        for layer in slot_modules(model).values():
            if isinstance(layer, TaskLayer):
                layer.claim(slot, random_free(layer, share), **options)

    return claim


@pytest.fixture
def train() -> Callable[..., None]:
    """Some steps of one slot of a model, on random classes."""

    def run(model: nn.Module, slot: int, optimizer: torch.optim.Optimizer, batches: list[Tensor]) -> None:
        model.train()
        for x in batches:
            optimizer.zero_grad(set_to_none=False)
            with active(slot):
                loss = nn.functional.cross_entropy(model(x), torch.randint(0, 4, (len(x),)))
            loss.backward()
            optimizer.step()

    return run


@pytest.fixture
def bytes_of() -> Callable[[nn.Module, int], dict[str, bytes]]:
    """Every byte that belongs to one slot of a model: weights, biases, normalisation state."""

    def content(tensor: Tensor) -> bytes:
        return tensor.detach().contiguous().reshape(-1).view(torch.uint8).cpu().numpy().tobytes()

    def collect(model: nn.Module, slot: int) -> dict[str, bytes]:
        found: dict[str, bytes] = {}
        for name, layer in slot_modules(model).items():
            assert isinstance(layer, SlotModule)
            for place, parameter in enumerate(layer.parameters_of(slot)):
                found[f"{name}.{place}"] = content(parameter)
            for kind in ("running_mean", "running_var", "num_batches_tracked"):
                if getattr(layer, kind, None) is not None:
                    found[f"{name}.{kind}"] = content(getattr(layer, kind)[slot])
            if isinstance(layer, TaskLayer):
                found[f"{name}.mask"] = content(layer.mask(slot))
        return found

    return collect


@pytest.fixture(params=["linear", "conv"])
def claimed_layer_and_input(request: pytest.FixtureRequest, draw: Callable[..., Tensor]) -> tuple[TaskLayer, Tensor]:
    """Three slots, of which the last owns nothing, and four rows."""
    layer: TaskLayer
    if request.param == "linear":
        layer, x = TaskLinear(9, 7, num_slots=3), torch.randn(4, 9)
    else:
        layer, x = TaskConv2d(3, 4, 3, num_slots=3), torch.randn(4, 3, 5, 5)
    layer.claim(0, draw(layer, 0.2))
    layer.claim(1, draw(layer, 0.3))
    return layer, x
