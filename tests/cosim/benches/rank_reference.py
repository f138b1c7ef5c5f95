"""Reference of the rank unit for its tests: docs/pim.md in plain loops over `isa.numerics`.

Bursts are lists: FP32 bursts [chip][slot] of bit patterns, slices [chip][element] of FP16 bits.
"""

import random
import struct
from dataclasses import dataclass, field

import numpy as np

from bankside.config import HardwareConfig
from bankside.isa import numerics as nm
from bankside.isa import relayout as rl
from bankside.isa.machine import Machine


def make_machine(
    standard: str = "ddr4_3200", chips: int = 2, groups: int = 2, per_group: int = 2, lanes: int = 2
) -> Machine:
    """A small machine."""
    return Machine.of(
        HardwareConfig.parse(
            f"name: rank\nengine: pim\n"
            f"dram: {{standard: {standard}, chips: {chips}, rows: 8, bank_groups: {groups}, "
            f"banks_per_group: {per_group}, refresh: false}}\n"
            f"pim: {{query_lanes: {lanes}, score_words: 128, probability_words: 160, "
            f"staging_words: 64}}\n"
        )
    )


@dataclass(frozen=True)
class Geometry:
    """Geometry registers."""

    nhc_log2: int
    cpt: int
    lanes: int

    @property
    def nhc(self) -> int:
        return 1 << self.nhc_log2


def pack(values, width: int) -> int:
    """Nested lists of `width`-bit numbers as one word, first lowest."""
    word, flat = 0, np.asarray(values, dtype=object).reshape(-1)
    for i, value in enumerate(flat):
        word |= int(value) << (i * width)
    return word


def unpack(word: int, width: int, *shape: int) -> np.ndarray:
    """Inverse of `pack`."""
    count = int(np.prod(shape))
    mask = (1 << width) - 1
    return np.array([word >> (i * width) & mask for i in range(count)], dtype=object).reshape(shape)


def fp32(value: float) -> int:
    """Bits of a float."""
    return struct.unpack("<I", struct.pack("<f", value))[0]


class Reference:
    """State of the rank unit that its ports can show."""

    def __init__(self, machine: Machine, geometry: Geometry) -> None:
        self.machine, self.geometry = machine, geometry
        self.score: dict[int, list[list[int]]] = {}
        self.context: set[int] = set()  # addresses of context words
        self.maximum: dict[tuple[int, int, int], int] = {}
        self.probability: dict[int, list[list[int]]] = {}
        self.m: dict[tuple[int, int], int] = {}
        self.l: dict[tuple[int, int], int] = {}
        self.steps: set[int] = set()  # k of every chunk but the first
        self.out: dict[int, list[list[int]]] = {}

    @property
    def heads(self) -> int:
        return self.machine.chips // self.geometry.nhc

    def score_burst(self, address, lane, group, n, buf, valid, burst) -> None:
        """One burst of RDRBS: bank b(n), slots of `group`."""
        mc, nhc = self.machine, self.geometry.nhc
        word = []
        for h in range(self.heads):
            chips = burst[h * nhc : (h + 1) * nhc]
            word.append([nm.adder_tree(slot) for slot in zip(*chips, strict=True)])
        self.score[address] = word
        for h, slots in enumerate(word):
            if group == 0 and n == 0:
                self.maximum[buf, lane, h] = 0
            for u, score in enumerate(slots):
                token = (group * mc.slots_per_burst + u) * mc.banks + mc.visit(n)
                if token < valid:
                    key = nm.order_key(score)
                    self.maximum[buf, lane, h] = max(self.maximum[buf, lane, h], key)

    def context_word(self, address, bursts) -> None:
        """The B bursts of one half result word of RDRBC."""
        total = bursts[0]
        for burst in bursts[1:]:
            total = [
                [nm.fp32_add(a, b) for a, b in zip(x, y, strict=True)]
                for x, y in zip(total, burst, strict=True)
            ]
        self.score[address] = total
        self.context.add(address)

    def softmax(self, score, prob, groups, buf, valid, first) -> None:
        """SFM."""
        mc = self.machine
        block = 1 + groups * mc.slots_per_burst * mc.subbanks
        for lane in range(self.geometry.lanes):
            base = prob + lane * block
            for a in range(base, base + block):
                self.probability[a] = [[0] * mc.elements for _ in range(self.heads)]
            for h in range(self.heads):
                new = nm.ceil_int(nm.order_unkey(self.maximum[buf, lane, h]))
                old = self.m.get((lane, h), 0)
                m = new if first else max(old, new)
                k = 255 if first else min(m - old, 255)
                self.probability[base][h][0] = k
                self.steps |= set() if first else {k}
                total = 0
                for g in range(groups):
                    for n in range(mc.banks):
                        word = self.score[score + (lane * groups + g) * mc.banks + n][h]
                        for u, s in enumerate(word):
                            slot, bank = g * mc.slots_per_burst + u, mc.visit(n)
                            live = slot * mc.banks + bank < valid
                            p = nm.softmax_term(m, s) if live else 0
                            a = base + 1 + slot * mc.subbanks + bank // mc.elements
                            self.probability[a][h][bank % mc.elements] = p
                            total += nm.p24(p)
                kept = 0 if first else nm.rescale_denominator(self.l[lane, h], k)
                self.m[lane, h], self.l[lane, h] = m, kept + total

    def normalise(self, score, out, count) -> None:
        """NORM."""
        mc = self.machine
        for lane in range(self.geometry.lanes):
            for w in range(count):
                piece = []
                for chip in range(mc.chips):
                    q, e = nm.reciprocal(self.l[lane, chip // self.geometry.nhc])
                    base = score + (lane * count + w) * 2
                    sums = self.score[base][chip] + self.score[base + 1][chip]
                    piece.append([nm.normalise(s, q, e) for s in sums])
                self.out[out + lane * count + w] = piece

    def chips_probability(self, address: int) -> list[list[int]]:
        """The word as the chips get it."""
        word = self.probability[address]
        return [word[chip // self.geometry.nhc] for chip in range(self.machine.chips)]

    def relayout(self, bursts, layout):
        """Pieces [n][chip][element] of host bursts."""
        return rl.relayout(
            np.array(bursts, dtype=np.int64), layout, chips=self.machine.chips,
            elements=self.machine.elements, nhc=self.geometry.nhc, cpt=self.geometry.cpt,
        )  # fmt: skip

    def inverse(self, pieces, layout):
        """Host bursts of pieces."""
        return rl.inverse(
            np.array(pieces, dtype=np.int64), layout, chips=self.machine.chips,
            elements=self.machine.elements, nhc=self.geometry.nhc, cpt=self.geometry.cpt,
        )  # fmt: skip


@dataclass
class Scores:
    """Random FP32 bursts in several moods."""

    rng: random.Random
    mood: str = "usual"
    centre: float = field(init=False)

    def __post_init__(self) -> None:
        self.centre = self.rng.uniform(-9, 9)

    def value(self) -> int:
        """One FP32 number (normal or +0)."""
        rng = self.rng
        if self.mood == "equal":
            return fp32(self.centre)
        if self.mood == "dominant":
            return fp32(30000.5) if rng.random() < 0.02 else fp32(-rng.uniform(1, 1e4))
        if self.mood == "negative":
            return fp32(-rng.uniform(1e3, 1e11))
        if self.mood == "zero":
            return 0 if rng.random() < 0.7 else fp32(rng.uniform(-1e-3, 1e-3))
        return fp32(rng.gauss(self.centre, 4))

    def burst(self, machine: Machine, exists: tuple[bool, ...] = ()) -> list[list[int]]:
        """[chip][slot]; slots that do not exist hold a large number, which must not matter."""
        alive = exists or (True,) * machine.slots_per_burst
        return [[self.value() if a else fp32(1e6) for a in alive] for _ in range(machine.chips)]


MOODS = ("usual", "equal", "dominant", "negative", "zero")
