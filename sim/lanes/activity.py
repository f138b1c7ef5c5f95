"""Which functions have to run in a cycle: those that read something that has changed.

Every function of the top, and every call of a kept module, belongs to one of 128 classes, a bit of
`now` (this cycle) and of `next`. Whoever changes a value sets the bits of those who read it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from bankside.sim.lanes.netlist import Instance, Memory, Word

_CLASSES = 128


def literal(classes: int) -> str:
    """A mask of classes as C has it (`classes` of lanes.h)."""
    low, high = classes & (1 << 64) - 1, classes >> 64
    return f"((classes){high:#x}ull << 64 | {low:#x}ull)" if high else f"{low:#x}ull"


@dataclass
class Activity:
    """Masks of classes. readers: of a word that a function computes, a port, a register or an
    output of an instance; memories: of what can be read of them; instances: of their calls.
    """

    classes: dict[int, int] = field(default_factory=dict)
    instances: dict[int, int] = field(default_factory=dict)
    readers: dict[Word, int] = field(default_factory=dict)
    memories: dict[int, int] = field(default_factory=dict)

    def of(self, words: Iterable[Word]) -> int:
        mask = 0
        for word in words:
            mask |= self.readers.get(word, 0)
        return mask


#: Number of a function, words and memories that it reads.
Read = tuple[int, Iterable[Word], Iterable[Memory]]


def activity_of(
    functions: Sequence[Read], edges: Sequence[Read], instances: Sequence[Instance]
) -> Activity:
    """functions: number, words and memories that it reads; edges: those that write memories, which
    write the same again where nothing has changed.
    """
    out = Activity()
    single = min(len(functions), _CLASSES - bool(instances) - bool(edges))
    left = _CLASSES - single
    at_edge = min(len(edges), left - bool(instances) if len(edges) < left // 2 else left // 2)
    at_edge = max(at_edge, bool(edges))
    for (number, _, _), at in zip(functions, _spread(len(functions), 0, single), strict=True):
        out.classes[number] = at
    for (number, _, _), at in zip(edges, _spread(len(edges), single, at_edge), strict=True):
        out.classes[number] = at
    places = _spread(len(instances), single + at_edge, left - at_edge)
    for instance, at in zip(instances, places, strict=True):
        out.instances[id(instance)] = 1 << at
    for number, words, memories in (*functions, *edges):
        bit = 1 << out.classes[number]
        for word in words:
            out.readers[word] = out.readers.get(word, 0) | bit
        for memory in memories:
            out.memories[id(memory)] = out.memories.get(id(memory), 0) | bit
    return out


def _spread(count: int, first: int, classes: int) -> list[int]:
    """Classes from `first` on for so many; neighbours share one where there are too few."""
    if count <= classes:
        return [first + index for index in range(count)]
    return [first + index * classes // count for index in range(count)]


_CHANGED = {"now": 1, "next": 2, "later": 4}


@dataclass
class Marks:
    """What a function notes of its changes: lines at its beginning and end."""

    top: bool
    names: dict[tuple[str, int, str], str] = field(default_factory=dict)

    def add(self, when: str, mask: int, kind: str) -> str | None:
        """Variable that collects differences; None where nobody wants to know. In a kept module all
        who read it are one.
        """
        if not mask:
            return None
        key = (when, mask if self.top else 1, kind)
        if key not in self.names:
            self.names[key] = f"c{len(self.names)}{kind.lower()}"
        return self.names[key]

    def before(self) -> list[str]:
        return [
            f"{kind} {name} = {'0' if kind == 'B' else 'K(0)'};"
            for (_, _, kind), name in self.names.items()
        ]

    def after(self) -> list[str]:
        """The end of the function, which returns what changed: 1 outputs, 2 registers, 4 what a
        later phase of the same instance reads.
        """
        by_effect: dict[tuple[str, int], list[str]] = {}
        for (when, mask, kind), name in self.names.items():
            by_effect.setdefault((when, mask), []).append(
                name if kind == "B" else f"TST({name}, {name})"
            )
        lines = [] if self.top else ["uint32_t changed = 0;"]
        for (when, mask), tests in by_effect.items():
            effect = (
                f"g->{when} |= {literal(mask)};" if self.top else f"changed |= {_CHANGED[when]};"
            )
            lines.append(f"if ({' | '.join(tests)}) {effect}")
        return [*lines, "return 0;" if self.top else "return changed;"]
