"""Speed of the executions of the `npu` engine; what whole models take on it, how small their
weights become and how fast the decoder is.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any

import numpy as np

from bankside.isa.machines import load_machine
from bankside.isa.npu_machine import NpuMachine
from bankside.isa.npu_weights import PACKED, RAW8, W4, WeightLayout
from bankside.isa.program import Program
from bankside.mapping import npu_digits
from bankside.mapping.llm.loader import find_model, load_model
from bankside.mapping.lower_npu.compiled import Compiled, compile_graph
from bankside.mapping.lower_npu.single import LAYERS
from bankside.mapping.lower_npu.weights import WeightPlanner
from bankside.mapping.npu_gpt import Format, QuantGpt, prepared
from bankside.mapping.npu_gpt_layout import GptLayout
from bankside.mapping.npu_layers import Conv2d, Depthwise
from bankside.sim.bench import cocotb_axi
from bankside.sim.bench.common import build_times, median_seconds, run_speed
from bankside.sim.timing.npu import NpuTiming

MODEL = "gpt_mha"
PROMPT = b"And God said unto "
NEW_TOKENS = 5
#: A layer of one row: every weight passes through the decoder once.
DECODED = "fc_M1_K768_N768"
_DECODING = ("mac", "weights")
_FORMATS = {PACKED: "packed", RAW8: "raw8", W4: "w4"}


@cache
def _digits() -> npu_digits.QuantNetwork:
    return npu_digits.quantise_network(npu_digits.load_network())


@cache
def _gpt(form: Format) -> QuantGpt:
    """Calibrated on a few hundred bytes: what is measured does not depend on it."""
    text = np.frombuffer(PROMPT * 12, np.uint8).astype(np.int64)
    return prepared(load_model(find_model(MODEL)), [text], form, name=MODEL)


def image_program(machine: NpuMachine) -> tuple[Program, Compiled]:
    """The digits network on its first image."""
    compiled = compile_graph(npu_digits.graph(_digits()), machine)
    pixels, _ = npu_digits.load_images()
    return compiled.bind({"image": _digits().image(pixels[0])[..., None]}), compiled


# --- RTL ----------------------------------------------------------------------------------------


def cocotb_speed(machine: NpuMachine, program: Program, *, internals: bool) -> dict[str, float]:
    """The same design and program under cocotb on Verilator; memory and the first cycle of every
    operation must be equal.
    """
    from bankside.hw.npu.top import NpuTop, trace_layout
    from bankside.isa.npu_registers import CONTROL, addresses
    from bankside.sim.rtl.npu import TOP, NpuRtl

    memory, trace, place = machine.config.memory, trace_layout(), addresses()
    start = next(1 << field.lsb for field in CONTROL.fields if field.name == "start")
    bounds = np.array(program.regions, np.uint64).reshape(-1).tolist()
    kernel = trace["kernel"]
    bench = cocotb_axi.Bench(
        NpuTop(machine),
        TOP,
        [
            (place["qbase"], 0),
            (place["qsize"], len(program.words)),
            *((place["region0.base"] + 8 * i, value) for i, value in enumerate(bounds)),
            (place["control"], start),
        ],
        {
            "m0_axi_": np.asarray(program.host_in, "<u2"),
            "m1_axi_": np.pad(np.array(program.words, "<u8"), (0, 64)),
        },
        trace["running"].offset,
        kernel.offset + kernel.shape["started"].offset,
        (memory.read_latency_cycles, memory.write_latency_cycles, memory.beat_cycles),
    )
    return cocotb_axi.speed(bench, NpuRtl(machine), program, _started, internals=internals)


def _started(result: Any) -> list[int]:
    """Cycles in which operations start."""
    from bankside.sim.rtl.npu import KERNEL

    return sorted(result.macros["load"][result.macros["engine"] == KERNEL].tolist())


# --- whole models -------------------------------------------------------------------------------


def model_cycles(machine: NpuMachine) -> dict[str, dict[str, float]]:
    """Cycles of the digits network and, on profile `llm`, of the GPT, by RTL; the timing model runs
    them too. Raises ToolError when it says anything else.
    """
    from bankside.sim.executions import make_engine
    from bankside.sim.npu_run import NpuRunner
    from bankside.sim.npu_run_tasks import Generator

    runner = NpuRunner(machine, ("timing", "rtl"), make_engine)
    program, compiled = image_program(machine)
    runner.run(program, "image", 0)
    bound = compiled.report.macs_bound
    found = {"digits_cnn": {"cycles_per_image": runner.calls[0].cycles, "macs_bound": bound}}
    for form in ("w8a8", "w4a8") if machine.wide else ():
        runner.restart()
        writer = Generator(runner, _gpt(form), len(PROMPT) + NEW_TOKENS - 1)
        token = writer.read(PROMPT)
        for _ in range(NEW_TOKENS - 1):
            token = writer.write(token)
        tokens = [call.cycles for call in runner.of("token")]
        found[f"{MODEL}_{form}"] = {
            "prompt_bytes": len(PROMPT),
            "prompt_cycles": sum(call.cycles for call in runner.of("prompt")),
            "cycles_per_token": sum(tokens) / len(tokens),
        }
    _check(runner)
    return found


def _check(runner: Any) -> None:
    from bankside.errors import ToolError

    if runner.found.counts()["cycle_mismatches"]:
        raise ToolError(f"rtl and timing disagree: {runner.found.details[0]}; report this")


# --- weights ------------------------------------------------------------------------------------


def _digit_layers(machine: NpuMachine) -> Iterator[tuple[int, int, int]]:
    planner = WeightPlanner(machine)
    for layer in npu_digits.graph(_digits()).layers:
        if isinstance(layer, Conv2d | Depthwise):
            plan = planner.plan(layer)
            yield plan.format, layer.weights.size, plan.size


def _gpt_layers(machine: NpuMachine, form: Format) -> Iterator[tuple[int, int, int]]:
    """Projections of the model; on profile `u55`, which cannot run it, as it would hold them."""
    layout = GptLayout(load_machine("npu_llm_256"), _gpt(form), 1)
    for placed in layout.linear.values():
        weights = placed.part.weights
        kind = W4 if weights.group_scales is not None else RAW8 if machine.wide else PACKED
        tiles = WeightLayout(
            kind, machine.group(machine.wide), machine.weight_port_bytes,
            weights.numbers.shape[0], (1, 1), weights.numbers.shape[1],
        )  # fmt: skip
        scales = weights.group_scales
        data = tiles.encode(
            weights.numbers[:, None, None, :], None if scales is None else scales[:, None, None, :]
        )
        yield kind, weights.numbers.size, len(data)


def _pruned_layer(machine: NpuMachine) -> Iterator[tuple[int, int, int]]:
    """What the mask of the packed format is for."""
    (layer,) = LAYERS[DECODED]().layers
    assert isinstance(layer, Conv2d)
    kept = np.random.default_rng(1).random(layer.weights.shape) < 0.25
    weights = np.where(kept, layer.weights, 0).astype(np.int8)
    shape = (weights.shape[0], (1, 1), weights.shape[3])
    layout = WeightLayout(PACKED, machine.group(False), machine.weight_port_bytes, *shape)
    yield PACKED, weights.size, len(layout.encode(weights))


def compression(machine: NpuMachine) -> dict[str, dict[str, Any]]:
    """Bytes of the weights of each model as the machine reads them; ratio: int8 over that."""
    models = {"digits_cnn": _digit_layers(machine), f"{MODEL}_w8a8": _gpt_layers(machine, "w8a8")}
    if machine.wide:
        models[f"{MODEL}_w4a8"] = _gpt_layers(machine, "w4a8")
    else:
        models["random, 3 of 4 zero"] = _pruned_layer(machine)
    found = {}
    for name, layers in models.items():
        formats, weights, sizes = zip(*layers, strict=True)
        total, size = sum(weights), sum(sizes)
        found[name] = {
            "format": "+".join(sorted({_FORMATS[kind] for kind in formats})),
            "weights": total,
            "bytes": size,
            "ratio": total / size,
            "bits_per_weight": 8 * size / total,
        }
    return found


def decoder(machine: NpuMachine, repeats: int) -> dict[str, Any]:
    """Weights and encoded bits per cycle through the decoder of the RTL (`llm`: weight unit), in
    the cycles of the multiplier path, weights also in all; weights per second of the encoder.
    """
    from bankside.sim.reproduce_vela import measure
    from bankside.sim.rtl.npu import NpuRtl

    found = measure(DECODED, machine.config.name, NpuRtl)
    (layer,) = LAYERS[DECODED]().layers
    assert isinstance(layer, Conv2d)
    weights, size = layer.weights.size, WeightPlanner(machine).plan(layer).size
    decoding = sum(found.counters[key] for key in _DECODING)
    seconds = median_seconds(lambda: WeightPlanner(machine).plan(layer), repeats)
    return {
        "part": "weight unit" if machine.wide else "weight decoder",
        "weights": weights,
        "cycles": found.cycles,
        "weights_per_decoding_cycle": weights / decoding,
        "bits_per_decoding_cycle": 8 * size / decoding,
        "weights_per_cycle": weights / found.cycles,
        "port_bytes": machine.weight_port_bytes,
        "encoded_weights_per_s": weights / seconds,
    }


# --- everything ---------------------------------------------------------------------------------


def measure(
    preset: str, repeats: int, *, builds: bool, cocotb: bool, all_signals: bool
) -> dict[str, Any]:
    """All figures. Times are medians; ratios come from figures of the same run."""
    from bankside.sim.rtl.npu import NpuRtl

    machine = load_machine(preset)
    assert isinstance(machine, NpuMachine)
    program, _ = image_program(machine)
    result: dict[str, Any] = {"preset": preset, "clock_domain": machine.clock_domain}
    if builds:
        result["build"] = build_times(machine, NpuRtl)
    result["rtl"] = run_speed(NpuRtl(machine), program, repeats)
    if cocotb:
        cocotb_axi.compare(
            result,
            lambda internals: cocotb_speed(machine, program, internals=internals),
            all_signals=all_signals,
        )
    result["timing"] = run_speed(NpuTiming(machine), program, repeats)
    speeds = result["timing"]["cycles_per_s"], result["rtl"]["cycles_per_s"]
    result["timing_over_rtl"] = speeds[0] / speeds[1]
    result["models"] = model_cycles(machine)
    result["weights"] = compression(machine)
    result["decoder"] = decoder(machine, repeats)
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
        f"rtl execution      {result['rtl']['cycles_per_s'] / 1e3:8.1f} kcycle/s   (an image of "
        f"the digits network, {result['rtl']['cycles']} cycles, traces on)"
    )
    lines += cocotb_axi.lines(result)
    lines.append(
        f"timing model       {result['timing']['cycles_per_s'] / 1e3:8.1f} kcycle/s   "
        f"{result['timing_over_rtl']:.1f} times as fast as the RTL"
    )
    return "\n".join([*lines, *_model_lines(result), *_weight_lines(result)])


def _model_lines(result: dict[str, Any]) -> Iterator[str]:
    for name, row in result["models"].items():
        if "cycles_per_image" in row:
            yield (
                f"{name}: {row['cycles_per_image']:,} cycles per image (RTL), multiplications "
                f"alone {row['macs_bound']:,}"
            )
        else:
            yield (
                f"{name}: {row['cycles_per_token']:,.0f} cycles per token, "
                f"{row['prompt_cycles']:,} for a prompt of {row['prompt_bytes']} bytes (RTL)"
            )


def _weight_lines(result: dict[str, Any]) -> Iterator[str]:
    for name, row in result["weights"].items():
        yield (
            f"weights of {name}, {row['format']}: {row['bits_per_weight']:.2f} bits each, "
            f"compression {row['ratio']:.2f}"
        )
    row = result["decoder"]
    yield (
        f"{row['part']}, one row times {row['weights']:,} weights: "
        f"{row['weights_per_decoding_cycle']:.2f} weights, {row['bits_per_decoding_cycle']:.1f} "
        f"encoded bits per cycle (RTL; port of {row['port_bytes']} bytes), "
        f"{row['weights_per_cycle']:.2f} weights with all waiting; encoder "
        f"{row['encoded_weights_per_s'] / 1e6:.1f} M weights/s"
    )
