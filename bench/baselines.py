"""Dense and sparse alternatives that a user has without this package, each as a call on ready inputs."""

from __future__ import annotations

import importlib.util
import io
import warnings
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.utils import mkldnn

Call = Callable[[], object]


def onednn(module: nn.Module, x: Tensor) -> Call:
    """The oneDNN path with weights in its own layout (``torch.utils.mkldnn.to_mkldnn``)."""
    fast = mkldnn.to_mkldnn(module.eval())

    def call() -> object:
        with torch.no_grad():
            return fast(x.to_mkldnn()).to_dense()

    return call


def onnx(module: nn.Module, x: Tensor) -> Call | str:
    """onnxruntime's CPU provider with as many threads as torch has."""
    if importlib.util.find_spec("onnxruntime") is None or importlib.util.find_spec("onnx") is None:
        return "onnxruntime or onnx is not installed"
    import onnxruntime

    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(module.eval(), (x,), buffer, dynamo=False, input_names=["x"], output_names=["y"])
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(buffer.getvalue(), options, providers=["CPUExecutionProvider"])
    feed = {"x": x.numpy()}
    return lambda: session.run(None, feed)


def csr(weight: Tensor, x: Tensor) -> Call:
    """``torch.sparse`` in CSR form (MKL), transposed as the layer needs it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        sparse = weight.to_sparse_csr()
    transposed = x.T.contiguous()

    def call() -> object:
        with torch.no_grad():
            return sparse @ transposed

    return call
