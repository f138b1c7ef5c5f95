"""The `array` engine in agreement runs. See `bankside.sim.agree.Unit`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from bankside.config_array import ArrayConfig, ArrayHardware, MemoryConfig
from bankside.isa.array_machine import ArrayMachine
from bankside.isa.program import Program
from bankside.sim.agree import Unit, load_config
from bankside.sim.engine import Result
from bankside.sim.random_programs_array import random_programs

#: Extremes of what can be configured: nothing to spare, and plenty of everything.
EXTREMES = {
    "array_5x7_narrow": ArrayHardware(
        name="array_5x7_narrow",
        engine="array",
        array=ArrayConfig(
            rows=5, columns=7, bus_bytes=4, score_registers=1, queue_depth=1, divider_bits=3
        ),
        memory=MemoryConfig(read_latency_cycles=1, write_latency_cycles=1, outstanding=1),
    ),
    "array_12x9_wide": ArrayHardware(
        name="array_12x9_wide",
        engine="array",
        array=ArrayConfig(
            rows=12, columns=9, bus_bytes=64, score_registers=8, queue_depth=9, return_cycles=5
        ),
        memory=MemoryConfig(
            read_latency_cycles=70, write_latency_cycles=40, beat_cycles=3, outstanding=5
        ),
    ),
}
_PRESETS = ("array_4x4", "array_6x10", "array_8x8_deep", "array_16x16")


class ArrayUnit(Unit):
    """Presets and `EXTREMES`."""

    sets = {
        "full": (*_PRESETS, *EXTREMES),
        "all": (*_PRESETS, *EXTREMES),
        "quick": ("array_4x4", "array_5x7_narrow"),
    }
    clock_domain = "array"

    def machines(self, name: str) -> Iterator[ArrayMachine]:
        yield ArrayMachine.of(EXTREMES.get(name) or load_config(name, "array"))

    def variant(self, machine: ArrayMachine) -> str:
        return ""

    def programs(
        self, rng: np.random.Generator, machine: ArrayMachine
    ) -> Iterator[tuple[str, Program]]:
        yield from random_programs(rng, machine)

    def counts(self, machine: ArrayMachine, result: Result) -> Mapping[str, int]:
        return {}


UNIT = ArrayUnit()
