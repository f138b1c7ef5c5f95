"""What every item of the runtime's list reads and writes, for groups in which only differences are
computed (followers.h).

An item is a function of the top, or a call of a kept module. Places are spans of q or t in bytes;
every one is written by one item only.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from bankside.errors import ToolError
from bankside.sim.lanes.functions import Function, Functions, Inputs, Output, Step, Writes
from bankside.sim.lanes.guards import Group, Guarded
from bankside.sim.lanes.netlist import Cell, Flop, Memory, Sig, Word, width_of, words_in
from bankside.sim.lanes.schedule import Call
from bankside.sim.lanes.segment import BIT, LIMB


class Span(NamedTuple):
    """`count` limbs or bits of q or t, one after the other from a byte on."""

    space: str
    offset: int
    count: int  # type: ignore[assignment]  # nobody counts the items of one
    bit: bool

    @property
    def bytes(self) -> int:
        return self.count * (BIT if self.bit else LIMB)

    def moved(self, q: int, t: int) -> Span:
        return self._replace(offset=self.offset + (q if self.space == "q" else t))


def port_span(offset: int, width: int) -> Span:
    """A port in t."""
    return Span("t", offset, -(-width // 32), width == 1)


@dataclass
class Effects:
    """Of one item.

    early: ports of which it computes what no input matters for. flags: which registers have
    changed. nets: flags of nets that it computes. memories: offsets of those that it reads or, at
    the edge, writes. given: ports of an instance that are a copy of something else, which stands
    for them: nobody computes them, who reads one looks there.
    """

    reads: set[Span] = field(default_factory=set)
    writes: set[Span] = field(default_factory=set)
    early: set[Span] = field(default_factory=set)
    flags: set[Span] = field(default_factory=set)
    nets: set[int] = field(default_factory=set)
    memories: set[int] = field(default_factory=set)
    given: dict[Span, Span] = field(default_factory=dict)

    def add(self, other: Effects, q: int = 0, t: int = 0, m: int = 0) -> None:
        """Those of an item below."""
        for name in ("reads", "writes", "early", "flags"):
            getattr(self, name).update(span.moved(q, t) for span in getattr(other, name))
        for span, source in other.given.items():
            self.given[span.moved(q, t)] = source.moved(q, t)
        self.nets.update(offset + t for offset in other.nets)
        self.memories.update(offset + m for offset in other.memories)


class ModuleEffects:
    """Of the functions of a module."""

    def __init__(self, code: Functions, made: Mapping[int, ModuleEffects]) -> None:
        self.code, self.made = code, made
        self._guarded = {number: guarded for number, _, guarded in code._all()}
        self._phases: dict[int, Effects] = {}

    def function(self, number: int, function: Function) -> Effects:
        if function.call is not None:
            return self._call(function.call)
        out = Effects()
        for step in function.steps or ():
            self._step(step, number, self._guarded[number], out)
        # Everybody who keeps a register reads it; what it writes alone is not read from outside.
        out.reads -= {span for span in out.writes if span.space == "t"}
        return out

    def _call(self, call: Call) -> Effects:
        out = Effects()
        below = self.code.layout.below[id(call.instance)]
        out.add(self.made[id(call.instance.module)].phase(call.phase.number), *below)
        return out

    def phase(self, phase: int) -> Effects:
        """Of all functions of a phase; what they hand on to each other is theirs."""
        if phase not in self._phases:
            out = Effects()
            number = sum(len(functions) for functions in self.code.phases[:phase])
            for index, function in enumerate(self.code.phases[phase]):
                out.add(self.function(number + index, function))
            out.reads -= {span for span in out.writes if span.space == "t"}
            self._phases[phase] = out
        return self._phases[phase]

    def edge(self) -> Effects:
        """Of all writes of memories, here and below."""
        out = Effects()
        number = sum(len(functions) for functions in self.code.phases)
        for index, function in enumerate(self.code.edge):
            out.add(self.function(number + index, function))
        for instance in self.code.module.instances:
            out.add(self.made[id(instance.module)].edge(), *self.code.layout.below[id(instance)])
        return out

    # --- one step ---------------------------------------------------------------------------------
    def _step(self, step: Step, number: int, guarded: Guarded, out: Effects) -> None:
        code = self.code
        if isinstance(step, Inputs):
            self._inputs(step.call, number, out)
            return
        self._read(code._reads(step, guarded), number, out)
        if isinstance(step, Output):
            span = port_span(code.layout.ports[step.port], width_of(code.module.outputs[step.port]))
            (out.early if step.early else out.writes).add(span)
        elif isinstance(step, Writes):
            out.memories.add(code.layout.m[id(step.memory)])
        else:
            if isinstance(step, Group):
                out.flags.add(Span("t", code.layout.changed[id(step)], 1, True))
            for node in guarded.all_in(step):
                self._node(node, out)

    def _read(self, words: Iterable[Word], number: int, out: Effects) -> None:
        for word in words:
            if self.code.defined.get(word, number) != number or word.kind != "cell":
                out.reads.update(self._span(word))

    def _inputs(self, call: Call, number: int, out: Effects) -> None:
        code, instance = self.code, call.instance
        below = code.layout.below[id(instance)][1]
        ports = code.made[id(instance.module)].layout.ports
        for port in code.given(call):
            sig = instance.inputs[port]
            span = port_span(below + ports[port], width_of(sig))
            source = self._whole(sig) if code.top else None
            if source is not None:
                out.given[span] = source
                continue
            self._read(words_in(sig), number, out)
            out.writes.add(span)

    def _whole(self, sig: Sig) -> Span | None:
        """Where a signal lies that is a whole word with a place."""
        word = sig[0].word if len(sig) == 1 else None
        if word is None or sig[0].width != word.width:
            return None
        return next(self._span(word), None)

    def _node(self, node: object, out: Effects) -> None:
        code = self.code
        if isinstance(node, Cell):
            if node.memory is not None and node.memory.writes:
                out.memories.add(code.layout.m[id(node.memory)])
            if node.output in code._spilled:
                out.writes.add(self._at("t", code.layout.t[node.output], node.output))
            if node.output in code.layout.flags:
                out.nets.add(code.layout.flags[node.output])
        elif isinstance(node, Flop):
            self._register(node.word, out)
        elif isinstance(node, Memory):
            if node.writes:
                out.memories.add(code.layout.m[id(node)])
            for port in node.reads:
                self._register(port.word, out)
                out.flags.add(Span("t", code.layout.changed[id(port)], 1, True))

    def _register(self, word: Word, out: Effects) -> None:
        span = self._at("q", self.code.layout.q[word], word)
        out.writes.add(span)
        out.reads.add(span)  # what it keeps

    def _span(self, word: Word) -> Iterator[Span]:
        place = self.code.place(word)
        if place is not None:
            space, _, offset = place.partition(" + ")
            yield self._at(space, int(offset), word)

    @staticmethod
    def _at(space: str, offset: int, word: Word) -> Span:
        return Span(space, offset, 1 if word.width == 1 else word.limbs, word.width == 1)


@dataclass
class Item:
    """A line of the runtime's list."""

    row: str
    effects: Effects


def tables(
    items: Sequence[Item], edge: int, inputs: Iterable[Span], outputs: Iterable[Span]
) -> str:
    """C of what items read and write (runtime.h). edge: the first of those at the edge."""
    return _Tables(items, edge, list(inputs), list(outputs)).text()


#: Target of what is read where it lies.
_HERE = 0xFFFFFFFF


class Listed(NamedTuple):
    """A span with the item that writes it or the set of those who read it; target: offset in t to
    which it is copied before an item looks there.
    """

    span: Span
    partner: int
    target: int = _HERE

    def goes_on_with(self, other: Listed) -> bool:
        a, b = self.span, other.span
        return (
            self.partner == other.partner and a.space == b.space and a.bit == b.bit
            and a.offset + a.bytes == b.offset
            and (self.target == other.target == _HERE or self.target + a.bytes == other.target)
        )  # fmt: skip


class _Tables:
    def __init__(
        self, items: Sequence[Item], edge: int, inputs: list[Span], outputs: list[Span]
    ) -> None:
        self.items, self.edge, self.inputs, self.outputs = items, edge, inputs, outputs
        self.reading, self.writing = self._users(0, edge), self._users(edge, len(items))
        #: The bench writes the inputs; what nobody writes is never followed.
        self.bench, self.nobody = len(items), len(items) + 1
        self.owner: dict[tuple[str, int], int] = {}
        self.early: dict[tuple[str, int], int] = {}
        self._owners()
        self.given = {span: source for item in items for span, source in item.effects.given.items()}
        self.readers: dict[tuple[str, int], set[int]] = {}
        for index, item in enumerate(items):
            for span in item.effects.reads:
                source = self.given.get(span, span)
                self.readers.setdefault(source[:2], set()).add(index)
        for place in self.early:
            self.readers.setdefault(place, set()).add(self.owner[place])
        self._check_order()
        self.sets: dict[frozenset[int], int] = {}

    def _check_order(self) -> None:
        """Who reads a value of this cycle comes after who computes it."""
        for place, users in self.readers.items():
            owner = self.owner.get(place, -1)
            after = owner if place in self.early else owner + 1
            if place[0] == "t" and owner < self.bench and min(users) < after:
                raise ToolError(
                    f"function {min(users)} of the design reads t + {place[1]}, which function "
                    f"{owner} computes later; expected it to come first"
                )

    def _owners(self) -> None:
        for span in self.inputs:
            self.owner[span[:2]] = self.bench
        for index, item in enumerate(self.items):
            for span in item.effects.writes:
                if self.owner.setdefault(span[:2], index) != index:
                    raise ToolError(
                        f"two functions write {span.space} + {span.offset} of the design; expected "
                        f"one that computes it"
                    )
            self.early.update((span[:2], index) for span in item.effects.early)

    def _users(self, first: int, end: int) -> dict[int, set[int]]:
        """Items from `first` on that use a memory."""
        out: dict[int, set[int]] = {}
        for index in range(first, end):
            for offset in self.items[index].effects.memories:
                out.setdefault(offset, set()).add(index)
        return out

    def _sources(self, index: int) -> tuple[set[int], set[int]]:
        """Items that give what one reads: in this cycle, and, in registers and memories, in the one
        before. At the edge: who reads the memories that it writes, and nobody.
        """
        e = self.items[index].effects
        if index >= self.edge:
            return set[int]().union(*(self.reading.get(offset, ()) for offset in e.memories)), set()
        now, before = set[int](), {index}
        for span in e.reads:
            source = self.given.get(span, span)
            owner = self.owner.get(source[:2], self.nobody)
            (now if source.space == "t" else before).add(owner)
        if e.early:
            before.add(self.nobody)
        return now, before.union(*(self.writing.get(offset, ()) for offset in e.memories))

    def _set(self, items: Iterable[int]) -> int:
        return self.sets.setdefault(frozenset(items), len(self.sets))

    @staticmethod
    def _rows(spans: Iterable[Listed]) -> list[str]:
        """Neighbours with the same partner are one."""
        out: list[Listed] = []
        for one in sorted(spans):
            if out and out[-1].goes_on_with(one):
                last = out.pop()
                count = last.span.count + one.span.count
                one = last._replace(span=last.span._replace(count=count))
            out.append(one)
        return [
            f"{{{s.offset}, {s.count}, {int(s.space == 't')}, {int(s.bit)}, {partner}, {target}}}"
            for s, partner, target in out
        ]

    def _read(self, span: Span) -> Listed:
        source = self.given.get(span)
        if source is None:
            return Listed(span, self.owner.get(span[:2], self.nobody))
        return Listed(source, self.owner.get(source[:2], self.nobody), span.offset)

    def text(self) -> str:
        spans: list[str] = []
        rows = []

        def listed(pairs: Iterable[tuple[Span, int] | Listed]) -> str:
            start = len(spans)
            spans.extend(self._rows(Listed(*pair) for pair in pairs))
            return f"{start}, {len(spans)}"

        for index, item in enumerate(self.items):
            e = item.effects
            own = {span for span in e.writes if span.space == "q"}
            reads: list[tuple[Span, int] | Listed] = [self._read(s) for s in e.reads - own]
            reads += [(s, self.nobody) for s in e.early]  # what is kept of it comes from the pilot
            written = [
                (s, self._set(self.readers.get(s[:2], ()))) for s in sorted(e.writes | e.early)
            ]
            rows.append(
                f"{{{listed(reads)}, {listed(written)}, {listed((s, index) for s in own)}, "
                f"{listed((s, index) for s in e.flags)}, {int(bool(e.memories))}, "
                f"{', '.join(str(self._set(found)) for found in self._sources(index))}}}"
            )
        inputs = listed((s, self._set(self.readers.get(s[:2], ()))) for s in self.inputs)
        early = listed((s, self.early.get(s[:2], self.owner.get(s[:2], self.nobody)))
                       for s in self.outputs)  # fmt: skip
        outputs = listed((s, self.owner.get(s[:2], self.nobody)) for s in self.outputs)
        nets = [f"{{{offset}, {index}}}" for index, item in enumerate(self.items)
                for offset in item.effects.nets]  # fmt: skip
        return "\n".join(
            [
                _array("struct span", "spans", spans),
                _array("struct effects", "effects", rows),
                _array("struct net_item", "nets", nets),
                f"const struct port_spans bankside_ports = {{{inputs}, {early}, {outputs}}};",
                self._set_text(),
            ]
        )

    def _set_text(self) -> str:
        """Sets of items as bits, all equally long: whole vectors."""
        words = -(-(len(self.items) + 2) // 512) * 8
        numbers = []
        for members in self.sets:
            value = sum(1 << index for index in members)
            numbers += [f"{value >> 64 * i & (1 << 64) - 1:#x}ull" for i in range(words)]
        rows = ", ".join(numbers) or "0"
        return "\n".join(
            [
                f"const uint64_t bankside_item_words = {words};",
                f"const uint64_t bankside_item_sets[] __attribute__((aligned(64))) = {{{rows}}};",
            ]
        )


def _array(kind: str, name: str, rows: Sequence[str]) -> str:
    body = ", ".join(rows) or "{0}"
    return (
        f"const {kind} bankside_{name}[] = {{{body}}};\n"
        f"const uint64_t bankside_{name}_count = {len(rows)};"
    )
