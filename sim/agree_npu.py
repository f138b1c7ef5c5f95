"""The `npu` engine in agreement runs. See `bankside.sim.agree.Unit`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from bankside.isa.npu_machine import NpuMachine
from bankside.isa.program import Program
from bankside.sim.agree import Unit, load_config
from bankside.sim.engine import Result
from bankside.sim.random_programs_npu import random_programs

_MACS = (32, 64, 128, 256)
_PRESETS = tuple(f"npu_{profile}_{macs}" for profile in ("u55", "llm") for macs in _MACS)
#: Memories that a compiled machine meets; what they change is not part of the RTL.
MEMORIES: Mapping[str, Mapping[str, int]] = {
    "": {},
    "near": {"read_latency_cycles": 1, "write_latency_cycles": 1},
    "jittery": {"read_latency_cycles": 9, "jitter_cycles": 70, "seed": 2463534242},
    "slow": {
        "read_latency_cycles": 61, "jitter_cycles": 5, "seed": 7, "write_latency_cycles": 45,
        "beat_cycles": 3,
    },
}  # fmt: skip


class NpuUnit(Unit):
    """Presets, each with every memory of `MEMORIES`."""

    sets = {"full": _PRESETS, "all": _PRESETS, "quick": ("npu_u55_32", "npu_llm_32")}
    clock_domain = "npu"

    def machines(self, name: str) -> Iterator[NpuMachine]:
        config = load_config(name, "npu")
        for changes in MEMORIES.values():
            memory = config.memory.model_copy(update=dict(changes))
            yield NpuMachine.of(config.model_copy(update={"memory": memory}))

    def variant(self, machine: NpuMachine) -> str:
        memory = machine.config.memory
        for name, changes in MEMORIES.items():
            if name and all(getattr(memory, key) == value for key, value in changes.items()):
                return name
        return ""

    def label(self, machine: NpuMachine) -> str:
        variant = self.variant(machine)
        return f"{machine.config.name}{f' ({variant} memory)' if variant else ''}"

    def programs(
        self, rng: np.random.Generator, machine: NpuMachine
    ) -> Iterator[tuple[str, Program]]:
        yield from random_programs(rng, machine)

    def counts(self, machine: NpuMachine, result: Result) -> Mapping[str, int]:
        engines = result.macros["engine"]
        return {"transfers": int((engines == 0).sum()), "operations": int((engines == 1).sum())}


UNIT = NpuUnit()
