"""Word-level Yosys netlist -> what the lane engine compiles: a few modules of words and cells.

Modules that occur often are kept, so that their code exists once; all others are dissolved into
their parents. Bits become `Word`s (outputs of cells, registers, ports) and `Sig`s, concatenations
of parts of words.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple


class Part(NamedTuple):
    """`width` bits of a word from bit `low` on; `word` None: the constant `low`."""

    word: Word | None
    low: int
    width: int


Sig = tuple[Part, ...]


@dataclass(eq=False)
class Word:
    """Something with a value of `width` bits.

    kind: `cell`, `flop`, `input` (of the module), `output` (of an instance), `read` (data register
    of a synchronous read port). index: its number in the module.
    """

    name: str
    width: int
    kind: str
    index: int

    @property
    def limbs(self) -> int:
        return -(-self.width // 32)


@dataclass(eq=False)
class Cell:
    """A combinational cell, or an asynchronous read port (`memory` and the port's number)."""

    type: str
    name: str
    parameters: Mapping[str, int]
    inputs: dict[str, Sig]
    output: Word
    memory: Memory | None = None
    net: str | None = None


@dataclass(eq=False)
class Flop:
    """A register. `enable`: of its clock, None: always."""

    name: str
    word: Word
    data: Sig
    init: int
    enable: Sig | None
    falling: bool = False


@dataclass
class ReadPort:
    """A synchronous read port; `word` is its data register."""

    enable: Sig
    address: Sig
    word: Word
    clock: Sig | None


@dataclass
class WritePort:
    """`enable`: one bit per data bit."""

    enable: Sig
    address: Sig
    data: Sig
    clock: Sig | None


@dataclass(eq=False)
class Memory:
    """`depth` words of `width` bits; `init` has one integer per word, or is empty."""

    name: str
    width: int
    depth: int
    init: tuple[int, ...]
    reads: list[ReadPort] = field(default_factory=list)
    writes: list[WritePort] = field(default_factory=list)
    asynchronous: bool = False

    @property
    def limbs(self) -> int:
        return -(-self.width // 32)


@dataclass(eq=False)
class Instance:
    """A kept module inside another."""

    name: str
    module: Module
    inputs: dict[str, Sig]
    outputs: dict[str, Word]


@dataclass(eq=False)
class Module:
    """What is compiled together. inputs: of clocks only gated ones, which are their enables."""

    name: str
    inputs: dict[str, Word] = field(default_factory=dict)
    outputs: dict[str, Sig] = field(default_factory=dict)
    cells: list[Cell] = field(default_factory=list)
    flops: list[Flop] = field(default_factory=list)
    memories: list[Memory] = field(default_factory=list)
    instances: list[Instance] = field(default_factory=list)
    words: list[Word] = field(default_factory=list)

    def word(self, name: str, width: int, kind: str) -> Word:
        made = Word(name, width, kind, len(self.words))
        self.words.append(made)
        return made


def joined(parts: Iterable[Part]) -> Sig:
    """Parts with neighbours joined, also constants."""
    out: list[Part] = []
    for part in parts:
        last = out[-1] if out else None
        if last is not None and last.word is part.word:
            if part.word is None:
                value = last.low | part.low << last.width
                out[-1] = Part(None, value, last.width + part.width)
                continue
            if part.low == last.low + last.width:
                out[-1] = Part(last.word, last.low, last.width + part.width)
                continue
        out.append(part)
    return tuple(out)


def width_of(sig: Sig) -> int:
    return sum(part.width for part in sig)


def words_in(sig: Sig) -> Iterator[Word]:
    for part in sig:
        if part.word is not None:
            yield part.word


#: Cells that `cells.py` and `numpy_lanes.py` evaluate.
COMBINATIONAL = (
    "$not", "$pos", "$neg", "$and", "$or", "$xor", "$xnor", "$reduce_and", "$reduce_or",
    "$reduce_xor", "$reduce_xnor", "$reduce_bool", "$shl", "$sshl", "$shr", "$sshr", "$shift",
    "$shiftx", "$lt", "$le", "$eq", "$ne", "$eqx", "$nex", "$ge", "$gt", "$add", "$sub", "$mul",
    "$logic_not", "$logic_and", "$logic_or", "$mux", "$pmux",
)  # fmt: skip
