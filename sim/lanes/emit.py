"""Plans -> C, and where every register, memory and port lies in it.

Every module becomes functions `f(q, d, t, m, g)`: registers now (`q`) and after the edge (`d`),
ports and values that cross functions (`t`), memories (`m`), the group of lanes (`g`). Functions of
the top are short, so that a few of them run for all groups before the next ones do: code then comes
from the first-level cache.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from bankside.sim.lanes import cells
from bankside.sim.lanes.activity import Activity, Marks, activity_of
from bankside.sim.lanes.guards import ALWAYS, Group, Guarded, Guards, When, operand_sig, operands
from bankside.sim.lanes.netlist import (
    Cell, Flop, Instance, Memory, Module, Part, ReadPort, Sig, Word, joined, width_of, words_in,
)  # fmt: skip
from bankside.sim.lanes.order import block_of, by_blocks
from bankside.sim.lanes.schedule import Call, Node, Phase, Plan, inputs_of, plan_all
from bankside.sim.lanes.segment import ALL, NONE, ZERO, Segment, cut, extended

#: Statements of a function, about; of one that ends where another block begins, at least.
_LIMIT, _SHORT = 400, 60
_SIGNATURE = "(char* q, char* d, char* t, char* m, struct group* g)"


@dataclass(frozen=True)
class Inputs:
    """What a call reads, put where it looks for it."""

    call: Call


@dataclass(frozen=True)
class Output:
    """A port of the module, put where its parent looks for it. early: only those bits of it that no
    input matters for, the others zero; before the inputs of a cycle are known.
    """

    port: str
    early: bool = False


@dataclass(frozen=True)
class Writes:
    """The write ports of a memory, at the edge."""

    memory: Memory


Step = Node | Group | Inputs | Output | Writes


@dataclass
class Function:
    """One C function, or calls of others. `steps` None: a call."""

    steps: list[Step] | None = None
    call: Call | None = None


@dataclass
class Layout:
    """Offsets in bytes of a module's own part of q, t and m."""

    q: dict[Word, int] = field(default_factory=dict)
    t: dict[Word, int] = field(default_factory=dict)
    ports: dict[str, int] = field(default_factory=dict)
    flags: dict[Word, int] = field(default_factory=dict)
    changed: dict[int, int] = field(default_factory=dict)
    m: dict[int, int] = field(default_factory=dict)
    below: dict[int, tuple[int, int, int]] = field(default_factory=dict)
    q_bytes: int = 0
    t_bytes: int = 0
    m_bytes: int = 0


@dataclass(frozen=True)
class Place:
    """A register, memory, port or net of the whole design.

    kind: `flop`, `memory`, `input`, `output`, `net`. offset: bytes in q (flop), m (memory), t (port,
    and the flag of a net). init: its first value, of a memory one per word.
    """

    kind: str
    path: str
    width: int
    depth: int
    offset: int
    init: tuple[int, ...] = ()

    @property
    def limbs(self) -> int:
        return -(-self.width // 32)


@dataclass(frozen=True)
class Design:
    """C text and the places in it. readers: classes of functions that read an input."""

    text: str
    places: tuple[Place, ...]
    q_bytes: int
    t_bytes: int
    m_bytes: int
    readers: Mapping[str, int]


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
    parts.append(_first_values(places))
    text = _pooled("\n".join(parts))
    readers = {port: last.activity.of([word]) for port, word in top.inputs.items()}
    sizes = layout.q_bytes, layout.t_bytes, layout.m_bytes
    return Design(text, places, *sizes, readers)


_CONSTANT = re.compile(r"K\((0x[0-9a-f]+)u\)")


def _pooled(text: str) -> str:
    """Constants as operands in memory: a broadcast of an immediate is two more instructions. Those of
    all zeros and ones need none.
    """
    pool: dict[str, int] = {}

    def place(match: re.Match[str]) -> str:
        if match[1] in ("0x0", "0xffffffff"):
            return match[0]
        return f"KM({pool.setdefault(match[1], len(pool))})"

    head, _, body = text.partition("\n")
    body = _CONSTANT.sub(place, body)
    return "\n".join([head, _pool(pool), body])


def _pool(pool: Iterable[str]) -> str:
    """The compiler must not see the values, or it would make immediates of them again."""
    numbers = ", ".join(f"{value}u" for value in pool) or "0"
    return (
        f'__asm__(".section .rodata\\n.balign 64\\n.type bankside_pool, @object\\n'
        f'bankside_pool: .long {numbers.replace("u", "")}\\n.previous\\n");\n'
        f'extern const uint32_t bankside_pool[] __attribute__((visibility("hidden")));\n'
        f"#define KM(index) BROADCAST(&bankside_pool[index])"
    )


def _first_values(places: Iterable[Place]) -> str:
    """What is not zero at power-on."""
    rows = []
    for place in places:
        for word, value in enumerate(place.init):
            for limb in range(place.limbs):
                part = value >> 32 * limb & 0xFFFFFFFF
                if part:
                    single = place.kind == "flop" and place.width == 1
                    offset = place.offset + 64 * (word * place.limbs + limb)
                    rows.append(
                        f"{{{int(place.kind == 'memory')}, {int(single)}, {offset}, {part}u}}"
                    )
    return (
        f"const struct first_value bankside_first_values[] = {{{', '.join(rows) or '{0}'}}};\n"
        f"const uint64_t bankside_first_value_count = {len(rows)};"
    )


def _places(
    module: Module, made: Mapping[int, _ModuleCode], path: str, q: int, t: int, m: int, *, top: bool
) -> Iterator[Place]:
    layout = made[id(module)].layout
    for flop in module.flops:
        yield Place(
            "flop", path + flop.name, flop.word.width, 1, q + layout.q[flop.word], (flop.init,)
        )
    for memory in module.memories:
        for port in memory.reads:
            yield Place(
                "flop", path + port.word.name, memory.width, 1, q + layout.q[port.word], (0,)
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


class _ModuleCode:
    def __init__(
        self, plan: Plan, name: str, made: Mapping[int, _ModuleCode], nets: bool, top: bool
    ) -> None:
        self.top = top
        self.plan, self.module, self.name, self.made = plan, plan.module, name, made
        self.nets = nets
        self.guarded = [self._guards(phase) for phase in plan.phases]
        self.phases = [
            self._functions(phase, guarded)
            for phase, guarded in zip(plan.phases, self.guarded, strict=True)
        ]
        writes = [Writes(m) for m in self.module.memories if m.writes]
        self.edge = [Function(list(writes))] if writes else []
        self.defined: dict[Word, int] = {}
        self.tables_of_memories: list[str] = []
        self._spilled = self._crossing()
        self.layout = self._lay_out()
        self.activity = self._activity() if top else Activity()
        self._texts = self._emit()

    # --- functions --------------------------------------------------------------------------------
    def _guards(self, phase: Phase) -> Guarded:
        """Conditions within a phase. A forced net may change a register that its multiplexers would
        keep.
        """
        kept = {
            word
            for other in self.plan.phases if other is not phase
            for node in other.nodes for sig in inputs_of(node) for word in words_in(sig)
        }  # fmt: skip
        kept |= {word for sig in self.module.outputs.values() for word in words_in(sig)}
        guarded = Guards(phase.nodes, kept, _cost, registers=not self.nets).guarded
        if self.top:
            guarded.nodes = by_blocks(
                guarded.nodes, lambda item: self._reads(item, guarded), guarded.all_in
            )
        return guarded

    def _steps(self, phase: Phase, guarded: Guarded) -> Iterator[Step]:
        for node in guarded.nodes:
            if isinstance(node, Call):
                if self._empty(node):
                    continue
                yield Inputs(node)
            yield node
        for port in phase.outputs:
            yield Output(port)
        if not phase.needs and not phase.last:
            for port in self.module.outputs:
                if self._early(port) != self.module.outputs[port] and any(
                    words_in(self._early(port))
                ):
                    yield Output(port, early=True)

    def _early(self, port: str) -> Sig:
        bound = self.plan.bound
        return joined(
            Part(None, 0, part.width) if part.word in bound else part
            for part in self.module.outputs[port]
        )

    def _output(self, step: Output) -> Sig:
        return self._early(step.port) if step.early else self.module.outputs[step.port]

    def _empty(self, call: Call) -> bool:
        """A phase whose outputs are registers, which the parent reads where they are."""
        if call.phase.nodes or call.phase.last:
            return False
        module = call.instance.module
        code = self.made[id(module)]
        return all(code.register(module.outputs[port]) is not None for port in call.phase.outputs)

    def register(self, sig: Sig) -> tuple[str, int] | None:
        """(space, offset) of a signal that is a whole register, here or below."""
        if len(sig) != 1 or sig[0].word is None:
            return None
        word = sig[0].word
        if sig[0].width != word.width:
            return None
        if word.kind in ("flop", "read"):
            return "q", self.layout.q[word]
        return self._below(word) if word.kind == "output" else None

    def _below(self, word: Word) -> tuple[str, int] | None:
        instance, port = self._source(word)
        code = self.made[id(instance.module)]
        phase = self._phase(instance, port)
        found = code.register(instance.module.outputs[port])
        if phase.nodes or phase.last or found is None:
            return None
        return found[0], self.layout.below[id(instance)][0] + found[1]

    def _source(self, word: Word) -> tuple[Instance, str]:
        if not hasattr(self, "_sources"):
            self._sources = {
                w: (instance, port)
                for instance in self.module.instances for port, w in instance.outputs.items()
            }  # fmt: skip
        return self._sources[word]

    def _phase(self, instance: Instance, port: str) -> Phase:
        return self.made[id(instance.module)].plan.phase_of(port)

    def _functions(self, phase: Phase, guarded: Guarded) -> list[Function]:
        """Steps cut into functions; calls wait until somebody needs what they give."""
        out: list[Function] = []
        steps: list[Step] = []
        cost = 0
        last: str | None = None
        waiting: list[Call] = []
        given: set[Word] = set()

        def cut(flush: bool) -> None:
            nonlocal steps, cost
            if steps:
                out.append(Function(steps))
            steps, cost = [], 0
            if flush:
                out.extend(Function(call=call) for call in waiting)
                waiting.clear()
                given.clear()

        for step in self._steps(phase, guarded):
            if isinstance(step, Call):
                waiting.append(step)
                given.update(
                    step.instance.outputs[p]
                    for p in step.phase.outputs
                    if p in step.instance.outputs
                )
                continue
            if given and any(word in given for word in self._reads(step, guarded)):
                cut(flush=True)
            block = None if isinstance(step, (Inputs, Output)) else block_of(step)
            if self.top and block not in (None, last) and cost > _SHORT:
                cut(flush=False)
            last = block or last
            steps.append(step)
            cost += self._whole_cost(step, guarded)
            if cost > _LIMIT:
                cut(flush=False)
        cut(flush=True)
        return out

    def _reads(self, step: Step, guarded: Guarded) -> Iterator[Word]:
        """Also what is computed under a step; conditions are made of what is read there."""
        if isinstance(step, Output):
            yield from words_in(self._output(step))
        elif isinstance(step, Inputs):
            for sig in inputs_of(step.call):
                yield from words_in(sig)
        elif isinstance(step, Writes):
            for write in step.memory.writes:
                for sig in (write.enable, write.address, write.data, write.clock or ()):
                    yield from words_in(sig)
        else:
            for node in guarded.all_in(step):
                for sig in inputs_of(node):
                    yield from words_in(sig)

    def _whole_cost(self, step: Step, guarded: Guarded) -> int:
        if isinstance(step, (Inputs, Output)):
            return 2
        return sum(_cost(node) for node in guarded.all_in(step))

    def _all(self) -> Iterator[tuple[int, Function, Guarded]]:
        number = 0
        for functions, guarded in zip(
            [*self.phases, self.edge], [*self.guarded, Guarded([], {})], strict=True
        ):
            for function in functions:
                yield number, function, guarded
                number += 1

    def _crossing(self) -> set[Word]:
        """Words that are read in another function than the one that computes them."""
        for number, function, guarded in self._all():
            for step in function.steps or ():
                if isinstance(step, (Inputs, Output, Writes)):
                    continue
                for node in guarded.all_in(step):
                    if isinstance(node, Cell):
                        self.defined[node.output] = number
        return {
            word
            for number, function, guarded in self._all() for step in function.steps or ()
            for word in self._reads(step, guarded)
            if self.defined.get(word, number) != number
        }  # fmt: skip

    def _activity(self) -> Activity:
        functions = []
        for number, function, guarded in self._all():
            if function.steps is None or function in self.edge:
                continue
            words = {w for step in function.steps for w in self._reads(step, guarded)}
            for step in function.steps:
                if isinstance(step, (Inputs, Output, Writes)):
                    continue
                for node in guarded.all_in(step):
                    if isinstance(node, Flop):
                        words.add(node.word)  # what it keeps
                    elif isinstance(node, Memory):
                        words.update(port.word for port in node.reads)
            memories = [
                node if isinstance(node, Memory) else node.memory
                for step in function.steps if not isinstance(step, (Inputs, Output, Writes))
                for node in guarded.all_in(step)
                if isinstance(node, Memory) or (isinstance(node, Cell) and node.memory is not None)
            ]  # fmt: skip
            functions.append((number, words, memories))
        return activity_of(functions, self.module.instances)

    # --- where things lie -------------------------------------------------------------------------
    def _lay_out(self) -> Layout:
        layout = Layout()
        registers = [flop.word for flop in self.module.flops]
        registers += [p.word for memory in self.module.memories for p in memory.reads]
        layout.q, layout.q_bytes = _packed(registers)
        kept = sorted(self._spilled, key=lambda w: w.index)
        ports = [*self.module.inputs.values()]
        outs = {p: Word(p, width_of(sig), "port", -1) for p, sig in self.module.outputs.items()}
        flags = [Word(c.name, 1, "flag", -1) for c in self.module.cells] if self.nets else []
        groups: list[Group | ReadPort] = [
            step for _, function, _ in self._all() for step in function.steps or ()
            if isinstance(step, Group)
        ]  # fmt: skip
        groups += [port for memory in self.module.memories for port in memory.reads]
        changed = [Word("changed", 1, "flag", -1) for _ in groups]
        slots, layout.t_bytes = _packed([*ports, *outs.values(), *kept, *flags, *changed])
        layout.changed = {id(g): slots[w] for g, w in zip(groups, changed, strict=True)}
        layout.t = {word: slots[word] for word in (*ports, *kept)}
        layout.ports = {p: slots[w] for p, w in self.module.inputs.items()}
        layout.ports |= {p: slots[w] for p, w in outs.items()}
        if self.nets:
            layout.flags = {
                cell.output: slots[flag]
                for cell, flag in zip(self.module.cells, flags, strict=True)
            }
        for memory in self.module.memories:
            layout.m[id(memory)] = layout.m_bytes
            if memory.writes:
                layout.m_bytes += 64 * memory.depth * memory.limbs
        for instance in self.module.instances:
            below = self.made[id(instance.module)].layout
            layout.below[id(instance)] = layout.q_bytes, layout.t_bytes, layout.m_bytes
            layout.q_bytes += below.q_bytes
            layout.t_bytes += below.t_bytes
            layout.m_bytes += below.m_bytes
        return layout

    def place(self, word: Word) -> str | None:
        if word in self.layout.q:
            return f"q + {self.layout.q[word]}"
        if word in self.layout.t:
            return f"t + {self.layout.t[word]}"
        if word.kind != "output":
            return None
        direct = self._below(word)
        if direct is not None:
            return f"q + {direct[1]}"
        instance, port = self._source(word)
        below = self.layout.below[id(instance)]
        return f"t + {below[1] + self.made[id(instance.module)].layout.ports[port]}"

    def read(self, memory: Memory) -> str:
        if memory.writes:
            return f"READ(g, m + {self.layout.m[id(memory)]}, {memory.depth}u, {memory.limbs}"
        name = f"{self.name}_table{self.module.memories.index(memory)}"
        return f"READ_TABLE({name}, {memory.depth}u, {memory.limbs}"

    # --- text -------------------------------------------------------------------------------------
    def _emit(self) -> dict[int, list[str]]:
        self.keepers = self._keepers() if self.top else {}
        return {
            number: self._body(function, guarded)
            for number, function, guarded in self._all() if function.steps is not None
        }  # fmt: skip

    def _body(self, function: Function, guarded: Guarded) -> list[str]:
        s = Segment(self.place, self.read)
        self.marks = Marks(self.top)
        for step in function.steps or ():
            self._step(step, s, guarded)
        return [*self.marks.before(), *s.lines, *self.marks.after()]

    def _step(self, step: Step, s: Segment, guarded: Guarded) -> None:
        if isinstance(step, Cell):
            self._cell(step, s, guarded)
        elif isinstance(step, Flop):
            self._flop(step, s)
        elif isinstance(step, Group):
            self._group(step, s, guarded)
        elif isinstance(step, Memory):
            self._memory(step, s)
        elif isinstance(step, Writes):
            self._writes(step.memory, s)
        elif isinstance(step, Inputs):
            self._inputs(step.call, s)
        elif isinstance(step, Output):
            self._port(step, s)

    def _port(self, step: Output, s: Segment) -> None:
        """The bench reads ports of the top itself. What a function after the inputs has put there stays
        until it runs again.
        """
        sig, offset = self._output(step), self.layout.ports[step.port]
        values = cells.values(s, sig)
        if step.early:
            late = _late_bits(self.module.outputs[step.port], self.plan.bound)
            for i, limb in enumerate(values):
                mask = late >> 32 * i & 0xFFFFFFFF
                if mask:
                    values[i] = s.v(f"(LDV(t + {offset + 64 * i}) & K({mask:#x}u)) | {limb}")
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
            self._put(s, "t", self.layout.t[word], word.width, limbs, self.activity.of([word]))

    def _choice(self, cell: Cell, s: Segment, guarded: Guarded) -> list[str]:
        """A multiplexer some of whose operands are computed only where a lane selects them."""
        width = cell.output.width
        kind, nothing = ("B", NONE) if width == 1 else ("V", ZERO)
        others = operands(cell)[1:]
        bits = {
            o: s.bit(cut(cell.inputs["S"], 0 if o == "B" else int(o), 1)) for o in others
        }  # fmt: skip
        first = guarded.inside(cell, "A")
        if first is None:
            out = s.variables(kind, cells.values(s, cell.inputs["A"]))
        else:
            out = s.variables(kind, [nothing] * (1 if width == 1 else cell.output.limbs))
            none = ALL
            for bit in bits.values():
                none = cells.and_b(s, none, cells.not_b(s, bit))
            with s.when(none):
                self._under(first.nodes, s, guarded)
                s.assign(out, cells.values(s, cell.inputs["A"]))
        for operand, bit in bits.items():
            block = guarded.inside(cell, operand)
            if block is None:
                value = cells.values(s, operand_sig(cell, operand))
                s.assign(out, cells.chosen(bit, value, out, width))
                continue
            with s.when(bit):
                self._under(block.nodes, s, guarded)
                value = cells.values(s, operand_sig(cell, operand))
                s.assign(out, cells.chosen(bit, value, out, width))
        return out

    def _under(self, nodes: list[Node | Group], s: Segment, guarded: Guarded) -> None:
        for node in nodes:
            self._step(node, s, guarded)

    def _group(self, group: Group, s: Segment, guarded: Guarded) -> None:
        """Registers that keep their values where nobody changes them, and where `d` has them from the
        cycle before last already.
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
                    words = [node.word] if isinstance(node, Flop) else (
                        [p.word for p in node.reads] if isinstance(node, Memory) else [])  # fmt: skip
                    out.update(dict.fromkeys(words, self._bit(number)))
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
                out = cells.or_b(s, out, self._when(part, s))
            return out
        bit = s.bit(when[1])
        return cells.and_b(s, cells.not_b(s, bit) if when[2] else bit, self._when(when[3], s))

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
        self, s: Segment, space: str, offset: int, width: int, limbs: list[str], readers: int
    ) -> None:
        """Store a value; `readers` are those to be told where it changes."""
        old, when = (space, "now") if space == "t" else ("q", "next")
        mark = self.marks.add(when, readers, "B" if width == 1 else "V")
        load, store, step = ("LDB", "STB", 2) if width == 1 else ("LDV", "STV", 64)
        for number, limb in enumerate(limbs):
            at = offset + step * number
            if mark is not None:
                s.lines.append(f"{mark} |= {load}({old} + {at}) ^ ({limb});")
            s.lines.append(f"{store}({space} + {at}, {limb});")

    def _store(self, s: Segment, space: str, offset: int, sig: Sig, readers: int) -> None:
        self._put(s, space, offset, width_of(sig), cells.values(s, sig), readers)

    def _next(self, s: Segment, word: Word, limbs: list[str], enable: str) -> None:
        """The register's next value where its clock has an edge."""
        old = [s.word_bit(word)] if word.width == 1 else [
            s.word_limb(word, i) for i in range(word.limbs)]  # fmt: skip
        value = cells.choose(s, enable, limbs, old, word.width)
        readers = self.activity.of([word]) | self._keeper(word)
        self._put(s, "d", self.layout.q[word], word.width, value, readers)

    def _enabled(self, s: Segment, *sigs: Sig | None) -> str:
        out = "ALL"
        for sig in sigs:
            if sig is not None:
                out = cells.and_b(s, out, s.bit(sig))
        return out

    def _flop(self, flop: Flop, s: Segment) -> None:
        self._next(s, flop.word, cells.values(s, flop.data), self._enabled(s, flop.enable))

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
        for write in memory.writes:
            which = self._enabled(s, write.clock)
            bits = {(p.word, p.low) for p in write.enable if p.width == 1}
            single = all(p.width == 1 for p in write.enable) and len(bits) == 1
            constant = len(write.enable) == 1 and write.enable[0].word is None
            mask = "0"
            if single:
                which = cells.and_b(s, which, s.bit((write.enable[0],)))
            elif not constant or write.enable[0].low != (1 << memory.width) - 1:
                mask = s.array(s.limbs(extended(write.enable, 32 * memory.limbs, False)))
                which = cells.and_b(s, which, cells.any_of(s, write.enable))
            data = extended(write.data, 32 * memory.limbs, False)
            if which != NONE:
                mark = self.marks.add("next", self.activity.memories.get(id(memory), int(not self.top)), "B")
                if mark is not None:
                    s.lines.append(f"{mark} |= {which};")
                s.lines.append(
                    f"WRITE(g, m + {self.layout.m[id(memory)]}, {memory.depth}u, {memory.limbs}, "
                    f"{which}, {cells.one_limb(s, write.address)}, {mask}, "
                    f"{s.array(s.limbs(data))});"
                )

    def _read_register(self, memory: Memory, port: ReadPort, enable: str, s: Segment) -> None:
        out = s.result(memory.limbs)
        s.lines.append(f"{self.read(memory)}, {cells.one_limb(s, port.address)}, {out});")
        values = [f"{out}[{i}]" for i in range(memory.limbs)]
        if memory.width == 1:
            values = [s.b(f"TST({out}[0], K(1))")]
        self._next(s, port.word, values, enable)

    def _inputs(self, call: Call, s: Segment) -> None:
        below = self.layout.below[id(call.instance)][1]
        ports = self.made[id(call.instance.module)].layout.ports
        earlier: set[str] = set()
        for phase in self.made[id(call.instance.module)].plan.phases[: call.phase.number]:
            empty = self._empty(Call(call.instance, phase))
            if not empty and (call.phase.last or phase.needs < call.phase.needs):
                earlier |= phase.needs
        for port in sorted(call.phase.needs - earlier):
            readers = self.activity.instances.get(id(call.instance), 0)
            self._store(s, "t", below + ports[port], call.instance.inputs[port], readers)

    def _function(self, number: int) -> str:
        return f"{self.name}_{number}"

    def _called(self, call: Call) -> str:
        return f"{self.made[id(call.instance.module)].name}_phase{call.phase.number}"

    def text(self) -> str:
        """All functions, and one per phase that calls them (what a parent calls)."""
        parts = [self._table(i, m) for i, m in enumerate(self.module.memories) if not m.writes]
        for number, lines in self._texts.items():
            body = "\n  ".join(lines)
            parts.append(
                f"static __attribute__((noinline)) uint32_t {self._function(number)}{_SIGNATURE} {{\n  {body}\n}}"
            )
        number = 0
        for phase, functions in enumerate(self.phases):
            lines = []
            for function in functions:
                lines.append(self._invoked(number, function))
                number += 1
            parts.append(_caller(f"{self.name}_phase{phase}", lines))
        if self.writes_below():
            lines = [self._invoked(number + i, function) for i, function in enumerate(self.edge)]
            for instance in self.module.instances:
                code = self.made[id(instance.module)]
                if code.writes_below():
                    q, t, m = self.layout.below[id(instance)]
                    call = f"{code.name}_edge(q + {q}, d + {q}, t + {t}, m + {m}, g);"
                    mask = self.activity.instances.get(id(instance), 0)
                    lines.append(f"if ({call[:-1]}) g->next |= {mask:#x}ull;" if self.top else call)
            parts.append(_caller(f"{self.name}_edge", lines))
        return "\n".join(parts)

    def writes_below(self) -> bool:
        return bool(self.edge) or any(
            self.made[id(i.module)].writes_below() for i in self.module.instances
        )

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

    def regions(self, q: int) -> Iterator[tuple[int, int, int]]:
        """(offset, limbs, bits) of the registers of the module and those below."""
        words = list(self.layout.q)
        many = sum(w.limbs for w in words if w.width > 1)
        single = sum(w.width == 1 for w in words)
        if words:
            yield q, many, single
        for instance in self.module.instances:
            below = self.layout.below[id(instance)][0]
            yield from self.made[id(instance.module)].regions(q + below)

    def _bit(self, number: int) -> int:
        return 1 << self.activity.classes[number]

    def _call_row(self, call: Call) -> str:
        """Its class, and who reads its outputs (this cycle) and its registers (the next)."""
        q, t, m = self.layout.below[id(call.instance)]
        own = self.activity.instances[id(call.instance)]
        outputs, registers = 0, own
        for word in call.instance.outputs.values():
            if self._below(word) is None:
                outputs |= self.activity.of([word])
            else:
                registers |= self.activity.of([word])
        return (
            f"{{{self._called(call)}, {q}, {t}, {m}, {own:#x}ull, {outputs:#x}ull, {registers:#x}ull}}"
        )

    def tables(self) -> str:
        """For the runtime: what to call before the inputs of a cycle are known, and after."""
        rows: list[list[str]] = [[], []]
        number = 0
        for phase, functions in zip(self.plan.phases, self.phases, strict=True):
            for function in functions:
                if function.call is None:
                    row = f"{{{self._function(number)}, 0, 0, 0, {self._bit(number):#x}ull, 0, 0}}"
                else:
                    row = self._call_row(function.call)
                rows[bool(phase.needs) or phase.last].append(row)
                number += 1
        out = []
        rows.append([f"{{{self.name}_edge, 0, 0, 0, ~0ull, 0, 0}}"] if self.writes_below() else [])
        for name, content in zip(("before", "after", "edge"), rows, strict=True):
            out.append(f"const struct item bankside_{name}[] = {{{', '.join(content) or '{0}'}}};")
            out.append(f"const uint64_t bankside_{name}_count = {len(content)};")
        rows_of_q = list(self.regions(0))
        out.append(
            f"const struct region bankside_regions[] = "
            f"{{{', '.join(f'{{{o}, {v}, {b}}}' for o, v, b in rows_of_q) or '{0, 0, 0}'}}};"
        )
        out.append(f"const uint64_t bankside_region_count = {len(rows_of_q)};")
        layout = self.layout
        for name in ("q", "t", "m"):
            out.append(
                f"const uint64_t bankside_{name}_bytes = {getattr(layout, name + '_bytes')};"
            )
        return "\n".join(out)


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
    return f"uint32_t {name}{_SIGNATURE} {{\n  uint32_t changed = 0;\n  {body}\n  return changed;\n}}"


def _packed(words: list[Word]) -> tuple[dict[Word, int], int]:
    """Offsets: limbs first, each of 64 bytes, then single bits, 2 bytes each."""
    offsets, at = {}, 0
    for word in words:
        if word.width > 1:
            offsets[word] = at
            at += 64 * word.limbs
    for word in words:
        if word.width == 1:
            offsets[word] = at
            at += 2
    return offsets, -(-at // 64) * 64


def _cost(step: Step) -> int:
    if isinstance(step, Cell):
        limbs = step.output.limbs if step.output.width > 1 else 1
        if step.type == "$pmux":
            return limbs * width_of(step.inputs["S"])
        if step.type in ("$shl", "$shr", "$shift", "$sshr", "read"):
            return 6 * limbs + (8 if limbs > 1 else 0)
        return limbs * limbs if step.type == "$mul" else limbs
    if isinstance(step, Memory):
        return 20 * (len(step.reads) + len(step.writes))
    return 2
