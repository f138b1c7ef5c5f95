"""Idealised time, traffic and energy of attention under the five bindings of FuseMax.

Cycles of a 256 x 256 tile of scores follow from the cascade: the ranks of an Einsum that its array
does not spread over PEs are walked one element per cycle and operation. There is no fill, no drain
and no latency; docs/fusemax.md lists what hardware adds. All functions take numbers or NumPy
arrays.

Ref: arXiv 2406.10491; FPSG-UIUC/micro24-fusemax-artifact, commit f543beb.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

from bankside.mapping.paper.fusemax_counts import (
    Attention,
    Counts,
    Size,
    flat_choice,
    flat_counts,
    larger,
    linear_counts,
    linear_layers,
    one_pass_counts,
    unfused_counts,
)
from bankside.mapping.paper.fusemax_data import Binding, Einsum, Hardware, Stage, fusemax

#: Ranks that each array spreads over its PEs.
_SPATIAL = {"array": ("M0", "P"), "lanes": ("P",)}


@dataclass(frozen=True)
class Estimate:
    """Attention of one workload. Times in s, energy in pJ, traffic in bytes, rest dimensionless."""

    latency_s: Size
    memory_s: Size
    cycles_per_tile: Size
    traffic_bytes: Size
    energy_pj: Size
    util_2d: Size
    util_1d: Size


@dataclass(frozen=True)
class Linear:
    """The linear layers of one model: time in s, traffic in bytes, energy in pJ."""

    latency_s: Size
    traffic_bytes: Size
    energy_pj: Size


# --- operations and cycles ----------------------------------------------------------------------


@cache
def einsum_cycles(binding_name: str, name: str) -> tuple[int, tuple[str, ...], str]:
    """(cycles per element of the ranks walked in time, those ranks, its array) of one Einsum."""
    data = fusemax()
    binding = data.binding(binding_name)
    array = "array" if name in binding.on_array() else "lanes"
    einsum = data.cascades[binding.cascade][name]
    cost = 1
    if array == "array" or not binding.pipelined_lanes:
        cost = operations(einsum, data.hardware[binding.hardware])
    ranks = tuple(rank for rank in einsum.ranks if rank not in _SPATIAL[array])
    return cost, ranks, array


def operations(einsum: Einsum, hardware: Hardware) -> int:
    """Cycles of the operations on one element; an exponential is `exp_macs` MACs or one cycle."""
    return sum(
        count * (hardware.exp_macs or 1) if op == "exp" else count
        for op, count in einsum.ops.items()
    )


def _per_tile(binding_name: str, name: str, work: Attention) -> Size:
    """Cycles of one Einsum in a tile of scores; work per query row is spread over its tiles."""
    cost, ranks, _ = einsum_cycles(binding_name, name)
    cycles: Size = cost
    for rank in ranks:
        cycles = cycles * {"E": work.e, "F": work.f, "M0": work.tile, "M1": 1}[rank]
    return cycles if "M1" in ranks else cycles / work.key_tiles


def stage_cycles(
    binding_name: str, work: Attention, *, weight_stationary: Size | None = None
) -> list[list[Size]]:
    """Cycles per tile of each stage of each phase: the slower of the two arrays, plus a stall.

    weight_stationary: 1 where the 2D array holds keys and values (FLAT only); by default what
    FLAT's search chose.
    """
    if weight_stationary is None:
        weight_stationary = flat_choice(work).weight_stationary if binding_name == "flat" else 0
    return [
        [_stage(binding_name, stage, work, weight_stationary) for stage in phase]
        for phase in fusemax().binding(binding_name).phases
    ]


def _stage(binding_name: str, stage: Stage, work: Attention, weight: Size) -> Size:
    if stage.stall:
        return work.tile
    lanes = sum((_per_tile(binding_name, name, work) for name in stage.lanes), 0)
    if not stage.array:
        return lanes
    array = sum((_per_tile(binding_name, name, work) for name in stage.array), 0)
    # Weight-stationary, each product walks the queries of a tile, with E or F rows in use.
    walked = len(stage.array) * work.tile
    return larger(weight * walked + (1 - weight) * array, lanes)


# --- everything together ----------------------------------------------------------------------


def estimate(
    binding_name: str,
    work: Attention,
    *,
    artifact: bool = True,
    hardware: Hardware | None = None,
) -> Estimate:
    """Time, traffic, energy and utilisation of attention.

    artifact: count as the published results do, with the lost first reads of
    `fusemax_counts.first_reads` and without the exponentials of +Cascade. hardware: buffer and
    energies, by default those of the binding.
    """
    data = fusemax()
    binding = data.binding(binding_name)
    hardware = hardware or data.hardware[binding.hardware]
    tiles = work.instances * work.query_tiles * work.key_tiles
    stages = stage_cycles(binding_name, work)
    phases = phase_counts(binding_name, work, artifact=artifact, hardware=hardware)
    latency: Size = 0
    for cycles, counts in zip(stages, phases, strict=True):
        compute = tiles * sum(cycles) / data.clock_hz
        latency = latency + larger(compute, memory_seconds(counts))
    moved = sum(phases, Counts())
    busy: dict[str, Size] = {"array": 0, "lanes": 0}
    for name in data.cascades[binding.cascade]:
        array = einsum_cycles(binding_name, name)[2]
        busy[array] = busy[array] + _per_tile(binding_name, name, work)
    return Estimate(
        latency_s=latency,
        memory_s=memory_seconds(moved),
        cycles_per_tile=sum(map(sum, stages)),
        traffic_bytes=moved.dram * data.element_bytes,
        energy_pj=energy(binding, work, moved, hardware, artifact=artifact),
        util_2d=busy["array"] * tiles / data.clock_hz / latency,
        util_1d=busy["lanes"] * tiles / data.clock_hz / latency,
    )


def latency(binding_name: str, work: Attention) -> Size:
    """Seconds of attention: `estimate` without energy."""
    data = fusemax()
    tiles = work.instances * work.query_tiles * work.key_tiles
    total: Size = 0
    for cycles, counts in zip(
        stage_cycles(binding_name, work), phase_counts(binding_name, work), strict=True
    ):
        total = total + larger(tiles * sum(cycles) / data.clock_hz, memory_seconds(counts))
    return total


def memory_seconds(counts: Counts) -> Size:
    """Time of the main memory."""
    data = fusemax()
    return counts.dram * data.element_bytes / data.dram_bytes_per_s


def phase_counts(
    binding_name: str,
    work: Attention,
    *,
    artifact: bool = True,
    hardware: Hardware | None = None,
) -> list[Counts]:
    """Accesses of each phase of a binding."""
    binding = fusemax().binding(binding_name)
    hardware = hardware or fusemax().hardware[binding.hardware]
    if binding_name == "unfused":
        return list(unfused_counts(work, hardware, artifact=artifact))
    if binding_name == "flat":
        return [flat_counts(work, hardware, artifact=artifact)]
    through = binding.hardware == "flat_one_pass"
    return [one_pass_counts(work, hardware, scores_in_buffer=through, artifact=artifact)]


def energy(
    binding: Binding, work: Attention, moved: Counts, hardware: Hardware, *, artifact: bool = True
) -> Size:
    """Energy in pJ: operations of the cascade, main memory, buffer, registers of the 1D array.

    Registers of the PEs are not in it: the published energies count those of one PE only.
    """
    data = fusemax()
    total: Size = access_energy(moved, hardware)
    for einsum in data.cascades[binding.cascade].values():
        elements = _elements(einsum, work)
        for op, count in einsum.ops.items():
            if op == "exp" and hardware.exp_macs:
                op, count = "mac", count * hardware.exp_macs
            if not (artifact and op in binding.energy_without):
                total = total + elements * (count * data.energy_pj[op])
    return total


def access_energy(moved: Counts, hardware: Hardware) -> Size:
    """Energy in pJ of memory accesses: 4 elements of main memory, a row of the buffer at a time."""
    data = fusemax()
    return (
        moved.dram / (8 // data.element_bytes) * data.energy_pj["dram"]
        + moved.buffer_read * (hardware.buffer_read_pj / data.tile)
        + moved.buffer_write * (hardware.buffer_write_pj / data.tile)
        + moved.lane_read * hardware.lane_read_pj
        + moved.lane_write * hardware.lane_write_pj
    )


def _elements(einsum: Einsum, work: Attention) -> Size:
    """Elements that an Einsum computes in all heads."""
    total: Size = work.instances
    for rank in einsum.ranks:
        size = {"P": work.queries, "M1": work.key_tiles, "M0": work.tile}
        total = total * (size | {"E": work.e, "F": work.f})[rank]
    return total


def linear(model: str, length: Size, hardware_name: str) -> Linear:
    """The six linear layers of a model over `length` tokens per sequence, on flat or fusemax."""
    data = fusemax()
    known, hardware = data.models[model], data.hardware[hardware_name]
    tokens = data.batch * length
    seconds: Size = 0
    moved, macs = Counts(), 0
    for inputs, outputs in linear_layers(known.d, known.heads, known.e, known.s):
        counts = linear_counts(tokens, inputs, outputs, hardware)
        compute = tokens * inputs * outputs / data.tile**2 / data.clock_hz
        seconds = seconds + larger(compute, memory_seconds(counts))
        moved, macs = moved + counts, macs + tokens * inputs * outputs
    return Linear(
        latency_s=seconds,
        traffic_bytes=moved.dram * data.element_bytes,
        energy_pj=access_energy(moved, hardware) + macs * data.energy_pj["mac"],
    )
