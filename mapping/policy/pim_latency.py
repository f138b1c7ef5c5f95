"""Decode attention in the ranks of a DIMM-PIM machine, from the cycle-exact timing model.

A rank works on one program per request and group of heads: append the newest key and value, attend.
Cycles rise in steps of 16 tokens. Programs are timed at every step up to 2,048 tokens, at every 128
tokens up to 8,192, then at each power of two, repeated until refresh has its average share.
Contexts are rounded up to a step; between the points cycles are taken to be straight. That is
within 1 % of the model on DDR4 and within 1.5 % on DDR5 from the second token on
(tests/mapping/policy/test_pim_latency.py).
Points are computed when they are needed and kept.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from bankside.config import PimHardware
from bankside.errors import ConfigError
from bankside.isa.machine import Machine
from bankside.isa.program import Program
from bankside.mapping import lower_pim
from bankside.mapping.lower_pim import KvLayout, PimKernels, Shape
from bankside.mapping.policy.store import Store, code_of
from bankside.mapping.system.devices import DimmPim
from bankside.mapping.workload.batch import Numbers
from bankside.sim import full_machine
from bankside.sim.full_machine import INTERVALS, ROWS, repeated
from bankside.sim.timing.pim import PimTiming

#: Tokens of a step.
_BURST = 16
#: Those with 16 more follow where rows of some shapes are full and the next ones are opened.
_POINTS = np.unique(
    np.concatenate(
        [np.arange(16, 2049, 16), np.arange(2176, 8193, 128), np.arange(2048, 8192, 512) + 16,
         2 ** np.arange(14, 41)]
    )
)  # fmt: skip
#: Context at which the number of chips per head is chosen.
_TYPICAL = 16384
#: More cycles than the fewest that still count as free of bubbles.
_BUBBLES = 0.02


class RankAttention:
    """One model's attention on the ranks of one machine.

    Attributes
    ----------
    nhc: chips that share a head. heads: key heads of one program. groups: programs per layer and
    request.
    """

    def __init__(self, hardware: PimHardware, ranks: int, shape: tuple[int, int, int]) -> None:
        dram = hardware.dram.model_copy(update={"rows": ROWS, "refresh": True})
        self.machine = Machine.of(hardware.model_copy(update={"dram": dram}))
        self.ranks = ranks
        self.query_heads, self.kv_heads, self.head_dim = shape
        self._timing = PimTiming(self.machine)
        self._store = Store(
            "pim_latency",
            {"hardware": self.machine.config.content_hash, "shape": list(shape),
             "choice": [_TYPICAL, _BUBBLES], "code": _code()},
        )  # fmt: skip
        self.nhc = self._choose()
        self.heads = self._heads(self.nhc)
        self.groups = -(-self.kv_heads // self.heads)

    @classmethod
    def of(cls, dimm: DimmPim, query_heads: int, kv_heads: int, head_dim: int) -> RankAttention:
        """Raises ConfigError when the bank units cannot hold such heads."""
        return _made(dimm.config(query_heads // kv_heads), dimm.ranks,
                     (query_heads, kv_heads, head_dim))  # fmt: skip

    @classmethod
    def up_to(
        cls, dimm: DimmPim, query_heads: int, kv_heads: int, head_dim: int
    ) -> list[RankAttention]:
        """One for every number of query lanes up to the machine's; arguments and errors of `of`.

        More lanes want fewer chips per head: more requests per second, but one alone is slower.
        """
        lanes = [n for n in (1, 2, 4, 8) if n <= min(dimm.query_lanes, query_heads // kv_heads)]
        return [
            cls.of(dimm.model_copy(update={"query_lanes": n}), query_heads, kv_heads, head_dim)
            for n in lanes
        ]

    def seconds(self, requests: Numbers, context: Numbers, longest: Numbers) -> Numbers:
        """One layer's attention of `requests` requests with `context` tokens in all.

        Ranks share the work evenly; no rank finishes before the longest request's program.
        """
        requests, context = np.asarray(requests, float), np.asarray(context, float)
        mean = context / np.maximum(requests, 1e-300)
        busy = requests * self.groups * self._cycles(mean) / self.ranks
        cycles = np.maximum(busy, self._cycles(np.asarray(longest, float)))
        return np.where(requests > 0, cycles * self.machine.std.tck_ps * 1e-12, 0.0)

    # --- points -----------------------------------------------------------------------------------
    def _cycles(self, context: NDArray[np.float64]) -> NDArray[np.float64]:
        """Of one program; straight between the points, in whole bursts of tokens."""
        context = np.maximum(np.ceil(context / _BURST), 1) * _BURST
        if not context.size:
            return np.zeros_like(context)
        first = max(0, int(np.searchsorted(_POINTS, context.min(), "right")) - 1)
        last = int(np.searchsorted(_POINTS, context.max()))
        points = _POINTS[first : last + 1].tolist()
        return np.interp(context, points, [self.program_cycles(p, self.nhc) for p in points])

    def program_cycles(self, context: int, nhc: int) -> float:
        """Of one program at an exact context, by the timing model, refresh included."""
        return self._store.get(f"{context}/{nhc}", lambda: self._measure(context, nhc))

    def _heads(self, nhc: int) -> int:
        return min(self.machine.chips // nhc, self.kv_heads)

    def _programs(self, context: int, nhc: int) -> list[Program]:
        heads = self._heads(nhc)
        group = self.query_heads // self.kv_heads
        layout = KvLayout.of(
            self.machine, Shape(1, heads, heads * group, self.head_dim, context), nhc=nhc
        )
        new = np.zeros((heads, self.head_dim), np.uint16)
        queries = np.zeros((heads * group, self.head_dim), np.uint16)
        return PimKernels(layout).decode(0, context, queries, new, new)

    def _measure(self, context: int, nhc: int) -> float:
        total = 0.0
        for program in self._programs(context, nhc):
            single = self._timing.run(program).cycles or 1
            count = max(2, -(-INTERVALS * self.machine.refresh_interval // single))
            total += (self._timing.run(repeated(program, count)).cycles or 1) / count
        return total

    def _choose(self) -> int:
        """`_best`, remembered."""
        return int(self._store.get("nhc", self._best))

    def _best(self) -> int:
        """The most chips per head that leave no bubbles: heads of a request then lie on more ranks.

        Ref: CHIME (ISCA 2026), equation 1, as cycles of our model.
        """
        found: dict[int, float] = {}
        problem: ConfigError | None = None
        for nhc in (1, 2, 4, 8):
            if nhc <= self.machine.chips:
                try:
                    programs = self._programs(_TYPICAL, nhc)
                    cycles = sum(self._timing.run(p).cycles or 0 for p in programs)
                    found[nhc] = cycles / self._heads(nhc)
                except ConfigError as error:
                    problem = error
        if not found:
            raise ConfigError(
                f"attention with heads of {self.head_dim} does not fit the bank units of "
                f"{self.machine.config.name}: {problem}"
            )
        fewest = min(found.values())
        return max(nhc for nhc, cycles in found.items() if cycles <= (1 + _BUBBLES) * fewest)


@lru_cache(maxsize=1)
def _code() -> list[str]:
    """Of all files that the cycles depend on."""
    import bankside.isa
    import bankside.sim.timing

    packages = (bankside.isa, bankside.sim.timing)
    return code_of(packages, (lower_pim, full_machine, __file__))


@lru_cache(maxsize=64)
def _made(hardware: PimHardware, ranks: int, shape: tuple[int, int, int]) -> RankAttention:
    return RankAttention(hardware, ranks, shape)
