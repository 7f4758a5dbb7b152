"""The Parameters of a layer with slots: one per slot, each a view of its part of a flat tensor."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from operator import is_not

import torch
from torch import Tensor, nn


class SlotParameters(nn.ParameterList):
    """One Parameter per slot, each a view of its part of a flat tensor. The layer saves and loads that one itself.

    Attributes:
        frozen: the slots whose Parameters get no gradient, whatever their ``requires_grad`` has been set to.
    """

    frozen: frozenset[int] = frozenset()

    def __init__(self, parameters: Iterable[nn.Parameter]) -> None:
        super().__init__(parameters)
        self._own = tuple(self._parameters.values())
        self._addresses = [parameter.data_ptr() for parameter in self]

    def tie(self, parts: Sequence[Tensor]) -> None:
        """Let the Parameters view ``parts``, one per slot."""
        for (name, parameter), part in zip([*self._parameters.items()], parts, strict=True):
            assert parameter is not None
            if parameter.is_meta != part.is_meta:  # what has no memory cannot be given any
                self._parameters[name] = nn.Parameter(part, parameter.requires_grad)
                continue
            if parameter.shape != part.shape:
                # The node that adds up its gradient, which lives as long as a graph does, would expect the old shape.
                # Another dtype makes torch forget it.
                other = torch.float16 if parameter.dtype == torch.float32 else torch.float32
                parameter.data = parameter.detach().new_empty(0, dtype=other)
            parameter.data = part
        self._own = tuple(self._parameters.values())
        self._addresses = [part.data_ptr() for part in parts]

    def register_parameter(self, name: str, param: nn.Parameter | None) -> None:
        present = self._parameters.get(name)
        if present is not None and param is not present:
            raise ValueError(
                f"the Parameter of slot {name} views the layer's memory and cannot be replaced; copy into it instead "
                "(parameter.copy_ under torch.no_grad)"
            )
        super().register_parameter(name, param)

    def trainable(self) -> tuple[list[Tensor], list[int]]:
        """The Parameters that want a gradient now, and their slots.

        Raises:
            RuntimeError: as :meth:`check_memory`, but not while compiling, where addresses cannot be seen.
        """
        rows = list(self._parameters.values())
        # One comparison for all of them: of a hundred slots, a check one by one would cost as much as a small product.
        if not torch.compiler.is_compiling():
            if [0 if row is None else row.data_ptr() for row in rows] != self._addresses:
                self.check_memory()
        if not torch.is_grad_enabled():
            return [], []
        frozen = self.frozen
        slots = [s for s, row in enumerate(rows) if row is not None and row.requires_grad and s not in frozen]
        return [rows[slot] for slot in slots], slots  # type: ignore[misc]  # those that are None are left out

    def check_memory(self) -> None:
        """Refuse Parameters that have been given other memory, where the layer would not see what stands there.

        ``parameter.data = ...`` does that, and ``torch.nn.utils.vector_to_parameters``.
        """
        for slot, (row, address) in enumerate(zip(self._parameters.values(), self._addresses, strict=True)):
            if row is not None and row.data_ptr() != address:
                raise RuntimeError(
                    f"the Parameter of slot {slot} does not view the layer's memory any more, since its .data was "
                    "replaced; copy into it instead (parameter.copy_ under torch.no_grad)"
                )

    def were_replaced(self) -> bool:
        """Whether others stand in for the Parameters, as within ``torch.func.functional_call``.

        Not while exporting, where all tensors are replaced by their likes, and the flat one is the truth.
        """
        return not torch.compiler.is_exporting() and any(map(is_not, self._parameters.values(), self._own))

    def checked(self, parts: Sequence[Tensor]) -> list[Tensor]:
        """The Parameters or what stands in for them, of the shapes and dtype of ``parts``."""
        found = list(self._parameters.values())
        for slot, (given, part) in enumerate(zip(found, parts, strict=True)):
            if given is None or given.shape != part.shape or given.dtype != part.dtype:
                came = None if given is None else f"{given.dtype} {list(given.shape)}"
                raise ValueError(
                    f"what replaces the Parameter of slot {slot} must be {part.dtype} {list(part.shape)}, got {came}"
                )
        return [given for given in found if given is not None]

    def resize(self, count: int, like: Tensor) -> None:
        """Keep the first ``count``, append empty ones that are missing; to be tied afterwards."""
        for parameter in self:
            parameter.grad = None
        while len(self) > count:
            self._size -= 1
            del self._parameters[str(self._size)]
        while len(self) < count:
            self.append(nn.Parameter(like.new_empty(0)))

    def _save_to_state_dict(self, destination: dict[str, Tensor], prefix: str, keep_vars: bool) -> None:
        return

    def _load_from_state_dict(self, *args: object, **kwargs: object) -> None:
        return
