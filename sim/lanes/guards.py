"""What need not be computed in a cycle: operands that no lane selects, registers that all keep.

Lanes run nearly the same schedule: where one does not use a part of the machine mostly none does.
A cell belongs to the innermost condition under which everybody who reads it does so; a condition is
an operand of a multiplexer, or that registers with a common enable change, or that one of several
such conditions holds: an adder that stands behind some operations of many.
"""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from bankside.sim.lanes.netlist import Cell, Flop, Part, Sig, Word, width_of, words_in
from bankside.sim.lanes.schedule import Call, Node, inputs_of
from bankside.sim.lanes.segment import cut

#: Statements below which a branch costs more than it saves.
_SMALL = 5
#: The same of what several conditions share, whose values outlive the branch.
_SMALL_SHARED = 40
#: Conditions that share something, at most.
_SHARING = 12
#: Statements of a group of registers that is not split any more.
_LARGE = 300

#: When registers change: () never, `ALWAYS`, ("or", a, b, ...) or ("and", select, inverted, inner).
When = tuple
ALWAYS: When = ("always",)
NEVER: When = ()


@dataclass(eq=False)
class Group:
    """Registers that change under the same condition, with the cells that only they need."""

    when: When
    flops: list[Flop]
    nodes: list[Node] = field(default_factory=list)


@dataclass(eq=False)
class Shared:
    """Cells that are needed where one of several blocks at the top of a phase is. words: what
    others read of them.
    """

    blocks: tuple[Block, ...]
    when: When
    words: list[Word] = field(default_factory=list)
    nodes: list[Node | Group] = field(default_factory=list)


Item = Node | Group | Shared


@dataclass(eq=False)
class Block:
    """A condition. owner: multiplexer, group or what is shared; operand: which of its inputs (a
    case number, or `A`). parent: None at the top of a phase.
    """

    parent: Block | None
    owner: Cell | Group | Shared
    operand: str | int
    nodes: list[Node | Group] = field(default_factory=list)
    depth: int = 0
    cost: int = 0
    number: int = 0  # in the order in which they were found


@dataclass
class Guarded:
    """Nodes of a phase: `nodes` are always computed, `blocks` of a multiplexer where needed."""

    nodes: list[Item]
    blocks: dict[tuple[int, str | int], Block]

    def inside(self, cell: Cell, operand: str | int) -> Block | None:
        return self.blocks.get((id(cell), operand))

    def all_in(self, node: Item) -> Iterator[Node]:
        """The node and all that is computed under it."""
        if isinstance(node, (Group, Shared)):
            for inner in node.nodes:
                yield from self.all_in(inner)
            yield from node.flops if isinstance(node, Group) else ()
            return
        if isinstance(node, Cell):
            for operand in operands(node):
                block = self.inside(node, operand)
                for under in block.nodes if block else ():
                    yield from self.all_in(under)
        yield node

    def reads(self, item: Item) -> Iterator[Word]:
        """Also what is computed under an item, and conditions: the multiplexers of which they are
        made may have other readers and be computed elsewhere.
        """
        if isinstance(item, (Group, Shared)):
            for sig in selects(item.when):
                yield from words_in(sig)
        for node in self.all_in(item):
            for sig in inputs_of(node):
                yield from words_in(sig)

    def gives(self, item: Item) -> Iterator[Word]:
        """Words that are computed with an item."""
        for node in self.all_in(item):
            if isinstance(node, Cell):
                yield node.output
            elif isinstance(node, Call):
                for port in node.phase.outputs:
                    if port in node.instance.outputs:
                        yield node.instance.outputs[port]


def operands(cell: Cell) -> list[str | int]:
    """Operands of a multiplexer that can be left out, the one that wins last first."""
    if cell.type == "$mux":
        return ["A", "B"]
    if cell.type == "$pmux":
        return ["A", *reversed(range(width_of(cell.inputs["S"])))]
    return []


def operand_sig(cell: Cell, operand: str | int) -> Sig:
    if isinstance(operand, str):
        return cell.inputs[operand]
    width = cell.output.width
    return cut(cell.inputs["B"], operand * width, width)


class Guards:
    """Finds the conditions of one phase.

    Args:
        nodes: in an order in which they can be computed.
        kept: words that somebody outside of the phase reads.
        cost: statements of a node.
        registers: whether registers may be left alone.
    """

    def __init__(
        self,
        nodes: Sequence[Node],
        kept: set[Word],
        cost: Callable[[Node], int],
        *,
        registers: bool,
    ) -> None:
        self.nodes, self.cost = list(nodes), cost
        self.driver = {node.output: node for node in nodes if isinstance(node, Cell)}
        self.groups = self._groups() if registers else {}
        self.block: dict[int, Block | None] = {}
        self.blocks: dict[tuple[int, str | int], Block] = {}
        self.uses: dict[Word, list[Block | None]] = {word: [None] for word in kept}
        self.group_blocks = {
            id(g): Block(None, g, "data", depth=1, number=-1 - n)
            for n, g in enumerate(dict.fromkeys(self.groups.values()))
        }
        self.shared: dict[tuple[int, ...], Block] = {}
        self._assign()
        self._dissolve()
        self.guarded = self._collect()

    # --- registers --------------------------------------------------------------------------------
    def _groups(self) -> dict[int, Group]:
        by_key: dict[When, Group] = {}
        out = {}
        for flop in self.nodes:
            if not isinstance(flop, Flop):
                continue
            own = (Part(flop.word, 0, flop.word.width),)
            when = self._changes(flop.data, own, 0)
            if flop.enable is not None:
                when = _and(flop.enable, False, when)
            if when == ALWAYS:
                continue
            if when not in by_key:
                by_key[when] = Group(when, [])
            by_key[when].flops.append(flop)
            out[id(flop)] = by_key[when]
        return out

    def _changes(self, data: Sig, own: Sig, depth: int) -> When:
        """When `data` differs from `own`, as far as multiplexers tell."""
        if data == own:
            return NEVER
        if depth > 12:
            return ALWAYS
        found: list[When] = []
        at = 0
        for part in data:
            mine = cut(own, at, part.width)
            at += part.width
            cell = self.driver.get(part.word) if part.word is not None else None
            if (part,) == mine:
                continue
            if cell is None or cell.type not in ("$mux", "$pmux"):
                return ALWAYS
            found.append(self._of_mux(cell, part.low, part.width, mine, depth))
        return _or(found)

    def _of_mux(self, cell: Cell, low: int, width: int, mine: Sig, depth: int) -> When:
        found = []
        always = True
        for operand in operands(cell):
            inner = self._changes(cut(operand_sig(cell, operand), low, width), mine, depth + 1)
            always = always and inner == ALWAYS
            if operand == "A":
                rest: When = inner
                for i in range(width_of(cell.inputs["S"])):
                    rest = _and(cut(cell.inputs["S"], i, 1), True, rest)
                found.append(rest)
            else:
                index = 0 if operand == "B" else int(operand)
                found.append(_and(cut(cell.inputs["S"], index, 1), False, inner))
        return ALWAYS if always else _or(found)

    # --- conditions -------------------------------------------------------------------------------
    def _assign(self) -> None:
        """Readers before what they read."""
        for node in reversed(self.nodes):
            if isinstance(node, Cell):
                places = self.uses.get(node.output, [None])
                where = self._common(places) or self._share(places)
                self.block[id(node)] = where
                self._use_cell(node, where)
            elif isinstance(node, Flop) and id(node) in self.groups:
                group = self.groups[id(node)]
                self._use(node.data, self.group_blocks[id(group)])
                for sig in selects(group.when):
                    self._use(sig, None)
            else:
                for sig in inputs_of(node):
                    self._use(sig, None)

    def _use(self, sig: Sig, where: Block | None) -> None:
        for word in words_in(sig):
            self.uses.setdefault(word, []).append(where)

    def _use_cell(self, cell: Cell, where: Block | None) -> None:
        choices = operands(cell)
        if not choices:
            for sig in cell.inputs.values():
                self._use(sig, where)
            return
        self._use(cell.inputs["S"], where)
        for operand in choices:
            key = id(cell), operand
            depth = where.depth + 1 if where else 1
            number = len(self.blocks)
            self.blocks[key] = Block(where, cell, operand, depth=depth, number=number)
            self._use(operand_sig(cell, operand), self.blocks[key])

    def _common(self, places: Sequence[Block | None]) -> Block | None:
        found = places[0]
        for other in places[1:]:
            while found is not other:
                if found is None or other is None:
                    return None
                if found.depth >= other.depth:
                    found = found.parent
                else:
                    other = other.parent
        return found

    def _share(self, places: Sequence[Block | None]) -> Block | None:
        """What is needed in several blocks at the top, and nowhere else there."""
        found: dict[int, Block] = {}
        for place in places:
            if place is None:
                return None
            while place.parent is not None:
                place = place.parent
            parts = place.owner.blocks if isinstance(place.owner, Shared) else (place,)
            found |= {id(part): part for part in parts}
        if len(found) > _SHARING:
            return None
        blocks = tuple(sorted(found.values(), key=lambda block: block.number))
        key = tuple(id(block) for block in blocks)
        if key not in self.shared:
            shared = Shared(blocks, _or([_condition(block) for block in blocks]))
            self.shared[key] = Block(None, shared, "shared", depth=1)
        return self.shared[key]

    def _dissolve(self) -> None:
        """Blocks of little work become part of what is around them."""
        for node in self.nodes:
            block = self.block.get(id(node))
            while block is not None:
                block.cost += self.cost(node)
                block = block.parent
        for key, block in list(self.blocks.items()):
            if block.cost < _SMALL:
                del self.blocks[key]
        self._leave({id(b) for b in self.shared.values() if b.cost < _SMALL_SHARED})

    def _leave(self, shared: set[int]) -> None:
        """Cells of blocks that are no more go to what is around them."""
        for node in self.nodes:
            block = self.block.get(id(node))
            while block is not None and (
                id(block) in shared
                or isinstance(block.owner, Cell)
                and (id(block.owner), block.operand) not in self.blocks
            ):
                block = block.parent
            self.block[id(node)] = block

    def _collect(self) -> Guarded:
        """With what is shared where it can be computed; where it cannot, as if it were not."""
        while True:
            found = self._collected()
            late = self._order(found)
            if not late:
                return found
            self._leave(late)

    def _order(self, found: Guarded) -> set[int]:
        """Sort items so that each comes after what it reads, else as they are; blocks of what is
        shared for which this cannot be.
        """
        items = found.nodes
        if not any(isinstance(item, Shared) for item in items):
            return set()
        producer = {word: i for i, item in enumerate(items) for word in found.gives(item)}
        waits = [{producer[w] for w in found.reads(item) if w in producer} for item in items]
        bound = [i for i, item in enumerate(items) if not isinstance(item, (Cell, Group, Shared))]
        for before, after in zip(bound, bound[1:], strict=False):
            waits[after].add(before)
        order = _sorted([needs - {i} for i, needs in enumerate(waits)])
        found.nodes = [items[i] for i in order]
        if len(order) == len(items):
            self._hand_over(found)
            return set()
        stuck = set(range(len(items))) - set(order)
        owners = {id(items[i]) for i in stuck if isinstance(items[i], Shared)}
        assert owners, "items in a circle without anything shared"
        return {id(block) for block in self.shared.values() if id(block.owner) in owners}

    def _hand_over(self, found: Guarded) -> None:
        """Note which words of what is shared are read elsewhere."""
        readers: dict[Word, set[int]] = defaultdict(set)
        for i, item in enumerate(found.nodes):
            for word in found.reads(item):
                readers[word].add(i)
        for i, item in enumerate(found.nodes):
            if isinstance(item, Shared):
                item.words = [word for word in found.gives(item) if readers[word] - {i}]

    def _collected(self) -> Guarded:
        top: list[Item] = []
        for block in self.blocks.values():
            block.nodes = []
        for owner in [*self.groups.values(), *(b.owner for b in self.shared.values())]:
            assert not isinstance(owner, Cell)
            owner.nodes = []
        last = {id(group): flop for flop, group in self._members()}
        for node in self.nodes:
            group = self.groups.get(id(node)) if isinstance(node, Flop) else None
            if group is not None:
                # All that its registers need has been computed when the last one is reached.
                if last[id(group)] is node:
                    top.extend(self._split(group))
                continue
            block = self.block.get(id(node))
            if block is None:
                top.append(node)
            elif isinstance(block.owner, (Group, Shared)):
                block.owner.nodes.append(node)
            else:
                block.nodes.append(node)
        shared = [b.owner for b in self.shared.values() if isinstance(b.owner, Shared)]
        top.extend(owner for owner in shared if owner.nodes)
        return Guarded(top, self.blocks)

    def _members(self) -> Iterator[tuple[Flop, Group]]:
        for node in self.nodes:
            if isinstance(node, Flop) and id(node) in self.groups:
                yield node, self.groups[id(node)]

    def _split(self, group: Group) -> Iterator[Group]:
        """Groups whose registers share no cells may as well be several."""
        cost = sum(self.cost(node) for node in group.nodes) + 3 * len(group.flops)
        if cost < _LARGE or group.nodes:
            yield group
            return
        size = _LARGE // 3
        for first in range(0, len(group.flops), size):
            yield Group(group.when, group.flops[first : first + size])


def _sorted(waits: Sequence[set[int]]) -> list[int]:
    """Numbers so that each comes after those it waits for, small ones first; without those that
    cannot.
    """
    follow: dict[int, list[int]] = defaultdict(list)
    for index, needs in enumerate(waits):
        for other in needs:
            follow[other].append(index)
    left = [len(needs) for needs in waits]
    ready = [index for index, count in enumerate(left) if not count]
    out: list[int] = []
    while ready:
        index = heapq.heappop(ready)
        out.append(index)
        for other in follow[index]:
            left[other] -= 1
            if not left[other]:
                heapq.heappush(ready, other)
    return out


def _condition(block: Block) -> When:
    """When an operand of a multiplexer is selected, or registers change."""
    cell = block.owner
    if isinstance(cell, Group):
        return cell.when
    assert isinstance(cell, Cell)
    if block.operand != "A":
        index = 0 if block.operand == "B" else int(block.operand)
        return _and(cut(cell.inputs["S"], index, 1), False, ALWAYS)
    when = ALWAYS
    for i in range(width_of(cell.inputs["S"])):
        when = _and(cut(cell.inputs["S"], i, 1), True, when)
    return when


def _and(select: Sig, inverted: bool, inner: When) -> When:
    (part,) = select
    if inner == NEVER:
        return NEVER
    if part.word is None:
        return inner if bool(part.low) != inverted else NEVER
    return ("and", select, inverted, inner)


def _or(found: Sequence[When]) -> When:
    parts = [w for w in dict.fromkeys(found) if w != NEVER]
    if ALWAYS in parts:
        return ALWAYS
    if len(parts) <= 1:
        return parts[0] if parts else NEVER
    return ("or", *parts)


def selects(when: When) -> Iterator[Sig]:
    """All select signals of a condition."""
    if when and when[0] == "or":
        for part in when[1:]:
            yield from selects(part)
    elif when and when[0] == "and":
        yield when[1]
        yield from selects(when[3])
