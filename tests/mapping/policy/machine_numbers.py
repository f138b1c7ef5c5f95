"""What every number of a machine does to a pass when it grows: one table for all properties.

`RULES` has a line for each numeric field that a machine's description can hold. The walk through
the schema (`numeric_fields`) finds them, so a new field without a line is noticed.
"""

from __future__ import annotations

import math
import typing
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from pydantic import BaseModel

from bankside.errors import ConfigError
from bankside.mapping.system.system import System


@dataclass(frozen=True)
class Rule:
    """How a pass answers.

    Attributes:
        better: 1: when larger; -1: when smaller; 0: it makes no difference to time and capacity;
            None: another machine or other numbers, not more of this one: not compared.
        why: reason of a 0, of None, of a bound, of what has to grow along.
        bound: never more than so many times as slow; 1: never slower.
        along: paths that grow by the same factor, without which the machine would be another one.
    """

    better: int | None
    why: str = ""
    bound: float = 1.0
    along: tuple[str, ...] = ()


MORE, LESS = Rule(1), Rule(-1)
ENERGY = Rule(0, "energy; passes are priced by time")
WIDTH = Rule(None, "what is computed, not how fast")
#: The first head of a program takes its tiles as they come, later ones wait for more of them.
FEWER_PROGRAMS = Rule(1, "fewer programs: estimates differ for a program's first head", bound=1.02)
#: A rank is another one with other banks, chips and buffers: its programs, N_hc and the results
#: that cross its bus change with it. Docs: policies.md, What holds for every policy.
RANK = Rule(None, "of a rank's own description, by name in every machine; see docs/policies.md")
SAME_PEAK = "at equal peaks more are slower ones; with the peaks, attention of the decode phase \
divides contexts differently"

RULES: dict[str, Rule] = {
    "System.gpus": Rule(
        1, "fewer rows per copy: small products and attention may change their kernel (gpu.md)",
        bound=1.1, along=("logic_pim.memory_bytes", "logic_pim.bandwidth_gbps"),
    ),
    "System.host_links": MORE,
    "Gpu.sms": Rule(
        1, SAME_PEAK, bound=1.1, along=("gpu.matrix_tflops.*", "gpu.vector_tflops.*")
    ),
    "Gpu.clock_mhz": Rule(0, "`matrix_tflops` and `vector_tflops` are at this clock already"),
    "Gpu.memory_bytes": MORE, "Gpu.memory_gbps": MORE, "Gpu.l2_bytes": MORE, "Gpu.l2_gbps": MORE,
    "Gpu.shared_bytes": MORE,
    "Gpu.tiles": Rule(None, "a list of shapes, no amount"),
    "Gpu.tdp_w": Rule(0, "a limit that `throttle` of the fit has in it"), "Gpu.idle_w": ENERGY,
    "Gpu.energy_per_flop_pj": ENERGY, "Gpu.energy_per_byte_pj": ENERGY,
    **{f"Peaks.{name}": MORE for name in
       ("fp64", "fp32", "tf32", "fp16", "bf16", "fp8", "int8", "fp4")},
    "Link.gbps": MORE, "Link.latency_us": LESS, "Link.energy_per_byte_pj": ENERGY,
    "Host.memory_bytes": MORE, "Host.memory_gbps": MORE, "Host.channels": MORE,
    "Host.compute_tflops": MORE, "Host.energy_per_byte_pj": ENERGY,
    **{f"{kind}.{name}": MORE for kind in ("HbmPim", "RankPim")
       for name in ("memory_bytes", "bandwidth_gbps", "max_intensity")},
    **{f"LogicPim.{name}": MORE for name in ("memory_bytes", "bandwidth_gbps", "max_intensity")},
    **{f"{kind}.{name}": ENERGY for kind in ("HbmPim", "RankPim", "LogicPim", "Array", "Npu")
       for name in ("energy_per_byte_pj", "energy_per_flop_pj")},
    "DimmPim.memory_bytes": MORE, "DimmPim.channels": MORE, "DimmPim.dimms_per_channel": MORE,
    "DimmPim.ranks_per_dimm": MORE,
    "DimmPim.query_lanes": MORE,
    "DimmPim.ranksets": Rule(0, "which ranks communicate at a time; transfers are hidden"),
    "DimmPim.energy_per_byte_pj": ENERGY,
    **{f"DramConfig.{name}": RANK for name in
       ("chips", "rows", "bank_groups", "banks_per_group", "columns")},
    **{f"PimConfig.{name}": RANK for name in
       ("query_lanes", "result_buffer_words", "shared_buffer_words", "score_words",
        "probability_words", "staging_words", "program_words", "queue_depth")},
    "Array.count": MORE, "Array.memory_bytes": MORE, "Array.memory_gbps": MORE,
    "Array.buffer_bytes": MORE, "Array.energy_per_buffer_byte_pj": ENERGY,
    "ArrayHardware.clock_mhz": MORE,
    "ArrayConfig.rows": Rule(
        1, "results run through all rows, and tiles of keys are padded to them", bound=1.5
    ),
    "ArrayConfig.columns": Rule(1, "tiles of queries are padded to the columns", bound=1.5),
    **{f"ArrayConfig.{name}": MORE for name in
       ("bus_bytes", "row_words", "column_words", "lane_words", "chunk_words",
        "queue_depth", "divider_bits")},
    "ArrayConfig.program_words": FEWER_PROGRAMS, "MemoryConfig.bytes": FEWER_PROGRAMS,
    "ArrayConfig.score_registers": MORE,
    "ArrayConfig.return_cycles": LESS,
    "NpuMemoryConfig.bytes": MORE,
    **{f"{kind}.outstanding": MORE for kind in ("MemoryConfig", "NpuMemoryConfig")},
    **{f"{kind}.{name}": LESS for kind in ("MemoryConfig", "NpuMemoryConfig")
       for name in ("read_latency_cycles", "write_latency_cycles", "beat_cycles")},
    "NpuMemoryConfig.jitter_cycles": Rule(0, "a test's disturbance of the RTL"),
    "NpuMemoryConfig.seed": Rule(0, "a test's disturbance of the RTL"),
    "Npu.count": MORE, "Npu.memory_bytes": MORE, "Npu.memory_gbps": MORE, "Npu.weight_bits": WIDTH,
    "NpuHardware.clock_mhz": MORE,
    **{f"NpuConfig.{name}": Rule(1, "repeated tiles are within 0.1 % of the program", bound=1.001)
       for name in ("macs", "shared_words", "banks", "weight_bytes", "accumulators",
                    "queue_depth")},
}  # fmt: skip


# --- the schema -----------------------------------------------------------------------------------
def _is_numeric(annotation: object) -> bool:
    if typing.get_origin(annotation) is typing.Annotated:
        return _is_numeric(typing.get_args(annotation)[0])
    if typing.get_origin(annotation) is typing.Literal:
        return any(type(value) in (int, float) for value in typing.get_args(annotation))
    inside = typing.get_args(annotation)
    return any(map(_is_numeric, inside)) if inside else annotation in (int, float)


def _sections(annotation: object) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for inside in typing.get_args(annotation):
        yield from _sections(inside)


def numeric_fields(roots: Iterable[type[BaseModel]]) -> set[str]:
    """`Class.field` of every number in these sections and in all below them."""
    found: set[str] = set()
    seen: set[type[BaseModel]] = set()
    waiting = list(roots)
    while waiting:
        section = waiting.pop()
        if section in seen:
            continue
        seen.add(section)
        for name, field in section.model_fields.items():
            waiting += _sections(field.annotation)
            if _is_numeric(field.annotation):
                found.add(f"{section.__name__}.{name}")
    return found


# --- one machine ----------------------------------------------------------------------------------
def numbers(section: BaseModel, prefix: str = "") -> Iterator[tuple[str, str]]:
    """(path, `Class.field`) of every number that a machine's description gives."""
    for name in type(section).model_fields:
        value = getattr(section, name)
        if isinstance(value, BaseModel):
            yield from numbers(value, f"{prefix}{name}.")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            yield prefix + name, f"{type(section).__name__}.{name}"


def value_of(system: System, path: str) -> float | int | None:
    """The number at a path; None where the machine has none there."""
    found: object = system
    for key in path.split("."):
        found = getattr(found, key, None)
    return found  # type: ignore[return-value]


def scaled(system: System, path: str, factor: float) -> System | None:
    """The machine with a number and what grows along multiplied.

    Whole numbers are rounded away from the old value; where the schema refuses the result, the
    next power of two in that direction is tried. None: nothing in that direction is valid.
    """
    old = value_of(system, path)
    assert old is not None
    for value in _multiples(old, factor) if path == "gpus" else _candidates(old, factor):
        try:
            changed = system.with_(path, value)
            ratio = value / old
            for other in _along(system, path):
                base = value_of(system, other)
                changed = changed.with_(other, base * ratio)
            return changed
        except ConfigError:
            continue
    return None


def _candidates(old: float, factor: float) -> list[float]:
    if not isinstance(old, int):
        return [old * factor]
    up = factor > 1
    rounded = math.ceil(old * factor) if up else math.floor(old * factor)
    others = [2 * old, 4 * old] if up else [old // 2, old // 4]
    return [value for value in (rounded, *others) if value >= 1 and value != old]


def _multiples(old: float, factor: float) -> list[float]:
    """Of devices that shares of a model have to divide."""
    return [old * math.ceil(factor)] if factor > 1 else [old // 2] if old > 1 else []


def _along(system: System, path: str) -> Iterator[str]:
    rule = RULES[dict(numbers(system))[path]]
    for pattern in rule.along:
        for other, _ in numbers(system):
            parent = pattern.removesuffix("*")
            if other == pattern or (pattern != parent and other.startswith(parent)):
                yield other
