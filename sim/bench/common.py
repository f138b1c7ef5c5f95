"""What the benches of all engines measure in the same way."""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections.abc import Callable
from typing import Any

from bankside.isa.program import Program
from bankside.sim.engine import Engine


def median_seconds(work: Callable[[], Any], repeats: int) -> float:
    """Median processor time: all of these run on one thread, and other load does not count."""
    times = []
    for _ in range(repeats):
        start = time.process_time()
        work()
        times.append(time.process_time() - start)
    return statistics.median(times)


def build_times(machine: Any, make: Callable[[Any], Any]) -> dict[str, float]:
    """Wall seconds to export the RTL of a machine and to compile it (by making its `rtl`
    execution), with an empty cache.
    """
    from bankside.sim.elaborate import to_verilog
    from bankside.sim.rtl.tops import top_of

    before = os.environ.get("BANKSIDE_BUILD")
    with tempfile.TemporaryDirectory() as folder:
        os.environ["BANKSIDE_BUILD"] = folder
        try:
            start = time.perf_counter()
            to_verilog(*top_of(machine))
            elaborated = time.perf_counter()
            make(machine).close()
            compiled = time.perf_counter()
        finally:
            os.environ.pop("BANKSIDE_BUILD") if before is None else os.environ.__setitem__(
                "BANKSIDE_BUILD", before
            )
    return {"elaborate_s": elaborated - start, "compile_s": compiled - elaborated}


def run_speed(engine: Engine, program: Program, repeats: int) -> dict[str, float]:
    """Simulated cycles per second of processor time, with the traces on."""
    cycles = engine.run(program, trace=True).cycles or 0
    seconds = median_seconds(lambda: engine.run(program, trace=True), repeats)
    return {"cycles": cycles, "cycles_per_s": cycles / seconds}
