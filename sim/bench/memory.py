"""Speed of the host memory controllers, beside that of the simulators they are compared with."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from tempfile import TemporaryDirectory
from typing import Any

from bankside.sim.bench.common import median_seconds
from bankside.sim.memory.model import Memory
from bankside.sim.memory.requests import pattern

POLICIES = ("fr_fcfs", "fifo", "dramsim3", "ramulator2")
#: Reads of DDR4-3200, one channel and rank, refresh on, no trace.
STREAMS = {"random": 200_000, "stream": 1_000_000}
#: Requests per second of the simulators themselves on one core of another machine (shared, x86-64
#: with AVX-512), same streams. Ref: umd-memsys/DRAMsim3@29817593 and
#: CMU-SAFARI/ramulator2@c5b1c3a4, measured for the reference data of this project.
PUBLISHED = {
    "dramsim3": {"random": 122e3, "stream": 329e3},
    "ramulator2": {"random": 140e3, "stream": 281e3},
}


def measure(preset: str, repeats: int, *, builds: bool = True, **_: object) -> dict[str, Any]:
    """Requests and simulated cycles per second of processor time, by policy and stream."""
    found: dict[str, Any] = {"preset": preset, "engine": "memory", "policies": {}}
    for policy in POLICIES:
        memory = Memory.of("ddr4_3200", policy=policy)
        found["policies"][policy] = {
            name: _speed(memory, name, count, repeats) for name, count in STREAMS.items()
        }
    for policy, speeds in PUBLISHED.items():
        for name, speed in speeds.items():
            row = found["policies"][policy][name]
            row |= {"simulator_requests_per_s": speed, "ratio": row["requests_per_s"] / speed}
    if builds:
        found["first_run_s"] = _first_run()
    return found


def _speed(memory: Memory, name: str, count: int, repeats: int) -> dict[str, float]:
    addresses = pattern(name, count, memory_bytes=memory.bytes, burst_bytes=memory.burst_bytes)
    requests = memory.requests(addresses)
    cycles = memory.run(requests).cycles
    seconds = median_seconds(lambda: memory.run(requests), repeats)
    return {"requests": count, "cycles": cycles, "requests_per_s": count / seconds,
            "cycles_per_s": cycles / seconds}  # fmt: skip


def _first_run() -> float:
    """Wall seconds from starting Python to the first result, with nothing compiled yet."""
    code = (
        "from bankside.sim.memory.model import Memory; m = Memory.of(); m.run(m.requests([0, 64]))"
    )
    with TemporaryDirectory() as folder:
        start = time.perf_counter()
        environment = os.environ | {"BANKSIDE_BUILD": folder}
        subprocess.run([sys.executable, "-c", code], check=True, env=environment)
        return time.perf_counter() - start


def text(found: dict[str, Any]) -> str:
    """The figures for people."""
    lines = ["memory controllers, DDR4-3200, one channel, refresh on (processor time, one thread)"]
    for policy, streams in found["policies"].items():
        for name, row in streams.items():
            line = (
                f"  {policy:10} {name:6} {row['requests_per_s'] / 1e6:6.2f} M requests/s, "
                f"{row['cycles_per_s'] / 1e6:6.2f} M cycles/s"
            )
            if "ratio" in row:
                line += (
                    f"; the simulator {row['simulator_requests_per_s'] / 1e6:.2f} M requests/s on "
                    f"another machine: {row['ratio']:.1f} x"
                )
            lines.append(line)
    if "first_run_s" in found:
        lines.append(f"  first run with nothing compiled: {found['first_run_s']:.1f} s")
    return "\n".join(lines)
