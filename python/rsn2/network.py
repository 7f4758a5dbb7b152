"""One network that holds many tasks, each in its own disjoint part of the weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from os import PathLike
from typing import Any

import torch
from torch import Tensor, nn

import rsn2_kernels.nn as task_nn
from rsn2.adding import bytes_of_names, check_owners, check_part, names_of_bytes, shared_slots, single_slot
from rsn2.exporting import as_sequence, dense_copy
from rsn2.routing import check_rows, rows_by_task, run_trunk
from rsn2_kernels.nn import SlotModule, TaskLayer, active, slot_modules

Where = Callable[[str, nn.Module], bool]


class MultitaskNetwork(nn.Module):
    """A trunk whose weights the tasks share out among themselves (Eq. 3 of the paper), and their stems and heads.

    Every task has a slot in every layer of the trunk; ``add_task`` makes it, or, with ``share``, maps the task to the
    slot of another one. Weights of a slot are claimed with :func:`rsn2.claim` and trained with :func:`rsn2.fit`.
    ``torch.compile(net)`` and ``net.trunk = torch.compile(net.trunk)`` both work; claims compute without compiling.

    Args:
        trunk: any module; its layers are converted in place by :func:`rsn2_kernels.nn.convert_`. One that holds task
            layers already, all without slots, is taken as it is.
        where: which layers to convert, see ``convert_``; all by default. What is not converted is shared by all tasks,
            and therefore frozen: its Parameters want no gradient, and modules with buffers stay in evaluation mode. Its
            products are torch's, which may round a row otherwise in a batch of another size.

    Raises:
        ValueError: the trunk has no layer that tasks could share, or has slots already.
        TypeError: it is no module.
    """

    def __init__(self, trunk: nn.Module, *, where: Where | None = None) -> None:
        super().__init__()
        if not isinstance(trunk, nn.Module):
            raise TypeError(f"MultitaskNetwork: trunk must be a module, got {type(trunk).__name__}")
        if isinstance(trunk, SlotModule) or not any(True for _ in trunk.children()):
            trunk = nn.Sequential(trunk)  # a layer can be replaced only inside of another module
        present = slot_modules(trunk)
        taken = [name for name, module in present.items() if module.num_slots]
        if taken:
            raise ValueError(
                f"MultitaskNetwork: the trunk's layers must not have slots yet, but {', '.join(taken)} have"
            )
        if not present:
            task_nn.convert_(trunk, num_slots=0, where=where)
        if not any(isinstance(module, TaskLayer) for module in trunk.modules()):
            raise ValueError("MultitaskNetwork: the trunk has no linear or convolutional layer that tasks could share")
        trunk.requires_grad_(False)  # what was not converted would change for all tasks with each of them
        self.trunk = trunk
        self.stems = nn.ModuleList()
        self.heads = nn.ModuleList()
        self._names: list[str] = []
        self._slots: list[dict[str, int]] = []
        # Finished tasks, and which Parameters of their stem and head had trained.
        self._frozen_tasks: dict[int, list[nn.Parameter]] = {}
        self._loaded: list[bool] = []
        self.register_load_state_dict_post_hook(MultitaskNetwork._take_finished)
        self.closed = ""
        """Why no task can be added or claimed for any more; empty while one can."""

    # Tasks and their slots.

    @property
    def tasks(self) -> list[str]:
        """The names of the tasks, in the order in which they were added."""
        return list(self._names)

    def task_number(self, task: str | int) -> int:
        """The number of a task given by name or number.

        Raises:
            KeyError: there is none; the message lists those there are.
        """
        if isinstance(task, str) and task in self._names:
            return self._names.index(task)
        if isinstance(task, int) and not isinstance(task, bool) and 0 <= task < len(self._names):
            return task
        if not isinstance(task, (str, int)) or isinstance(task, bool):
            raise TypeError(f"task must be a name or a number, got {type(task).__name__}; there are {self._listed()}")
        raise KeyError(f"unknown task {task!r}; there are {self._listed()}")

    def add_task(self, name: str, *, stem: nn.Module | None = None, head: nn.Module | None = None,
                 share: Mapping[str, str | int] | None = None, prune_stem: bool = False,
                 prune_head: bool = False) -> int:  # fmt: skip
        """Add a task, now or after others were trained, and return its number.

        Args:
            name: any text that no other task has.
            stem: applied to this task's inputs before the trunk; where the trunk takes them as they are, None.
            head: applied to the trunk's outputs for this task, of any width; None passes them on.
            share: patterns of trunk layers (``fnmatch``, as in ``{"features.*": "digits"}``) whose slot of another task
                this task uses too. Such a slot is frozen as soon as one of the tasks that use it is finished.
            prune_stem, prune_head: turn the linear and convolutional layers there into task layers of one slot, of
                which ``claim`` keeps a share as in the trunk. Otherwise all their weights are trained.

        Raises:
            ValueError: the name is taken, a pattern matches no layer, two patterns give one layer to two tasks, or stem
                or head have Parameters of another task or of the trunk.
            KeyError: ``share`` names an unknown task.
            RuntimeError: the network is closed.
        """
        if self.closed:
            raise RuntimeError(f"add_task: the network takes no more tasks: {self.closed}")
        if not isinstance(name, str) or not name or "\0" in name:  # which is between the names in a state
            raise ValueError(f"add_task: name must be a text without NUL, got {name!r}")
        if name in self._names:
            raise ValueError(f"add_task: there is a task {name!r} already; there are {self._listed()}")
        layers = self.trunk_layers()
        tables = {pattern: self._slots[self.task_number(other)] for pattern, other in (share or {}).items()}
        shared = shared_slots(list(layers), tables)
        check_part("stem", stem, prune_stem)
        check_part("head", head, prune_head)
        check_owners([stem, head], self)
        stem = single_slot(stem, name) if prune_stem and stem is not None else stem
        head = single_slot(head, name) if prune_head and head is not None else head
        slots = {}
        for layer_name, layer in layers.items():
            slots[layer_name] = shared[layer_name] if layer_name in shared else layer.add_slot(name)
        self.stems.append(nn.Identity() if stem is None else stem)
        self.heads.append(nn.Identity() if head is None else head)
        self._names.append(name)
        self._slots.append(slots)
        self._map_slots()
        return len(self._names) - 1

    def _map_slots(self) -> None:
        """Tell every layer which slot each task's rows use in it."""
        for name, layer in self.trunk_layers().items():
            slots = [table[name] for table in self._slots]
            device = next((p.device for p in layer.parameters()), torch.device("cpu"))
            is_one_to_one = slots == list(range(len(slots)))
            layer.slot_map = None if is_one_to_one else torch.tensor(slots, dtype=torch.int64, device=device)

    def trunk_layers(self) -> dict[str, SlotModule]:
        """The layers of the trunk that have slots, by their name in the trunk."""
        return slot_modules(getattr(self.trunk, "_orig_mod", self.trunk))

    def slot_of(self, task: str | int, layer: str) -> int:
        """The slot that a task uses in a layer of the trunk."""
        table = self._slots[self.task_number(task)]
        if layer not in table:
            raise KeyError(f"unknown layer {layer!r}; there are {', '.join(table)}")
        return table[layer]

    def task_layers(self, task: str | int) -> dict[str, tuple[TaskLayer, int]]:
        """The layers of which this task can own weights, and its slot there.

        Layers of the trunk have their own names; those of a pruned stem or head are ``stems.<task>.<name>`` and
        ``heads.<task>.<name>``.
        """
        return {name: (m, slot) for name, (m, slot) in self._modules_of(task).items() if isinstance(m, TaskLayer)}

    def _modules_of(self, task: str | int) -> dict[str, tuple[SlotModule, int]]:
        number = self.task_number(task)
        found = {name: (module, self._slots[number][name]) for name, module in self.trunk_layers().items()}
        for kind, part in (("stems", self.stems[number]), ("heads", self.heads[number])):
            for name, module in slot_modules(part).items():
                found[f"{kind}.{self._names[number]}.{name}"] = (module, 0)
        return found

    def owned_weights(self) -> dict[str, dict[str, int]]:
        """``{layer: {task: weights that it owns}}``. A shared slot counts for all who use it."""
        table: dict[str, dict[str, int]] = {}
        for task in self._names:
            for name, (layer, slot) in self.task_layers(task).items():
                table.setdefault(name, {})[task] = layer.values[slot].numel()
        return table

    def parameters_of(self, task: str | int) -> list[nn.Parameter]:
        """What training this task may touch: stem, head and slots, but for slots that another finished task uses."""
        number = self.task_number(task)
        found = [*self.stems[number].parameters(), *self.heads[number].parameters()]
        kept = self._slots_of_finished(besides=number)
        for name, (module, slot) in self._modules_of(number).items():
            if name in self._slots[number] and (name, slot) not in kept:
                found += module.parameters_of(slot)
        return list(dict.fromkeys(found))

    def own_modules(self, task: str | int) -> dict[str, nn.Module]:
        """The task's ``stem`` and ``head``."""
        number = self.task_number(task)
        return {"stem": self.stems[number], "head": self.heads[number]}

    def fixed_parameters(self, task: str | int) -> list[str]:
        """Parameters of this task's ``stem.`` and ``head.`` that never train, such as pretrained ones."""
        number = self.task_number(task)
        slotted = {id(p) for module, slot in self._modules_of(number).values() for p in module.parameters_of(slot)}
        others = slotted | {id(p) for p in self._frozen_tasks.get(number, ())}
        return [
            f"{kind}.{name}"
            for kind, part in self.own_modules(number).items()
            for name, parameter in part.named_parameters()
            if not parameter.requires_grad and id(parameter) not in others
        ]

    # Finished tasks.

    def is_finished(self, task: str | int) -> bool:
        return self.task_number(task) in self._frozen_tasks

    def freeze(self, task: str | int) -> None:
        """Finish a task: nothing of its stem, head and slots changes any more, whatever is trained afterwards."""
        number = self.task_number(task)
        for module, slot in self._modules_of(number).values():
            module.freeze(slot)
        if number in self._frozen_tasks:
            return
        own = [*self.stems[number].parameters(), *self.heads[number].parameters()]
        slotted = {id(p) for m in self._modules_of(number).values() for p in m[0].parameters_of(m[1])}
        self._frozen_tasks[number] = [p for p in own if p.requires_grad and id(p) not in slotted]
        for parameter in own:
            parameter.requires_grad_(False)
            parameter.grad = None
        self.stems[number].eval()
        self.heads[number].eval()

    def thaw(self, task: str | int) -> None:
        """Let a finished task train again. Slots that another finished task uses too stay frozen.

        Raises:
            ValueError: another task reads weights of this one. Nothing is changed then.
        """
        number = self.task_number(task)
        if number not in self._frozen_tasks:
            return
        kept = self._slots_of_finished(besides=number)
        own = [(module, slot) for name, (module, slot) in self._modules_of(number).items() if (name, slot) not in kept]
        for module, slot in own:
            if isinstance(module, TaskLayer) and any(slot in module.reads(other) for other in range(module.num_slots)):
                module.thaw(slot)  # which is an error that says who reads it
        for module, slot in own:
            module.thaw(slot)
        self._let_train(number)

    def _let_train(self, number: int) -> None:
        """Stem and head of a task that was finished."""
        for parameter in self._frozen_tasks.pop(number):
            parameter.requires_grad_(True)
        self.stems[number].train(self.training)
        self.heads[number].train(self.training)

    def _slots_of_finished(self, besides: int) -> set[tuple[str, int]]:
        return {item for number in self._frozen_tasks if number != besides for item in self._slots[number].items()}

    def train(self, mode: bool = True) -> MultitaskNetwork:
        """As in torch, but what must not change stays in evaluation mode and keeps its running statistics: stems and
        heads of finished tasks, and modules with buffers in the trunk that were not converted.
        """
        super().train(mode)
        for number in self._frozen_tasks:
            self.stems[number].eval()
            self.heads[number].eval()
        for module in self.trunk.modules():
            if not isinstance(module, SlotModule) and next(module.buffers(recurse=False), None) is not None:
                module.training = False
        return self

    # Which tasks there are, and which are finished, is a part of the state.

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        destination[f"{prefix}tasks"] = bytes_of_names(self._names)
        destination[f"{prefix}finished"] = torch.tensor(
            [task in self._frozen_tasks for task in range(len(self._names))]
        )

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, local_metadata: Mapping[str, Any],
                              strict: bool, missing_keys: list[str], unexpected_keys: list[str],
                              error_msgs: list[str]) -> None:  # fmt: skip
        absent = [key for key in (f"{prefix}tasks", f"{prefix}finished") if key not in state_dict]
        missing_keys.extend(absent)
        if absent:
            return
        names, finished = names_of_bytes(state_dict[f"{prefix}tasks"]), state_dict[f"{prefix}finished"].tolist()
        if names != self._names or len(finished) != len(names):
            error_msgs.append(f"{prefix}tasks must be {self._names}, each finished or not, got {names} and {finished}")
        else:
            self._loaded = finished

    def _take_finished(self, *_: Any) -> None:
        """Once all layers have their state: they know by themselves which slots are frozen."""
        loaded, self._loaded = self._loaded, []
        for number, is_finished in enumerate(loaded):
            if is_finished:
                self.freeze(number)
            elif number in self._frozen_tasks:
                self._let_train(number)

    # Forward.

    def forward(self, x: Any, task: Any = None) -> Any:
        """Run one task or several.

        ==============================  ================================================================================
        call                            result
        ==============================  ================================================================================
        ``net(x, task="a")``            the outputs of one task
        ``net({"a": x1, "b": x2})``     ``{"a": y1, "b": y2}``: stems per task, one pass of the trunk over all rows
        ``net(x, task=ids)``            ``{name: (rows, y)}`` for int64 ``ids[B]``, the task number of each row of ``x``
        ``net(x, task=["a", "b"])``     ``{"a": y1, "b": y2}``: several tasks on one input
        ==============================  ================================================================================

        Where several tasks have one input, no stem and the same slots, what they have in common is computed once: all
        of the trunk, or, where the trunk is a ``torch.nn.Sequential``, its layers up to where their slots part. In a
        ``torch.nn.Sequential`` a task layer and the ``torch.nn.ReLU`` after it are one product, unless one has hooks.

        Raises:
            KeyError: an unknown task; the message lists those there are.
            ValueError: no task is given, ``ids`` does not fit, or what comes to the trunk differs in shape or dtype.
            IndexError: ``ids`` holds a number that is no task.
        """
        if isinstance(x, Mapping):
            if task is not None:
                raise ValueError("MultitaskNetwork: inputs by task and task= exclude each other")
            return self._forward_tasks(x)
        if task is None:
            raise ValueError(
                f"MultitaskNetwork: no task given: net(x, task=...) or net({{task: x}}); there are {self._listed()}"
            )
        if isinstance(task, Tensor):
            return self._forward_rows(x, task)
        if isinstance(task, (list, tuple)):
            return self._forward_tasks(dict.fromkeys(task, x))
        return next(iter(self._forward_tasks({task: x}).values()))

    def _forward_rows(self, x: Tensor, ids: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
        rows = {self._names[number]: chosen for number, chosen in rows_by_task(ids, len(x), self._names).items()}
        outputs = self._forward_tasks({name: x[chosen] for name, chosen in rows.items()}) if rows else {}
        return {name: (rows[name], y) for name, y in outputs.items()}

    def _forward_tasks(self, inputs: Mapping[str | int, Any]) -> dict[str, Tensor]:
        if not inputs:
            raise ValueError(f"MultitaskNetwork: no task given; there are {self._listed()}")
        numbers = [self.task_number(task) for task in inputs]
        if len(set(numbers)) < len(numbers):
            raise ValueError(f"MultitaskNetwork: each task must be given once, got {list(inputs)}")
        groups: dict[Any, list[int]] = {}
        stemmed: list[Tensor] = []
        for number, x in zip(numbers, inputs.values(), strict=True):
            # Tasks without a stem that get the same tensor share a group. The tensor is the key, compared by identity;
            # with its id() as the key a compiled network would be compiled anew for every batch.
            is_bare = isinstance(x, Tensor) and isinstance(self.stems[number], nn.Identity)
            key = x if is_bare else number
            if key in groups:
                groups[key].append(number)
                continue
            groups[key] = [number]
            with active(0):
                stemmed.append(self.stems[number](x))
        check_rows([self._names[group[0]] for group in groups.values()], stemmed)
        trunk_outputs = run_trunk(self.trunk, self._slots, list(groups.values()), stemmed)
        outputs = {}
        for number in numbers:
            with active(0):
                outputs[self._names[number]] = self.heads[number](trunk_outputs[number])
        return outputs

    def _listed(self) -> str:
        return ", ".join(map(repr, self._names)) or "no tasks yet; add_task makes one"

    # Files and other models.

    def to_dense(self, task: str | int) -> nn.Sequential:
        """An ordinary model, ``stem``, ``trunk`` and ``head``, that computes what the network computes for a task.

        Its layers are torch's, with the weights that the task owns and those that it reads, zero elsewhere, so that it
        runs where this package is not installed; at the cost and in the size of a dense model. Results differ by
        rounding. It is a copy, and trains all of its Parameters.

        Raises:
            KeyError: an unknown task.
            ValueError: within one attention layer the task has different slots.
        """
        number = self.task_number(task)
        trunk = getattr(self.trunk, "_orig_mod", self.trunk)
        stem, head = (dense_copy(part[number], lambda _: 0) for part in (self.stems, self.heads))
        model = as_sequence(stem, dense_copy(trunk, lambda layer: self.slot_of(number, layer)), head)
        return model.requires_grad_(True).train(self.training)

    def save(self, path: str | PathLike[str], *, closed: bool = False) -> None:
        """Write the network to one file, see :func:`rsn2.checkpoint.save`."""
        from rsn2.checkpoint import save  # a network must be there before files can hold one

        save(self, path, closed=closed)
