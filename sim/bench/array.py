"""Speed of the executions of the `array` engine, and how busy its 2D array is beside FuseMax."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from bankside.isa.array_machine import ArrayMachine
from bankside.isa.machines import load_machine
from bankside.isa.program import Program
from bankside.mapping.gemm_array import GemmKernels, GemmShape, os_cycles, ws_cycles
from bankside.mapping.lower_array import ArrayKernels, AttentionShape, to_bits
from bankside.mapping.paper.fusemax import einsum_cycles, latency, stage_cycles
from bankside.mapping.paper.fusemax_counts import Attention
from bankside.mapping.paper.fusemax_data import fusemax
from bankside.sim.bench import cocotb_axi
from bankside.sim.bench.common import build_times, median_seconds, run_speed
from bankside.sim.timing.array import ArrayTiming
from bankside.sim.timing.array_closed_attention import ClosedAttention

HEAD_DIM = 64
BINDINGS = ("interleaved", "architecture", "flat")
#: Products of 2 x 2 and more tiles, on an array of this size.
GEMM_SIZES, GEMM_ARRAY = (256, 512), 32
_POINTS = 100_000


def _keys(machine: ArrayMachine) -> int:
    """256 tiles (4 K keys of 16 rows); 1 K on large arrays, whose simulation takes longer."""
    return 256 * machine.rows if machine.rows <= 16 else 1024


def attention_kernels(machine: ArrayMachine, binding: str) -> ArrayKernels:
    """One block of queries, E = F = 64, one head."""
    shape = AttentionShape(machine.columns, _keys(machine), 1, 1, HEAD_DIM, HEAD_DIM)
    return ArrayKernels(machine, shape, binding)


def attention_program(machine: ArrayMachine, binding: str) -> Program:
    """The program of `attention_kernels`, with random keys, values and queries."""
    kernels = attention_kernels(machine, binding)
    rng, keys = np.random.default_rng(1), _keys(machine)
    sizes = (machine.columns, keys, keys)
    q, k, v = (to_bits(rng.standard_normal((1, n, 1, HEAD_DIM)), "fp16") for n in sizes)
    (program,) = kernels.programs(q, k, v)
    return program


# --- RTL ----------------------------------------------------------------------------------------


def idealised(binding: str, work: Attention) -> float:
    """Share of a tile's cycles in which the 2D array computes, in FuseMax's idealised model."""
    data, busy = fusemax(), 0.0
    sizes = {"E": work.e, "F": work.f}
    for name in data.cascades[data.binding(binding).cascade]:
        cost, ranks, unit = einsum_cycles(binding, name)
        if unit == "array":
            busy += cost * math.prod(sizes.get(rank, 1) for rank in ranks)
    return float(busy / sum(map(sum, stage_cycles(binding, work, weight_stationary=0))))


def utilisation(machine: ArrayMachine) -> dict[str, dict[str, float]]:
    """Share of the cycles in which the 2D array computes: by the RTL, and as FuseMax has it."""
    from bankside.sim.rtl.array import ArrayRtl

    engine, found = ArrayRtl(machine), {}
    for binding in BINDINGS:
        result = engine.run(attention_program(machine, binding))
        work = Attention(1, 1, machine.columns, _keys(machine), HEAD_DIM, HEAD_DIM, machine.rows)
        ours = result.counters["mac"] / (result.cycles or 1)
        ideal = idealised(binding, work)
        found[binding] = {
            "cycles": result.cycles or 0,
            "rtl": ours,
            "idealised": ideal,
            "rtl_over_idealised": ours / ideal,
        }
    return found


def cocotb_speed(machine: ArrayMachine, program: Program, *, internals: bool) -> dict[str, float]:
    """The same design and program under cocotb on Verilator; passes and memory must be equal.

    internals: build as cocotb's own runner does (every signal public), else ports only.
    """
    from bankside.hw.array import host
    from bankside.hw.array.top import ArrayTop, trace_layout
    from bankside.sim.rtl.array import TOP, ArrayRtl

    memory, trace = machine.config.memory, trace_layout()
    passes = trace["compute"]
    words = [(host.PROGRAM + 8 * i, int(word)) for i, word in enumerate(program.words)]
    bench = cocotb_axi.Bench(
        ArrayTop(machine),
        TOP,
        [*words, (host.CONTROL, host.START)],
        {"m_axi_": np.asarray(program.host_in, "<u2")},
        trace["running"].offset,
        passes.offset + passes.shape["slot_0"].offset,
        (memory.read_latency_cycles, memory.write_latency_cycles, memory.beat_cycles),
    )
    return cocotb_axi.speed(
        bench,
        ArrayRtl(machine),
        program,
        lambda result: result.commands["cycle"].tolist(),
        internals=internals,
    )


# --- models -------------------------------------------------------------------------------------


def timing_speed(machine: ArrayMachine, program: Program, repeats: int) -> dict[str, float]:
    """Cycle-exact timing model on one program."""
    cycles = ArrayTiming(machine).run(program).cycles or 0
    seconds = median_seconds(lambda: ArrayTiming(machine).run(program), repeats)
    return {"cycles": cycles, "ms": 1e3 * seconds, "per_s": 1 / seconds}


def _rate(call: Callable[[int], Any], repeats: int, calls: int = 2000) -> float:
    """Calls per second, of `call(i)` with changing i."""
    seconds = median_seconds(lambda: [call(i) for i in range(calls)], repeats)
    return calls / seconds


def closed_speed(machine: ArrayMachine, repeats: int) -> dict[str, float]:
    """Evaluations per second of the closed form and of the idealised model."""
    kernels, keys, step = attention_kernels(machine, "interleaved"), _keys(machine), machine.rows
    closed = ClosedAttention(machine, kernels.schedules, kernels.binding.scores)
    exact = ArrayTiming(machine).run(attention_program(machine, "interleaved")).cycles or 0
    queries = np.arange(1, _POINTS + 1)
    causal = median_seconds(lambda: closed.estimate(queries, keys + queries, causal=True), repeats)

    def ideal(i: int) -> Any:
        work = Attention(1, 1, step * (1 + i), keys, HEAD_DIM, HEAD_DIM, step)
        return latency("interleaved", work)

    return {
        "cycles": int(closed.estimate(machine.columns, keys).total),
        "cycles_over_exact": int(closed.estimate(machine.columns, keys).total) / exact,
        "scalar_per_s": _rate(lambda i: closed.estimate(1 + i, keys, 8, 2), repeats),
        "scalar_causal_per_s": _rate(
            lambda i: closed.estimate(1 + i, keys + i, 8, 2, causal=True), repeats
        ),
        "vector_causal_per_s": _POINTS / causal,
        "idealised_per_s": _rate(ideal, repeats, 500),
    }


def gemm_machine() -> ArrayMachine:
    """The 32 x 32 array with room for a whole operand of the larger product."""
    config = load_machine("array_32x32").config
    array = config.array.model_copy(update={"lane_words": max(GEMM_SIZES), "row_words": 4096})
    return ArrayMachine.of(config.model_copy(update={"array": array}))


def gemm_speed(repeats: int) -> dict[str, dict[str, float]]:
    """Square products in both modes: compute cycles, the closed form's, milliseconds."""
    machine, rows = gemm_machine(), {}
    for size in GEMM_SIZES:
        shape, zeros = GemmShape(size, size, size), np.zeros((size, size), np.uint16)
        for mode, closed in (("ws", ws_cycles), ("os", os_cycles)):
            kernels = GemmKernels(machine, shape, mode, "scale_sim")
            programs = kernels.programs(zeros, zeros)
            cycles = sum(ArrayTiming(machine).run(p).cycles or 0 for p in programs)

            def run(programs: list[Program] = programs) -> None:
                for program in programs:
                    ArrayTiming(machine).run(program)

            def count(kernels: GemmKernels = kernels) -> None:
                for _ in range(100):
                    assert kernels.compute_cycles > 0

            rows[f"{mode}_{size}"] = {
                "compute_ms": 10 * median_seconds(count, repeats),
                "compute_cycles": kernels.compute_cycles,
                "closed_form": closed(shape, machine.rows, machine.columns),
                "cycles": cycles,
                "ms": 1e3 * median_seconds(run, repeats),
            }
    return rows


# --- everything ---------------------------------------------------------------------------------


def measure(
    preset: str, repeats: int, *, builds: bool, cocotb: bool, all_signals: bool
) -> dict[str, Any]:
    """All figures. Times are medians; ratios come from figures of the same run."""
    from bankside.sim.rtl.array import ArrayRtl

    machine = load_machine(preset)
    assert isinstance(machine, ArrayMachine)
    program = attention_program(machine, "interleaved")
    result: dict[str, Any] = {"preset": preset, "clock_domain": "array", "keys": _keys(machine)}
    if builds:
        result["build"] = build_times(machine, ArrayRtl)
    result["rtl"] = run_speed(ArrayRtl(machine), program, repeats)
    result["utilisation"] = utilisation(machine)
    if cocotb:
        cocotb_axi.compare(
            result,
            lambda internals: cocotb_speed(machine, program, internals=internals),
            all_signals=all_signals,
        )
    result["timing"] = timing_speed(machine, program, repeats)
    seconds = result["rtl"]["cycles"] / result["rtl"]["cycles_per_s"]
    result["timing_over_rtl"] = 1e3 * seconds / result["timing"]["ms"]
    result["closed"] = closed_speed(machine, repeats)
    result["gemm"] = gemm_speed(repeats)
    return result


def text(result: dict[str, Any]) -> str:
    lines = [
        f"preset {result['preset']}; medians of processor time on one thread, builds: wall time"
    ]
    if "build" in result:
        lines.append(
            f"elaborate {result['build']['elaborate_s']:.1f} s, compile "
            f"{result['build']['compile_s']:.1f} s (empty cache)"
        )
    lines.append(
        f"rtl execution      {result['rtl']['cycles_per_s'] / 1e3:8.1f} kcycle/s   (attention, "
        f"{result['keys']} keys, traces on)"
    )
    lines += cocotb_axi.lines(result)
    return "\n".join([*lines, *_busy_lines(result), *_model_lines(result)])


def _busy_lines(result: dict[str, Any]) -> list[str]:
    return [
        f"2D array busy, {binding:12} {row['rtl']:6.1%} of {row['cycles']} cycles (RTL), "
        f"{row['idealised']:6.1%} idealised: {row['rtl_over_idealised']:.3f} of it"
        for binding, row in result["utilisation"].items()
    ]


def _model_lines(result: dict[str, Any]) -> list[str]:
    timing, closed = result["timing"], result["closed"]
    exact = (
        f"timing model, the same {timing['cycles']} cycles: {timing['ms']:.2f} ms, "
        f"{result['timing_over_rtl']:.0f} times as fast as the RTL"
    )
    forms = (
        f"closed form, {closed['cycles_over_exact']:.4f} of those cycles: "
        f"{closed['scalar_per_s'] / 1e3:.1f} k evaluations/s (causal "
        f"{closed['scalar_causal_per_s'] / 1e3:.1f} k), on arrays "
        f"{closed['vector_causal_per_s'] / 1e6:.1f} M/s; idealised model "
        f"{closed['idealised_per_s'] / 1e3:.1f} k/s"
    )
    lines = [exact, forms]
    for name, row in result["gemm"].items():
        mode, size = name.split("_")
        lines.append(
            f"product {size}^3 {mode} on {GEMM_ARRAY} x {GEMM_ARRAY}: {row['compute_cycles']} "
            f"compute cycles ({row['compute_ms']:.3f} ms), SCALE-Sim's form {row['closed_form']}; "
            f"whole program with memory {row['cycles']} cycles ({row['ms']:.2f} ms)"
        )
    return lines
