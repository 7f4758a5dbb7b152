"""What Triton 3.6's interpreter does not do as a GPU does, put right where kernels run in it: bfloat16, loop bounds,
assertions.
"""

from __future__ import annotations

from typing import Any

import torch
import triton.language as tl
from triton.runtime import interpreter

# mypy: ignore-errors


def _to_float32(bits: Any) -> Any:
    return torch.as_tensor(bits.view("int16")).view(torch.bfloat16).float().numpy()


def _to_bfloat16(numbers: Any) -> Any:
    """To the nearest, ties to even."""
    return torch.as_tensor(numbers).bfloat16().view(torch.int16).numpy().view("uint16")


def mend() -> None:
    """bfloat16 is multiplied as numbers, not as the bits it is kept in, and rounded to the nearest, not cut off; a
    scalar ends a loop under NumPy 2.4 too, which makes no number of an array of one. Assertions hold, as in a kernel
    started with ``debug=True``.
    """
    builder = interpreter.InterpreterBuilder
    cast, dot, patch_tensor = builder.cast_impl, builder.create_dot, interpreter._patch_lang_tensor

    def cast_impl(self: Any, source: Any, kind: Any) -> Any:
        if source.dtype.scalar == tl.bfloat16 and kind.scalar == tl.float32:
            return interpreter.TensorHandle(_to_float32(source.data), tl.float32)
        if source.dtype.scalar == tl.float32 and kind.scalar == tl.bfloat16:
            return interpreter.TensorHandle(_to_bfloat16(source.data), tl.bfloat16)
        return cast(self, source, kind)

    def create_dot(self: Any, a: Any, b: Any, *rest: Any) -> Any:
        a, b = (cast_impl(self, m, tl.float32) if m.dtype.scalar == tl.bfloat16 else m for m in (a, b))
        return dot(self, a, b, *rest)

    def patch(tensor: Any, scope: Any) -> None:
        patch_tensor(tensor, scope)
        scope.set_attr(tensor, "__index__", lambda self: self.handle.data.item())

    prepared: set[str] = set()

    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        """A function that a kernel calls. Its language is prepared by the kernel's start, or, for Triton's own
        functions, once: doing so for every call takes most of the time.
        """
        module = self.fn.__module__
        if module.startswith("triton.") and module not in prepared:
            prepared.add(module)
            interpreter._patch_lang(self.fn)
        return self.rewrite()(*args, **kwargs)

    interpreter.interpreter_builder.options = interpreter.InterpreterOptions(debug=True, sanitize_overflow=False)
    builder.cast_impl, builder.create_dot, interpreter._patch_lang_tensor = cast_impl, create_dot, patch
    interpreter.InterpretedFunction.__call__ = call
