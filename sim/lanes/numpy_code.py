"""Plans -> Python functions on numpy arrays, one per phase of a module, and their state."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bankside.sim.lanes.netlist import Cell, Flop, Memory, Sig, Word, words_in
from bankside.sim.lanes.numpy_cells import BIT, WIDE, WORD, Source, compute, kind_of, parity
from bankside.sim.lanes.schedule import Call, Node, Phase, Plan, inputs_of

_LIMB = (1 << 64) - 1
_DTYPES: dict[str, Any] = {BIT: np.bool_, WORD: np.uint64, WIDE: np.object_}


class Ram:
    """A memory of all lanes, uint64 [depth, lanes, limbs]; without write ports it has one lane."""

    def __init__(self, memory: Memory, lanes: int) -> None:
        self.width, self.depth = memory.width, memory.depth
        self.limbs = -(-memory.width // 64)
        self.lanes = lanes if memory.writes else 1
        # Pages of zeros cost nothing until they are touched.
        self.array = np.zeros((memory.depth, self.lanes, self.limbs), np.uint64)
        for word, value in enumerate(memory.init):
            if value:
                self.array[word] = [value >> 64 * i & _LIMB for i in range(self.limbs)]
        self._lane = np.arange(self.lanes)

    def read(self, address: NDArray[np.uint64]) -> NDArray[Any]:
        """Words as values of signals; zero beyond the last one."""
        inside = address < self.depth
        rows = self.array[np.where(inside, address, 0).astype(np.intp), self._lane]
        return joined_limbs(rows * inside[:, None], self.width)

    def write(
        self, enable: NDArray[Any], address: NDArray[Any], mask: NDArray[Any], data: NDArray[Any]
    ) -> None:
        """Bits of `mask` where `enable` is set; nothing beyond the last word."""
        chosen = np.broadcast_to(enable & (address < self.depth), (self.lanes,))
        if not chosen.any():
            return
        shape = (self.lanes, self.limbs)
        lane = np.flatnonzero(chosen)
        at = np.broadcast_to(address, (self.lanes,))[lane].astype(np.intp), lane
        bits = np.broadcast_to(split_limbs(mask, self.limbs), shape)[lane]
        new = np.broadcast_to(split_limbs(data, self.limbs), shape)[lane]
        self.array[at] = (self.array[at] & ~bits) | (new & bits)


def split_limbs(value: NDArray[Any], count: int) -> NDArray[np.uint64]:
    """[lanes, count] of a signal."""
    if value.dtype != np.object_:
        return value.astype(np.uint64)[:, None]
    return np.stack([(value >> 64 * i & _LIMB).astype(np.uint64) for i in range(count)], axis=1)


def joined_limbs(rows: NDArray[np.uint64], width: int) -> NDArray[Any]:
    """Value of a signal of `width` bits, of its limbs."""
    if kind_of(width) == BIT:
        return rows[:, 0] != 0
    if kind_of(width) == WORD:
        return rows[:, 0]
    out = rows[:, 0].astype(np.object_)
    for i in range(1, rows.shape[1]):
        out = out | rows[:, i].astype(np.object_) << 64 * i
    return out


def held(value: int, width: int, lanes: int) -> NDArray[Any]:
    """A signal with one value in all lanes."""
    return np.full(lanes, value, _DTYPES[kind_of(width)])


def array_of(values: Sequence[int], width: int) -> NDArray[Any]:
    """A signal with a value per lane."""
    return np.array(values, _DTYPES[kind_of(width)])


class State:
    """One instance of a module: values of its words (`w`), of its outputs (`out`), what its
    registers become (`next`), its memories, what is written into them (`writes`), the instances in
    it (`below`) and the nets that are forced.
    """

    def __init__(self, code: ModuleCode, lanes: int) -> None:
        self.code = code
        module = code.module
        self.w: list[NDArray[Any]] = [held(0, 1, lanes)] * len(module.words)
        for word in (*module.inputs.values(), *(w for w in code.registers)):
            self.w[word.index] = held(0, word.width, lanes)
        for flop in module.flops:
            self.w[flop.word.index] = held(flop.init, flop.word.width, lanes)
        self.out: dict[str, NDArray[Any]] = {
            port: held(0, sum(p.width for p in sig), lanes) for port, sig in module.outputs.items()
        }
        self.next: list[NDArray[Any]] = [self.w[word.index] for word in code.registers]
        self.memories = [Ram(memory, lanes) for memory in module.memories]
        self.writes: list[tuple[int, Any, Any, Any, Any]] = [()] * code.write_ports  # type: ignore[list-item]
        self.below = [State(code.made[id(i.module)], lanes) for i in module.instances]
        self.forces: dict[int, tuple[Any, Any, Any]] = {}

    def edge(self) -> None:
        """Registers and memories change; reads at this edge have seen the old words."""
        for word, value in zip(self.code.registers, self.next, strict=True):
            self.w[word.index] = value
        for memory, *write in self.writes:
            self.memories[memory].write(*write)
        for below in self.below:
            below.edge()

    def differing(self, lanes: int) -> NDArray[np.bool_]:
        """Lanes that differ from lane 0 in a register or memory, here or below."""
        found = np.zeros(lanes, np.bool_)
        for word in self.code.registers:
            value = self.w[word.index]
            found |= value != value[0]
        for memory in self.memories:
            if memory.lanes == lanes:
                found |= (memory.array != memory.array[:, :1]).any(axis=(0, 2))
        for below in self.below:
            found |= below.differing(lanes)
        return found


class ModuleCode:
    """Functions `f(w, s)` of the phases of a module; `s` is the State and `w` its words.

    nets: outputs of cells can be forced.
    """

    def __init__(self, plan: Plan, made: Mapping[int, ModuleCode], nets: bool) -> None:
        self.plan, self.module, self.made, self.nets = plan, plan.module, made, nets
        module = plan.module
        self.registers = [f.word for f in module.flops] + [
            port.word for memory in module.memories for port in memory.reads
        ]
        self.write_ports = sum(len(memory.writes) for memory in module.memories)
        self._slot = {word: i for i, word in enumerate(self.registers)}
        self._memory_index = {id(m): i for i, m in enumerate(module.memories)}
        self._below = {id(instance): i for i, instance in enumerate(module.instances)}
        self._crossing = self._find_crossing()
        self.names: dict[str, Any] = {
            "where": np.where, "minimum": np.minimum, "parity": parity, "forced": forced,
            "U": np.uint64, "O": np.object_, "I": np.int64,
        }  # fmt: skip
        self.phases = [self._compiled(phase) for phase in plan.phases]

    def _find_crossing(self) -> set[Word]:
        """Words that another phase reads than the one that computes them."""
        home: dict[Word, Phase] = {
            node.output: phase
            for phase in self.plan.phases for node in phase.nodes if isinstance(node, Cell)
        }  # fmt: skip
        return {
            word
            for phase in self.plan.phases for sig in self._read_in(phase) for word in words_in(sig)
            if home.get(word, phase) is not phase
        }  # fmt: skip

    def _read_in(self, phase: Phase) -> Sequence[Sig]:
        sigs = [sig for node in phase.nodes for sig in inputs_of(node)]
        return sigs + [self.module.outputs[port] for port in phase.outputs]

    def _compiled(self, phase: Phase) -> Any:
        s = Source(lambda word: f"w[{word.index}]", self.names)
        for node in phase.nodes:
            self._node(node, s)
        for port in phase.outputs:
            s.lines.append(f"s.out[{port!r}] = {s.value(self.module.outputs[port])}")
        body = "\n    ".join(s.lines or ["pass"])
        scope: dict[str, Any] = {}
        source = f"def run(w, s):\n    {body}\n"
        code = compile(source, f"<{self.module.name}, phase {phase.number}>", "exec")
        exec(code, self.names, scope)  # noqa: S102 -- made here, of numbers only
        return scope["run"]

    def _node(self, node: Node, s: Source) -> None:
        if isinstance(node, Cell):
            self._cell(node, s)
        elif isinstance(node, Call):
            self._call(node, s)
        elif isinstance(node, Flop):
            self._next(node.word, s.value(node.data), self._enable(node.enable, s), s)
        else:
            self._ports(node, s)

    def _cell(self, cell: Cell, s: Source) -> None:
        word = cell.output
        if cell.memory is not None:
            made = self._fetched(cell.memory, cell.inputs["A"], s)
        else:
            made = compute(cell, s)
        if self.nets:
            made = f"forced(s.forces, {word.index}, {s.let(made)})"
        made = s.define(word, made)
        if word in self._crossing:
            s.lines.append(f"w[{word.index}] = {made}")

    def _fetched(self, memory: Memory, address: Sig, s: Source) -> str:
        at = s.number(address, 1 << memory.depth.bit_length())
        return f"s.memories[{self._memory_index[id(memory)]}].read({at})"

    def _call(self, call: Call, s: Source) -> None:
        """Inputs of a phase of an instance, the phase, its outputs."""
        instance, phase = call.instance, call.phase
        below = self.made[id(instance.module)]
        here = f"b{self._below[id(instance)]}"
        s.lines.append(f"{here} = s.below[{here[1:]}]")
        for port in sorted(phase.needs):
            index = instance.module.inputs[port].index
            s.lines.append(f"{here}.w[{index}] = {s.value(instance.inputs[port])}")
        s.lines.append(f"{here}.code.phases[{phase.number}]({here}.w, {here})")
        assert below.plan.phases[phase.number] is phase
        for port in phase.outputs:
            if port in instance.outputs:
                s.lines.append(f"w[{instance.outputs[port].index}] = {here}.out[{port!r}]")

    def _enable(self, sig: Sig | None, s: Source) -> str | None:
        return s.value(sig) if sig else None

    def _next(self, word: Word, value: str, enable: str | None, s: Source) -> None:
        if enable is not None:
            value = f"where({enable}, {value}, {s.word(word)})"
        s.lines.append(f"s.next[{self._slot[word]}] = {value}")

    def _ports(self, memory: Memory, s: Source) -> None:
        for port in memory.reads:
            enable, clock = s.value(port.enable), self._enable(port.clock, s)
            if clock is not None:
                enable = s.let(f"{enable} & {clock}")
            self._next(port.word, s.let(self._fetched(memory, port.address, s)), enable, s)
        index = self._memory_index[id(memory)]
        before = self.module.memories[:index]
        slot = sum(len(other.writes) for other in before)
        for at, write in enumerate(memory.writes, slot):
            mask, clock = s.value(write.enable), self._enable(write.clock, s)
            which = s.true(write.enable)
            if clock is not None:
                which = s.let(f"{which} & {clock}")
            address = s.number(write.address, 1 << memory.depth.bit_length())
            s.lines.append(
                f"s.writes[{at}] = ({index}, {which}, {address}, {mask}, {s.value(write.data)})"
            )


def forced(forces: Mapping[int, tuple[Any, Any, Any]], index: int, value: NDArray[Any]) -> Any:
    """A net after what is forced on it: bits flipped, then kept, then set."""
    if index not in forces:
        return value
    flip, keep, bits = forces[index]
    return ((value ^ flip) & keep) | bits
