"""One chip of the `pim` engine in plain Python, written from docs/pim.md alone.

Every access is an event at an absolute cycle. Within a cycle all reads come before all writes.
"""

import heapq
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from random import Random

from bankside.isa import numerics as ref
from bankside.isa.dram.rules import RankRules
from bankside.isa.machine import Machine
from bankside.isa.numerics_vectors import FP16_CORNERS, random_fp16

READ, WRITE = 0, 1
TREE, ACC = 0, 1


def split(word: int, bits: int, parts: int) -> list[int]:
    """`word` in `parts` fields of `bits` bits, low field first."""
    return [word >> bits * i & (1 << bits) - 1 for i in range(parts)]


def join(parts: list[int], bits: int) -> int:
    """Inverse of `split`."""
    return sum(part << bits * i for i, part in enumerate(parts))


@dataclass(frozen=True)
class Issue:
    """One DRAM command: cycle, name, operands, and the burst that belongs to a WR or WRSB."""

    cycle: int
    name: str
    operands: dict[str, int]
    data: int = 0


class ChipModel:
    """Contents of one chip and the bursts that it sends. `run` plays a list of legal commands."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        lanes, elements = range(machine.lanes), machine.elements
        self.cells: dict[tuple[int, int, int], int] = {}
        self.shared: list[dict[int, int]] = [{} for _ in lanes]
        self.scale = [[0 for _ in lanes] for _ in range(2)]
        self.result = {
            (bank, lane, word): [0] * elements
            for bank in range(machine.banks)
            for lane in lanes
            for word in range(machine.sizes["result_buffer_words"])
        }
        self.total = [[0 for _ in lanes] for _ in range(machine.banks)]
        self.open_row = [0] * machine.banks
        self.mode = dict.fromkeys(("mode", "kbuf", "rescale", "sb", "rb", "cpt"), 0)
        self.column = self.slot = 0
        self.bursts: dict[int, int] = {}
        self._events: list[tuple[int, int, int, Callable[[], None]]] = []
        self._order = count()

    def run(self, issues: list[Issue]) -> dict[int, int]:
        """Bursts by the cycle in which they are on the data bus."""
        for issue in issues:
            self._until(issue.cycle)
            getattr(self, "_" + issue.name.lower(), lambda issue: None)(issue)
        self._until(1 << 62)
        return self.bursts

    def _at(self, cycle: int, phase: int, action: Callable[[], None]) -> None:
        heapq.heappush(self._events, (cycle, phase, next(self._order), action))

    def _until(self, cycle: int) -> None:
        while self._events and self._events[0][0] < cycle:
            heapq.heappop(self._events)[3]()

    # --- rows ---
    def _act(self, issue: Issue) -> None:
        self.open_row[issue.operands["bank"]] = issue.operands["row"]

    def _act4(self, issue: Issue) -> None:
        for group in range(self.machine.groups):
            bank = group * self.machine.banks_per_group + issue.operands["bank"]
            self.open_row[bank] = issue.operands["row"]

    def _acta(self, issue: Issue) -> None:
        self.open_row = [issue.operands["row"]] * self.machine.banks

    # --- columns ---
    def _place(self, issue: Issue) -> tuple[int, int, int]:
        bank = issue.operands["bank"]
        return bank, self.open_row[bank], issue.operands["col"]

    def _wr(self, issue: Issue) -> None:
        place = self._place(issue)
        when = issue.cycle + self.machine.write_latency
        self._at(when, WRITE, lambda: self.cells.update({place: issue.data}))

    _wra = _wr

    def _rd(self, issue: Issue) -> None:
        place = self._place(issue)
        arrival = issue.cycle + self.machine.read_latency
        read = issue.cycle + self.machine.mac_period
        self._at(read, READ, lambda: self.bursts.update({arrival: self.cells.get(place, 0)}))

    _rda = _rd

    def _ldsb(self, issue: Issue) -> None:
        place, ops = self._place(issue), issue.operands
        read = issue.cycle + self.machine.mac_period

        def load() -> None:
            word = self.cells.get(place, 0)
            self._at(read + 1, WRITE, lambda: self.shared[ops["lane"]].update({ops["sb"]: word}))

        self._at(read, READ, load)

    # --- buffers ---
    def _wrsb(self, issue: Issue) -> None:
        ops = issue.operands

        def write() -> None:
            if ops["header"]:
                self.scale[ops["kbuf"]][ops["lane"]] = issue.data & 0xFF
            else:
                self.shared[ops["lane"]][ops["sb"]] = issue.data

        self._at(issue.cycle + self.machine.write_latency, WRITE, write)

    def _rdrb(self, issue: Issue) -> None:
        ops, half = issue.operands, self.machine.elements // 2
        arrival = issue.cycle + self.machine.read_latency

        def read() -> None:
            word = self.result[ops["bank"], ops["lane"], ops["rb"]]
            self.bursts[arrival] = join(word[half * ops["half"] :][:half], 32)

        self._at(issue.cycle + self.machine.mac_period, READ, read)

    # --- compute ---
    def _wrr(self, issue: Issue) -> None:
        self.mode = {name: issue.operands[name] for name in self.mode}
        self.column = self.slot = 0

    def _mac(self, issue: Issue) -> None:
        mode, column, slot, period = self.mode, self.column, self.slot, self.machine.mac_period
        last = column == mode["cpt"] - 1
        self.column, self.slot = (0, slot + 1) if last else (column + 1, slot)
        k: list[int] = []
        places = [(b, self.open_row[b], issue.operands["col"]) for b in range(self.machine.banks)]

        def read() -> None:
            products = {
                (place[0], lane): self._products(place, lane, mode, column, slot)
                for place in places
                for lane in range(self.machine.lanes)
            }

            def scale() -> None:
                k.extend(self.scale[mode["kbuf"]] if mode["rescale"] and slot == 0 else [0] * 8)

            def add() -> None:
                for (bank, lane), values in products.items():
                    if mode["mode"] == TREE:
                        self._tree(bank, lane, values, mode, column, slot)
                    else:
                        self._accumulate((bank, lane, mode["rb"] + column), values, k[lane])

            self._at(issue.cycle + 2 * period, READ, scale)
            self._at(issue.cycle + 3 * period, WRITE, add)

        self._at(issue.cycle + period, READ, read)

    def _products(
        self, place: tuple[int, int, int], lane: int, mode: dict, column: int, slot: int
    ) -> list[int]:
        elements = self.machine.elements
        values = split(self.cells.get(place, 0), 16, elements)
        if mode["mode"] == TREE:
            operands = split(self.shared[lane].get(mode["sb"] + column, 0), 16, elements)
        else:
            word = mode["sb"] + slot * self.machine.subbanks + place[0] // elements
            one = split(self.shared[lane].get(word, 0), 16, elements)[place[0] % elements]
            operands = [one] * elements
        return [ref.fp16_mul(a, b) for a, b in zip(values, operands, strict=True)]

    def _tree(self, bank: int, lane: int, values: list, mode: dict, column: int, slot: int) -> None:
        tree = ref.adder_tree(values)
        total = tree if column == 0 else ref.fp32_add(self.total[bank][lane], tree)
        self.total[bank][lane] = total
        if column == mode["cpt"] - 1:
            word = mode["rb"] + slot // self.machine.elements
            self.result[bank, lane, word][slot % self.machine.elements] = total

    def _accumulate(self, key: tuple[int, int, int], values: list, k: int) -> None:
        self.result[key] = [
            ref.fp32_add(ref.fp32_scale_down(old, k), value)
            for old, value in zip(self.result[key], values, strict=True)
        ]


WEIGHTS = {
    "MAC": 30, "WRR": 5, "RDRB": 20, "WRSB": 15, "HEAD": 3, "WR": 8, "RD": 8, "LDSB": 6, "RDA": 1,
    "WRA": 1, "ACT": 2, "ACT4": 1, "ACTA": 3, "PRE": 2, "PREA": 1,
}  # fmt: skip
"""How often `Traffic` draws each command; HEAD is a WRSB of a scale register."""


class Traffic:
    """Random legal commands for one chip: every command, as early as possible or later."""

    def __init__(self, machine: Machine, seed: int) -> None:
        self.machine = machine
        self.rules = RankRules(machine.std)
        self.rng = Random(seed)
        self.now = 0
        self.issues: list[Issue] = []
        self.room = 0  # columns that a MAC pass may still take

    def word(self) -> int:
        """A slice: mostly moderate numbers, sometimes corners, sometimes anything."""
        rng, elements = self.rng, self.machine.elements
        kind = rng.random()
        if kind < 0.2:
            sign = [rng.getrandbits(1) << 15 for _ in range(elements)]
            return join([rng.choice(FP16_CORNERS) | s for s in sign], 16)
        if kind < 0.4:
            return join([random_fp16(rng) for _ in range(elements)], 16)
        exponents = [rng.randint(11, 18) << 10 for _ in range(elements)]
        return join([rng.getrandbits(16) & 0x83FF | e for e in exponents], 16)

    def put(self, name: str, wait: int = 0, data: int = 0, **operands: int) -> Issue | None:
        """Issue a command in the first legal cycle after `wait` cycles.

        Returns None, and issues nothing, when the banks are not in the state that it needs.
        """
        bank = operands.get("bank", 0)
        cycle = self.rules.earliest(name, bank, self.now + wait)[0]
        if self.rules.check(name, bank, cycle):
            return None
        self.rules.issue(name, bank, operands.get("row", 0), cycle)
        self.now = cycle + 1
        self.issues.append(Issue(cycle, name, operands, data))
        return self.issues[-1]

    def fill(self, row: int) -> None:
        """Open `row` everywhere and write a few columns of each bank."""
        self.put("ACTA", row=row)
        for bank in range(self.machine.banks):
            for col in range(4):
                self.put("WR", bank=bank, col=col, data=self.word())

    def configure(self) -> None:
        """WRR with random operands that keep all MACs until the next one inside the buffers."""
        rng, machine = self.rng, self.machine
        words, shared = machine.sizes["result_buffer_words"], machine.shared_words
        mode, cpt, slots = rng.getrandbits(1), rng.choice((1, 1, 2, 3, 4)), rng.randint(1, 10)
        sb = rng.randrange(shared - max(cpt, slots * machine.subbanks) + 1)
        rb = rng.randrange(words - max(cpt, slots // machine.elements + 1) + 1)
        sb -= sb % machine.subbanks if mode == ACC else 0
        # Small areas, so that passes meet each other's words.
        sb, rb = sb % (4 * machine.subbanks), rb % 4
        flags = {"kbuf": rng.getrandbits(1), "rescale": rng.getrandbits(1)}
        if self.put("WRR", mode=mode, **flags, sb=sb, rb=rb, cpt=cpt):
            self.room = cpt * slots

    def step(self) -> None:
        """One random command (or a few)."""
        rng, machine = self.rng, self.machine
        wait = rng.choice((0, 0, 0, 1, 2, 5, 17))
        bank, col = rng.randrange(machine.banks), rng.randrange(4)
        lane, row = rng.randrange(machine.lanes), rng.randrange(machine.rows)
        kind = rng.choices(tuple(WEIGHTS), tuple(WEIGHTS.values()))[0]
        if kind == "MAC":
            for _ in range(min(self.room, rng.randint(1, 6))):
                if self.put("MAC", wait, col=rng.randrange(4)):
                    self.room -= 1
        elif kind == "WRR":
            self.configure()
        elif kind == "RDRB":
            self.put(kind, wait, bank=bank, lane=lane, rb=rng.randrange(8), half=rng.getrandbits(1))
        elif kind == "WRSB":
            sb = rng.randrange(14 * machine.subbanks)
            self.put(kind, wait, self.word(), lane=lane, sb=sb, header=0, kbuf=rng.getrandbits(1))
        elif kind == "HEAD":
            k = rng.choice((0, 1, 2, 9, 255, rng.randrange(256)))
            data = self.word() & ~0xFF | k
            self.put("WRSB", wait, data, lane=lane, sb=0, header=1, kbuf=rng.getrandbits(1))
        elif kind in ("WR", "WRA"):
            self.put(kind, wait, self.word(), bank=bank, col=col)
        elif kind == "LDSB":
            self.put(kind, wait, bank=bank, col=col, lane=lane, sb=rng.randrange(8))
        elif kind == "ACT4":
            self.put(kind, wait, bank=bank % machine.banks_per_group, row=row)
        elif kind in ("PREA", "ACTA"):
            self.put(kind, wait, row=row)
        else:
            self.put(kind, wait, bank=bank, col=col, row=row)

    def reopen(self) -> None:
        """Open every bank (MACs need it) in one of three ways, the rows differ between banks."""
        rng, machine = self.rng, self.machine
        self.put("PREA")
        kind = rng.choice(("ACT", "ACT4", "ACTA"))
        count = {"ACT": machine.banks, "ACT4": machine.banks_per_group, "ACTA": 1}[kind]
        for bank in range(count):
            self.put(kind, bank=bank, row=rng.randrange(2))

    def make(self, steps: int) -> list[Issue]:
        """`steps` random steps after an initial fill."""
        self.fill(1)
        self.configure()
        for _ in range(steps):
            self.step()
            if None in self.rules.open_rows and self.rng.random() < 0.3:
                self.reopen()
        return self.issues
