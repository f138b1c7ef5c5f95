"""A tiny machine in numpy: an executor that needs no compiler, one column per faulty machine.

It sums 12 numbers into `core.acc`, keeps them in a ring and drives the sum out at the end. `core.
spare` is read by nobody, `core.check` holds a parity bit of `core.held` that raises the alarm. The
main memory holds the numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from bankside.sim.faults import (
    END_DONE, END_LIMIT, OUTCOME, Action, Site, check_actions, default_limit,
)  # fmt: skip

NUMBERS = [7, 250, 3, 99, 128, 64, 5, 17, 200, 31, 8, 77]
FLOPS = {"core.control.index": 4, "core.control.run": 1, "core.datapath.held": 8,
         "core.datapath.check": 1, "core.datapath.acc": 8, "core.datapath.spare": 6}  # fmt: skip
RING, SUM = "core.datapath.ring", "core.datapath.sum"
LAST = len(NUMBERS) - 1


@dataclass
class Golden:
    outcome: np.void

    @property
    def cycles(self) -> int:
        return int(self.outcome["cycles"])


class Tiny:
    """`FaultExecutor`. wrong: sites on which it lies, to be caught by a referee."""

    def __init__(self, wrong: Sequence[str] = ()) -> None:
        self.wrong = wrong
        self.sites = {name: Site("flop", name, width) for name, width in FLOPS.items()}
        self.sites |= {RING: Site("memory", RING, 8, 4), SUM: Site("net", SUM, 8),
                       "out": Site("port", "out", 8),
                       "store": Site("store", "store", 8, len(NUMBERS))}  # fmt: skip
        self.limit = 10_000
        self._golden = None
        self.golden = Golden(self._run([()])[0])
        self.limit = default_limit(self.golden.cycles)

    def run(self, faults: Sequence[Sequence[Action]]) -> np.ndarray:
        for actions in faults:
            check_actions(actions, self.sites)
        rows = self._run(faults)
        for row, actions in zip(rows, faults, strict=True):
            if any(action.site in self.wrong for action in actions):
                row["output"] ^= 1
        return rows

    def _run(self, faults: Sequence[Sequence[Action]]) -> np.ndarray:
        n = len(faults)
        s = {name: np.zeros(n, np.int64) for name in FLOPS}
        s["core.control.run"][:] = 1
        ring, store = np.zeros((4, n), np.int64), np.tile(np.array(NUMBERS)[:, None], n)
        out = np.zeros(n, OUTCOME)
        out["first"], out["end"] = -1, END_LIMIT
        live = np.ones(n, bool)
        todo = [(lane, a) for lane, actions in enumerate(faults) for a in actions]
        horizon = 10_000 if self._golden is None else self.limit
        for cycle in range(horizon):
            forced = []
            for lane, a in todo:
                end = cycle if a.op == "flip" else a.last
                if a.first <= cycle and (end is None or cycle <= end) and live[lane]:
                    if a.op == "force":
                        forced.append((lane, a))
                    elif not (a.op == "flip" and cycle != a.first):
                        self._deposit(s, ring, store, lane, a)
            todo = [(lane, a) for lane, a in todo
                    if not (a.last is not None and a.last < cycle or a.op == "flip" and a.first <= cycle)]  # fmt: skip
            total = (s["core.datapath.acc"] + s["core.datapath.held"]) & 255
            port = total * 0
            for lane, a in forced:
                old = total[lane] if a.site == SUM else port[lane]
                new = old ^ a.mask if a.value is None else old & ~a.mask | a.value
                (total if a.site == SUM else port)[lane] = new
            alarm = np.zeros(n, np.int64)
            held = s["core.datapath.held"]
            parity = np.zeros(n, np.int64)
            for bit in range(8):
                parity ^= held >> bit & 1
            alarm = (parity != s["core.datapath.check"]).astype(np.int64)
            out["detected"][live] |= alarm[live].astype(np.uint8)
            differs = live & (port != 0) & (out["first"] < 0)
            out["first"][differs] = cycle
            index = s["core.control.index"]
            number = store[np.minimum(index, LAST), np.arange(n)]
            run = s["core.control.run"] == 1
            step = live & run
            s["core.datapath.acc"][step] = total[step]
            s["core.datapath.held"][step] = number[step]
            np_parity = np.zeros(n, np.int64)
            for bit in range(8):
                np_parity ^= number >> bit & 1
            s["core.datapath.check"][step] = np_parity[step]
            ring[index[step] & 3, np.flatnonzero(step)] = number[step]
            last = step & (index == LAST)
            s["core.control.index"][step] = (index[step] + 1) & 15
            s["core.control.run"][last] = 0
            ended = last
            out["cycles"][ended], out["end"][ended] = cycle + 1, END_DONE
            live &= ~ended
            if not live.any():
                break
        out["cycles"][live] = horizon
        self._judge(out, s, ring, store)
        return out

    def _deposit(self, s, ring, store, lane: int, a: Action) -> None:
        row = store[a.word] if a.site == "store" else ring[a.word] if a.site == RING else s[a.site]
        row[lane] = row[lane] ^ a.mask if a.op == "flip" else row[lane] & ~a.mask | a.value

    def _judge(self, out, s, ring, store) -> None:
        state = np.concatenate([np.stack(list(s.values())), ring, store])
        acc = s["core.datapath.acc"]
        if self._golden is None:
            self._golden = state[:, 0].copy(), int(acc[0])
        out["output"] = acc == self._golden[1]
        out["state"] = (state == self._golden[0][:, None]).all(axis=0)
        out["counters"] = 1


def tiny() -> tuple[Tiny, Tiny]:
    """(executor, referee)"""
    return Tiny(), Tiny()


def lying() -> tuple[Tiny, Tiny]:
    """The referee does not agree on one register."""
    return Tiny(), Tiny(wrong=("core.datapath.held",))


def alone() -> tuple[Tiny, None]:
    """Without a referee."""
    return Tiny(), None
