"""The same design and program under cocotb on Verilator, for machines with AXI ports."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bankside.errors import ToolError
from bankside.isa.program import Program
from bankside.sim.engine import Engine

_BENCH = "bankside.sim.rtl.bench_speed_axi"


@dataclass(frozen=True)
class Bench:
    """What the bench does with a design.

    Attributes
    ----------
    component, top: the design and the name of its module.
    registers: (address, value) that the host writes, the last of which starts the machine.
    memories: prefix of an AXI port -> content of the memory there; the first is main memory.
    running, watched: bits of the port `events`; the cycles of `watched` are recorded.
    timing: cycles (read latency, write latency, between beats).
    """

    component: Any
    top: str
    registers: Sequence[tuple[int, int]]
    memories: Mapping[str, NDArray]
    running: int
    watched: int
    timing: tuple[int, int, int]


def run(bench: Bench, *, internals: bool) -> dict[str, NDArray]:
    """`cycles`, `seconds` of processor time, `image` of main memory (uint16), cycles `seen`.

    internals: build as cocotb's own runner does (every signal public), else ports only.
    """
    from bankside.sim.rtl.cocotb_runner import run_bench

    with tempfile.TemporaryDirectory() as folder:
        given, result = Path(folder) / "in.npz", Path(folder) / "out.npz"
        np.savez(
            given, registers=np.array(bench.registers, np.uint64),
            prefixes=np.array(list(bench.memories)), running=bench.running, watched=bench.watched,
            timing=bench.timing, **bench.memories,
        )  # fmt: skip
        run_bench(
            bench.component, bench.top, _BENCH, internals=internals, seed=1,
            extra_env={"BANKSIDE_SPEED_IN": str(given), "BANKSIDE_SPEED_OUT": str(result)},
        )  # fmt: skip
        return dict(np.load(result))


def speed(
    bench: Bench,
    ours: Engine,
    program: Program,
    seen: Callable[[Any], list[int]],
    *,
    internals: bool,
) -> dict[str, float]:
    """Speed under cocotb; memory and recorded cycles must be those of the `rtl` execution, whose
    result `seen` takes the latter from. Raises ToolError when they differ.
    """
    found, wanted = run(bench, internals=internals), ours.run(program, trace=True)
    image = np.asarray(wanted.outputs).ravel()
    same = np.array_equal(found["image"][: image.size], image)
    if not same or found["seen"].tolist() != seen(wanted):
        raise ToolError("cocotb and the rtl execution disagree on the same design; report this")
    cycles = int(found["cycles"])
    return {"cycles": cycles, "cycles_per_s": cycles / float(found["seconds"])}


def compare(
    result: dict[str, Any], measure: Callable[[bool], dict[str, float]], *, all_signals: bool
) -> None:
    """Put the speeds under cocotb beside `result["rtl"]`; measure: `internals` -> speed."""
    kinds = {"cocotb": False} | ({"cocotb_all_signals": True} if all_signals else {})
    for name, internals in kinds.items():
        result[name] = measure(internals)
        speed = result[name]["cycles_per_s"]
        result[f"rtl_over_{name}"] = result["rtl"]["cycles_per_s"] / speed


def lines(result: Mapping[str, Any]) -> list[str]:
    """The same for people."""
    return [
        f"under cocotb       {result[name]['cycles_per_s'] / 1e3:8.1f} kcycle/s   "
        f"({built}) rtl execution is {result[f'rtl_over_{name}']:.1f} times as fast"
        for name, built in (("cocotb", "ports only"), ("cocotb_all_signals", "every signal public"))
        if name in result
    ]
