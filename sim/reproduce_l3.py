"""L3 (arXiv 2504.17584) and its published version CHIME (ISCA 2026): headline numbers beside ours.

Attention in the ranks takes the cycles of the timing model that equals the RTL, everything on the
GPUs what the calibrated model says. Nothing is fitted to the papers. Ref: docs/policies.md.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from bankside.mapping.paper.l3 import (
    DATA_SHEET,
    LEAST,
    MOST,
    ONE_COPY,
    TABLE_I,
    Setting,
    Steady,
    baseline,
    ours,
    over_cpus,
    points,
    published,
    scaling,
    speedups,
)
from bankside.mapping.policy.pim_latency import RankAttention
from bankside.mapping.system.system import System
from bankside.sim.full_machine import VARIANTS, machine, peak_tbps
from bankside.sim.reproduce import Paper, Result
from bankside.sim.reproduce_table import Question, answer, close_cells, text, write

_NOTES = (
    (
        "steady state: as many requests as memory holds, lengths log-normal with the published "
        "means and deviations, mean of 200 states, seed fixed (another seed moves a cell by up to "
        "about 6 %)"
    ),
    (
        "ours is one setting for all cells; the sensitivity changes one thing for all of them: "
        "the GPUs' rate, the copies, or which of the runs is meant (models and data sets; batch "
        "and latency: models); the last two both rate and run"
    ),
)
_GPUS = "GPUs' rate: data sheet, 2,496 TFLOP/s; CHIME's table I prints 156 TFLOP/s in total"
_COPIES = "copies of the weights that baselines hold (here: one per tensor-parallel group)"
#: Settings of the sensitivity, by name.
SETTINGS: dict[str, Setting] = {
    "156 TFLOP/s in total": TABLE_I, "one copy": ONE_COPY, "least run": LEAST, "most run": MOST,
    "156, least run": replace(TABLE_I, run=min), "156, most run": replace(TABLE_I, run=max),
}  # fmt: skip
#: Published, not recomputed, and why.
LEFT_OUT = {
    "bubble-free pipelining, MHA: latency -27.9 %": "how units run without it is not published",
    "re-layout: latency up to -17 %": "the layout without it is not published",
    "all hardware steps: 1.42 to 4.18 times": "the order and state of the steps is not published",
    "scheduler: latency -70.93 % against capacity-first": "requests' arrivals are not published",
    "batch 14.3 times GPU only's, GPT-175B (v1)": (
        "what of the GPUs' memory is left for keys and values is not published"
    ),
    "TBT 29 to 53 % of GPU only (v1)": "16 ranksets; requests' arrivals are not published",
    "PCIe overhead up to -75.08 %": "what overlaps without ranksets is not published",
    "energy -40 % of the GPU's (v1), area": "no energy or area model of the bank units here",
}


def _most(name: str, setting: Setting) -> float:
    return (setting.run or max)(speedups(name, setting).values())


def _mean_scaling(key: str, setting: Setting) -> float:
    """Of the models on OpenR1, or one of all runs."""
    data = published()
    if setting.run:
        return setting.run(scaling(*point, setting)[key] for point in points())
    rows = [scaling(m, data["batch"]["dataset"], setting)[key] for m in data["models"]]
    return statistics.geometric_mean(rows)


def _over_ext(what: Callable[[Steady], float], setting: Setting) -> float:
    """Ours over HBM-PIM-EXT's, mean of the models. (The models' batches grow equally, so the
    largest growth would pick a model by chance.)
    """
    data = published()
    dataset = data["batch"]["dataset"]
    return (setting.run or statistics.geometric_mean)(
        what(ours(m, dataset, setting)) / what(baseline(m, dataset, "hbm_pim_ext", setting))
        for m in data["models"]
    )


def _growth(setting: Setting) -> float:
    return _over_ext(lambda state: state.batch, setting)


def _slower(setting: Setting) -> float:
    return _over_ext(lambda state: state.seconds, setting)


def _bubbles(_: Setting) -> float:
    """Latency that one chip per head saves GQA-8 over eight, at 16 K tokens."""
    dimm = System.load("l3").dimm_pim
    assert dimm is not None
    ranks = RankAttention.of(dimm, 64, 8, 128)
    one, eight = (
        ranks.program_cycles(16384, nhc) / min(ranks.machine.chips // nhc, 8) for nhc in (1, 8)
    )
    return 1 - one / eight


def _peak(_: Setting) -> float:
    return peak_tbps(machine(1, VARIANTS.get("base")))


def _questions() -> Iterator[Question[Setting]]:
    data = published()
    for name, paper in data["speedup"].items():
        yield (
            f"speed-up over {name} (CHIME)", paper, lambda s, n=name: _most(n, s),
            f"most over 3 models and 4 data sets; {_GPUS}; {_COPIES}",
        )  # fmt: skip
    for name, paper in data["speedup_v1"].items():
        yield (
            f"speed-up over {name} (v1)", paper, lambda s, n=name: _most(n, s),
            f"v1's models and data are not known, CHIME's are used; {_GPUS}; {_COPIES}",
        )  # fmt: skip
    cpus = data["cpu_v1"]
    yield (
        "speed-up over attention on the CPUs (v1)", cpus["speedup"],
        lambda s: (s.run or max)(over_cpus(*point, s) for point in points()),
        (
            "second-hand; v1's models and data are not known, CHIME's are used; CPUs at the peak "
            f"bandwidth of their memory; {_GPUS}; {_COPIES}"
        ),
    )  # fmt: skip
    yield (
        "batch over HBM-PIM-EXT, OpenR1 (CHIME)", data["batch"]["growth"], _growth,
        "the paper does not name model and baseline: mean of the models, against hbm_pim_ext",
    )  # fmt: skip
    yield (
        "latency of a pass over HBM-PIM-EXT, OpenR1 (CHIME)", data["batch"]["latency"], _slower,
        f"the same runs, one by one under `runs`; {_GPUS}",
    )  # fmt: skip
    for version, key in (("CHIME", "scaling"), ("v1", "scaling_v1")):
        for row in ("bandwidth", "capacity", "both"):
            yield (
                f"8 times {row} ({version})", data[key][row],
                lambda s, r=row: _mean_scaling(r, s),
                f"the paper does not name the run: OpenR1, mean of the models; {_GPUS}",
            )  # fmt: skip
    yield (
        "latency saved by the bubble-free N_hc, GQA-8 (CHIME)", data["pipelining"]["gqa"], _bubbles,
        "N_hc 1 against 8, 16 K tokens, one rank",
    )  # fmt: skip
    yield (
        "bank units, TB/s (CHIME)", data["peak_tbps"], _peak,
        "8 bytes per tCCD_L, 16 banks, 8 chips, 64 ranks",
    )  # fmt: skip


def reproduce() -> Result:
    """Cells, how they depend on what the papers leave open, all runs."""
    found = answer(_questions(), DATA_SHEET, SETTINGS)
    return {
        "paper": "L3 (arXiv 2504.17584), CHIME (ISCA 2026)",
        **found,
        "within_15_percent": close_cells(found["cells"]),
        "runs": [_run(model, dataset) for model, dataset in points()],
        "left_out": dict(LEFT_OUT),
        "notes": list(_NOTES),
    }


def _run(model: str, dataset: str) -> dict[str, Any]:
    rows = {"l3": ours(model, dataset)}
    rows |= {name: baseline(model, dataset, name) for name in published()["systems"]}
    return {
        "model": model,
        "dataset": dataset,
        **{
            name: {"batch": row.batch, "ms": 1e3 * row.seconds, "tokens_per_s": row.tokens_per_s}
            for name, row in rows.items()
        },
    }


def _write(result: Mapping[str, Any], folder: Path) -> list[str]:
    return write(result, folder, "l3")


PAPER = Paper(reproduce, text, _write)
