"""What the compute unit of one bank holds after each MAC, from `isa/numerics` alone."""

from dataclasses import dataclass

from pim_chip_model import Traffic, join, split

from bankside.isa import numerics as ref
from bankside.isa.machine import Machine


@dataclass(frozen=True)
class Mac:
    """One MAC of all lanes: cell word, operands, and what the adders do with the products."""

    mode: int
    column: int
    cells: int
    query: list[int]
    probability: list[int]
    start: int
    word: int
    mask: int
    k: list[int]


def step_fields(mac: Mac) -> dict[str, int]:
    """Fields of `add_layout`."""
    return {"mode": mac.mode, "start": mac.start, "rb": mac.word, "mask": mac.mask}


WORDS = 3


def random_mac(machine: Machine, traffic: Traffic, mode: int, number: int) -> Mac:
    """Moderate numbers and corners mixed; the first ones clear the words that all use."""
    fresh = number < WORDS
    rng, elements = traffic.rng, machine.elements
    everything = (1 << elements) - 1
    position = rng.choice((0, 1 << rng.randrange(elements)))
    k = [rng.choice((0, 0, 0, 1, 7, 254, 255, rng.randrange(256))) for _ in range(machine.lanes)]
    return Mac(
        mode=mode,
        column=rng.randrange(machine.columns),
        cells=traffic.word(),
        query=[traffic.word() for _ in range(machine.lanes)],
        probability=[traffic.word() & 0xFFFF for _ in range(machine.lanes)],
        start=1 if fresh else rng.random() < 0.3,
        word=number % WORDS if fresh else rng.randrange(WORDS),
        mask=everything if mode else position,
        k=[255] * machine.lanes if fresh else k,
    )


class BankReference:
    """Accumulators and the result-buffer positions that were written since the start."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.total = [0] * machine.lanes
        self.result: dict[tuple[int, int, int], int] = {}

    def mac(self, mac: Mac) -> None:
        elements = self.machine.elements
        for lane in range(self.machine.lanes):
            operands = split(mac.query[lane], 16, elements)
            if mac.mode:
                operands = [mac.probability[lane]] * elements
            cells = split(mac.cells, 16, elements)
            products = [ref.fp16_mul(a, b) for a, b in zip(cells, operands, strict=True)]
            self._acc(lane, mac, products) if mac.mode else self._tree(lane, mac, products)

    def _tree(self, lane: int, mac: Mac, products: list[int]) -> None:
        tree = ref.adder_tree(products)
        self.total[lane] = tree if mac.start else ref.fp32_add(self.total[lane], tree)
        for i in range(len(products)):
            if mac.mask >> i & 1:
                self.result[lane, mac.word, i] = self.total[lane]

    def _acc(self, lane: int, mac: Mac, products: list[int]) -> None:
        for i, product in enumerate(products):
            old = self.result.get((lane, mac.word, i), 0)
            scaled = ref.fp32_scale_down(old, mac.k[lane])
            self.result[lane, mac.word, i] = ref.fp32_add(scaled, product)

    def half(self, lane: int, word: int, half: int) -> int | None:
        """The burst of half a word, or None while a part of it was never written."""
        size = self.machine.elements // 2
        keys = [(lane, word, half * size + i) for i in range(size)]
        if any(key not in self.result for key in keys):
            return None
        return join([self.result[key] for key in keys], 32)
