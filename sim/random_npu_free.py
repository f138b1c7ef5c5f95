"""Free programs of the `npu` engine: random operations, transfers and waits that no compiler would
write, legal and with defined data.

Everything that is read has been loaded or computed before; a bank of the shared buffer or words of
the weight buffer that both engines use are used with a wait between. Ref: docs/npu.md.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bankside.errors import ProgramError
from bankside.isa.npu_commands import MAC_OPERATIONS, Command, Range
from bankside.isa.npu_machine import WORD_BYTES, NpuMachine
from bankside.isa.program import Program
from bankside.sim.random_npu_layers import (
    PARAMETER_WORDS,
    SPEC,
    Arena,
    Drawn,
    Layers,
    Rng,
    integer,
    maybe,
    parameters,
    random_bytes,
)

#: Main memory: what is read, what is written.
DATA_BYTES, STORE_BYTES = 1 << 16, 1 << 15
_MOST_WAIT = 15
_TO_SHARED, _TO_WEIGHTS, _TO_MEMORY = (
    SPEC.enums["direction"][name] for name in ("to_shared", "to_weights", "to_memory")
)
_GRAIN = 256  # data begin at multiples of it


class Full(Exception):
    """Main memory holds no more data."""


@dataclass(frozen=True)
class Use:
    """Banks of the shared buffer and bytes of the weight buffer that a command uses."""

    banks: frozenset[int] = frozenset()
    weights: range = range(0)

    def meets(self, other: Use) -> bool:
        first = max(self.weights.start, other.weights.start)
        return bool(self.banks & other.banks) or first < min(self.weights.stop, other.weights.stop)


class FreeProgram:
    """Builds one program. `transfers`, `operations`: what may be outstanding, oldest first."""

    def __init__(self, rng: Rng, machine: NpuMachine) -> None:
        self.rng, self.machine = rng, machine
        self.words: list[int] = []
        self.registers = dict.fromkeys(SPEC.enums["register"], 0)
        self.transfers: list[Use] = []
        self.operations: list[Use] = []
        self.chain: list[Range] = []  # what operations that may be unfinished write
        self.before = ""  # the operation before
        self.bank_words = machine.shared_words // machine.config.npu.banks
        self.data = np.zeros(DATA_BYTES, np.uint8)
        self.used = 0
        self.stored: list[tuple[int, int]] = []
        self.arena = self._arena()
        self.layers = Layers(rng, machine, self.arena)
        self.regions = self._regions()

    def build(self, operations: int) -> Program:
        """A program of about so many operations."""
        self._prologue()
        try:
            while operations > 0:
                batch = min(self._int(1, 3), operations)
                self._batch(batch)
                operations -= batch
        except Full:
            pass
        self._epilogue()
        return self._program()

    def _program(self) -> Program:
        n = self.machine.burst_elements
        store = random_bytes(self.rng, STORE_BYTES)
        image = np.concatenate([self.data, store]).view("<u2").reshape(-1, n).astype(np.uint16)
        bus = self.machine.bus_bytes
        outputs = {
            f"stored{i}": (at // bus, size // bus) for i, (at, size) in enumerate(self.stored)
        }
        return Program("npu", tuple(self.words), image, outputs, self.regions)

    # --- parts --------------------------------------------------------------------------------
    def _int(self, low: int, high: int) -> int:
        return integer(self.rng, low, high)

    def _maybe(self, chance: float = 0.5) -> bool:
        return bool(maybe(self.rng, chance))

    def _emit(self, name: str, **operands: int) -> None:
        self.words.append(SPEC.encode(name, where=f"command {len(self.words)}", **operands))

    def _set(self, **values: int) -> None:
        for name, value in values.items():
            if self.registers[name] != value or self._maybe(0.05):
                self._emit("SET", reg=name, value=value & 0xFFFFFFFF)
                self.registers[name] = value

    def _arena(self) -> Arena:
        """Some banks, a few words of each; the parameters in another one."""
        banks = self.machine.config.npu.banks
        words = int(self.rng.choice([32, 64, 64, 128]))
        count = {32: 6, 64: 5, 128: 3}[words]
        chosen = [int(b) for b in self.rng.choice(banks, count + 1, replace=False)]
        room = (self.bank_words - max(words, PARAMETER_WORDS)) // 8
        firsts = [b * self.bank_words + 8 * self._int(0, room) for b in chosen]
        return Arena(tuple(firsts[:-1]), words, firsts[-1])

    def _regions(self) -> tuple[tuple[int, int], ...]:
        """Everything; what is read; what is written; and some that begin elsewhere."""
        size = DATA_BYTES + STORE_BYTES
        found = [(0, size), (0, DATA_BYTES), (DATA_BYTES, STORE_BYTES)]
        for _ in range(self._int(0, 5)):
            base = _GRAIN * self._int(0, size // _GRAIN - 1)
            found.append((base, size - base))
        return tuple(found[i] for i in self.rng.permutation(len(found)))

    def _keep(self, data: bytes | NDArray[np.uint8]) -> int:
        """Put data into main memory; their address."""
        data = np.frombuffer(bytes(data), np.uint8)
        at = self.used
        if at + len(data) > DATA_BYTES:
            raise Full
        self.data[at : at + len(data)] = data
        self.used = at + -(-len(data) // _GRAIN) * _GRAIN
        return at

    # --- waits --------------------------------------------------------------------------------
    def _wait(self, name: str, outstanding: int) -> None:
        entries = self.transfers if name == "DMA_WAIT" else self.operations
        outstanding = min(outstanding, _MOST_WAIT)
        self._emit(name, outstanding=outstanding)
        del entries[: max(len(entries) - outstanding, 0)]
        if name == "KERNEL_WAIT" and not outstanding:
            self.chain = []

    def _after(self, name: str, use: Use) -> None:
        """Wait for what meets `use`; sometimes for more."""
        entries = self.transfers if name == "DMA_WAIT" else self.operations
        meeting = [i for i, other in enumerate(entries) if other.meets(use)]
        if meeting:
            least = len(entries) - 1 - meeting[-1]
            self._wait(name, least if self._maybe(0.8) else self._int(0, least))

    def _sprinkle(self) -> None:
        """Commands that change no data."""
        if self._maybe(0.15):
            self._emit("IRQ", code=self._int(0, 65535))
        if self._maybe(0.15):
            self._emit("PMU", enable=self._int(0, 1))
        if self._maybe(0.1):
            self._wait("DMA_WAIT" if self._maybe() else "KERNEL_WAIT", self._int(0, 3))

    # --- transfers ----------------------------------------------------------------------------
    def _banks(self, first: int, stop: int) -> frozenset[int]:
        """Banks of bytes [first, stop) of the shared buffer."""
        size = WORD_BYTES * self.bank_words
        return frozenset(range(first // size, (stop - 1) // size + 1))

    def _transfer(
        self, direction: int, address: int, buf: int, row_bytes: int, rows: int = 1,
        row_step: int = 0, buf_step: int = 0,
    ) -> None:  # fmt: skip
        """Between byte `address` of main memory and byte `buf` of a buffer."""
        end = address + (rows - 1) * row_step + row_bytes
        inside = [
            i for i, (base, size) in enumerate(self.regions)
            if base <= address and end <= base + size
        ]  # fmt: skip
        region = int(self.rng.choice(inside))
        pieces = [(buf + i * buf_step, buf + i * buf_step + row_bytes) for i in range(rows)]
        if direction == _TO_WEIGHTS:
            first, stop = min(a for a, _ in pieces), max(b for _, b in pieces)
            use = Use(weights=range(first, stop))
        else:
            use = Use(frozenset().union(*(self._banks(*piece) for piece in pieces)))
        self._after("KERNEL_WAIT", use)
        self._set(region=region, offset=address - self.regions[region][0], rows=rows,
                  row_bytes=row_bytes, row_step=row_step, buf=buf, buf_step=buf_step)  # fmt: skip
        self._emit("DMA", direction=direction)
        self.transfers.append(use)

    def _prologue(self) -> None:
        """The whole arena, a transfer per window."""
        if self._maybe(0.2):
            self._emit("PMU", enable=0)
        size = self.arena.words * WORD_BYTES
        for window in self.arena.windows:
            data = random_bytes(self.rng, size)
            self._loaded(self._keep(data), window * WORD_BYTES, size)
        tables = parameters(self.rng)
        self._loaded(self._keep(tables), self.arena.parameters * WORD_BYTES, len(tables))

    def _loaded(self, address: int, buf: int, size: int) -> None:
        """One transfer of contiguous bytes, as one row or as several."""
        rows = int(
            self.rng.choice([r for r in (1, 2, 4) if not size % (self.machine.bus_bytes * r)])
        )
        row = size // rows
        self._transfer(_TO_SHARED, address, buf, row, rows, row, row)

    def _moved(self) -> None:
        """Rows of some window from or to main memory."""
        grain = self.machine.bus_bytes
        window = int(self.rng.choice(self.arena.windows)) * WORD_BYTES
        room = self.arena.words * WORD_BYTES // grain
        row = self._int(1, max(room // 4, 1))
        rows = self._int(1, room // row)
        step = self._int(row, room // rows)
        buf = window + grain * self._int(0, room - (rows - 1) * step - row)
        gap = self._int(0, 3)
        span = ((rows - 1) * (row + gap) + row) * grain
        if self._maybe():
            low, size, direction = DATA_BYTES, STORE_BYTES, _TO_MEMORY
        else:
            low, size, direction = 0, DATA_BYTES + STORE_BYTES, _TO_SHARED
        address = low + grain * self._int(0, (size - span) // grain)
        self._transfer(
            direction, address, buf, row * grain, rows, (row + gap) * grain, step * grain
        )

    def _epilogue(self) -> None:
        """The whole arena to main memory."""
        size, at = self.arena.words * WORD_BYTES, DATA_BYTES
        for window in self.arena.windows:
            self._transfer(_TO_MEMORY, at, window * WORD_BYTES, size)
            self.stored.append((at, size))
            at += size
        self._emit("STOP")

    # --- operations ---------------------------------------------------------------------------
    def _batch(self, count: int) -> None:
        """Operations whose weights are loaded before the first of them starts."""
        planned = [self._planned() for _ in range(count)]
        taken: list[range] = []
        for drawn in planned:
            if drawn.weights is not None:
                taken.append(self._weights(drawn, taken))
        for drawn in planned:
            self._sprinkle()
            if self._maybe(0.4):
                self._moved()
            self._operation(drawn)

    def _planned(self) -> Drawn:
        while True:
            drawn = self.layers.draw()
            try:
                self._command(drawn).check(self.regions)
            except ProgramError:
                continue  # operands overlap
            return drawn

    def _command(self, drawn: Drawn) -> Command:
        registers = self.registers | {"weights": 0} | drawn.registers
        return Command(self.machine, len(self.words), drawn.name, drawn.operands, registers)

    def _weights(self, drawn: Drawn, taken: list[range]) -> range:
        """Bring the weights of an operation to words that no other one of the batch has."""
        size, port = len(drawn.weights), self.machine.weight_port_bytes
        last = self.machine.weight_words - size // port
        while True:
            word = self._int(0, last) if self._maybe(0.7) else min(self._int(0, 8), last)
            place = range(word * port, word * port + size)
            if not any(Use(weights=place).meets(Use(weights=other)) for other in taken):
                break
        drawn.registers["weights"] = word
        rows = int(self.rng.choice([r for r in (1, 2, 3) if not size % (r * port)]))
        gap = _GRAIN * self._int(0, 1) if rows > 1 else 0
        row = size // rows
        parts = [drawn.weights[i * row : (i + 1) * row] for i in range(rows)]
        at = self._keep(b"".join(p + bytes(gap) for p in parts))
        self._transfer(_TO_WEIGHTS, at, place.start, row, rows, row + gap, row)
        return place

    def _operation(self, drawn: Drawn) -> None:
        command = self._command(drawn)
        written, read = command.writes(), command.reads()
        banks = frozenset().union(*(self._banks(r.first, r.stop) for r in (written, *read)))
        use = Use(banks)
        if drawn.weights is not None:
            first = drawn.registers["weights"] * self.machine.weight_port_bytes
            use = Use(banks, range(first, first + len(drawn.weights)))
        self._after("DMA_WAIT", use)
        self._set(**drawn.registers)
        self._set(depend=int(self._chained(drawn.name, written, read)))
        self._emit(drawn.name, **drawn.operands)
        self.operations.append(use)
        self.before = drawn.name

    def _chained(self, name: str, written: Range, read: list[Range]) -> bool:
        """Whether it may start while those before still write; notes what it does."""
        mac = name in MAC_OPERATIONS
        follows = mac and self.before in MAC_OPERATIONS
        free = not any(r.meets(other) for r in read for other in self.chain)
        depend = self._maybe(0.7) and (free or not follows)
        if not (depend and follows):
            self.chain = []
        if mac:
            self.chain.append(written)
        return depend


def free_program(rng: Rng, machine: NpuMachine) -> Program:
    """A free program of a few operations."""
    return FreeProgram(rng, machine).build(int(rng.integers(2, 9)))
