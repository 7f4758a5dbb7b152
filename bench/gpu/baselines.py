"""Others' ways of a linear product and its gradients, on weights that were masked before."""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from .points import Scene
from .timing import Way, copies


def dense(scene: Scene, x: Tensor, weight: Tensor, *, hot: bool = False) -> Way:
    """``F.linear`` with the slot's weight multiplied out."""
    sets = copies([weight], 1 if hot else scene.cold_bytes)
    return Way([lambda own=own: F.linear(x, own[0]) for own in sets])


def masked(scene: Scene, x: Tensor, weight: Tensor, mask: Tensor) -> Way:
    """The mask multiplied in every call, as libraries of continual learning do."""
    sets = copies([weight, mask], scene.cold_bytes)
    return Way([lambda own=own: F.linear(x, own[0] * own[1]) for own in sets])


def csr_parts(weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Row starts and columns in int32, and values, of the elements that are not zero."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # "beta state"
        sparse = weight.to_sparse_csr()
    return sparse.crow_indices().int(), sparse.col_indices().int(), sparse.values()


def csr_matrix(starts: Tensor, columns: Tensor, values: Tensor, size: Sequence[int]) -> Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # "beta state"
        return torch.sparse_csr_tensor(starts, columns, values, size=tuple(size))


def csr(scene: Scene, x: Tensor, weight: Tensor) -> Way:
    """``torch.sparse`` in CSR form (cuSPARSE), int32 indices, the transposed input ready and the output transposed."""
    columns = x.T.contiguous()
    matrices = [csr_matrix(*own, weight.shape) for own in copies(csr_parts(weight), scene.cold_bytes, 64)]
    return Way([lambda own=own: own @ columns for own in matrices], pick=lambda y: y.T)


def cupy_csr(scene: Scene, x: Tensor, weight: Tensor) -> Way | str:
    """The same by cupy, which cannot be captured beside torch."""
    if importlib.util.find_spec("cupy") is None:
        return "cupy is not installed"
    if not scene.device.is_gpu:
        return "cupy wants a GPU"
    import cupy
    from cupyx.scipy import sparse

    starts, columns, values = (cupy.from_dlpack(tensor) for tensor in csr_parts(weight))
    matrix = sparse.csr_matrix((values, columns, starts), shape=tuple(weight.shape))
    right = cupy.from_dlpack(x.T.contiguous())
    # One copy of the weight: it is as hot as its size lets it be.
    stream = cupy.cuda.ExternalStream(torch.cuda.current_stream().cuda_stream)

    def call() -> object:
        with stream:
            return matrix @ right

    return Way([call], graph=False, pick=lambda y: torch.from_dlpack(y).T)


def block_csr(scene: Scene, x: Tensor, weight: Tensor, block: int) -> Way:
    """``F.linear`` with a weight in BSR form (torch's Triton kernel)."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        sparse = weight.to_sparse_bsr((block, block))
        parts = [sparse.crow_indices(), sparse.col_indices(), sparse.values()]
        sets = [torch.sparse_bsr_tensor(*own, weight.shape) for own in copies(parts, scene.cold_bytes)]
    return Way([lambda own=own: F.linear(x, own) for own in sets])


def semi_structured(scene: Scene, x: Tensor, weight: Tensor) -> Way | str:
    """``F.linear`` with a weight in torch's form for 2 of 4 (cuSPARSELt), which fewer fit into too."""
    if not scene.device.is_gpu:
        return "2 of 4 wants a GPU"
    sets = [torch.sparse.to_sparse_semi_structured(own[0]) for own in copies([weight], 2 * scene.cold_bytes)]
    return Way([lambda own=own: F.linear(x, own) for own in sets])


def grad_input(scene: Scene, grad_y: Tensor, weight: Tensor) -> Way:
    sets = copies([weight], scene.cold_bytes)
    return Way([lambda own=own: grad_y @ own[0] for own in sets])


def grad_weight(x: Tensor, grad_y: Tensor, mask: Tensor | None = None) -> Way:
    """The gradient of every weight; with a mask, multiplied by it."""
    if mask is None:
        return Way([lambda: grad_y.T @ x], pick=lambda grad: grad)
    return Way([lambda: (grad_y.T @ x) * mask])


def sampled(x: Tensor, grad_y: Tensor, mask: Tensor) -> Way:
    """``torch.sparse.sampled_addmm`` (cuSPARSE; float32 only)."""
    pattern = csr_matrix(*csr_parts(mask.to(x.dtype)), mask.shape)
    left = grad_y.T.contiguous()
    return Way([lambda: torch.sparse.sampled_addmm(pattern, left, x, beta=0.0)], pick=lambda grad: grad.to_dense())


def loop(parts: Sequence[Tensor], weights: Sequence[Tensor], masks: Sequence[Tensor] | None = None, *,
         graph: bool = True) -> Way:  # fmt: skip
    """A dense model per slot, each on rows of its own that lie ready; neither sorting nor putting together counts."""

    def call() -> list[Tensor]:
        if masks is None:
            return [F.linear(part, weight) for part, weight in zip(parts, weights, strict=True)]
        return [F.linear(part, weight * mask) for part, weight, mask in zip(parts, weights, masks, strict=True)]

    return Way([call], graph=graph)


def grouped(parts: Sequence[Tensor], weights: Tensor) -> Way | str:
    """``torch._grouped_mm`` on the dense weights ``[T, O, K]`` of all slots; the rows lie sorted."""
    if not hasattr(torch, "_grouped_mm"):
        return "this torch has no _grouped_mm"
    x = torch.cat(list(parts))
    sizes = [len(part) for part in parts]
    ends = torch.tensor(sizes, device=x.device).cumsum(0).int()
    right = weights.transpose(1, 2)
    return Way([lambda: torch._grouped_mm(x, right, offs=ends)], pick=lambda y: y.split(sizes))
