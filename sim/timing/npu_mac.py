"""CONV, DEPTHWISE, MATMUL and POOL of the `npu` engine as recurrences over steps.

Units that begin in the same relative state take equally long, and so do whole blocks: each is
worked out once. Ref: docs/npu.md section 5.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from bankside.isa.npu_machine import DECODED, DEPTH, MAC_LATENCY, NpuMachine
from bankside.isa.npu_weights import STEP_CHANNELS, WeightLayout
from bankside.isa.spec import load_spec

SPEC = load_spec("npu")
PACKED = SPEC.enums["weight_format"]["packed"]
_SCALE_MODE = SPEC.enums["scale_mode"]
#: Cycles in which the table is read before the first results of an operation.
TABLE_CYCLES = 8
#: Relative states that one layer remembers.
_MOST_MEMOS = 65536


class Unit(NamedTuple):
    """One block of positions and one group of channels.

    microblocks: n(b). group: index. output: cycles of the output unit.
    """

    microblocks: int
    group: int
    output: int


class Passed(NamedTuple):
    """What a unit (or a block of them) does, all relative to M_end before it.

    end: M_end of its last step. weights: cycles without a step in which the tile lacks. state:
    relative to `end`.
    """

    end: int
    weights: int
    state: tuple[int, ...]


class Step(NamedTuple):
    """Absolute cycles of one step. there: first cycle in which its tile is there (POOL: None)."""

    start: int
    end: int
    there: int | None


class Worked(NamedTuple):
    """An operation from t0 on, absolute: M_end of the last step, A_end of the last two units (the
    last one first), cycles of `mac` and `weights`.
    """

    end: int
    outputs: tuple[int, int]
    mac: int
    weights: int


@dataclass(frozen=True)
class Layer:
    """What the time of a MAC operation depends on.

    positions: of each block. groups: channels that exist, of each group. steps: cycles per
    microblock of each step. words: cycles of the weight unit (or reader) per group and step; empty:
    POOL. decode: cycles of the decoder per tile; 0: weights are not packed. record: cycles for the
    records of each group. table: more cycles of the first unit.
    """

    positions: tuple[int, ...]
    groups: tuple[int, ...]
    steps: tuple[int, ...]
    words: tuple[tuple[int, ...], ...]
    decode: int
    record: tuple[int, ...]
    table: int
    microblock: int
    output_rate: int


class Plan:
    """One layer with what has been worked out about it."""

    def __init__(self, layer: Layer) -> None:
        self._layer = layer
        self._kinds: dict[tuple, int] = {}
        self._units: dict[tuple, Passed] = {}
        self._blocks: dict[tuple, Passed] = {}
        self._pass = self._pool if not layer.words else self._packed if layer.decode else self._raw

    def run(self, t0: int, outputs: tuple[int, int], log: list[Step] | None = None) -> Worked:
        """From t0 on, after units with A_end `outputs` (the last one first).

        log: where to note every step (nothing is skipped then).
        """
        state = self._start(*(a - t0 for a in outputs))
        end, weights, microblocks = t0, 0, 0
        for index, positions in enumerate(self._layer.positions):
            passed = self._block(index, positions, state, None if log is None else (log, end))
            end, weights, state = end + passed.end, weights + passed.weights, passed.state
            microblocks += -(-positions // self._layer.microblock)
        mac = microblocks * sum(self._layer.steps) * len(self._layer.groups)
        return Worked(end, (end + state[-2], end + state[-1]), mac, weights)

    def _start(self, last: int, before: int) -> tuple[int, ...]:
        """State at t0: nothing fetched, no step yet."""
        front = () if not self._layer.words else (0, 0, -1) if self._layer.decode else (0,)
        return (*front, max(last, -1), max(before, -1))

    def _block(self, index: int, positions: int, state: tuple, log: tuple | None) -> Passed:
        first = index == 0 and self._layer.table > 0
        key = (positions, first, state)
        if log is None and key in self._blocks:
            return self._blocks[key]
        end = weights = 0
        for group in range(len(self._layer.groups)):
            unit = self._unit(positions, group, first and group == 0)
            at = None if log is None else (log[0], log[1] + end)
            passed = self._one(unit, state, at)
            end, weights, state = end + passed.end, weights + passed.weights, passed.state
        found = Passed(end, weights, state)
        _remember(self._blocks, key, found)
        return found

    def _unit(self, positions: int, group: int, first: bool) -> Unit:
        layer = self._layer
        output = positions * -(-layer.groups[group] // layer.output_rate) + layer.record[group]
        return Unit(
            -(-positions // layer.microblock), group, output + (layer.table if first else 0)
        )

    def _one(self, unit: Unit, state: tuple, log: tuple | None) -> Passed:
        """Units of groups whose tiles have equally many words are alike."""
        words = self._layer.words[unit.group] if self._layer.words else ()
        kind = self._kinds.setdefault((unit.microblocks, unit.output, words), len(self._kinds))
        key = (kind, state)
        if log is not None:
            return self._pass(unit, state, log)
        if key not in self._units:
            _remember(self._units, key, self._pass(unit, state, None))
        return self._units[key]

    # --- one unit -------------------------------------------------------------------------------
    # States end with A_end of the last two units, relative to M_end of the last step as all else.
    # Numbers too low to matter are raised to the highest that does not matter, so states repeat.

    def _pool(self, unit: Unit, state: tuple, log: tuple | None) -> Passed:
        last, before = state
        end = max(0, before + 1)
        for cycles in self._layer.steps:
            start, end = end, end + unit.microblocks * cycles
            _note(log, start, end, None)
        return _passed(unit, end, 0, (), last)

    def _raw(self, unit: Unit, state: tuple, log: tuple | None) -> Passed:
        """State begins with the next F_start."""
        fetch, last, before = state
        end, weights, earliest = 0, 0, before + 1
        words = self._layer.words[unit.group]
        for count, cycles in zip(words, self._layer.steps, strict=True):
            there = fetch + count + 1
            start = max(end, there, earliest)
            weights += max(there - end, 0)
            fetch, end = max(there - 1, end + 1), start + unit.microblocks * cycles
            earliest = end
            _note(log, start, end, there)
        return _passed(unit, end, weights, (fetch,), last)

    def _packed(self, unit: Unit, state: tuple, log: tuple | None) -> Passed:
        """State begins with the next R_start, D_end of the last tile, M_end before the last."""
        read, decoded, older, last, before = state
        end, weights, earliest = 0, 0, before + 1
        words = self._layer.words[unit.group]
        for count, cycles in zip(words, self._layer.steps, strict=True):
            received = read + count
            read = max(received, decoded + 1)
            decoded = max(decoded, received + 1, older + 1) + self._layer.decode
            start = max(end, decoded + 1, earliest)
            weights += max(decoded + 1 - end, 0)
            older, end = end, start + unit.microblocks * cycles
            earliest = end
            _note(log, start, end, decoded + 1)
        decoded = max(decoded, read)
        return _passed(unit, end, weights, (read, decoded, max(older, decoded - 1)), last)


def _passed(unit: Unit, end: int, weights: int, front: tuple[int, ...], last: int) -> Passed:
    """`front`: what the state begins with; last: A_end of the unit before."""
    output = max(last, end + MAC_LATENCY) + unit.output
    back = (output - end, max(last - end, -1))
    return Passed(end, weights, (*(cycle - end for cycle in front), *back))


def _note(log: tuple | None, start: int, end: int, there: int | None) -> None:
    if log is not None:
        steps, at = log
        steps.append(Step(at + start, at + end, None if there is None else at + there))


def _remember(memos: dict, key: tuple, passed: Passed) -> None:
    if len(memos) >= _MOST_MEMOS:
        memos.clear()
    memos[key] = passed


# --- layers of operations -----------------------------------------------------------------------


def weight_layout(machine: NpuMachine, name: str, registers: Mapping[str, int]) -> WeightLayout:
    """Tiles of a CONV or DEPTHWISE."""
    return WeightLayout(
        format=registers["weight_format"],
        group=machine.group(bool(registers["weight_mode"])),
        port_bytes=machine.weight_port_bytes,
        outputs=registers["ofm_c"],
        kernel=(registers["kernel_h"], registers["kernel_w"]),
        inputs=registers["ifm_c"] if name == "CONV" else None,
    )


def layer_of(
    machine: NpuMachine, name: str, registers: Mapping[str, int], words: Sequence[int]
) -> Layer:
    """The layer of an operation; words: of every tile of CONV and DEPTHWISE, in order."""
    row = bool(registers["weight_mode"])
    microblock, group = 1 if row else machine.positions, machine.group(row)
    groups = _split(registers["ofm_c"], group)
    steps = _steps(name, registers, microblock)
    if name == "MATMUL":
        words = [group] * (len(groups) * len(steps))
    packed = name in ("CONV", "DEPTHWISE") and registers["weight_format"] == PACKED
    weights = group * (STEP_CHANNELS if name == "CONV" else 1)
    return Layer(
        positions=_split(registers["ofm_h"] * registers["ofm_w"], registers["block"]),
        groups=groups,
        steps=steps,
        words=tuple(tuple(words[at : at + len(steps)]) for at in range(0, len(words), len(steps))),
        decode=max(weights // DECODED, 1) if packed else 0,
        record=tuple(_record(name, registers["scale_mode"], g) for g in groups),
        table=TABLE_CYCLES if registers["lut_enable"] else 0,
        microblock=microblock,
        output_rate=machine.output_rate,
    )


def _split(count: int, size: int) -> tuple[int, ...]:
    """`count` in parts of `size`, the last one shorter."""
    return tuple(min(size, count - at) for at in range(0, count, size))


def _steps(name: str, registers: Mapping[str, int], microblock: int) -> tuple[int, ...]:
    """Cycles per microblock of each step."""
    window = registers["kernel_h"] * registers["kernel_w"]
    if name in ("DEPTHWISE", "POOL"):
        return (microblock,) * window
    parts = _split(registers["ifm_c"], STEP_CHANNELS)
    each = tuple(max(microblock, -(-channels // DEPTH)) for channels in parts)
    return each * window if name == "CONV" else each


def _record(name: str, mode: int, channels: int) -> int:
    if name == "POOL" or mode == _SCALE_MODE["bypass"]:
        return 0
    return 1 if mode == _SCALE_MODE["global"] else -(-channels // 2)
