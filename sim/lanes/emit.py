"""Plans -> C.

Every module becomes functions `f(q, d, t, m, g)`: registers now (`q`) and after the edge (`d`),
ports and values that cross functions (`t`), memories (`m`), the group of lanes (`g`). Functions of
the top are short, so that a few of them run for all groups before the next ones do: code then comes
from the first-level cache.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from bankside.sim.lanes import bits, cells
from bankside.sim.lanes.activity import Marks
from bankside.sim.lanes.functions import Function, Inputs, Output, Step, Writes
from bankside.sim.lanes.guards import (
    ALWAYS,
    Group,
    Guarded,
    Shared,
    When,
    operand_sig,
    operands,
)  # fmt: skip
from bankside.sim.lanes.listing import Listing
from bankside.sim.lanes.netlist import (
    Cell,
    Flop,
    Memory,
    Module,
    Part,
    ReadPort,
    Sig,
    Word,
    WritePort,
    width_of,
)  # fmt: skip
from bankside.sim.lanes.places import Design, Place, first_values, pooled
from bankside.sim.lanes.schedule import Call, Node, Plan, plan_all
from bankside.sim.lanes.segment import ALL, BIT, LIMB, NONE, ZERO, Segment, cut, extended
from bankside.sim.lanes.simplify import simplify

_SIGNATURE = "(char* q, char* d, char* t, char* m, struct group* g)"


def emit(top: Module, *, nets: bool = False) -> Design:
    """C of a design. `nets`: outputs of cells can be forced, which costs speed."""
    plans = plan_all(top)
    made: dict[int, _ModuleCode] = {}
    for number, plan in enumerate(plans):
        made[id(plan.module)] = _ModuleCode(plan, f"m{number}", made, nets, plan.module is top)
    last = made[id(top)]
    layout = last.layout
    places = tuple(_places(top, made, "", 0, 0, 0, top=True))
    parts = ['#include "runtime.h"', *(code.text() for code in made.values()), last.tables()]
    parts.append(first_values(places))
    text = pooled("\n".join(parts))
    readers = {port: last.activity.of([word]) for port, word in top.inputs.items()}
    sizes = layout.q_bytes, layout.t_bytes, layout.m_bytes
    return Design(text, places, *sizes, readers)


def _places(
    module: Module, made: Mapping[int, _ModuleCode], path: str, q: int, t: int, m: int, *, top: bool
) -> Iterator[Place]:
    layout = made[id(module)].layout
    for flop in module.flops:
        yield Place(
            "flop", path + flop.name, flop.word.width, 1, q + layout.q[flop.word], (flop.init,)
        )
    for memory in module.memories:
        for read in memory.reads:
            yield Place(
                "flop", path + read.word.name, memory.width, 1, q + layout.q[read.word], (0,)
            )
        if memory.writes:
            offset = m + layout.m[id(memory)]
            yield Place(
                "memory", path + memory.name, memory.width, memory.depth, offset, memory.init
            )
    for word, offset in layout.flags.items():
        yield Place("net", path + word.name, word.width, 1, t + offset)
    if top:
        for port, word in module.inputs.items():
            yield Place("input", port, word.width, 1, t + layout.ports[port])
        for port, sig in module.outputs.items():
            yield Place("output", port, width_of(sig), 1, t + layout.ports[port])
    for instance in module.instances:
        below = layout.below[id(instance)]
        yield from _places(
            instance.module, made, f"{path}{instance.name}.", q + below[0], t + below[1],
            m + below[2], top=False,
        )  # fmt: skip


class _ModuleCode(Listing):
    """The C of one module."""

    made: Mapping[int, _ModuleCode]

    def __init__(
        self, plan: Plan, name: str, made: Mapping[int, _ModuleCode], nets: bool, top: bool
    ) -> None:
        super().__init__(plan, name, made, nets, top)
        self.keepers = self._keepers() if top else {}
        self._texts = self._emit()

    def _emit(self) -> dict[int, list[str]]:
        return {
            number: self._body(function, guarded)
            for number, function, guarded in self._all() if function.steps is not None
        }  # fmt: skip

    def _body(self, function: Function, guarded: Guarded) -> list[str]:
        s = Segment(self.place, self.read)
        self.marks = Marks(self.top)
        for step in function.steps or ():
            self._step(step, s, guarded)
        return [*self.marks.before(), *simplify(s.lines, s.widths), *self.marks.after()]

    def _step(self, step: Step, s: Segment, guarded: Guarded) -> None:
        if isinstance(step, Cell):
            self._cell(step, s, guarded)
        elif isinstance(step, Flop):
            self._flop(step, s)
        elif isinstance(step, Group):
            self._group(step, s, guarded)
        elif isinstance(step, Shared):
            self._shared(step, s, guarded)
        elif isinstance(step, Memory):
            self._memory(step, s)
        elif isinstance(step, Writes):
            self._writes(step.memory, s)
        elif isinstance(step, Inputs):
            self._inputs(step.call, s)
        elif isinstance(step, Output):
            self._port(step, s)

    def _port(self, step: Output, s: Segment) -> None:
        """The bench reads ports of the top itself. What a function after the inputs has put there
        stays until it runs again.
        """
        sig, offset = self._output(step), self.layout.ports[step.port]
        values = bits.values(s, sig)
        if step.early:
            late = _late_bits(self.module.outputs[step.port], self.plan.bound)
            for i, limb in enumerate(values):
                mask = late >> 32 * i & 0xFFFFFFFF
                if mask:
                    values[i] = s.v(f"(LDV(t + {offset + LIMB * i}) & K({mask:#x}u)) | {limb}")
        self._put(s, "t", offset, width_of(sig), values, int(not self.top))

    def _cell(self, cell: Cell, s: Segment, guarded: Guarded) -> None:
        if any(guarded.inside(cell, operand) for operand in operands(cell)):
            limbs = self._choice(cell, s, guarded)
        else:
            limbs = cells.compute(cell, s)
        word = cell.output
        if self.nets:
            limbs = self._forced(word, limbs, s)
        s.define(word, limbs)
        if word in self._spilled:
            self._spill(word, limbs, s)

    def _spill(self, word: Word, limbs: list[str], s: Segment) -> None:
        """A word that other functions read. The phases of a kept module are called one by one where
        only some functions run (followers.h).
        """
        at, width = self.layout.t[word], word.width
        if self.top:
            self._put(s, "t", at, width, limbs, self.activity.of([word]))
        else:
            self._put(s, "t", at, width, limbs, int(word in self._between), "later")

    def _choice(self, cell: Cell, s: Segment, guarded: Guarded) -> list[str]:
        """A multiplexer some of whose operands are computed only where a lane selects them."""
        width = cell.output.width
        kind, nothing = ("B", NONE) if width == 1 else ("V", ZERO)
        others = operands(cell)[1:]
        selects = {
            o: s.bit(cut(cell.inputs["S"], 0 if o == "B" else int(o), 1)) for o in others
        }  # fmt: skip
        first = guarded.inside(cell, "A")
        if first is None:
            out = s.variables(kind, bits.values(s, cell.inputs["A"]))
        else:
            out = s.variables(kind, [nothing] * (1 if width == 1 else cell.output.limbs))
            none = ALL
            for bit in selects.values():
                none = bits.and_b(s, none, bits.not_b(s, bit))
            with s.when(none):
                self._under(first.nodes, s, guarded)
                s.assign(out, bits.values(s, cell.inputs["A"]))
        for operand, bit in selects.items():
            block = guarded.inside(cell, operand)
            if block is None:
                value = bits.values(s, operand_sig(cell, operand))
                s.assign(out, bits.chosen(bit, value, out, width))
                continue
            with s.when(bit):
                self._under(block.nodes, s, guarded)
                value = bits.values(s, operand_sig(cell, operand))
                s.assign(out, bits.chosen(bit, value, out, width))
        return out

    def _under(self, nodes: Sequence[Node | Group], s: Segment, guarded: Guarded) -> None:
        for node in nodes:
            self._step(node, s, guarded)

    def _group(self, group: Group, s: Segment, guarded: Guarded) -> None:
        """Registers that keep their values where nobody changes them, and where `d` has them from
        the cycle before last already.
        """
        flag = self.layout.changed[id(group)]
        bit = self._when(group.when, s)
        if bit == ALL:
            self._under(group.nodes, s, guarded)
            self._under(list(group.flops), s, guarded)
            return
        with s.when(f"{bit} | LDB(t + {flag})"):
            self._under(group.nodes, s, guarded)
            self._under(list(group.flops), s, guarded)
            self._rewrite(s, bit, group.flops[0].word)
        s.lines.append(f"STB(t + {flag}, {bit});")

    def _shared(self, shared: Shared, s: Segment, guarded: Guarded) -> None:
        """Cells that are needed where one of several conditions holds, else zero."""
        bit = self._when(shared.when, s)
        if bit == ALL:
            self._under(shared.nodes, s, guarded)
            return
        out = {
            word: s.variables("B", [NONE]) if word.width == 1
            else s.variables("V", [ZERO] * word.limbs)
            for word in shared.words
        }  # fmt: skip
        with s.when(bit):
            self._under(shared.nodes, s, guarded)
            for word, names in out.items():
                part = (Part(word, 0, word.width),)
                s.assign(names, bits.values(s, part))
        for word, names in out.items():
            s.define(word, names)

    def _rewrite(self, s: Segment, bit: str, word: Word) -> None:
        """Where registers have changed, `d` has to follow in the next cycle."""
        mark = self.marks.add("next", self._keeper(word), "B")
        if mark is not None:
            s.lines.append(f"{mark} |= {bit};")

    def _keepers(self) -> dict[Word, int]:
        out = {}
        for number, function, guarded in self._all():
            if function in self.edge:
                continue
            for step in function.steps or ():
                if isinstance(step, (Inputs, Output, Writes)):
                    continue
                for node in guarded.all_in(step):
                    if isinstance(node, Flop):
                        out[node.word] = self._bit(number)
                    elif isinstance(node, Memory):
                        out.update((port.word, self._bit(number)) for port in node.reads)
        return out

    def _keeper(self, word: Word) -> int:
        """Class of the function that computes a register."""
        return self.keepers.get(word, 0) if self.top else 1

    def _when(self, when: When, s: Segment) -> str:
        if when == ALWAYS:
            return ALL
        if not when:
            return NONE
        if when[0] == "or":
            out = NONE
            for part in when[1:]:
                out = bits.or_b(s, out, self._when(part, s))
            return out
        bit = s.bit(when[1])
        return bits.and_b(s, bits.not_b(s, bit) if when[2] else bit, self._when(when[3], s))

    def _forced(self, word: Word, limbs: list[str], s: Segment) -> list[str]:
        flag = f"t + {self.layout.flags[word]}"
        out = []
        for number, limb in enumerate(limbs):
            name = f"n{word.index}_{number}"
            kind = "B" if word.width == 1 else "V"
            forced = (
                f"TST(FORCED(g, (const uint8_t*)({flag}), 0, MZ({limb}, K(1))), K(1))"
                if word.width == 1
                else f"FORCED(g, (const uint8_t*)({flag}), {number}, {limb})"
            )
            s.lines.append(f"{kind} {name} = {limb};")
            s.lines.append(f"if (__builtin_expect(*({flag}), 0)) {name} = {forced};")
            out.append(name)
        return out

    def _put(
        self, s: Segment, space: str, offset: int, width: int, limbs: list[str], readers: int,
        when: str = "",
    ) -> None:  # fmt: skip
        """Store a value; `readers` are those to be told where it changes."""
        old = space if space == "t" else "q"
        when = when or ("now" if space == "t" else "next")
        mark = self.marks.add(when, readers, "B" if width == 1 else "V")
        load, store, step = ("LDB", "STB", BIT) if width == 1 else ("LDV", "STV", LIMB)
        for number, limb in enumerate(limbs):
            at = offset + step * number
            if mark is not None:
                s.lines.append(f"{mark} |= {load}({old} + {at}) ^ ({limb});")
            s.lines.append(f"{store}({space} + {at}, {limb});")

    def _next(self, s: Segment, word: Word, limbs: list[str], enable: str) -> None:
        """The register's next value where its clock has an edge."""
        old = [s.word_bit(word)] if word.width == 1 else [
            s.word_limb(word, i) for i in range(word.limbs)]  # fmt: skip
        value = bits.choose(s, enable, limbs, old, word.width)
        readers = self.activity.of([word]) | self._keeper(word)
        self._put(s, "d", self.layout.q[word], word.width, value, readers)

    def _enabled(self, s: Segment, *sigs: Sig | None) -> str:
        out = "ALL"
        for sig in sigs:
            if sig is not None:
                out = bits.and_b(s, out, s.bit(sig))
        return out

    def _flop(self, flop: Flop, s: Segment) -> None:
        self._next(s, flop.word, bits.values(s, flop.data), self._enabled(s, flop.enable))

    def _memory(self, memory: Memory, s: Segment) -> None:
        """Data registers; what is written at the same edge is not seen."""
        for port in memory.reads:
            enable = self._enabled(s, port.enable, port.clock)
            if enable == ALL:
                self._read_register(memory, port, enable, s)
                continue
            flag = self.layout.changed[id(port)]
            with s.when(f"{enable} | LDB(t + {flag})"):
                self._read_register(memory, port, enable, s)
                self._rewrite(s, enable, port.word)
            s.lines.append(f"STB(t + {flag}, {enable});")

    def _writes(self, memory: Memory, s: Segment) -> None:
        if len(memory.writes) > 1:
            s.lines.append("g->several = 1;")
        for write in memory.writes:
            self._write(memory, write, s)
        if len(memory.writes) > 1:
            s.lines.append("g->several = 0;")

    def _write(self, memory: Memory, write: WritePort, s: Segment) -> None:
        which = self._enabled(s, write.clock)
        single_bits = {(p.word, p.low) for p in write.enable if p.width == 1}
        single = all(p.width == 1 for p in write.enable) and len(single_bits) == 1
        constant = len(write.enable) == 1 and write.enable[0].word is None
        mask = "0"
        if single:
            which = bits.and_b(s, which, s.bit((write.enable[0],)))
        elif not constant or write.enable[0].low != (1 << memory.width) - 1:
            mask = s.array(s.limbs(extended(write.enable, 32 * memory.limbs, False)))
            which = bits.and_b(s, which, cells.any_of(s, write.enable))
        data = extended(write.data, 32 * memory.limbs, False)
        if which != NONE:
            mark = self.marks.add(
                "next", self.activity.memories.get(id(memory), int(not self.top)), "B"
            )
            if mark is not None:
                s.lines.append(f"{mark} |= {which};")
            s.lines.append(
                f"WRITE(g, m + {self.layout.m[id(memory)]}, {memory.depth}u, {memory.limbs}, "
                f"{which}, {bits.one_limb(s, write.address)}, {mask}, "
                f"{s.array(s.limbs(data))});"
            )

    def _read_register(self, memory: Memory, port: ReadPort, enable: str, s: Segment) -> None:
        out = s.result(memory.limbs)
        s.lines.append(f"{self.read(memory)}, {bits.one_limb(s, port.address)}, {out});")
        values = [f"{out}[{i}]" for i in range(memory.limbs)]
        if memory.width == 1:
            values = [s.b(f"TST({out}[0], K(1))")]
        self._next(s, port.word, values, enable)

    def _inputs(self, call: Call, s: Segment) -> None:
        below = self.layout.below[id(call.instance)][1]
        ports = self.made[id(call.instance.module)].layout.ports
        for port in self.given(call):
            sig = call.instance.inputs[port]
            at, values = below + ports[port], bits.values(s, sig)
            if self.top:
                readers = self.activity.instances.get(id(call.instance), 0)
                self._put(s, "t", at, width_of(sig), values, readers)
            else:
                later = self.read_later(call, port)
                self._put(s, "t", at, width_of(sig), values, int(later), "later")

    def text(self) -> str:
        """All functions, and one per phase that calls them (what a parent calls)."""
        parts = [self._table(i, m) for i, m in enumerate(self.module.memories) if not m.writes]
        for number, lines in self._texts.items():
            body = "\n  ".join(lines)
            head = f"static __attribute__((noinline)) uint32_t {self._function(number)}"
            parts.append(f"{head}{_SIGNATURE} {{\n  {body}\n}}")
        number = 0
        for phase, functions in enumerate(self.phases):
            lines = []
            for function in functions:
                lines.append(self._invoked(number, function))
                number += 1
            parts.append(_caller(f"{self.name}_phase{phase}", lines))
        if self.writes_below() and not self.top:
            lines = [self._invoked(number + i, function) for i, function in enumerate(self.edge)]
            for _, code, (q, t, m) in self._with_writes():
                lines.append(f"{code.name}_edge(q + {q}, d + {q}, t + {t}, m + {m}, g);")
            parts.append(_caller(f"{self.name}_edge", lines))
        return "\n".join(parts)

    def _invoked(self, number: int, function: Function) -> str:
        if function.call is None:
            return f"{self._function(number)}(q, d, t, m, g);"
        q, t, m = self.layout.below[id(function.call.instance)]
        return f"{self._called(function.call)}(q + {q}, d + {q}, t + {t}, m + {m}, g);"

    def _table(self, index: int, memory: Memory) -> str:
        numbers = [
            str(word >> 32 * limb & 0xFFFFFFFF) + "u"
            for word in memory.init or (0,) * memory.depth for limb in range(memory.limbs)
        ]  # fmt: skip
        return (
            f"static const uint32_t {self.name}_table{index}[{len(numbers)}] = "
            f"{{{', '.join(numbers)}}};"
        )


def _late_bits(sig: Sig, bound: frozenset[Word]) -> int:
    """Mask of the bits of an output that depend on inputs."""
    mask, at = 0, 0
    for part in sig:
        if part.word in bound:
            mask |= ((1 << part.width) - 1) << at
        at += part.width
    return mask


def _caller(name: str, lines: list[str]) -> str:
    """A function that calls others and returns all that they return."""
    body = "\n  ".join(line if line.startswith("if") else f"changed |= {line}" for line in lines)
    return (
        f"uint32_t {name}{_SIGNATURE} {{\n  uint32_t changed = 0;\n  {body}\n  return changed;\n}}"
    )
