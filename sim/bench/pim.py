"""Speed of the executions of the `pim` engine."""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from bankside.config import HardwareConfig
from bankside.isa.machine import Machine
from bankside.isa.program import Program
from bankside.mapping.lower_pim import KvLayout, PimKernels, Shape
from bankside.sim.bench.common import build_times, median_seconds, run_speed

ROWS = 65536


def _machine(name: str, rows: int | None = None) -> Machine:
    config = HardwareConfig.load(name)
    if rows:
        config = config.model_copy(update={"dram": config.dram.model_copy(update={"rows": rows})})
    return Machine.of(config)


def head_program(machine: Machine, tokens: int, head_dim: int = 128) -> Program:
    """Decode attention of one head over `tokens` tokens (KV data of zeros: time does not depend on
    data).
    """
    kernels = PimKernels(KvLayout.of(machine, Shape(1, 1, 1, head_dim, tokens), machine.chips))
    return kernels.decode(0, tokens, np.zeros((1, head_dim), np.uint16))[0]


def engine_speed(machine: Machine, program: Program, repeats: int) -> dict[str, float]:
    """RTL execution: simulated cycles per second, with the command trace on."""
    from bankside.sim.rtl.pim import PimRtl

    return run_speed(PimRtl(machine), program, repeats)


def cocotb_speed(machine: Machine, program: Program, *, internals: bool) -> dict[str, float]:
    """The same design and program under cocotb on Verilator; outputs must equal the engine's.

    internals: build as cocotb's own runner does (every signal public), else ports only.
    """
    from bankside.errors import ToolError
    from bankside.hw.pim.top import PimTop
    from bankside.sim.rtl.cocotb_runner import run_bench
    from bankside.sim.rtl.pim import TOP, PimRtl

    with tempfile.TemporaryDirectory() as folder:
        given, result = Path(folder) / "in.npz", Path(folder) / "out.npz"
        np.savez(
            given,
            words=np.array(program.words, np.uint64),
            host_in=program.host_in,
            refresh=int(machine.refresh),
        )
        run_bench(
            PimTop(machine),
            TOP,
            "bankside.sim.rtl.bench_speed",
            internals=internals,
            seed=1,
            extra_env={"BANKSIDE_SPEED_IN": str(given), "BANKSIDE_SPEED_OUT": str(result)},
        )
        found = np.load(result)
        outputs, cycles, seconds = found["outputs"], int(found["cycles"]), float(found["seconds"])
    ours = PimRtl(machine).run(program)
    if cycles != ours.cycles or not np.array_equal(outputs, ours.outputs):
        raise ToolError("cocotb and the rtl execution disagree on the same design; report this")
    return {"cycles": cycles, "cycles_per_s": cycles / seconds}


def timing_speed(tokens: int, repeats: int) -> dict[str, float]:
    """Timing model, one head of 128 over `tokens` tokens: first call (nothing memoised) and later
    calls.
    """
    from bankside.sim.timing.pim import PimTiming

    machine = _machine("dimm_pim_ddr4", ROWS)
    program = head_program(machine, tokens)
    first = median_seconds(lambda: PimTiming(machine).run(program), repeats)
    model = PimTiming(machine)
    cycles = model.run(program).cycles or 0
    return {
        "tokens": tokens,
        "cycles": cycles,
        "first_ms": 1e3 * first,
        "again_ms": 1e3 * median_seconds(lambda: model.run(program), repeats),
    }


def replay_speed() -> dict[str, Any]:
    """Golden DRAM command streams through the RTL device, all of them."""
    from bankside.isa.dram.table import load_standard
    from bankside.isa.dram.trace import read_trace
    from bankside.sim.dram_replay import replay

    folder = Path(os.environ.get("BANKSIDE_REF", "../shared/ref")) / "dram" / "golden"
    if not folder.is_dir():
        return {"skipped": f"no reference streams at {folder}; set BANKSIDE_REF"}
    standard, rows = load_standard("ddr4_3200"), {}
    for path in sorted(folder.glob("*.gz")):
        trace = read_trace(path, standard)
        start = time.process_time()
        report = replay(trace, standard, execution="rtl")
        seconds = time.process_time() - start
        rows[path.name] = {
            "commands": report.commands,
            "accepted": report.accepted,
            "timing_bound": report.timing_bound,
            "refused_one_cycle_early": report.refused_one_cycle_early,
            "commands_per_s": report.commands / seconds,
        }
    return rows


def measure(
    preset: str, repeats: int, *, builds: bool, cocotb: bool, all_signals: bool
) -> dict[str, Any]:
    """All figures. Times are medians; ratios come from figures of the same run."""
    from bankside.sim.rtl.pim import PimRtl

    machine = _machine(preset)
    program = head_program(
        machine, 2048 if machine.chips == 8 else 64, 128 if machine.chips == 8 else 8
    )
    result: dict[str, Any] = {"preset": preset, "clock_domain": "mem"}
    if builds:
        result["build"] = build_times(machine, PimRtl)
    result["rtl"] = engine_speed(machine, program, repeats)
    if cocotb:
        kinds = {"cocotb": False} | ({"cocotb_all_signals": True} if all_signals else {})
        for name, internals in kinds.items():
            result[name] = cocotb_speed(machine, program, internals=internals)
            speed = result[name]["cycles_per_s"]
            result[f"rtl_over_{name}"] = result["rtl"]["cycles_per_s"] / speed
    timing = result["timing"] = timing_speed(131072, repeats)
    rtl_seconds = timing["cycles"] / result["rtl"]["cycles_per_s"]
    result["timing_over_rtl"] = {
        "first": 1e3 * rtl_seconds / timing["first_ms"],
        "again": 1e3 * rtl_seconds / timing["again_ms"],
        "note": "RTL time of the 128 K head from its measured cycles per second",
    }
    result["dram_replay"] = replay_speed()
    return result


def text(result: dict[str, Any]) -> str:
    timing, ratio = result["timing"], result["timing_over_rtl"]
    lines = [
        f"preset {result['preset']}; medians of processor time on one thread, builds: wall time"
    ]
    if "build" in result:
        lines.append(
            f"elaborate {result['build']['elaborate_s']:.1f} s, compile "
            f"{result['build']['compile_s']:.1f} s (empty cache)"
        )
    lines.append(f"rtl execution      {result['rtl']['cycles_per_s'] / 1e3:8.1f} kcycle/s")
    for name, built in (("cocotb", "ports only"), ("cocotb_all_signals", "every signal public")):
        if name in result:
            lines.append(
                f"under cocotb       {result[name]['cycles_per_s'] / 1e3:8.1f} kcycle/s   "
                f"({built}) "
                f"rtl execution is {result[f'rtl_over_{name}']:.1f} times as fast"
            )
    lines.append(
        f"timing model, one head, {timing['tokens']} tokens, {timing['cycles']} cycles: first "
        f"{timing['first_ms']:.1f} ms, "
        f"again {timing['again_ms']:.1f} ms; {ratio['first']:.0f} and {ratio['again']:.0f} times "
        f"as fast as the RTL"
    )
    for name, row in result["dram_replay"].items():
        if isinstance(row, str):
            lines.append(f"replay {name}: {row}")
            continue
        lines.append(
            f"replay {name}: {row['accepted']} of {row['commands']} accepted, "
            f"{row['refused_one_cycle_early']} of {row['timing_bound']} timing-bound refused one "
            f"cycle early, {row['commands_per_s'] / 1e3:.0f} k commands/s"
        )
    return "\n".join(lines)
