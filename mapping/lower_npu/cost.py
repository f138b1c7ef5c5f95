"""Cycles of operations, near enough to choose by, and the choice of `weight_mode` and `block`.

The period of a step follows from the two tiles that the weight unit holds, units from the two
accumulator buffers. Ref: docs/npu.md section 5.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from bankside.isa.npu_machine import (
    DECODED,
    DEPTH,
    MAC_LATENCY,
    OUTPUT_LATENCY,
    SETUP,
    VECTOR_LATENCY,
    NpuMachine,
)
from bankside.isa.npu_weights import STEP_CHANNELS

_TABLE = 8


@dataclass(frozen=True)
class MacShape:
    """A CONV, DEPTHWISE, MATMUL or POOL.

    places: of the window. inputs: channels of CONV and MATMUL, else 0. tile_words: cycles of the
    weight unit per tile in grid and row mode (0: none). moved: cycles of the transfers of all tiles
    in both modes. packed: a decoder follows. per_channel: a
    record for each output, else one. scaled: records at all. table: `lut_enable`.
    """

    positions: int
    outputs: int
    places: int
    inputs: int
    tile_words: tuple[float, float]
    moved: tuple[float, float] = (0, 0)
    packed: bool = False
    scaled: bool = True
    per_channel: bool = True
    table: bool = False


@dataclass(frozen=True)
class Choice:
    """Row mode or grid, positions of a block, cycles."""

    row: bool
    block: int
    cycles: float


def choose(machine: NpuMachine, shape: MacShape) -> Choice:
    """Mode and block of the fewest cycles, or of the fewest for moving weights where that takes
    longer; of equal ones the larger block.
    """
    best: tuple[tuple[float, float], Choice] | None = None
    for row in (False, True) if machine.wide else (False,):
        micro = 1 if row else machine.positions
        most = min(machine.config.npu.accumulators, -(-shape.positions // micro) * micro)
        for block in sorted(
            {min(b, most) for b in range(micro, most + micro, micro)}, reverse=True
        ):
            cycles = mac_cycles(machine, shape, row, block)
            key = max(cycles, shape.moved[row]), cycles
            if best is None or key < best[0]:
                best = key, Choice(row, block, cycles)
    assert best is not None
    return best[1]


def mac_cycles(machine: NpuMachine, shape: MacShape, row: bool, block: int) -> float:
    """From start to completion."""
    group = machine.group(row)
    groups, left = divmod(shape.outputs, group)
    parts = [(group, groups)] * (groups > 0) + [(left, 1)] * (left > 0)
    full, rest = divmod(shape.positions, block)
    walk = _Walk()
    for positions, blocks in [(block, full)] * (full > 0) + [(rest, 1)] * (rest > 0):
        steps = _steps(machine, shape, row, positions)
        units = [
            (steps, _record(shape, channels) + positions * -(-channels // machine.output_rate), n)
            for channels, n in parts
        ]
        walk.repeat(blocks, lambda units=units: walk.units(units))
    words = shape.tile_words[row]
    fill = (words + 1 if words else 0) + _decode(machine, shape, row)
    table = _TABLE if shape.table else 0
    return SETUP + fill + walk.outputs[0] + OUTPUT_LATENCY + table


class _Walk:
    """Ends of the steps and of the last two outputs, unit after unit; repetitions of a pattern that
    has settled are skipped.
    """

    _SETTLED = 3

    def __init__(self) -> None:
        self.steps = 0.0
        self.outputs = (0.0, 0.0)

    def units(self, units: list[tuple[float, float, int]]) -> None:
        """(cycles of the steps, of the output, how many of them)."""
        for steps, output, count in units:
            self.repeat(count, lambda steps=steps, output=output: self._unit(steps, output))

    def repeat(self, count: int, once: Callable[[], None]) -> None:
        before = self.steps
        for _ in range(min(count, self._SETTLED)):
            before = self.steps
            once()
        skipped = max(count - self._SETTLED, 0) * (self.steps - before)
        self.steps += skipped
        self.outputs = (self.outputs[0] + skipped, self.outputs[1] + skipped)

    def _unit(self, steps: float, output: float) -> None:
        last, before = self.outputs
        free = before + 1 if before else 0
        self.steps = max(self.steps, free) + steps
        self.outputs = max(last, self.steps + MAC_LATENCY) + output, last


def _record(shape: MacShape, channels: int) -> int:
    if not shape.scaled:
        return 0
    return -(-channels // 2) if shape.per_channel else 1


def _decode(machine: NpuMachine, shape: MacShape, row: bool) -> float:
    if not shape.packed:
        return 0
    weights = machine.group(row) * (STEP_CHANNELS if shape.inputs else 1)
    return max(weights / DECODED, 1)


def _steps(machine: NpuMachine, shape: MacShape, row: bool, positions: int) -> float:
    """Cycles of all steps of a unit."""
    micro = 1 if row else machine.positions
    microblocks = -(-positions // micro)
    fetch, decode = shape.tile_words[row], _decode(machine, shape, row)
    total = 0.0
    for channels, count in _blocks(shape):
        mac = microblocks * max(micro, -(-channels // DEPTH))
        period = mac if not fetch else max(mac, fetch, (fetch + mac + 2) / 2)
        if decode:
            both = (decode + mac + 2) / 2, (fetch + decode + 2) / 2
            period = max(mac, fetch, decode, *both)
        total += period * count
    return total


def _blocks(shape: MacShape) -> list[tuple[int, int]]:
    """(input channels of a step, steps)."""
    if not shape.inputs:
        return [(1, shape.places)]
    full, rest = divmod(shape.inputs, STEP_CHANNELS)
    found = [(STEP_CHANNELS, full)] if full else []
    found += [(rest, 1)] if rest else []
    return [(channels, count * shape.places) for channels, count in found]


# --- vector unit --------------------------------------------------------------------------------


def elementwise_cycles(machine: NpuMachine, positions: int, channels: int, table: bool) -> int:
    body = positions * -(-channels // machine.vector_rate) + (_TABLE if table else 0)
    return SETUP + body + VECTOR_LATENCY


def softmax_cycles(machine: NpuMachine, positions: int, channels: int) -> int:
    each = -(-channels // machine.vector_rate) + 2 * channels + 40
    return SETUP + 32 + positions * each + VECTOR_LATENCY


def norm_cycles(positions: int, channels: int, layer: bool) -> int:
    each = 3 * channels + 110 if layer else 2 * channels + 60
    return SETUP + positions * each + VECTOR_LATENCY


def copy_cycles(elements: int) -> int:
    return SETUP + elements + VECTOR_LATENCY


def transfer_cycles(machine: NpuMachine, size: int) -> int:
    """Least cycles of so many bytes on the data port."""
    return -(-size // machine.bus_bytes) * machine.config.memory.beat_cycles
