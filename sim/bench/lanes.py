"""Speed of the lane engine: machines in lanes and faults per second, beside Verilator's."""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from bankside.isa.machines import load_machine
from bankside.isa.program import Program
from bankside.sim.bench.common import median_seconds
from bankside.sim.executions import make_engine
from bankside.sim.faults import DEFAULT_LANES, Action
from bankside.sim.lanes.engine import LaneFaults
from bankside.sim.rtl.referee import Referee

#: Preset -> faults in lanes, faults on the referee.
DESIGNS = {"array_16x16": (2_000, 4), "npu_u55_64": (100_000, 40)}


def measure(preset: str, repeats: int, **_: object) -> dict[str, Any]:
    """Lane cycles and faults per second of processor time, one thread, by design. Lanes that only
    follow count where they have a fault.
    """
    rows = {name: _design(name, *counts, repeats) for name, counts in DESIGNS.items()}
    return {"preset": preset, "engine": "lanes", "designs": rows}


def _design(preset: str, count: int, referee_count: int, repeats: int) -> dict[str, float]:
    machine = load_machine(preset)
    program = _program(machine)
    lanes = LaneFaults(machine, program, lanes=DEFAULT_LANES)
    faults = _upsets(lanes, count)
    start = time.process_time()
    outcomes = lanes.run(faults)
    seconds = time.process_time() - start
    verilator = make_engine("rtl", machine)
    cycles = verilator.run(program).cycles or 0
    plain = median_seconds(lambda: verilator.run(program), repeats)
    referee = Referee(machine)
    referee.run(program, faults[:1])  # proofs of its sites, the run without faults
    start = time.process_time()
    same = referee.run(program, faults[:referee_count])
    serial = time.process_time() - start
    return {
        "cycles": cycles,
        "faults": count,
        "mismatches": int((same != outcomes[:referee_count]).sum()),
        "lane_cycles_per_s": lanes.statistics["lane_cycles"] / seconds,
        "verilator_cycles_per_s": cycles / plain,
        "faults_per_s": count / seconds,
        "verilator_runs_per_s": 1 / plain,
        "referee_faults_per_s": referee_count / serial,
    }


def _program(machine: Any) -> Program:
    """Attention of one tile row on the array, an image of the digits network on the NPU."""
    if machine.engine == "array":
        from bankside.sim.bench.array import attention_program

        return attention_program(machine, "interleaved")
    from bankside.sim.bench.npu import image_program

    return image_program(machine)[0]


def _upsets(lanes: LaneFaults, count: int) -> list[tuple[Action, ...]]:
    """Single upsets of flip-flops, uniform over bits and cycles, seed 1."""
    rng = np.random.default_rng(1)
    flops = [site for site in lanes.sites.values() if site.kind == "flop"]
    bits = np.cumsum([site.width for site in flops])
    chosen, cycles = (
        rng.integers(bits[-1], size=count),
        rng.integers(lanes.golden.cycles, size=count),
    )
    out = []
    for bit, cycle in zip(chosen.tolist(), cycles.tolist(), strict=True):
        index = int(np.searchsorted(bits, bit, "right"))
        site = flops[index]
        mask = 1 << bit - int(bits[index]) + site.width
        out.append((Action("flip", site.path, mask=mask, first=cycle),))
    return out


def text(found: dict[str, Any]) -> str:
    """The figures for people."""
    lines = [
        f"upsets of flip-flops, {DEFAULT_LANES} lanes at once (processor time, one thread)"
    ]
    for name, row in found["designs"].items():
        ratio = row["lane_cycles_per_s"] / row["verilator_cycles_per_s"]
        plain = row["faults_per_s"] / row["verilator_runs_per_s"]
        referee = row["faults_per_s"] / row["referee_faults_per_s"]
        lines.append(
            f"  {name:12} {row['lane_cycles_per_s'] / 1e6:6.2f} M lane cycles/s, Verilator "
            f"{row['verilator_cycles_per_s'] / 1e3:.0f} kcycle/s: {ratio:.1f} x"
        )
        lines.append(
            f"  {'':12} {row['faults_per_s']:6,.0f} faults/s of {row['faults']:,} on "
            f"{row['cycles']:,} cycles; Verilator runs the program "
            f"{row['verilator_runs_per_s']:.1f} times/s: {plain:.0f} x; with faults from reset "
            f"{row['referee_faults_per_s']:.1f}/s: {referee:.0f} x ({row['mismatches']} mismatches)"
        )
    return "\n".join(lines)
