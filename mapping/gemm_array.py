"""Matrix products on the `array` engine, output-stationary or weight-stationary.

Output-stationary (`os`): the rows hold rows of A, the columns hold columns of B; `qk` makes a tile
of C in the PEs, `drain` takes it out. Weight-stationary (`ws`): `fill` puts a tile of B into the
PEs and `slnv` lets A flow through, the lanes add up over the tiles; `one` and `av` round the sums.
The schedule `pipelined` has the shortest pass, `scale_sim` that of SCALE-Sim, in which a tile
begins when the one before has left the array. Ref: docs/cascades.md; docs/array.md section 3.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from bankside.errors import ConfigError
from bankside.isa.array_machine import ELEMENT_BYTES, ArrayMachine
from bankside.isa.array_schedule import FORMATS, Block, Schedule, check
from bankside.isa.program import Builder, Program
from bankside.isa.spec import load_spec
from bankside.mapping.gemm_array_emit import OutputStationary, Part, WeightStationary
from bankside.mapping.lower_array_plan import refuse
from bankside.mapping.lower_array_shape import U16
from bankside.mapping.schedule_modulo import modulo_schedule
from bankside.sim.timing.array_closed import action_cycles

MODES = ("os", "ws")
SCHEDULES = ("pipelined", "scale_sim")


@dataclass(frozen=True)
class GemmShape:
    """C [m, n] = A [m, k] B [k, n]."""

    m: int
    k: int
    n: int

    def __post_init__(self) -> None:
        for name in ("m", "k", "n"):
            if getattr(self, name) < 1:
                raise ConfigError(f"product: {name} is {getattr(self, name)}; expected at least 1")


def os_cycles(shape: GemmShape, rows: int, columns: int) -> int:
    """Compute cycles of an output-stationary array as SCALE-Sim 3.0.0 counts them.

    Last action minus first one: a single PE that works for one cycle takes 0 of them, hence the -1.
    """
    tiles = -(-shape.m // rows) * -(-shape.n // columns)
    return tiles * (rows + columns + shape.k - 2) - 1


def ws_cycles(shape: GemmShape, rows: int, columns: int) -> int:
    """Compute cycles of a weight-stationary array as SCALE-Sim 3.0.0 counts them."""
    tiles = -(-shape.k // rows) * -(-shape.n // columns)
    return tiles * (2 * rows + columns + shape.m - 2) - 1


def _free_after_drain(schedule: Schedule) -> Schedule:
    """Rows are free when the tile is out: by then the columns of B have been read, too."""
    blocks = tuple(replace(block, free=block.op == "drain") for block in schedule.blocks)
    return replace(schedule, blocks=blocks)


class GemmKernels:
    """Programs for matrix products of one shape.

    Args:
        mode: `os` or `ws`. schedule: `pipelined` or `scale_sim`. format: `fp16` or `bf16`.

    Raises:
        ConfigError: a buffer is too small; the message says which, and what would fit.
    """

    def __init__(
        self,
        machine: ArrayMachine,
        shape: GemmShape,
        mode: str = "os",
        schedule: str = "pipelined",
        format: str = "fp16",
    ) -> None:
        choices = (("mode", mode, MODES), ("schedule", schedule, SCHEDULES),
                   ("format", format, FORMATS))  # fmt: skip
        for name, value, valid in choices:
            if value not in valid:
                raise ConfigError(f"{name} {value!r} is not known; choose from: {', '.join(valid)}")
        self.machine, self.shape, self.mode, self.format = machine, shape, mode, format
        self.row_tiles = -(-shape.m // machine.rows)
        self.deep_tiles = -(-shape.k // machine.rows)
        self.column_blocks = -(-shape.n // machine.columns)
        lanes = machine.config.array.lane_words
        #: Rows of C that a weight-stationary pass makes.
        self.stripe = min(shape.m, lanes)
        self._check_length(shape.k if mode == "os" else self.stripe)
        self.schedules = self._schedules(schedule)
        self.kind = OutputStationary if mode == "os" else WeightStationary
        self.parts = list(self._parts())

    def _check_length(self, length: int) -> None:
        machine = self.machine
        limit = load_spec("array").commands["KERNEL"].field_map["ii"].maximum
        room = limit - 2 * machine.rows - machine.columns
        if length > room:
            raise ConfigError(
                f"product: {length} elements per row of the array; a pass has room for {room}: "
                f"split k into parts and add them"
            )
        if machine.words(length) > machine.config.array.row_words:
            raise refuse(
                machine, "row_words", machine.words(length), f"a row of {length} elements",
                "split k into parts",
            )  # fmt: skip

    def _schedules(self, kind: str) -> list[Schedule]:
        machine, rows, columns = self.machine, self.machine.rows, self.machine.columns
        if self.mode == "os":
            lengths = {"qk": self.shape.k, "drain": rows}
            closed = rows + columns + self.shape.k - 2
        else:
            lengths = {"fill": rows, "slnv": self.stripe}
            closed = 2 * rows + columns + self.stripe - 2
        if kind == "pipelined":
            first, _ = modulo_schedule(lengths, machine, format=self.format)
        else:
            (one, n), (two, m) = lengths.items()
            # The last slot ends the iteration: an earlier one would end the pass, too.
            blocks = (Block(one, closed - n - m, n), Block(two, closed - m, m))
            first = Schedule(closed, blocks, self.format).marked()
            check(first, machine)
        if self.mode == "os":
            return [_free_after_drain(first)]
        results, _ = modulo_schedule({"one": 1, "av": self.stripe}, machine, format=self.format)
        return [first, results]

    @property
    def iterations(self) -> int:
        """Tiles over all programs."""
        if self.mode == "os":
            return self.row_tiles * self.column_blocks
        return self.deep_tiles * self.column_blocks * -(-self.shape.m // self.stripe)

    @property
    def compute_cycles(self) -> int:
        """Cycles from the first to the last action of any PE (timing model; no waiting)."""
        return action_cycles(self.schedules[0], self.iterations, self.machine)

    # --- programs ---------------------------------------------------------------------------------
    def _parts(self) -> Iterator[Part]:
        """Column blocks (and stripes of rows) of each program."""
        stripes = 1 if self.mode == "os" else -(-self.shape.m // self.stripe)
        array, memory = self.machine.config.array, self.machine.config.memory
        for stripe in range(stripes):
            first = 0
            while first < self.column_blocks:
                count = self.column_blocks - first
                while True:
                    part = Part(stripe, first, count)
                    builder, end = self._emit(part)
                    fits = len(builder.build().words) <= array.program_words
                    if fits and end <= memory.bytes:
                        break
                    if count == 1:
                        raise self._too_large(fits, end)
                    count = -(-count // 2)
                yield part
                first += count

    def _too_large(self, fits: bool, end: int) -> ConfigError:
        if not fits:
            needed = len(self._emit(Part(0, 0, 1))[0].words)
            return refuse(
                self.machine, "program_words", needed, "one block of columns", "use fewer rows"
            )
        return ConfigError(
            f"{self.machine.config.name}: memory.bytes is {self.machine.config.memory.bytes}, one "
            f"block of columns needs {end}; use a smaller product or raise memory.bytes"
        )

    def _emit(self, part: Part) -> tuple[Builder, int]:
        emitter = self.kind(self, part)
        emitter.emit()
        return emitter.b, emitter.end

    def programs(self, a: U16, b: U16) -> list[Program]:
        """Programs for A [m, k] and B [k, n] (bits); run them in any order, then `collect`."""
        s = self.shape
        for name, data, shape in (("A", a, (s.m, s.k)), ("B", b, (s.k, s.n))):
            if data.shape != shape or data.dtype != np.uint16:
                raise ConfigError(
                    f"{name}: {data.dtype} {list(data.shape)}; expected uint16 bits {list(shape)}"
                )
        return [self._program(part, a, b) for part in self.parts]

    def _program(self, part: Part, a: U16, b: U16) -> Program:
        emitter = self.kind(self, part)
        emitter.emit()
        n = self.machine.bus_elements
        image = np.zeros((emitter.end // (n * ELEMENT_BYTES), n), np.uint16)
        emitter.place(image, a, b)
        emitter.b.host_in.append(image)
        emitter.b.outputs["c"] = emitter.result_words
        return emitter.b.build()

    def collect(self, results: Sequence[Any]) -> U16:
        """Results of `programs` (or their main memories) -> bits of C [m, n]."""
        out = np.zeros((self.shape.m, self.shape.n), np.uint16)
        for part, result in zip(self.parts, results, strict=True):
            emitter = self.kind(self, part)
            emitter.emit()
            emitter.take(getattr(result, "outputs", result), out)
        return out
