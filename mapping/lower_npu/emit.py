"""Command words and memory image of a schedule: waits where data or banks meet, registers only when
they change. Ref: docs/npu.md sections 4 to 6 and 9; docs/npu_compiler.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from bankside.errors import ConfigError
from bankside.isa.npu_commands import MAC_OPERATIONS
from bankside.isa.npu_machine import WORD_BYTES, NpuMachine
from bankside.isa.program import Builder, Program
from bankside.mapping.lower_npu.schedule import Batch, Event, Run, Transfer, WeightLoad
from bankside.mapping.lower_npu.storage import (
    Buffer,
    Layout,
    Place,
    Store,
    bank_words,
    to_bytes,
)
from bankside.mapping.npu_graph import Graph, Tensor

CONSTANTS, INPUTS, OUTPUTS, SCRATCH = range(4)
"""Regions of main memory."""
_PART_BYTES = 128
_REGION_BYTES = 4096
_MOST_WAITED = 15


class Image:
    """Main memory: constants and weights, inputs, outputs, tensors that do not fit elsewhere."""

    def __init__(
        self, machine: NpuMachine, graph: Graph, loaded: Sequence[Tensor],
        spilled: Sequence[Tensor],
    ) -> None:  # fmt: skip
        self.machine, self.sizes = machine, [0, 0, 0, 0]
        self.places: dict[int, tuple[int, int]] = {}
        self._blobs: list[bytes] = []
        self._known: dict[bytes, int] = {}
        for tensor in loaded:
            assert tensor.data is not None
            data = to_bytes(tensor.data, tensor, Layout.of(machine, tensor))
            self.places[id(tensor)] = CONSTANTS, self.constant(data)
        for region, tensors in ((OUTPUTS, graph.outputs), (INPUTS, graph.inputs),
                                (SCRATCH, spilled)):  # fmt: skip
            for tensor in tensors:
                if id(tensor) not in self.places:
                    size = Layout.of(machine, tensor).words * WORD_BYTES
                    self.places[id(tensor)] = region, self._reserve(region, size)

    def _reserve(self, region: int, size: int) -> int:
        offset = self.sizes[region]
        self.sizes[region] = _up(offset + size, _PART_BYTES)
        return offset

    def constant(self, data: bytes) -> int:
        """Offset of bytes in the region of constants; equal ones are stored once."""
        if data not in self._known:
            self._known[data] = self._reserve(CONSTANTS, len(data))
            self._blobs.append(data)
        return self._known[data]

    @property
    def regions(self) -> tuple[tuple[int, int], ...]:
        """Raises ConfigError when main memory is too small."""
        found, base = [], 0
        for size in self.sizes:
            found.append((base, size))
            base = _up(base + size, _REGION_BYTES)
        config = self.machine.config
        if base > config.memory.bytes:
            raise ConfigError(
                f"{config.name}: the program needs {base} bytes of main memory, memory.bytes is "
                f"{config.memory.bytes}; raise it"
            )
        return tuple(found)

    def rows(self) -> np.ndarray:
        """Rows of `Program.host_in`."""
        base, size = self.regions[-1]
        total = np.zeros(_up(base + size, _REGION_BYTES), np.uint8)
        for data, offset in self._known.items():
            total[offset : offset + len(data)] = np.frombuffer(data, np.uint8)
        return total.view("<u2").reshape(-1, self.machine.burst_elements)


def _up(value: int, unit: int) -> int:
    return -(-value // unit) * unit


@dataclass(eq=False)
class _Issued:
    """Banks of the shared buffer and words of the weight buffer that a command uses."""

    banks: set[int]
    weights: tuple[int, int] = (0, 0)

    def meets(self, other: _Issued) -> bool:
        (a, b), (c, d) = self.weights, other.weights
        return bool(self.banks & other.banks) or (a < d and c < b)


@dataclass
class _Engine:
    """Commands of one engine; `over` of them are complete when the next one is dispatched."""

    wait: str
    issued: list[_Issued] = field(default_factory=list)
    over: int = 0

    def needed(self, mine: _Issued) -> int:
        """How many must be complete before `mine`."""
        open_ = range(self.over, len(self.issued))
        return max((i + 1 for i in open_ if self.issued[i].meets(mine)), default=0)


class Emitter:
    """Turns events into a program. measured: layers around which the PMU counts; None: all."""

    def __init__(
        self, machine: NpuMachine, image: Image, measured: tuple[str, str] | None = None
    ) -> None:
        self.machine, self.image, self.measured = machine, image, measured
        self.builder = Builder("npu", machine.burst_elements)
        self._held: dict[str, int] = {}
        self._transfers, self._kernel = _Engine("DMA_WAIT"), _Engine("KERNEL_WAIT")
        self._before: str | None = None
        self._writers: list[Buffer] = []  # of operations that may still write

    def emit(self, events: Sequence[Event]) -> Program:
        """The program. Raises ConfigError when `measured` names a layer that is not there."""
        first, last = self._bracket(events)
        if self.measured is not None:
            self.builder.PMU(enable=0)
        for position, event in enumerate(events):
            if position == first:
                self._measure(1)
            self._event(event)
            if position == last:
                self._measure(0)
        self.builder.STOP()
        return Program("npu", tuple(self.builder.words), self.image.rows(), {}, self.image.regions)

    def _bracket(self, events: Sequence[Event]) -> tuple[int, int]:
        """First and last event that are measured; -1: none."""
        if self.measured is None:
            return -1, -1
        found = []
        for name, pick in zip(self.measured, (min, max), strict=True):
            runs = [i for i, e in enumerate(events) if isinstance(e, Run) and e.op.layer == name]
            if not runs:
                raise ConfigError(f"measured: no layer {name!r}; name a layer of the graph")
            found.append(pick(runs))
        return found[0], found[1]

    def _measure(self, enable: int) -> None:
        self._synchronise()
        self.builder.PMU(enable=enable)

    def _synchronise(self) -> None:
        for engine in (self._transfers, self._kernel):
            self._wait(engine, len(engine.issued))

    # --- events ---------------------------------------------------------------------------------
    def _event(self, event: Event) -> None:
        if isinstance(event, Run):
            self._run(event)
        else:
            self._transfer(event)

    def _transfer(self, event: Transfer) -> None:
        registers, direction, size = self._transfer_registers(event)
        issued = self._transfer_use(event, registers["buf"], size)
        self._order(self._kernel, issued)
        self._set({**registers, "rows": 1, "row_bytes": size})
        self.builder.DMA(direction=direction)
        self._transfers.issued.append(issued)

    def _transfer_registers(self, event: Transfer) -> tuple[dict[str, int], str, int]:
        bus = self.machine.bus_bytes
        if isinstance(event, WeightLoad | Batch):
            weights = isinstance(event, WeightLoad)
            data = event.chunk.data if weights else event.data()
            data = data.ljust(_up(len(data), bus), b"\0")
            unit = self.machine.weight_port_bytes if weights else WORD_BYTES
            registers = {"region": CONSTANTS, "offset": self.image.constant(data),
                         "buf": event.address * unit}  # fmt: skip
            return registers, "to_weights" if weights else "to_shared", len(data)
        region, offset = self.image.places[id(event.tensor)]
        registers = {"region": region, "offset": offset + event.offset,
                     "buf": event.buffer.address * WORD_BYTES + event.start}  # fmt: skip
        return registers, "to_memory" if isinstance(event, Store) else "to_shared", event.size

    def _transfer_use(self, event: Transfer, byte: int, size: int) -> _Issued:
        if isinstance(event, WeightLoad):
            words = -(-size // self.machine.weight_port_bytes)
            return _Issued(set(), (event.address, event.address + words))
        return _Issued(self._banks(byte // WORD_BYTES, -(-size // WORD_BYTES)))

    def _banks(self, word: int, words: int) -> set[int]:
        bank = bank_words(self.machine)
        return set(range(word // bank, (word + words - 1) // bank + 1))

    def _run(self, run: Run) -> None:
        op = run.op
        if run.batch is not None:
            run.batch.place()
        registers = {
            name: value.value() if isinstance(value, Place) else value
            for name, value in op.registers.items()
        }
        issued = self._use(run)
        if op.weights is not None:
            registers["weights"] = run.weights
        self._order(self._transfers, issued)
        if op.command in MAC_OPERATIONS:
            registers["depend"] = self._depends(run)
        self._set(registers)
        self.builder.emit(op.command, **op.fields)
        self._kernel.issued.append(issued)
        self._before = op.command

    def _use(self, run: Run) -> _Issued:
        op, weights = run.op, (0, 0)
        banks: set[int] = set()
        for part in (*op.reads, op.writes, *op.constants):
            banks |= self._banks(part.address, part.words)
        if op.weights is not None:
            words = len(op.weights.data) // self.machine.weight_port_bytes
            weights = (run.weights, run.weights + words)
        return _Issued(banks, weights)

    def _depends(self, run: Run) -> int:
        """1 where it may start while the results before it are still written."""
        both = self._before in MAC_OPERATIONS
        if not both or any(b is w for b in run.op.reads for w in self._writers):
            self._writers = []
            early = 0
        else:
            early = 1
        self._writers.append(run.op.writes)
        return early

    # --- commands -------------------------------------------------------------------------------
    def _order(self, engine: _Engine, issued: _Issued) -> None:
        self._wait(engine, engine.needed(issued))

    def _wait(self, engine: _Engine, needed: int) -> None:
        """Until the first `needed` commands of an engine are complete."""
        if needed <= engine.over:
            return
        outstanding = min(len(engine.issued) - needed, _MOST_WAITED)
        self.builder.emit(engine.wait, outstanding=outstanding)
        engine.over = len(engine.issued) - outstanding

    def _set(self, registers: dict[str, int]) -> None:
        for name, value in registers.items():
            value = _mask(value)
            if self._held.get(name, 0) != value:
                self._held[name] = value
                self.builder.SET(reg=name, value=value)


def _mask(value: int) -> int:
    return value & 0xFFFFFFFF
