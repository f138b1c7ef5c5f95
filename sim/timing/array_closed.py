"""Closed forms of the `array` engine's time, for scalars and NumPy arrays of shapes alike.

`program_cycles` is exact for programs whose data lie in the banks: kernels and RUNs, no tokens. The
attention of whole shapes builds on it (sim/timing/array_closed_attention.py).

Ref: docs/array.md sections 3 and 4.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bankside.errors import ProgramError
from bankside.isa.array_machine import ArrayMachine
from bankside.isa.array_schedule import Schedule

#: A number, or one number per shape.
Size = int | NDArray[np.int64]


def larger(a: Size, b: Size) -> Size:
    """The larger of two numbers, element by element where one of them is an array."""
    if isinstance(a, np.ndarray) or isinstance(b, np.ndarray):
        return np.maximum(a, b)
    return a if a >= b else b


def smaller(a: Size, b: Size) -> Size:
    """The smaller of two numbers, as `larger`."""
    if isinstance(a, np.ndarray) or isinstance(b, np.ndarray):
        return np.minimum(a, b)
    return a if a <= b else b


def choose(condition: Any, a: Size, b: Size) -> Size:
    """a where the condition holds, else b."""
    if isinstance(condition, np.ndarray):
        return np.where(condition, a, b)
    return a if condition else b


def floor_sum(n: Size, divisor: Size, step: Size, start: Size) -> Size:
    """Sum of floor((step * i + start) / divisor) over i = 0 .. n - 1, all of them at least 0.

    Euclid's algorithm: a few steps whatever n is.
    """
    if not any(isinstance(x, np.ndarray) for x in (n, divisor, step, start)):
        total = 0
        while n > 0:
            total += (step // divisor * (n - 1) * n >> 1) + start // divisor * n
            step, start = step % divisor, start % divisor
            n, start = divmod(step * n + start, divisor)
            divisor, step = step, divisor
        return total
    n, divisor, step, start = (
        np.array(x, np.int64) for x in np.broadcast_arrays(n, divisor, step, start)
    )
    total = np.zeros(n.shape, np.int64)
    while (n > 0).any():
        divisor = np.where(n > 0, divisor, 1)
        total += np.where(n > 0, (step // divisor * (n - 1) * n >> 1) + start // divisor * n, 0)
        step, start = step % divisor, start % divisor
        n, start = np.divmod(step * n + start, divisor)
        divisor, step = step, divisor
    return total


@dataclass(frozen=True)
class Kernel:
    """What time depends on in a schedule.

    Attributes:
        ii: slots of a pass.
        deep: passes from the start of an iteration to the one in which it ends.
        stop: slots of that last pass, up to and including the `done` slot.
        free: cycles from the start of an iteration to the end of the block that frees its rows.
        commands: KERNEL and its BLOCKs.
    """

    ii: int
    deep: int
    stop: int
    free: int
    commands: int

    @classmethod
    def of(cls, schedule: Schedule) -> Kernel:
        """Raises ProgramError when not exactly one block is marked `done`."""
        done = [block for block in schedule.blocks if block.done]
        if len(done) != 1:
            raise ProgramError(
                f"schedule: {len(done)} blocks are marked done; mark the one that ends last "
                f"(Schedule.marked)"
            )
        free = max((schedule.end(b) for b in schedule.blocks if b.free), default=0)
        return cls(schedule.ii, done[0].stage, done[0].stop, free, 1 + len(schedule.blocks))

    @property
    def span(self) -> int:
        """Cycles from slot 0 of an iteration's first pass to its `done` slot, both included."""
        return self.deep * self.ii + self.stop

    @property
    def period(self) -> int:
        """Cycles from one iteration to the next.

        A pass that ends early, since nothing younger is under way, is followed by a decision.
        """
        return self.ii if self.deep else min(self.ii, self.stop + 1)

    @property
    def joins(self) -> int:
        """Passes from an iteration to the last one that can follow it without a decision cycle."""
        return self.deep + (self.stop == self.ii)

    def cycles(self, tiles: Size) -> Size:
        """Cycles of the passes of that many tiles in RUNs that follow each other at once."""
        return (tiles - 1) * self.period + self.span


_MULTIPLIES = ("qk", "fill", "slnv")


def action_cycles(schedule: Schedule, tiles: int, machine: ArrayMachine) -> int:
    """Cycles from the first to the last multiplication (or filled weight) in any PE, for tiles that
    never wait.

    It is the difference of two cycle numbers, as SCALE-Sim counts, not the number of cycles.
    """
    blocks = [block for block in schedule.blocks if block.op in _MULTIPLIES]
    first, last = min(map(schedule.begin, blocks)), max(map(schedule.end, blocks)) - 1
    across = machine.rows - 1 + machine.columns - 1
    return (tiles - 1) * schedule.ii + last + across - first


@dataclass(frozen=True)
class Segment:
    """RUNs under one schedule.

    Attributes:
        kernel: the schedule; its KERNEL and BLOCKs stand in front.
        tiles: of each RUN.
        sets: SET commands in front of each RUN (after the one before).
    """

    kernel: Kernel
    tiles: Sequence[Size]
    sets: Sequence[int]


def program_cycles(machine: ArrayMachine, segments: Sequence[Segment], sets: int = 0) -> Size:
    """Cycles of a program that has its data: `sets` SETs, the segments, HALT. Exact.

    Tiles may be arrays; so is then the result.
    """
    depth = machine.config.array.queue_depth
    command: Size = sets  # cycle in which the next command can be taken
    for segment in segments:
        kernel, end, last = segment.kernel, 0, None
        command = command + kernel.commands
        decided: list[Size] = []
        for tiles, before in zip(segment.tiles, segment.sets, strict=True):
            command = command + before
            if len(decided) >= depth:  # the queue has room after this decision
                command = larger(command, decided[-depth] + 1)
            start = _start(kernel, last, command + 1)
            decided.append(start - 1)
            last = start + (tiles - 1) * kernel.period
            end = last + kernel.span - 1
            command = command + 1
        # KERNEL and HALT wait until the engine has settled.
        command = larger(command, end + machine.settle + 1)
    return command + 1


def _start(kernel: Kernel, last: Size | None, there: Size) -> Size:
    """Slot 0 of a RUN that is in the queue from cycle `there` on.

    last: slot 0 of the tile before, which is still under way or not; None: there is none.
    """
    if last is None:
        return there + 1
    idle = larger(there, last + kernel.span) + 1
    if not kernel.joins:
        return idle
    passes = larger(1, -(-(there + 1 - last) // kernel.ii))
    return choose(passes <= kernel.joins, last + passes * kernel.ii, idle)
