"""Evaluator `attention_timing`: attention on an engine, by its cycle-exact timing model."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field

from bankside.config import DRAM_STANDARDS, HARDWARE, HardwareConfig
from bankside.errors import ConfigError
from bankside.isa.array_machine import ArrayMachine
from bankside.isa.machine import Machine
from bankside.isa.machines import machine_of
from bankside.isa.program import Program
from bankside.mapping.explore.evaluate import Evaluator, checked
from bankside.mapping.lower_array import ArrayKernels, AttentionShape
from bankside.mapping.lower_pim import KvLayout, PimKernels, Shape
from bankside.schema import Section
from bankside.sim.timing.array import ArrayTiming
from bankside.sim.timing.pim import PimTiming

_FP32_BYTES, _ACCUMULATORS = 4, 2
_GEOMETRY = ("bank_groups", "banks_per_group", "columns")


class Workload(Section):
    """One attention.

    Attributes:
        queries: per head; on `pim` one (decode).
        keys: tokens of context. heads, kv_heads: of queries and of keys. e: elements of a head.
        causal, binding, format: `array` only.
        nhc: chips that share a head, `pim` only.
    """

    queries: int = Field(default=1, ge=1)
    keys: int = Field(ge=1)
    heads: int = Field(default=1, ge=1)
    kv_heads: int = Field(default=1, ge=1)
    e: int = Field(default=64, ge=1)
    causal: bool = False
    binding: str = "interleaved"
    format: str = "fp16"
    nhc: int = Field(default=1, ge=1)


class AttentionTiming(Evaluator):
    """Cycles of attention, exact: the programs that an RTL run would execute are timed.

    `multipliers` and `buffer_bytes` stand for area: no published area covers all machines here.
    """

    metrics = ("cycles", "seconds", "multipliers", "buffer_bytes")

    def load(self, source: str) -> dict[str, Any]:
        """A hardware preset or file of the engines `array` and `pim`."""
        config = HardwareConfig.load(source)
        if config.engine not in ("array", "pim"):
            raise ConfigError(
                f"{source} is a machine of the engine {config.engine!r}; attention_timing knows "
                f"array and pim"
            )
        return config.model_dump(mode="json")

    def check_base(self, base: dict[str, Any]) -> None:
        hardware(base)

    def check_workload(self, workload: Mapping[str, Any], folder: Path) -> None:
        checked(Workload, workload, "workload")

    def followers(self, base: Mapping[str, Any]) -> Mapping[str, tuple[str, ...]]:
        return hardware_followers(base)

    def run(
        self, base: dict[str, Any], workload: dict[str, Any], folder: Path
    ) -> Mapping[str, float]:
        """Raises ConfigError where the machine is not possible or cannot hold the work."""
        work = checked(Workload, workload, "workload")
        config = hardware(base)
        machine: Any = machine_of(config)
        measure = _array if config.engine == "array" else _pim
        cycles, multipliers, buffers = measure(machine, work)
        return {
            "cycles": cycles,
            "seconds": cycles / (machine.config.clock_mhz * 1e6),
            "multipliers": multipliers,
            "buffer_bytes": buffers,
        }


def hardware(base: Mapping[str, Any]) -> HardwareConfig:
    """Raises ConfigError."""
    return checked(HARDWARE.get(base["engine"]), base, "machine")


def hardware_followers(base: Mapping[str, Any]) -> dict[str, tuple[str, ...]]:
    """Geometry that is the DRAM standard's own is that of another standard too."""
    if base["engine"] != "pim":
        return {}
    dram = base["dram"]
    standard = DRAM_STANDARDS.get(dram["standard"])
    own = (f"dram.{key}" for key in _GEOMETRY if dram[key] == getattr(standard, key))
    return {"dram.standard": tuple(own)}


def _array(machine: ArrayMachine, work: Workload) -> tuple[int, int, int]:
    shape = AttentionShape(
        queries=work.queries, keys=work.keys, heads=work.heads, kv_heads=work.kv_heads,
        e=work.e, f=work.e, causal=work.causal,
    )  # fmt: skip
    kernels = ArrayKernels(machine, shape, work.binding, work.format)
    # Cycles do not depend on values.
    queries = np.zeros((1, work.queries, work.heads, work.e), np.uint16)
    keys = np.zeros((1, work.keys, work.kv_heads, work.e), np.uint16)
    timing = ArrayTiming(machine)
    cycles = sum(timing.run(p).cycles or 0 for p in kernels.programs(queries, keys, keys))
    a = machine.config.array
    banks = a.bus_bytes * (a.rows * a.row_words + a.columns * a.column_words)
    lanes = a.columns * a.lane_words * _FP32_BYTES * _ACCUMULATORS
    return cycles, a.rows * a.columns, banks + lanes


def _pim(machine: Machine, work: Workload) -> tuple[int, int, int]:
    if work.queries != 1:
        raise ConfigError(f"queries is {work.queries}; pim decodes: expected 1 per head")
    shape = Shape(1, work.kv_heads, work.heads, work.e, work.keys)
    layout = KvLayout.of(machine, shape, nhc=work.nhc)
    new = np.zeros((work.kv_heads, work.e), np.uint16)
    queries = np.zeros((work.heads, work.e), np.uint16)
    timing = PimTiming(machine)
    programs: list[Program] = PimKernels(layout).decode(0, work.keys, queries, new, new)
    cycles = sum(timing.run(program).cycles or 0 for program in programs)
    pim, dram = machine.config.pim, machine.config.dram
    words = (pim.shared_buffer_words + pim.score_words + pim.probability_words
             + pim.staging_words + pim.result_buffer_words * dram.banks)  # fmt: skip
    lanes = dram.chips * dram.banks * dram.elements * pim.query_lanes
    return cycles, lanes, words * dram.burst_bytes


ATTENTION_TIMING = AttentionTiming()
