"""Operator graphs: tasks, tensors with bytes, durations per device.

Ref: docs/scheduling.md, section Graphs.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from pydantic import Field

from bankside.errors import ConfigError
from bankside.registry import nearest
from bankside.schema import Section, validate
from bankside.strict_yaml import load_yaml


@dataclass(frozen=True)
class Task:
    """One operator.

    Attributes:
        name: unique in its graph.
        inputs: tensors it reads.
        output: the tensor it writes.
        whole: inputs that every tile of it needs completely; the others are cut with it.
        ticks: duration on each device that can run it. The unit is the caller's.
        macs: multiply-accumulates.
        kind: what it computes, for lowering (`lower.py`) and messages.
    """

    name: str
    inputs: tuple[str, ...]
    output: str
    whole: tuple[str, ...] = ()
    ticks: Mapping[str, int] = field(default_factory=dict)
    macs: int = 0
    kind: str = "operator"

    @property
    def tensors(self) -> tuple[str, ...]:
        """What has to be in the scratchpad while it runs, each once."""
        return tuple(dict.fromkeys((*self.inputs, self.output)))


@dataclass(frozen=True)
class Graph:
    """Tasks in a valid order over tensors.

    Attributes:
        sizes: bytes of every tensor. Those that no task writes lie in memory from the start:
            inputs and weights.
        tasks: in the order in which they were described, which is topological.
        outputs: tensors that have to be in memory at the end.

    Raises:
        ConfigError: names the task: unknown tensor, tensor written twice or read before it is
            written, size or duration below 1.
    """

    name: str
    sizes: Mapping[str, int]
    tasks: tuple[Task, ...]
    outputs: tuple[str, ...]

    def __post_init__(self) -> None:
        if not self.tasks:
            raise ConfigError(f"graph {self.name!r}: no tasks; add at least one")
        for tensor, size in self.sizes.items():
            if size < 1:
                raise ConfigError(
                    f"graph {self.name!r}: tensor {tensor!r} has {size} bytes; expected at least 1"
                )
        written = self._check_tasks()
        for tensor in self.outputs:
            if tensor not in written:
                raise ConfigError(
                    f"graph {self.name!r}: output {tensor!r} is written by no task"
                    f"{nearest(tensor, written)}"
                )

    def _check_tasks(self) -> set[str]:
        names: set[str] = set()
        written: set[str] = set()
        products = {task.output for task in self.tasks}
        for task in self.tasks:
            if task.name in names:
                raise self.refuse(task, "there is another task of that name; rename one")
            for tensor in task.tensors:
                if tensor not in self.sizes:
                    hint = nearest(tensor, self.sizes)
                    raise self.refuse(task, f"tensor {tensor!r} has no size{hint}; give its bytes")
            for tensor in task.inputs:
                if tensor in products and tensor not in written:
                    raise self.refuse(
                        task, f"reads {tensor!r} before it is written; list its writer first"
                    )
            if task.output in written or task.output in task.inputs:
                raise self.refuse(task, f"writes {task.output!r} again; name another tensor")
            if unknown := set(task.whole) - set(task.inputs):
                raise self.refuse(task, f"whole names {min(unknown)!r}, which it does not read")
            for device, ticks in task.ticks.items():
                if ticks < 1:
                    raise self.refuse(task, f"{ticks} ticks on {device!r}; expected at least 1")
            names.add(task.name)
            written.add(task.output)
        return written

    def refuse(self, task: Task, message: str) -> ConfigError:
        """The error that names a task of this graph."""
        return ConfigError(f"graph {self.name!r}, task {task.name!r}: {message}")

    # --- structure --------------------------------------------------------------------------------
    @cached_property
    def index(self) -> dict[str, int]:
        """Task name -> place in `tasks`."""
        return {task.name: i for i, task in enumerate(self.tasks)}

    @cached_property
    def writer(self) -> dict[str, int]:
        """Tensor -> place of the task that writes it; those from memory are missing."""
        return {task.output: i for i, task in enumerate(self.tasks)}

    @cached_property
    def readers(self) -> dict[str, tuple[int, ...]]:
        """Tensor -> places of the tasks that read it."""
        found: dict[str, list[int]] = {tensor: [] for tensor in self.sizes}
        for i, task in enumerate(self.tasks):
            for tensor in dict.fromkeys(task.inputs):
                found[tensor].append(i)
        return {tensor: tuple(places) for tensor, places in found.items()}

    @cached_property
    def before(self) -> tuple[frozenset[int], ...]:
        """All tasks that have to precede each task."""
        found: list[frozenset[int]] = []
        for task in self.tasks:
            direct = {self.writer[t] for t in task.inputs if t in self.writer}
            found.append(frozenset(direct.union(*(found[i] for i in direct))))
        return tuple(found)

    @cached_property
    def after(self) -> tuple[frozenset[int], ...]:
        """All tasks that have to follow each task."""
        found: list[set[int]] = [set() for _ in self.tasks]
        for i, earlier in enumerate(self.before):
            for j in earlier:
                found[j].add(i)
        return tuple(frozenset(later) for later in found)

    @cached_property
    def direct(self) -> tuple[tuple[int, ...], ...]:
        """Writers of the inputs of each task."""
        return tuple(
            tuple(dict.fromkeys(self.writer[t] for t in task.inputs if t in self.writer))
            for task in self.tasks
        )

    def window(self, i: int) -> range:
        """Steps at which a task can stand when one task runs per step."""
        return range(len(self.before[i]), len(self.tasks) - len(self.after[i]))

    def is_order(self, order: Iterable[int]) -> bool:
        """Whether these places name every task once, writers before readers."""
        seen: set[int] = set()
        for i in order:
            if i in seen or not self.before[i] <= seen:
                return False
            seen.add(i)
        return len(seen) == len(self.tasks)

    # --- bytes ------------------------------------------------------------------------------------
    @cached_property
    def loaded(self) -> tuple[str, ...]:
        """Tensors that some task reads and none writes."""
        return tuple(t for t in self.sizes if t not in self.writer and self.readers[t])

    @property
    def compulsory_bytes(self) -> int:
        """Traffic that no schedule avoids: every input once, every output once."""
        return sum(self.sizes[t] for t in (*self.loaded, *self.outputs))

    def working_set(self, i: int) -> int:
        """Bytes that have to be in the scratchpad while a task runs."""
        return sum(self.sizes[t] for t in self.tasks[i].tensors)

    @cached_property
    def largest_working_set(self) -> int:
        """Smallest scratchpad with which the graph can run at all."""
        return max(self.working_set(i) for i in range(len(self.tasks)))

    @cached_property
    def granule(self) -> int:
        """Largest number of bytes that divides every size."""
        return math.gcd(*(self.sizes[t] for task in self.tasks for t in task.tensors))


# --- files ----------------------------------------------------------------------------------------
class _TaskFile(Section):
    name: str
    inputs: list[str]
    output: str
    whole: list[str] = []
    ticks: dict[str, int] = {}
    macs: int = Field(default=0, ge=0)


class _GraphFile(Section):
    name: str
    tensors_bytes: dict[str, int]
    tasks: list[_TaskFile]
    outputs: list[str]


def load_graph(path: str | Path) -> Graph:
    """Read a graph from YAML: name, tensors_bytes, tasks (name, inputs, output, ...), outputs.

    Raises:
        ConfigError: file, line and key of what is wrong.
    """
    data, locations = load_yaml(path)
    read = validate(_GraphFile, data, locations)
    tasks = tuple(
        Task(t.name, tuple(t.inputs), t.output, tuple(t.whole), dict(t.ticks), t.macs)
        for t in read.tasks
    )
    try:
        return Graph(read.name, dict(read.tensors_bytes), tasks, tuple(read.outputs))
    except ConfigError as error:
        raise ConfigError(f"{locations.path}: {error}") from error
