"""Per edge: sequential, pipelined or fused, from data volumes, buffer and bandwidth (InTAR).

Tasks run in groups, one group after another on all multipliers. Inside a group tensors stream tile
by tile: between two tasks that run side by side (pipelined: each has its own multipliers) or that
take turns on the same ones (fused). Between groups a tensor stays whole in the buffer or goes
through memory. The choice with the least time is found by best-first search over groups: exact.
Ref: arXiv 2502.08807; docs/scheduling.md, section Edges.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import chain, combinations
from typing import Literal

from bankside.errors import ConfigError
from bankside.mapping.scheduling.graph import Graph

Mode = Literal["pipelined", "fused", "buffer", "memory"]
Objective = Literal["time", "traffic"]


@dataclass(frozen=True)
class Fabric:
    """What tasks run on.

    Attributes:
        units: groups of multipliers that can be given to tasks. unit_macs: of each, per cycle.
        buffer_bytes: on chip. bytes_per_cycle: of memory.
        tiles: into how many tiles a tensor that streams is cut.
        switch_cycles: to turn multipliers to another task.
        late: tasks whose result is complete only after the last tile (they sum over tiles): nothing
            can stream out of them, and it is whole in the buffer while they run.
        function_bytes_per_cycle: results of a task without multiply-accumulates; each has a
            function unit of its own, beside the multipliers.
    """

    units: int
    unit_macs: int
    buffer_bytes: int
    bytes_per_cycle: float
    tiles: int = 16
    switch_cycles: int = 4
    late: frozenset[str] = frozenset()
    function_bytes_per_cycle: float = 32.0


@dataclass(frozen=True)
class Group:
    """Tasks that run together.

    Attributes:
        tasks: places in the graph. clusters: of these, those that share multipliers.
        modes: (tensor, reader) -> mode, of edges inside the group.
        kept: tensors that are whole in the buffer after it. cycles, traffic: time and bytes.
        compute: cycles of the multipliers alone. used: bytes of buffer.
    """

    tasks: tuple[int, ...]
    clusters: tuple[tuple[int, ...], ...]
    modes: tuple[tuple[tuple[str, int], Mode], ...]
    kept: frozenset[str]
    cycles: int
    traffic: int
    compute: int
    used: int


@dataclass(frozen=True)
class Choice:
    """Groups in order. `modes` has every edge of the graph."""

    graph: Graph
    fabric: Fabric
    groups: tuple[Group, ...]

    @property
    def cycles(self) -> int:
        """Time of all groups."""
        return sum(group.cycles for group in self.groups)

    @property
    def traffic(self) -> int:
        """Bytes between memory and buffer."""
        return sum(group.traffic for group in self.groups)

    @cached_property
    def modes(self) -> dict[tuple[str, str], Mode]:
        """(tensor, reading task) -> how it gets there."""
        found: dict[tuple[str, str], Mode] = {}
        kept: set[str] = set()
        for group in self.groups:
            inside = dict(group.modes)
            for i in group.tasks:
                task = self.graph.tasks[i]
                for tensor in task.inputs:
                    between: Mode = "buffer" if tensor in kept else "memory"
                    if tensor in self.graph.writer:
                        found[tensor, task.name] = inside.get((tensor, i), between)
            kept |= group.kept
        return found


def streams(graph: Graph, fabric: Fabric, tensor: str, reader: int) -> bool:
    """Whether a tensor can go to a task tile by tile as it is written."""
    writer = graph.writer.get(tensor)
    return (
        writer is not None
        and tensor not in graph.tasks[reader].whole
        and graph.tasks[writer].name not in fabric.late
    )


def choose(graph: Graph, fabric: Fabric, objective: Objective = "time", most: int = 6) -> Choice:
    """The choice with the least time, or the least traffic, and of these the other least.

    Args:
        most: tasks of a group at most.

    Raises:
        ConfigError: some task does not fit the buffer in any way; which, and what it needs.
    """
    return _Search(graph, fabric, objective, most).run()


class _Search:
    def __init__(self, graph: Graph, fabric: Fabric, objective: Objective, most: int) -> None:
        self.graph, self.fabric, self.most = graph, fabric, most
        self.by_time = objective == "time"
        self.costs = Costs(graph, fabric)

    def run(self) -> Choice:
        goal = frozenset(range(len(self.graph.tasks)))
        start = (frozenset(), frozenset())
        best: dict[tuple, tuple[int, int]] = {start: (0, 0)}
        came: dict[tuple, tuple[tuple, Group]] = {}
        queue: list = [((0, 0), 0, start)]
        count = 0
        while queue:
            cost, _, state = heapq.heappop(queue)
            if cost > best[state]:
                continue
            if state[0] == goal:
                return self._choice(came, state)
            for group in self._groups(*state):
                pair = (group.cycles, group.traffic)
                first, second = pair if self.by_time else pair[::-1]
                total = (cost[0] + first, cost[1] + second)
                after = (state[0] | frozenset(group.tasks), group.kept)
                if after not in best or total < best[after]:
                    best[after], came[after] = total, (state, group)
                    heapq.heappush(queue, (total, count := count + 1, after))
        raise self._refuse(frozenset(done for done, _ in best))

    def _choice(self, came: dict, state: tuple) -> Choice:
        groups: list[Group] = []
        while state in came:
            state, group = came[state]
            groups.append(group)
        return Choice(self.graph, self.fabric, tuple(reversed(groups)))

    def _refuse(self, reached: frozenset) -> ConfigError:
        done = max(reached, key=len)
        i = min(i for i in range(len(self.graph.tasks)) if i not in done)
        needed = self.costs.smallest_buffer(i)
        return self.graph.refuse(
            self.graph.tasks[i],
            f"needs {needed} bytes of buffer even alone and with its inputs in memory; the buffer "
            f"has {self.fabric.buffer_bytes}: it is {needed - self.fabric.buffer_bytes} too small",
        )

    def _groups(self, done: frozenset[int], kept: frozenset[str]) -> Iterator[Group]:
        """Every way to go on: tasks, how they share, what stays."""
        for tasks in self._sets(done):
            written = [self.graph.tasks[i].output for i in tasks]
            later = [
                t for t in written if any(j not in tasks for j in self.graph.readers[t])
            ]  # fmt: skip
            for clusters, modes in self.costs.sharings(tasks):
                for stay in _subsets(later):
                    group = self.costs.group(tasks, clusters, modes, done, kept, frozenset(stay))
                    if group is not None:
                        yield group

    def _sets(self, done: frozenset[int]) -> Iterator[tuple[int, ...]]:
        """Sets of tasks that can run together next: what passes between them streams."""
        seen: set[frozenset[int]] = set()
        ready = [
            frozenset([i])
            for i, before in enumerate(self.graph.before)
            if i not in done and before <= done
        ]
        while ready:
            tasks = ready.pop()
            if tasks in seen:
                continue
            seen.add(tasks)
            yield tuple(sorted(tasks))
            if len(tasks) < self.most:
                ready += [tasks | {j} for j in self._next(tasks, done)]

    def _next(self, tasks: frozenset[int], done: frozenset[int]) -> Iterator[int]:
        for j, before in enumerate(self.graph.before):
            if j in done or j in tasks or not before <= done | tasks:
                continue
            inside = [
                t for t in self.graph.tasks[j].inputs if self.graph.writer.get(t, -1) in tasks
            ]
            if all(streams(self.graph, self.fabric, t, j) for t in inside):
                yield j


class Costs:
    """Time, traffic and buffer of a group of tasks."""

    def __init__(self, graph: Graph, fabric: Fabric) -> None:
        self.graph, self.fabric = graph, fabric

    def tile(self, tensor: str) -> int:
        """Bytes of a tile of a tensor."""
        return -(-self.graph.sizes[tensor] // self.fabric.tiles)

    def inside(self, tasks: tuple[int, ...]) -> list[tuple[str, int]]:
        """(tensor, reader) of the edges inside a group."""
        return [
            (t, j)
            for j in tasks
            for t in self.graph.tasks[j].inputs
            if self.graph.writer.get(t, -1) in tasks
        ]

    def sharings(self, tasks: tuple[int, ...]) -> Iterator[tuple[tuple, dict]]:
        """Every choice of pipelined and fused edges: (clusters, modes)."""
        edges = self.inside(tasks)
        for fused in _subsets(edges):
            clusters = self._clusters(tasks, set(fused))
            modes = {edge: "fused" if edge in fused else "pipelined" for edge in edges}
            of = {i: c for c in clusters for i in c}
            if all(
                (of[self.graph.writer[t]] == of[j]) == (modes[t, j] == "fused") for t, j in edges
            ):
                yield clusters, modes

    def _clusters(self, tasks: tuple[int, ...], fused: set) -> tuple[tuple[int, ...], ...]:
        of = {i: {i} for i in tasks}
        for tensor, j in fused:
            joined = of[self.graph.writer[tensor]] | of[j]
            for i in joined:
                of[i] = joined
        return tuple(sorted({tuple(sorted(members)) for members in of.values()}))

    def group(
        self,
        tasks: tuple[int, ...],
        clusters: tuple[tuple[int, ...], ...],
        modes: dict[tuple[str, int], Mode],
        done: frozenset[int],
        kept: frozenset[str],
        stay: frozenset[str],
    ) -> Group | None:
        """Cost of a group; None where it does not fit.

        Args:
            done, kept: tasks done and tensors in the buffer before it.
            stay: of the tensors it writes, those that stay in the buffer for later groups.
        """
        compute = self.compute(clusters, modes)
        if compute is None:
            return None
        held = sum(self.graph.sizes[t] for t in kept | stay)
        held += sum(
            self.tile(t) * (1 if mode == "fused" else 2)
            for t, mode in {t: mode for (t, _), mode in modes.items()}.items()
        )
        moved = self._memory(tasks, kept, stay, self.fabric.buffer_bytes - held)
        if moved is None:
            return None
        traffic, used = moved
        cycles = max(compute, -int(-traffic // self.fabric.bytes_per_cycle))
        now = done | set(tasks)
        alive = frozenset(
            t for t in kept | stay if any(j not in now for j in self.graph.readers[t])
        )
        listed = tuple(modes.items())
        return Group(tasks, clusters, listed, alive, cycles, traffic, compute, held + used)

    # --- multipliers ------------------------------------------------------------------------------
    def compute(self, clusters: tuple[tuple[int, ...], ...], modes: dict) -> int | None:
        """Cycles with the best split of the units; None where clusters outnumber them."""
        work = [sum(self.graph.tasks[i].macs for i in c) for c in clusters]
        stage = split([w for w in work if w], self.fabric.units, self.fabric.unit_macs)
        if stage is None:
            return None
        stage = max(stage, *(self.function(i) for c in clusters for i in c))
        tiles = self.fabric.tiles
        shared = ([i for i in c if self.graph.tasks[i].macs] for c in clusters)
        turns = sum(len(c) for c in shared if len(c) > 1)
        depth = self._depth(clusters, modes)
        switches = self.fabric.switch_cycles * (1 + tiles * turns)
        return stage + (depth - 1) * -(-stage // tiles) + switches

    def function(self, i: int) -> int:
        """Cycles of a task on a function unit; 0 for one on multipliers."""
        if self.graph.tasks[i].macs:
            return 0
        size = self.graph.sizes[self.graph.tasks[i].output]
        return -int(-size // self.fabric.function_bytes_per_cycle)

    def _depth(self, clusters: tuple[tuple[int, ...], ...], modes: dict) -> int:
        """Clusters on the longest way through the pipeline."""
        of = {i: n for n, c in enumerate(clusters) for i in c}
        edges = {
            (of[self.graph.writer[t]], of[j]) for (t, j), mode in modes.items() if mode != "fused"
        }
        depth = [1] * len(clusters)
        for _ in clusters:
            for a, b in edges:
                depth[b] = min(max(depth[b], depth[a] + 1), len(clusters))
        return max(depth)

    # --- memory -----------------------------------------------------------------------------------
    def _memory(
        self, tasks: tuple[int, ...], kept: frozenset[str], stay: frozenset[str], room: int
    ) -> tuple[int, int] | None:
        """(traffic, bytes of buffer) beside what is held; None where it does not fit."""
        sizes, traffic, used = self.graph.sizes, 0, 0
        written = {self.graph.tasks[i].output for i in tasks}
        whole: set[str] = set()
        for tensor in dict.fromkeys(t for i in tasks for t in self.graph.tasks[i].inputs):
            if tensor in kept or tensor in written:
                continue
            if any(tensor in self.graph.tasks[i].whole for i in tasks):
                whole.add(tensor)
            else:
                traffic, used = traffic + sizes[tensor], used + 2 * self.tile(tensor)
        for i in tasks:
            tensor = self.graph.tasks[i].output
            late = self.graph.tasks[i].name in self.fabric.late and tensor not in stay
            later = any(j not in tasks for j in self.graph.readers[tensor])
            stored = tensor in self.graph.outputs or (later and tensor not in stay)
            traffic += sizes[tensor] if stored else 0
            used += sizes[tensor] if late else 2 * self.tile(tensor) if stored else 0
        return self._whole(sorted(whole), traffic, used, room)

    def _whole(
        self, tensors: list[str], traffic: int, used: int, room: int
    ) -> tuple[int, int] | None:
        """Which inputs that every tile needs are read once and held, and which for every tile."""
        found = []
        for held in _subsets(tensors):
            again = [t for t in tensors if t not in held]
            need = used + sum(self.graph.sizes[t] for t in held)
            need += sum(2 * self.tile(t) for t in again)
            moved = traffic + sum(self.graph.sizes[t] for t in held)
            moved += self.fabric.tiles * sum(self.graph.sizes[t] for t in again)
            if need <= room:
                found.append((moved, need))
        return min(found, default=None)

    def smallest_buffer(self, i: int) -> int:
        """Bytes with which a task can run alone, all its tensors in memory."""
        task = self.graph.tasks[i]
        late = task.name in self.fabric.late
        own = self.graph.sizes[task.output] if late else 2 * self.tile(task.output)
        return own + sum(
            min(2 * self.tile(t), self.graph.sizes[t]) if t in task.whole else 2 * self.tile(t)
            for t in dict.fromkeys(task.inputs)
        )


def split(work: list[int], units: int, unit_macs: int) -> int | None:
    """Least cycles of the slowest of several tasks side by side, over all splits of whole units;
    None where there are fewer units than tasks.
    """
    if len(work) > units:
        return None
    given = [1] * len(work)
    for _ in range(units - len(work) if work else 0):
        slowest = max(range(len(work)), key=lambda n: work[n] / given[n])
        given[slowest] += 1
    return max((-(-w // (g * unit_macs)) for w, g in zip(work, given, strict=True)), default=0)


def _subsets(items) -> Iterator[tuple]:
    items = list(items)
    return chain.from_iterable(combinations(items, n) for n in range(len(items) + 1))
