"""A tiny machine in numpy: an executor that needs no compiler, one column per faulty machine.

It adds up numbers of its main memory in `core.datapath.acc` and keeps the last four in a ring.
`spare` is read by nobody; `check` holds a parity bit of `held`, and an upset of either raises the
alarm. The last number is fetched, but not added.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from bankside.sim import faults as sim
from bankside.sim.faults import OUTCOME, Action, Site

NUMBERS = [7, 250, 3, 99, 128, 64, 5, 17, 200, 31, 8, 77]
INDEX, RUN = "core.control.index", "core.control.run"
HELD, CHECK, ACC, SPARE = (f"core.datapath.{n}" for n in ("held", "check", "acc", "spare"))
RING, SUM = "core.datapath.ring", "core.datapath.sum"
_PARITY = np.array([value.bit_count() & 1 for value in range(256)])


@dataclass
class Golden:
    outcome: np.void

    @property
    def cycles(self) -> int:
        return int(self.outcome["cycles"])


class Tiny:
    """`FaultExecutor`. wrong: sites on which it lies, to be caught by a referee."""

    def __init__(self, numbers: Sequence[int] = NUMBERS, wrong: Sequence[str] = ()) -> None:
        self.numbers, self.wrong = np.array(numbers), wrong
        width = len(numbers).bit_length()
        self.flops = {INDEX: width, RUN: 1, HELD: 8, CHECK: 1, ACC: 8, SPARE: 6}
        self.sites = {name: Site("flop", name, bits) for name, bits in self.flops.items()}
        self.sites |= {RING: Site("memory", RING, 8, 4), SUM: Site("net", SUM, 8),
                       "store": Site("store", "store", 8, len(numbers))}  # fmt: skip
        self.state: np.ndarray | None = None
        self.limit = 10 * len(numbers)
        self.golden = Golden(self._run([()])[0])
        self.limit = sim.default_limit(self.golden.cycles)

    def run(self, faults: Sequence[Sequence[Action]]) -> np.ndarray:
        for actions in faults:
            sim.check_actions(actions, self.sites)
        rows = self._run(faults)
        for row, actions in zip(rows, faults, strict=True):
            if any(action.site in self.wrong for action in actions):
                row["output"] ^= 1
        return rows

    def _run(self, faults: Sequence[Sequence[Action]]) -> np.ndarray:
        n = len(faults)
        state = {name: np.zeros(n, np.int64) for name in self.flops}
        state[RUN][:] = 1
        ring, store = np.zeros((4, n), np.int64), np.tile(self.numbers[:, None], n)
        out, live = np.zeros(n, OUTCOME), np.ones(n, bool)
        out["first"], out["end"], out["cycles"] = -1, sim.END_LIMIT, self.limit
        todo = [(lane, action) for lane, actions in enumerate(faults) for action in actions]
        todo.sort(key=lambda item: item[1].first)
        acting: list[tuple[int, Action]] = []
        for cycle in range(self.limit):
            while todo and todo[0][1].first <= cycle:
                acting.append(todo.pop(0))
            forced = self._deposits(acting, state, ring, store, live)
            acting = [
                (i, a) for i, a in acting if a.op != "flip" and (a.last is None or a.last > cycle)
            ]
            ended = self._step(cycle, state, ring, store, out, live, forced)
            out["cycles"][ended], out["end"][ended] = cycle + 1, sim.END_DONE
            live &= ~ended
            if not live.any():
                break
        self._judge(out, state, ring, store)
        return out

    def _deposits(self, acting, state, ring, store, live) -> list[tuple[int, Action]]:
        """Carry out deposits; return what is forced."""
        forced = []
        for lane, a in acting:
            if a.op == "force":
                forced.append((lane, a))
            elif live[lane]:
                row = {"store": store, RING: ring}.get(a.site)
                row = state[a.site] if row is None else row[a.word]
                row[lane] = row[lane] ^ a.mask if a.op == "flip" else row[lane] & ~a.mask | a.value
        return forced

    def _step(self, cycle, state, ring, store, out, live, forced) -> np.ndarray:
        """One cycle; which machines end with it."""
        total = state[ACC] + state[HELD] & 255
        for lane, a in forced:
            old = total[lane]
            total[lane] = old ^ a.mask if a.value is None else old & ~a.mask | a.value
        alarm = _PARITY[state[HELD]] != state[CHECK]
        out["detected"][live & alarm] = 1
        index, step = state[INDEX], live & (state[RUN] == 1)
        number = store[np.minimum(index, len(store) - 1), np.arange(len(live))]
        last = step & (index == len(store) - 1)
        ring[index[step] & 3, np.flatnonzero(step)] = number[step]
        state[ACC][step], state[HELD][step] = total[step], number[step]
        state[CHECK][step] = _PARITY[number[step]]
        state[INDEX][step] = index[step] + 1 & (1 << self.flops[INDEX]) - 1
        state[RUN][last] = 0
        return last

    def _judge(self, out, state, ring, store) -> None:
        kept = np.concatenate([np.stack(list(state.values())), ring, store])
        if self.state is None:
            self.state, self.right = kept[:, 0].copy(), int(state[ACC][0])
        out["output"], out["counters"] = state[ACC] == self.right, 1
        out["state"] = (kept == self.state[:, None]).all(axis=0)


def tiny() -> tuple[Tiny, Tiny]:
    """(executor, referee)"""
    return Tiny(), Tiny()


def lying() -> tuple[Tiny, Tiny]:
    """The referee does not agree on one register."""
    return Tiny(), Tiny(wrong=(HELD,))


def alone() -> tuple[Tiny, None]:
    """Without a referee."""
    return Tiny(), None


def long() -> tuple[Tiny, Tiny]:
    """With enough faults for large campaigns."""
    numbers = [(37 * i * i + 11) % 256 for i in range(240)]
    return Tiny(numbers), Tiny(numbers)
