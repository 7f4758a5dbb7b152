"""Points of the convolution."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import nn

from bench import baselines
from bench.registry import Case, Point
from rsn2_kernels.nn import TaskConv2d
from rsn2_kernels.testing import assert_as_accurate, random_masks

POINTS = [  # O, C, size, kernel, stride, images, density
    (64, 64, 28, 3, 1, 64, 0.20),
    (64, 64, 28, 3, 1, 64, 0.10),
    (32, 32, 28, 3, 1, 64, 0.20),
    (32, 32, 28, 3, 1, 64, 0.10),
    (64, 64, 28, 1, 1, 64, 0.20),
    (64, 64, 28, 5, 1, 64, 0.20),
    (64, 64, 28, 3, 2, 64, 0.20),
    (56, 40, 21, 3, 1, 64, 0.20),
]


def _make(num_outputs: int, channels: int, kernel: int, stride: int, density: float) -> TaskConv2d:
    torch.manual_seed(0)
    layer = TaskConv2d(channels, num_outputs, kernel, stride, kernel // 2, num_slots=1)
    generator = torch.Generator().manual_seed(1)
    mask = random_masks(1, num_outputs, layer.numel // num_outputs, density, generator)[0]
    layer.claim(0, mask.reshape(layer.weight_shape))
    return layer


def _case(
    what: str, num_outputs: int, channels: int, size: int, kernel: int, stride: int, images: int, density: float
) -> Case:
    layer = _make(num_outputs, channels, kernel, stride, density)
    training = what != "forward"
    dense = layer.to_dense(0)
    last = layer.to_dense(0).to(memory_format=torch.channels_last)
    x = torch.randn(images, channels, size, size, requires_grad=training)
    x_last = x.detach().to(memory_format=torch.channels_last).requires_grad_(training)
    slot = torch.tensor(0)
    grad = torch.randn_like(dense(x)).detach()
    grad_last = grad.to(memory_format=torch.channels_last)

    def run(module: nn.Module, inputs: torch.Tensor, gradient: torch.Tensor, *slots: torch.Tensor) -> object:
        if not training:
            with torch.no_grad():
                return module(inputs, *slots)
        for parameter in (inputs, *module.parameters()):
            parameter.grad = None
        return module(inputs, *slots).backward(gradient)

    others: dict[str, baselines.Call | str] = {
        "F.conv2d": lambda: run(dense, x, grad),
        "F.conv2d channels_last": lambda: run(last, x_last, grad_last),
    }
    if not training:
        others["oneDNN"] = baselines.onednn(nn.Sequential(layer.to_dense(0)), x)
        others["onnxruntime"] = baselines.onnx(layer.to_dense(0), x)

    def check() -> None:
        wide = layer.to_dense(0).double()
        with torch.no_grad():
            assert_as_accurate(layer(x, slot), dense(x), wide(x.double()))
        if training:
            run(layer, x, grad, slot)
            ours = x.grad.clone(), layer.values[0].grad.clone()
            run(dense, x, grad)
            inputs = x.detach().double().requires_grad_()
            wide(inputs).backward(grad.double())
            assert_as_accurate(ours[0], x.grad, inputs.grad)
            owned = layer.owned(0)
            assert_as_accurate(ours[1], dense.weight.grad.flatten()[owned], wide.weight.grad.flatten()[owned])

    return Case(lambda: run(layer, x, grad, slot), others, check)


def points() -> Iterator[Point]:
    for what in ("forward", "forward+backward"):
        for num_outputs, channels, size, kernel, stride, images, density in POINTS:
            settings = {"O": num_outputs, "C": channels, "size": size, "kernel": kernel, "stride": stride, "B": images,
                        "density": density}  # fmt: skip
            yield Point(
                "task_conv2d", what, settings,
                lambda a=(what, num_outputs, channels, size, kernel, stride, images, density): _case(*a),
                ("F.conv2d", "F.conv2d channels_last", "oneDNN", "onnxruntime"),
            )  # fmt: skip
