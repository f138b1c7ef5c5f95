"""Random legal programs and machines for the timing tests, and a software-pipelined attention
kernel.
"""

from __future__ import annotations

import random

from bankside.config import PimHardware
from bankside.isa.dram.table import load_standard
from bankside.isa.machine import Machine
from bankside.isa.program import Builder, Program

ENGINES = ("array", "buffer", "rank", "host")
ARRAY, BUFFER, RANK, HOST = range(4)


def machine(
    standard: str = "ddr4_3200",
    *,
    refresh: bool = True,
    lanes: int = 8,
    depth: int = 4,
    chips: int = 8,
    geometry: dict[str, int] | None = None,
    params: dict[str, int] | None = None,
    options: dict | None = None,
) -> Machine:
    """A machine with any geometry and, through `params`, any single DRAM parameter."""
    dram = {
        "standard": standard,
        "chips": chips,
        "rows": 4096,
        "refresh": refresh,
        **(geometry or {}),
    }
    config = PimHardware.model_validate({
        "name": "test", "engine": "pim", "dram": dram,
        "pim": {"query_lanes": lanes, "queue_depth": depth},
    })  # fmt: skip
    std = load_standard(standard, geometry=geometry, options=options or {}, params=params)
    return Machine(config, std)


def random_machine(rng: random.Random) -> Machine:
    """Any standard, geometry and queue depth; frequent refreshes, and timings that no datasheet
    has.
    """
    standard = rng.choice(["ddr4_2400", "ddr4_3200", "ddr4_3200", "ddr5_4800", "ddr5_4800"])
    params = {}
    if rng.random() < 0.5:
        params["nREFI"] = rng.randrange(700, 3000)
        params["nRFC"] = rng.randrange(20, 300)
    if rng.random() < 0.4:
        for name in rng.sample(
            ["nCCD_S", "nRRD_S", "nRTP", "nFAW", "nRTW", "nWRR", "nRCD", "nRAS"], 3
        ):
            params[name] = rng.randrange(1, 40)
    geometry = rng.choice([
        None, None, {"bank_groups": 1, "banks_per_group": 8},
        {"bank_groups": 2, "banks_per_group": 4},
        {"bank_groups": 8, "banks_per_group": 1},
    ])  # fmt: skip
    return machine(
        standard, refresh=rng.random() < 0.8, depth=rng.choice([1, 2, 3, 4, 8]),
        chips=rng.choice([1, 2, 8]), geometry=geometry, params=params,
        options={"multi_activate_faw": rng.choice(["scaled", "waived"])},
    )  # fmt: skip


class RandomProgram:
    """Commands that keep the rules: rows open and closed in order, tokens that always come, loops
    that balance both.
    """

    def __init__(self, machine: Machine, rng: random.Random, size: int = 40) -> None:
        self.m, self.rng, self.size = machine, rng, size
        self.b = Builder("pim", machine.burst_elements)
        self.open: set[int] = set()
        self.tokens = [[0] * 4 for _ in range(4)]

    def build(self) -> Program:
        rng = self.rng
        for _ in range(rng.randrange(1, 4)):
            self.straight(rng.randrange(self.size))
            if rng.random() < 0.7:
                self.loop(2)
        self.straight(rng.randrange(self.size // 2))
        return self.b.build()

    def loop(self, depth: int) -> None:
        self.close()
        before = [row[:] for row in self.tokens]
        self.b.LOOP(count=self.rng.choice([1, 2, 3, 5, 12]))
        self.straight(self.rng.randrange(1, self.size // 2))
        if depth > 1 and self.rng.random() < 0.4:
            self.loop(depth - 1)
            self.straight(self.rng.randrange(self.size // 4))
        self.close()
        self.restore(before)
        self.b.ENDLOOP()

    def restore(self, before: list[list[int]]) -> None:
        """Extra commands until as many tokens are on their way as at the loop's head."""
        for source in range(4):
            for target in range(4):
                while self.tokens[source][target] > before[source][target]:
                    self.small(target, wait=1 << source)
                    self.tokens[source][target] -= 1
                while self.tokens[source][target] < before[source][target]:
                    self.small(source, signal=1 << target)
                    self.tokens[source][target] += 1

    def small(self, engine: int, **masks: int) -> None:
        """The shortest command of an engine."""
        if engine == ARRAY:
            self.b.WRR(cpt=1, **masks)
        elif engine == BUFFER:
            self.b.WRSBQ(count=1, **masks)
        elif engine == RANK:
            self.b.SFM(groups=1, valid=1, **masks)
        else:
            self.b.HWR(count=1, **masks)

    def masks(self, engine: int) -> dict[str, int]:
        wait = signal = 0
        for other in range(4):
            if self.tokens[other][engine] and self.rng.random() < 0.5:
                wait |= 1 << other
                self.tokens[other][engine] -= 1
        for other in range(4):
            if self.tokens[engine][other] < 4 and self.rng.random() < 0.15:
                signal |= 1 << other
                self.tokens[engine][other] += 1
        return {"wait": wait, "signal": signal}

    def straight(self, count: int) -> None:
        for _ in range(count):
            kind = self.rng.random()
            if kind < 0.55:
                self.array()
            elif kind < 0.8:
                self.buffer()
            elif kind < 0.9:
                self.rank()
            elif kind < 0.96:
                self.b.HWR(count=self.rng.randrange(1, 20), **self.masks(HOST))
            else:
                self.control()

    def close(self) -> None:
        if self.open:
            self.b.CLOSE(mode="all", **self.masks(ARRAY))
            self.open.clear()

    def array(self) -> None:
        rng, b = self.rng, self.b
        everything = set(range(self.m.banks))
        if not self.open and rng.random() < 0.1:
            return void(b.REF(**self.masks(ARRAY)))
        if self.open != everything and rng.random() < 0.5:
            return self.activate()
        choice = rng.random()
        if self.open == everything and choice < 0.5:
            b.MAC(count=rng.choice([1, 2, 3, 9, 40, 100]), **self.masks(ARRAY))
        elif self.open and choice < 0.75:
            name = rng.choice(["WR", "RD", "LDSB"])
            bank = rng.choice(sorted(self.open))
            b.emit(name, bank=bank, count=rng.choice([1, 2, 5]), **self.masks(ARRAY))
        elif choice < 0.85:
            b.WRR(cpt=4, **self.masks(ARRAY))
        elif rng.random() < 0.3:
            bank = rng.randrange(self.m.banks)
            b.CLOSE(mode="bank", bank=bank, **self.masks(ARRAY))
            self.open.discard(bank)
        else:
            b.CLOSE(mode="all", **self.masks(ARRAY))
            self.open.clear()
        return None

    def activate(self) -> None:
        rng, b = self.rng, self.b
        operands = {
            "row": rng.randrange(4096),
            "areg": rng.randrange(4),
            "areg_en": rng.randrange(2),
        }
        mode = rng.choice(["bank", "staggered", "group", "all"]) if not self.open else "bank"
        bank = rng.choice(sorted(set(range(self.m.banks)) - self.open))
        b.OPEN(mode=mode, bank=bank if mode == "bank" else 0, **operands, **self.masks(ARRAY))
        self.open |= {bank} if mode == "bank" else set(range(self.m.banks))

    def buffer(self) -> None:
        rng, b = self.rng, self.b
        name = rng.choice(["WRSBQ", "WRSBP", "RDRBS", "RDRBC"])
        masks = self.masks(BUFFER)
        if name == "WRSBQ":
            b.WRSBQ(count=rng.choice([1, 4, 30]), **masks)
        elif name == "WRSBP":
            b.WRSBP(groups=rng.choice([1, 2, 7]), **masks)
        elif name == "RDRBS":
            b.RDRBS(groups=rng.choice([1, 2, 5]), valid=1, **masks)
        else:
            b.RDRBC(count=rng.choice([1, 2]), **masks)

    def rank(self) -> None:
        if self.rng.random() < 0.7:
            self.b.SFM(groups=self.rng.randrange(1, 4), valid=1, **self.masks(RANK))
        else:
            self.b.NORM(count=self.rng.randrange(1, 9), **self.masks(RANK))

    def control(self) -> None:
        choice = self.rng.randrange(4)
        if choice == 0:
            self.b.BARRIER()
        elif choice == 1:
            self.b.GEOM(cpt=4, lanes=self.rng.randrange(1, self.m.lanes + 1))
        elif choice == 2:
            self.b.SETA(areg=self.rng.randrange(4), value=self.rng.randrange(4096))
        else:
            self.b.ADDA(areg=self.rng.randrange(4), value=self.rng.randrange(2**20))


def void(_value: object) -> None:
    """Drops a value (the builder returns the command's position)."""


def attention(
    machine: Machine, chunks: int, *, groups: int = 8, cpt: int = 8, lanes: int = 1
) -> Program:
    """Scores of chunk c+1 overlap the softmax of chunk c and the context of chunk c-1 (chunks >=
    3).
    """
    b = Builder("pim", machine.burst_elements)
    columns = groups * machine.slots_per_burst * cpt
    b.GEOM(nhc_log2=machine.tree_levels, cpt=cpt, lanes=lanes)
    b.SETA(areg=0, value=0)
    b.SETA(areg=1, value=2048)
    b.HWR(count=lanes * cpt, layout="head", signal="buffer")
    b.WRSBQ(count=cpt, wait="host", signal="array")

    def score(wait: str | tuple[str, ...] = ()) -> None:
        b.OPEN(mode="staggered", areg=0, areg_en=1)
        b.WRR(mode="tree", cpt=cpt, wait=wait)
        b.MAC(count=columns, signal="buffer")
        b.CLOSE(mode="all")
        b.ADDA(areg=0, value=1)
        b.RDRBS(groups=groups, valid=1, wait="array", signal="rank")
        b.SFM(groups=groups, valid=1, wait="buffer", signal="buffer")

    def context(signal: str | tuple[str, ...] = ()) -> None:
        b.WRSBP(groups=groups, wait="rank", signal="array")
        b.OPEN(mode="staggered", areg=1, areg_en=1)
        b.WRR(mode="acc", cpt=cpt, rescale=1, wait="buffer")
        b.MAC(count=columns, signal=signal)
        b.CLOSE(mode="all")
        b.ADDA(areg=1, value=1)

    score("buffer")
    score()
    b.LOOP(count=chunks - 2)
    context()
    score()
    b.ENDLOOP()
    context()
    context("buffer")
    b.RDRBC(count=cpt, wait="array", signal="rank")
    b.NORM(count=cpt, wait="buffer", signal="host")
    b.receive("context", lanes * cpt, layout="head", wait="rank")
    return b.build()
