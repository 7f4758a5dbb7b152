"""Dense and sparse alternatives that PyTorch and onnxruntime give, each as a call on ready inputs.

Weights are dense with the task's mask multiplied out before. Several models are those of several tasks, each on rows of
its own, which lie ready: neither sorting them nor putting the results together is counted.
"""

from __future__ import annotations

import copy
import importlib.util
import io
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Call = Callable[[], Any]
OPSET = 17  # the newest that DeepSparse reads


def without_grad(call: Call) -> Call:
    def quiet() -> Any:
        with torch.no_grad():
            return call()

    return quiet


def plain(models: Sequence[nn.Module], parts: Sequence[Tensor]) -> Call:
    """PyTorch's default."""
    pairs = list(zip(models, parts, strict=True))
    return without_grad(lambda: [model(part) for model, part in pairs])


def channels_last(models: Sequence[nn.Module], parts: Sequence[Tensor]) -> Call:
    """PyTorch's default for images that lie in ``channels_last`` already."""
    copies = [_copy(model).to(memory_format=torch.channels_last) for model in models]
    return plain(copies, [part.contiguous(memory_format=torch.channels_last) for part in parts])


def onednn(models: Sequence[nn.Module], parts: Sequence[Tensor]) -> Call | str:
    """The oneDNN path with weights in its own layout (``torch.utils.mkldnn.to_mkldnn``)."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it is written in TorchScript, which warns of itself
        from torch.utils import mkldnn

        # to_mkldnn replaces the modules inside of what it is given.
        fast = [mkldnn.to_mkldnn(nn.Sequential(_copy(model)).eval(), model.weight.dtype) for model in models]
    pairs = list(zip(fast, parts, strict=True))
    call = without_grad(lambda: [model(part.to_mkldnn()).to_dense() for model, part in pairs])
    try:
        call()
    except RuntimeError as error:  # no float16 on this CPU, for example
        return f"oneDNN failed: {str(error).splitlines()[-1]}"
    return call


def frozen_compile(models: Sequence[nn.Module], parts: Sequence[Tensor]) -> Call | str:
    """``torch.compile`` with the weights as constants."""
    compiled = torch.compile(_Together([_copy(model) for model in models]).eval(), options={"freezing": True})
    call = without_grad(lambda: compiled(*parts))
    try:
        call()
    except torch._inductor.exc.InductorError as error:  # no C++ compiler, for example
        return f"torch.compile failed: {str(error).splitlines()[0]}"
    return call


def onnx_bytes(model: nn.Module, parts: Sequence[Tensor]) -> bytes:
    """The model in ONNX, for exactly these inputs."""
    buffer = io.BytesIO()
    names = [f"x{number}" for number in range(len(parts))]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporter about itself
        torch.onnx.export(model.eval(), tuple(parts), buffer, dynamo=False, opset_version=OPSET, input_names=names)
    return buffer.getvalue()


def onnxruntime(model: nn.Module, parts: Sequence[Tensor]) -> Call | str:
    """onnxruntime's CPU provider with as many threads as torch has."""
    missing = [name for name in ("onnxruntime", "onnx") if importlib.util.find_spec(name) is None]
    if missing:
        return f"{' and '.join(missing)} not installed"
    import onnxruntime as runtime

    options = runtime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = runtime.InferenceSession(onnx_bytes(model, parts), options, providers=["CPUExecutionProvider"])
    feed = {f"x{number}": part.numpy() for number, part in enumerate(parts)}
    return lambda: session.run(None, feed)


def onnxruntime_together(models: Sequence[nn.Module], parts: Sequence[Tensor]) -> Call | str:
    """All models in one session, so that they share its threads."""
    return onnxruntime(_Together(models), parts)


def masked(models: Sequence[nn.Module], masks: Sequence[Tensor], parts: Sequence[Tensor]) -> Call:
    """What libraries of continual learning do: the dense product of ``weight * mask``, multiplied in every call."""
    triples = list(zip(models, masks, parts, strict=True))
    return without_grad(lambda: [masked_product(model, mask, part) for model, mask, part in triples])


def masked_product(model: nn.Module, mask: Tensor, x: Tensor) -> Tensor:
    if isinstance(model, nn.Conv2d):
        return F.conv2d(x, model.weight * mask, model.bias, model.stride, model.padding)
    return F.linear(x, model.weight * mask, model.bias)


def csr(model: nn.Linear, x: Tensor) -> Call:
    """``torch.sparse`` in CSR form (MKL), by the fastest of its forms: it wants the batch innermost."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # "beta state"
        sparse = model.weight.detach().to_sparse_csr()
    if model.bias is None:
        return without_grad(lambda: (sparse @ x.T.contiguous()).T)
    bias = model.bias.detach()[:, None]
    return without_grad(lambda: torch.addmm(bias, sparse, x.T.contiguous()).T)


def csr_sampled(pattern: Tensor, grad_y: Tensor, x: Tensor) -> Call:
    """The product ``grad_y.T @ x`` where ``pattern`` is not zero, by ``torch.sparse`` in CSR form (MKL)."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # "beta state"
        sparse = pattern.to_sparse_csr()
    return without_grad(lambda: torch.sparse.sampled_addmm(sparse, grad_y.T, x, beta=0.0))


class _Together(nn.Module):
    """Several models, each on an input of its own."""

    def __init__(self, models: Sequence[nn.Module]) -> None:
        super().__init__()
        self.models = nn.ModuleList(models)

    def forward(self, *parts: Tensor) -> tuple[Tensor, ...]:
        return tuple(model(part) for model, part in zip(self.models, parts, strict=True))


def _copy(model: nn.Module) -> nn.Module:
    return copy.deepcopy(model).requires_grad_(False)
