"""What runs on the `npu` engine do: generate text, classify images."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bankside.mapping import npu_digits
from bankside.mapping.llm import quantise_np
from bankside.mapping.llm.model import Model
from bankside.mapping.llm.quantise import trace
from bankside.mapping.lower_npu.compiled import Compiled, compile_graph
from bankside.mapping.npu_gpt import QuantGpt, prepared
from bankside.mapping.npu_gpt_stream import GptPrograms
from bankside.sim.executions import make_engine
from bankside.sim.npu_run import (
    Call,
    GenerateDescription,
    ImagesDescription,
    Make,
    NpuJob,
    NpuRunner,
    common,
    stalls_of,
)

Step = Callable[[int], None]


def execute(
    job: NpuJob, *, make: Make = make_engine, on_step: Step | None = None
) -> tuple[dict[str, Any], NpuRunner]:
    """Run a job. Returns the result as plain data, and the runner with its trace.

    `on_step` hears of every new token (its number), or of every image.
    """
    if isinstance(job.description, ImagesDescription):
        return _classify(job, job.description, make, on_step or _ignore)
    assert job.model is not None
    return _generate(job, job.description, job.model, make, on_step or _ignore)


def _ignore(_: int) -> None:
    """Nobody listens."""


# --- text ---------------------------------------------------------------------------------------


class Generator:
    """A quantised model on all executions, from a prompt on."""

    def __init__(self, runner: NpuRunner, model: QuantGpt, tokens: int) -> None:
        self.runner = runner
        self.programs = GptPrograms(runner.machine, model, tokens)
        self.tokens: list[int] = []
        self.scores: list[NDArray[np.int64]] = []
        runner.run(self.programs.setup(), "setup", 0)

    def read(self, prompt: bytes) -> int:
        """All of the prompt; returns the likeliest token after it."""
        step = self.programs.layout.run
        for first in range(0, len(prompt), step):
            run = list(prompt[first : first + step])
            self._forward(run, "prompt", last=first + len(run) == len(prompt))
        return int(self.scores[-1].argmax())

    def write(self, token: int) -> int:
        """One more token; returns the likeliest one after it."""
        self._forward([token], "token", last=True)
        return int(self.scores[-1].argmax())

    def _forward(self, run: list[int], what: str, *, last: bool) -> None:
        position = len(self.tokens)
        program = self.programs.run(run, position, logits=last)
        self.tokens += run
        macs = self.programs.macs(len(run), position, logits=last)
        result = self.runner.run(program, what, len(self.tokens), macs)
        if last:
            self.scores.append(self.programs.logits(result.output(program, "logits")))


def _generate(
    job: NpuJob, what: GenerateDescription, model: Model, make: Make, on_token: Step
) -> tuple[dict[str, Any], NpuRunner]:
    quant = prepared(model, job_windows(job), what.format, name=what.model)
    prompt = what.prompt.encode()
    runner = NpuRunner(job.machine, what.executions, make)
    writer = Generator(runner, quant, len(prompt) + what.new_tokens - 1)
    made = [writer.read(prompt)]
    on_token(made[0])
    while len(made) < what.new_tokens:
        made.append(writer.write(made[-1]))
        on_token(made[-1])
    wrong = _reference_mismatches(quant, writer)
    tokens = runner.of("token")
    result = common(job, runner, tokens) | {
        "task": "generate",
        "prompt": what.prompt,
        "text": bytes(made).decode("utf-8", "replace"),
        "tokens": made,
        "model": what.model,
        "format": what.format,
        "model_shape": {
            "layers": len(model.layers),
            "hidden": model.hidden,
            "query_heads": model.query_heads,
            "kv_heads": model.kv_heads,
            "head_dim": model.head_dim,
            "intermediate": quant.inner,
        },
        "stalls_of": "all tokens after the first new one",
        "cycles_per_token": sum(c.cycles for c in tokens) / len(tokens),
        "prompt_cycles": sum(c.cycles for c in runner.of("prompt")),
        "prompt_stalls": stalls_of(runner.of("prompt")),
        "prompt_utilisation": _utilisation(runner, runner.of("prompt")),
        "reference_compared": len(writer.scores),
        "reference_mismatches": wrong,
        "bounds": _bounds(runner, writer, tokens),
        "bits_per_byte": _bits_per_byte(job, model, quant),
    }
    return result, runner


def job_windows(job: NpuJob) -> list[NDArray[np.int64]]:
    """Calibration text as tokens."""
    return [np.frombuffer(text, np.uint8).astype(np.int64) for text in job.calibration]


def _utilisation(runner: NpuRunner, calls: list[Call]) -> float:
    cycles = sum(call.cycles for call in calls)
    return sum(call.macs for call in calls) / (cycles * runner.machine.macs)


def _reference_mismatches(quant: QuantGpt, writer: Generator) -> int:
    """Predictions whose scores are not those of the same integer model in numpy."""
    wanted = quantise_np.logits(quant, writer.tokens)[-len(writer.scores) :]
    return int((wanted != np.stack(writer.scores)).any(axis=1).sum())


def _bounds(runner: NpuRunner, writer: Generator, tokens: list[Call]) -> dict[str, float]:
    """Cycles per token that no schedule of these weights goes below."""
    machine, memory = runner.machine, runner.machine.config.memory
    streamed = writer.programs.streamed()
    return {
        "macs": sum(call.macs for call in tokens) / len(tokens) / machine.macs,
        "weight_bytes_per_token": streamed,
        "weights": math.ceil(streamed / machine.bus_bytes) * memory.beat_cycles,
    }


def _bits_per_byte(job: NpuJob, model: Model, quant: QuantGpt) -> dict[str, float | int]:
    """Of held-out text, by the float model and by the integer model."""
    total, count, data = 0.0, 0, job.held_out
    for start in range(0, len(data) - 1, model.context):
        window = np.frombuffer(data[start : start + model.context], np.uint8).astype(np.int64)
        if len(window) > 1:
            total += quantise_np.bits(trace(model, window)["logits"][:-1], window[1:])
            count += len(window) - 1
    return {
        "float": total / count,
        "quantised": quantise_np.bits_per_byte(quant, data),
        "predicted_bytes": count,
    }


# --- images -------------------------------------------------------------------------------------


def _classify(
    job: NpuJob, what: ImagesDescription, make: Make, on_image: Step
) -> tuple[dict[str, Any], NpuRunner]:
    network = npu_digits.load_network()
    quant = npu_digits.quantise_network(network)
    pixels, labels = (part[: what.images] for part in npu_digits.load_images())
    runner = NpuRunner(job.machine, what.executions, make)
    compiled = compile_graph(npu_digits.graph(quant), job.machine)
    (output,) = compiled.graph.outputs
    rows = []
    for number, image in enumerate(pixels):
        program = compiled.bind({"image": quant.image(image)[..., None]})
        result = runner.run(program, "image", number, _macs(compiled))
        assert result.outputs is not None
        rows.append(compiled.outputs(result.outputs)[output.name].reshape(-1))
        on_image(1)
    scores = np.stack(rows)
    wanted, real = quant.scores(pixels), network.scores(pixels)
    images = runner.of("image")
    result = common(job, runner, images) | {
        "task": "classify",
        "model": what.model,
        "layers": [asdict(layer) for layer in compiled.report.layers],
        "images": len(pixels),
        "labels": labels.tolist(),
        "answers": scores.argmax(axis=1).tolist(),
        "pixels": pixels.tolist(),
        "accuracy": npu_digits.accuracy(scores, labels),
        "float_accuracy": npu_digits.accuracy(real, labels),
        "same_as_float": float((scores.argmax(axis=1) == real.argmax(axis=1)).mean()),
        "training": _training(),
        "stalls_of": "all images",
        "cycles_per_image": sum(c.cycles for c in images) / len(images),
        "reference_compared": len(pixels),
        "reference_mismatches": int((wanted != scores).any(axis=1).sum()),
        "bounds": {
            "macs": _macs(compiled) / job.machine.macs,
            "transfers": compiled.report.bytes_bound,
        },
    }
    return result, runner


def _macs(compiled: Compiled) -> int:
    """Multiplications of one image."""
    return sum(layer.macs for layer in compiled.graph.layers)


def _training() -> dict[str, float | int]:
    """What the float network reached on all images that were held out."""
    note = json.loads((npu_digits.FOLDER / "PROVENANCE.json").read_text())
    return {key: note[key] for key in ("training_images", "held_out_images", "held_out_accuracy")}
