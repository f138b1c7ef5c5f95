"""Vela's estimates for the Ethos-U55 beside cycles of the `npu` engine: convolutions, and the
plateau of one row of activations, which the weight decoder holds up on every configuration.

Ref: docs/npu_compiler.md (Single layers).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bankside.isa.machines import load_machine
from bankside.isa.program import Program
from bankside.mapping import paper
from bankside.mapping.lower_npu.compiled import Compiled, compile_graph
from bankside.mapping.lower_npu.single import LAYERS
from bankside.mapping.npu_graph import Graph
from bankside.sim.engine import Engine
from bankside.sim.reproduce import Paper, Result, cell, worst
from bankside.sim.timing.npu import NpuTiming
from bankside.strict_yaml import load_yaml

#: A row is bound by multiplications where Vela's machine keeps at least this share of them busy.
MAC_BOUND = 0.9
#: Counters of the cycles in which the multiplier path is fed by the decoder.
_DECODING = ("mac", "weights")
#: Layers of one token of a language model, and a product of activations.
TOKEN_LAYERS = ("fc_M1_K768_N768", "fc_M1_K768_N3072")
PRODUCT = "matmul_256"
_RESOLUTION = (
    "estimates of a compiler, not measurements of a device; its two estimators differ by -1 % to "
    "+13 % on the larger rows and by 1.9x on the smallest"
)


@dataclass(frozen=True)
class Measured:
    """One layer on one machine. utilisation: share of the multipliers, of all cycles."""

    layer: str
    machine: str
    cycles: int
    counters: Mapping[str, int]
    macs_bound: int

    @property
    def utilisation(self) -> float:
        return self.macs_bound / self.cycles


def vela() -> dict[str, dict[int, int]]:
    """Layer -> MACs per cycle -> NPU cycles."""
    data, _ = load_yaml(Path(paper.__file__).with_name("vela.yaml"))
    return {layer: dict(row) for layer, row in data.items()}


def random_inputs(graph: Graph, seed: int = 1) -> dict[str, np.ndarray]:
    """Integers over the whole range of every input."""
    rng = np.random.default_rng(seed)
    return {t.name: rng.integers(t.form.low, t.form.high + 1, t.shape) for t in graph.inputs}


def program(layer: str, machine: str) -> tuple[Program, Compiled]:
    """A layer of `single.LAYERS` on a preset, with random inputs."""
    compiled = compile_graph(LAYERS[layer](), load_machine(machine))
    return compiled.bind(random_inputs(compiled.graph)), compiled


def measure(layer: str, machine: str, make: Callable[[Any], Engine] = NpuTiming) -> Measured:
    """Cycles of the layer, with its transfers, on the execution that `make` gives."""
    given, compiled = program(layer, machine)
    result = make(compiled.machine).run(given)
    assert result.cycles
    return Measured(
        layer, machine, result.cycles, dict(result.counters), compiled.report.macs_bound
    )


def mac_bound(layer: str, macs: int) -> bool:
    """Whether Vela's estimate of a row is near what its multiplications take."""
    graph = LAYERS[layer]()
    work = sum(part.macs for part in graph.layers)
    return work / macs >= MAC_BOUND * vela()[layer][macs]


def _assumption(layer: str, macs: int) -> str:
    if mac_bound(layer, macs):
        return "bound by multiplications; ours with transfers of inputs and results"
    if layer.startswith("fc"):
        return (
            "bound by the weight decoder, 8 weights per cycle; ours with transfers, and 8 more "
            "bytes for each tile (of 4 output channels with 32 MACs, else of 8)"
        )
    return "not bound by multiplications; missing: Vela's estimate leaves memory transfers out"


def reproduce() -> Result:
    """Cells, and what the two profiles differ by."""
    cells, rows = [], []
    for layer, estimates in vela().items():
        for macs, cycles in estimates.items():
            found = measure(layer, f"npu_u55_{macs}")
            rows.append((layer, macs, found))
            name = f"cycles {layer} {macs} MACs"
            cells.append(cell(name, cycles, found.cycles, _assumption(layer, macs)))
    bound = [c for c, (layer, macs, _) in zip(cells, rows, strict=True) if mac_bound(layer, macs)]
    return {
        "paper": "Vela 5.2.0, estimates for Ethos-U55",
        "clock_domain": "npu",
        "cells": cells,
        "mac_bound_cells": len(bound),
        "mac_bound_worst": worst(bound),
        "plateau": _plateau([m for layer, _, m in rows if layer == TOKEN_LAYERS[0]]),
        "profiles": {layer: _profiles(layer) for layer in TOKEN_LAYERS},
        "product_utilisation": measure(PRODUCT, "npu_llm_256").utilisation,
        "notes": [_RESOLUTION],
    }


def _plateau(found: list[Measured]) -> dict[str, Any]:
    """One row of activations: cycles, those of the decoder, per machine."""
    decoding = {m.machine: sum(m.counters[key] for key in _DECODING) for m in found}
    cycles = {m.machine: m.cycles for m in found}
    return {
        "cycles": cycles,
        "decoding": decoding,
        "spread": max(cycles.values()) / min(cycles.values()) - 1,
    }


def _profiles(layer: str) -> dict[str, float]:
    narrow, wide = (measure(layer, f"npu_{name}_256").cycles for name in ("u55", "llm"))
    return {"u55": narrow, "llm": wide, "ratio": narrow / wide}


def text(result: Mapping[str, Any]) -> str:
    lines = [f"{result['paper']} (cycles of the NPU without memory), beside the npu engine"]
    lines += [
        f"{c['name']:48} {c['paper']:>9,.0f} {c['ours']:>9,.0f} {c['ratio']:6.3f}  "
        f"{c['assumption']}"
        for c in result["cells"]
    ]
    plateau = result["plateau"]
    lines.append(
        f"largest difference of the {result['mac_bound_cells']} rows bound by multiplications: "
        f"{result['mac_bound_worst']:.1%}"
    )
    lines.append(
        f"one row of activations: {_figures(plateau['cycles'])} cycles, of them the decoder "
        f"{_figures(plateau['decoding'])}"
    )
    lines += [
        f"{layer}, 256 MACs: u55 {row['u55']:,}, llm {row['llm']:,} cycles: "
        f"{row['ratio']:.1f} times"
        for layer, row in result["profiles"].items()
    ]
    lines.append(f"256^3 product on npu_llm_256: {result['product_utilisation']:.1%} of the MACs")
    return "\n".join([*lines, *(f"note: {note}" for note in result["notes"])])


def _figures(row: Mapping[str, int]) -> str:
    return ", ".join(f"{value:,}" for value in row.values())


def write(result: Mapping[str, Any], folder: Path) -> list[str]:
    """The cells as a table in Markdown."""
    lines = ["| layer | Vela | ours | ratio | assumption |", "|---|---|---|---|---|"]
    lines += [
        f"| {c['name']} | {c['paper']:,.0f} | {c['ours']:,.0f} | {c['ratio']:.3f} "
        f"| {c['assumption']} |"
        for c in result["cells"]
    ]
    (folder / "vela.md").write_text("\n".join(lines) + "\n")
    return ["vela.md"]


PAPER = Paper(reproduce, text, write)
