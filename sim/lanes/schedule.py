"""Order of evaluation: every module in phases, which a parent can call between its own cells.

A phase computes all that depends on one set of input ports. Outputs are where it matters: a stage
whose `ready` follows the `ready` behind it and whose `valid` follows the `valid` before it is
called once for each. What no output depends on is the last phase, which also has the next state.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from bankside.errors import ToolError
from bankside.sim.lanes.netlist import Cell, Flop, Instance, Memory, Module, Sig, Word, words_in


@dataclass(frozen=True, eq=False)
class Call:
    """One phase of a kept module."""

    instance: Instance
    phase: Phase


#: A flop as a node is its next state, a memory its ports at the clock edge.
Node = Cell | Call | Flop | Memory


@dataclass(eq=False)
class Phase:
    """needs: input ports. outputs: ports that are known after it. last: has the next state."""

    number: int
    needs: frozenset[str]
    outputs: tuple[str, ...] = ()
    nodes: list[Node] = field(default_factory=list)
    last: bool = False


@dataclass(eq=False)
class Plan:
    """Phases of a module, each after those it builds on. bound: words that depend on inputs."""

    module: Module
    phases: list[Phase]
    bound: frozenset[Word] = frozenset()

    def phase_of(self, port: str) -> Phase:
        return next(p for p in self.phases if port in p.outputs)


class Planner:
    """Plans of all modules below a top."""

    def __init__(self) -> None:
        self.plans: dict[int, Plan] = {}
        self.order: list[Plan] = []

    def plan(self, module: Module) -> Plan:
        if id(module) not in self.plans:
            for instance in module.instances:
                self.plan(instance.module)
            made = _Planned(self, module).plan
            self.plans[id(module)] = made
            self.order.append(made)
        return self.plans[id(module)]


def inputs_of(node: Node) -> Iterator[Sig]:
    """All that a node reads."""
    if isinstance(node, Cell):
        yield from node.inputs.values()
    elif isinstance(node, Flop):
        yield node.data
        yield node.enable or ()
    elif isinstance(node, Memory):
        for read in node.reads:
            yield from (read.enable, read.address, read.clock or ())
        for write in node.writes:
            yield from (write.enable, write.address, write.data, write.clock or ())
    else:
        for port in sorted(node.phase.needs):
            yield node.instance.inputs[port]


class _Planned:
    def __init__(self, planner: Planner, module: Module) -> None:
        self.planner, self.module = planner, module
        self.driver: dict[Word, Node] = {}
        self.calls: list[Call] = []
        self._nodes()
        self.support: dict[Word, frozenset[str]] = {}
        self.node_support: dict[int, frozenset[str]] = {}
        self._supports()
        self.plan = Plan(module, self._phases(), frozenset(w for w, s in self.support.items() if s))

    def _nodes(self) -> None:
        for cell in self.module.cells:
            self.driver[cell.output] = cell
        for instance in self.module.instances:
            for phase in self.planner.plans[id(instance.module)].phases:
                call = Call(instance, phase)
                self.calls.append(call)
                for port in phase.outputs:
                    if port in instance.outputs:
                        self.driver[instance.outputs[port]] = call

    def before(self, node: Node) -> Iterator[Node]:
        for sig in inputs_of(node):
            for word in words_in(sig):
                if word in self.driver:
                    yield self.driver[word]
        if isinstance(node, Call):
            # Phases of one instance share what they compute: those with fewer inputs come first.
            for call in self._of(node.instance):
                if call.phase.number < node.phase.number and (
                    node.phase.last or call.phase.needs < node.phase.needs
                ):
                    yield call

    def _of(self, instance: Instance) -> list[Call]:
        if not hasattr(self, "_by_instance"):
            self._by_instance: dict[int, list[Call]] = {}
            for call in self.calls:
                self._by_instance.setdefault(id(call.instance), []).append(call)
        return self._by_instance[id(instance)]

    def walk(self, roots: Iterator[Node], into: list[Node], state: dict[int, int]) -> None:
        """Depth first, what a node needs before it. Raises ToolError for a loop."""
        for root in roots:
            if state.get(id(root)):
                continue
            stack = [(root, self.before(root))]
            state[id(root)] = 1
            while stack:
                node, rest = stack[-1]
                for before in rest:
                    seen = state.get(id(before), 0)
                    if seen == 1:
                        self._loop([n for n, _ in stack], before)
                    if not seen:
                        state[id(before)] = 1
                        stack.append((before, self.before(before)))
                        break
                else:
                    stack.pop()
                    state[id(node)] = 2
                    into.append(node)

    def _loop(self, stack: list[Node], first: Node) -> None:
        names = [
            f"{n.instance.name} (phase {n.phase.number})" if isinstance(n, Call) else n.name
            for n in stack[stack.index(first) :]
        ]
        raise ToolError(
            f"{self.module.name}: combinational loop through {' -> '.join([*names, names[0]])}; "
            f"expected logic that can be ordered word by word"
        )

    def of(self, sig: Sig) -> frozenset[str]:
        found: frozenset[str] = frozenset()
        for word in words_in(sig):
            found |= self.support.get(word, frozenset())
        return found

    def _supports(self) -> None:
        for port, word in self.module.inputs.items():
            self.support[word] = frozenset((port,))
        every: list[Node] = []
        self.walk(iter([*self.module.cells, *self.calls]), every, {})
        self.every = every
        for node in every:
            found = frozenset[str]().union(*(self.of(sig) for sig in inputs_of(node)))
            self.node_support[id(node)] = found
            if isinstance(node, Cell):
                self.support[node.output] = found
            elif isinstance(node, Call):
                for port in node.phase.outputs:
                    if port in node.instance.outputs:
                        self.support[node.instance.outputs[port]] = found
        # A call also depends on what its earlier phases depend on.
        for node in every:
            if isinstance(node, Call):
                extra = [self.node_support[id(b)] for b in self.before(node)]
                found = self.node_support[id(node)].union(*extra)
                self.node_support[id(node)] = found

    def _phases(self) -> list[Phase]:
        needs = {port: self.of(sig) for port, sig in self.module.outputs.items()}
        feeding: list[Node] = []
        state: dict[int, int] = {}
        roots = [self.driver[w] for s in self.module.outputs.values() for w in words_in(s)
                 if w in self.driver]  # fmt: skip
        self.walk(iter(roots), feeding, state)
        classes = sorted(
            {*needs.values(), *(self.node_support[id(n)] for n in feeding)},
            key=lambda s: (len(s), sorted(s)),
        )
        phases = [
            Phase(i, s, tuple(p for p, n in needs.items() if n == s)) for i, s in enumerate(classes)
        ]
        by_support = {p.needs: p for p in phases}
        for node in feeding:
            by_support[self.node_support[id(node)]].nodes.append(node)
        last = Phase(len(phases), frozenset(self.module.inputs), last=True)
        self.walk(self._state(), last.nodes, state)
        return [*phases, last]

    def _state(self) -> Iterator[Node]:
        """Memories at the end: what reads them without a clock has to see the old words."""
        yield from self.module.flops
        yield from (call for call in self.calls if call.phase.last)
        yield from self.module.memories


def plan_all(top: Module) -> list[Plan]:
    """Plans of all modules, children before parents, the top at the end."""
    planner = Planner()
    planner.plan(top)
    return planner.order
