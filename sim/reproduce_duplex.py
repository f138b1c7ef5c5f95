"""Duplex (arXiv 2409.01141, MICRO 2024): every number that its text names beside ours.

GPUs take what the calibrated model says, units on the logic die what the printed bandwidth and
operations per byte give. Nothing is fitted to the paper. Ref: docs/policies.md.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from bankside.mapping.paper.duplex import (
    CALIBRATED,
    Kind,
    Model,
    Setting,
    Stages,
    attention_utilisation,
    faster,
    machine,
    moe_utilisation,
    published,
    request_batch,
    runs,
    stages,
)
from bankside.sim.reproduce import Paper, Result
from bankside.sim.reproduce_table import Question, answer, close_cells, text, write

#: Settings of the sensitivity, by name.
SETTINGS: dict[str, Setting] = {
    "GPUs at their peaks": Setting(rooflines=True),
    "units read as GPUs": Setting(efficient=False),
    "dense on logic die": Setting(dense=True),
    "half energy to die": Setting(half_energy=True),
}
_NOTES = (
    (
        "steady state: a full batch, whoever is complete is replaced in the next stage, all "
        "requests of the mean lengths (the paper's deviation is not printed)"
    ),
    (
        "experts are equally loaded and divided among all devices in every machine; the paper's "
        "GPUs and plain Duplex have whole experts on each device"
    ),
    "ours is one setting for all cells; the sensitivity changes one thing for all of them",
)
_GPUS = "kernels of the GPUs as calibrated with launches; the paper's simulator is not public"
_UNITS = (
    "units at the printed bandwidth; what DRAM timing leaves of it in the paper is not printed "
    "(`units read as GPUs`: the share that the GPUs' products reach)"
)
#: Published, not recomputed, and why.
LEFT_OUT = {
    "Grok1, all numbers": "two nodes and a network between them; machines here have one node",
    "co-processing without expert tensor parallelism: 1.04 times on average": (
        "whole experts per device are not modelled"
    ),
    "energy -34.59 % (Grok1)": "as Grok1",
    "area: 17.80 mm2, 14.71 % of the logic die; TSVs 10.89 mm2": "no area model of the logic die",
    "energy-delay-area product (figure 8)": "no area model of the units",
    "heterogeneous and split systems (figures 5, 16)": "bars without printed values",
    "tail latencies by queries per second (figure 13)": "bars without printed values",
}  # fmt: skip


def _most(kind: Kind, other: Kind, models: tuple[Model, ...], setting: Setting) -> float:
    return max(faster(model, kind, other, b, n, setting) for model, b, n in runs(*models))


_MOE: tuple[Model, ...] = ("mixtral", "glam")


def _throughput() -> Iterator[Question[Setting]]:
    data = published().throughput
    on = f"most over Mixtral and GLaM, all batches and lengths; {_UNITS}; {_GPUS}"
    for name, paper, kind, other in (
        ("Duplex over GPU", data.duplex, "duplex", "gpu"),
        ("Duplex+PE+ET over GPU", data.both, "both", "gpu"),
        ("Duplex+PE+ET over Duplex", data.both_over_duplex, "both", "duplex"),
    ):
        yield f"throughput: {name}, up to", paper, partial(_most, kind, other, _MOE), on


def _glam(kind: Kind, length: int, setting: Setting) -> Stages:
    return stages("glam", kind, published().latency.batch, length, length, setting)


def _lengths() -> list[int]:
    return published().models["glam"].lengths


def _quicker(setting: Setting) -> float:
    return max(
        _glam("gpu", n, setting).mean_s / _glam("both", n, setting).mean_s for n in _lengths()
    )


def _whole(other: Kind, setting: Setting) -> float:
    return statistics.fmean(
        1 - _glam("both", n, setting).mean_s / _glam(other, n, setting).mean_s for n in _lengths()
    )


def _median(setting: Setting) -> float:
    return statistics.fmean(
        1 - _glam("both", n, setting).between_tokens(0.5)
        / _glam("gpu", n, setting).between_tokens(0.5)
        for n in _lengths()
    )  # fmt: skip


def _tail(setting: Setting) -> float:
    both, two = (_glam(k, published().latency.input, setting) for k in ("both", "two_gpus"))
    return 1 - both.between_tokens(0.99) / two.between_tokens(0.99)


def _first(setting: Setting) -> float:
    both, two = (_glam(k, published().latency.input, setting) for k in ("both", "two_gpus"))
    return 1 - both.first_token(0.5) / two.first_token(0.5)


def _latencies() -> Iterator[Question[Setting]]:
    end, tokens = published().end_to_end, published().tbt
    on = f"GLaM, batch 64, Duplex+PE+ET; {_UNITS}; {_GPUS}"
    two = f"{on}; sixteen GPUs as one node, the paper has two nodes and a network"
    yield "whole request: GPU over Duplex, up to", end.most, _quicker, on
    yield "whole request: saved over GPU, mean", end.over_gpu, partial(_whole, "gpu"), on
    yield "whole request: saved over 2xGPU, mean", end.over_two, partial(_whole, "two_gpus"), two
    yield "median between tokens: saved over GPU, mean", tokens.median, _median, on
    yield "P99 between tokens: saved over 2xGPU, 512", tokens.p99_over_two, _tail, two
    yield "median first token: saved over 2xGPU, 512", tokens.ttft_over_two, _first, two


def _queries(kind: Kind, setting: Setting) -> float:
    data = published().queries
    run = stages("mixtral", kind, data.batch, data.input, data.output, setting)
    return run.requests_per_s


def _bank(kind: Kind, batch: int, length: int, setting: Setting) -> float:
    return faster("mixtral", kind, "gpu", batch, length, setting)


def _over_bank(setting: Setting) -> list[float]:
    points = runs("mixtral", batches=published().bank_pim.batches)
    return [faster(model, "both", "bank", b, n, setting) for model, b, n in points]


def _bank_pim() -> Iterator[Question[Setting]]:
    data = published().bank_pim
    far, near = data.over_gpu, data.over_gpu_short
    on = f"Mixtral; {_UNITS}; {_GPUS}"
    yield (
        "Bank-PIM over GPU, batch 32, 4096",
        far.value,
        partial(_bank, "bank", far.batch, far.length),
        on,
    )  # noqa: E501
    short = partial(_bank, "bank", near.batch, near.length)
    yield "Bank-PIM over GPU, batch 64, 256", near.value, short, on
    both = partial(_bank, "both", near.batch, near.length)
    yield "Duplex over GPU, batch 64, 256", data.duplex_over_gpu_short, both, on
    alone = f"{on}; of each operator Bank-PIM takes what it is quicker at"
    yield "Duplex over Bank-PIM, up to", data.duplex_over_bank, lambda s: max(_over_bank(s)), alone
    yield (
        "Duplex over Bank-PIM, mean", data.duplex_over_bank_mean,
        lambda s: statistics.fmean(_over_bank(s)), alone,
    )  # fmt: skip


def _energy(model: Model, setting: Setting) -> float:
    def joules(kind: Kind, batch: int, length: int) -> float:
        return stages(model, kind, batch, length, length, setting).joules_per_token

    return max(1 - joules("both", b, n) / joules("gpu", b, n) for _, b, n in runs(model))


def _peak(_: Setting) -> float:
    """TFLOP/s of one stack's units."""
    data = published().logic
    pim = machine(1, data).logic_pim
    assert pim is not None
    return pim.flops / data.stacks / 1e12


def _others() -> Iterator[Question[Setting]]:
    data = published()
    use, room = data.utilisation, data.opt_batch
    busy = f"Mixtral and GLaM, batches 32 to 128, all requests decode; {_GPUS}"
    groups = f"Grok1's groups of 6; the figure's Mixtral has 4, 1.4 % at the peaks; {_GPUS}"
    keeps = f"Mixtral, 4096 in, 512 out, batch 128 always full; printed in whole numbers; {_GPUS}"
    energy = (
        "energy of the units' operations and of each DRAM access; the paper's are not printed: "
        "here 26.3 pJ per byte to the logic die, 28.7 to the GPU, operations on it free"
    )
    yield (
        "TFLOP/s of a stack", data.logic.tflops_per_stack, _peak,
        "4 times the GPU's bandwidth, 8 operations per byte, five stacks",
    )  # fmt: skip
    yield "GPU utilisation, experts, at most", use.moe, moe_utilisation, busy
    yield "GPU utilisation, attention, at most", use.attention, attention_utilisation, groups
    asked = data.queries
    yield "requests/s that GPU keeps up with", asked.gpu, partial(_queries, "gpu"), keeps
    yield "requests/s that Duplex keeps up with", asked.duplex, partial(_queries, "both"), keeps
    yield (
        "OPT-66B: requests that fit, 1024", room.requests,
        lambda _: request_batch("opt", "both", room.length, room.length),
        "prompt and answer in full, 95 % of the memory; the paper's reserve is not printed",
    )  # fmt: skip
    for model, saved in data.energy.items():
        name = f"energy saved over GPU, {model}, up to"
        yield name, saved, partial(_energy, model), energy


def _questions() -> Iterator[Question[Setting]]:
    yield from _throughput()
    yield from _latencies()
    yield from _bank_pim()
    yield from _others()


def orders() -> list[dict[str, Any]]:
    """What the paper says in words, and whether it holds here."""
    points = runs("mixtral", "glam")
    over = [faster(m, "both", "two_gpus", b, n) > 1 for m, b, n in points]
    pairs = {
        "Llama3 (GQA-8): Duplex is faster than Bank-PIM": all(
            faster(m, "both", "bank", b, n) > 1 for m, b, n in runs("llama3", batches=[32, 64])
        ),
        "OPT (MHA): Bank-PIM is faster than Duplex": all(
            faster(m, "bank", "both", b, n) > 1 for m, b, n in runs("opt", batches=[32])
        ),
        "Duplex+PE+ET is faster than 2xGPU in most cases": sum(over) > len(over) / 2,
        "GLaM: lower median time between tokens than 2xGPU": all(
            _glam("both", n, CALIBRATED).between_tokens(0.5)
            < _glam("two_gpus", n, CALIBRATED).between_tokens(0.5)
            for n in _lengths()
        ),
        "Duplex keeps up with nearly as many requests/s as 2xGPU": abs(
            _queries("both", CALIBRATED) / _queries("two_gpus", CALIBRATED) - 1
        ) < 0.15,
    }  # fmt: skip
    return [{"name": name, "holds": bool(holds)} for name, holds in pairs.items()]


def reproduce() -> Result:
    """Cells, how they depend on what the paper leaves open, all runs."""
    found = answer(_questions(), CALIBRATED, SETTINGS)
    return {
        "paper": "Duplex (arXiv 2409.01141, MICRO 2024)",
        **found,
        "within_15_percent": close_cells(found["cells"]),
        "orders": orders(),
        "runs": [_run(*point) for point in runs("mixtral", "glam")],
        "left_out": dict(LEFT_OUT),
        "notes": list(_NOTES),
    }


def _run(model: Model, batch: int, length: int) -> dict[str, Any]:
    kinds: tuple[Kind, ...] = ("gpu", "two_gpus", "duplex", "both", "bank")
    rows = {kind: stages(model, kind, batch, length, length) for kind in kinds}
    return {
        "model": model,
        "batch": batch,
        "length": length,
        **{
            kind: {"ms": 1e3 * row.mean_s, "tokens_per_s": row.tokens_per_s}
            for kind, row in rows.items()
        },
    }


def _write(result: Mapping[str, Any], folder: Path) -> list[str]:
    return write(result, folder, "duplex")


PAPER = Paper(reproduce, text, _write)
