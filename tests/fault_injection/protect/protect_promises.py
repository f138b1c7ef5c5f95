"""What each kind of protection promises of an upset, checked on runs of the compiled hardware."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from protect_harness import Bench, Runs, Site

Flip = tuple[int, Site, int, int]


@dataclass(frozen=True)
class Trial:
    """Runs of a block with one fault each, and what the same faults do without protection.

    Attributes:
        faults: of each run.
        wrong: [run, cycle] a response bit of the block differs from the run without a fault.
        unprotected: [run] the same fault in the block `plain` changes its response; True where
            there is no such fault (state that protection has brought).
    """

    faults: Sequence[Sequence[Flip]]
    wrong: NDArray[np.bool_]
    runs: Runs
    unprotected: NDArray[np.bool_]


def singles(site: Site, cycles: Sequence[int]) -> list[list[Flip]]:
    """Every bit of a site in every cycle."""
    return [
        [(cycle, site, word, bit)]
        for cycle in cycles
        for word in range(site.depth)
        for bit in range(site.width)
    ]


def trial(
    bench: Bench, stimuli: NDArray[np.bool_], block: str, plain: str, faults: list[list[Flip]]
) -> Trial:
    """Run faults of `block`, and the same in `plain` where it has the site."""
    columns, reference = bench.harness.outputs[block], bench.harness.outputs[plain]
    golden = bench.run(stimuli, [[]]).responses[0]
    runs = bench.run(stimuli, faults)
    wrong = (runs.responses[:, :, columns] != golden[:, columns]).any(axis=2)
    twins = [[_twin(bench, block, plain, flip) for flip in flips] for flips in faults]
    known = [i for i, flips in enumerate(twins) if None not in flips]
    unprotected = np.zeros(len(faults), bool)
    if known:
        plain_runs = bench.run(stimuli, [twins[i] for i in known])
        differs = plain_runs.responses[:, :, reference] != golden[:, reference]
        unprotected[known] = differs.any(axis=(1, 2))
    return Trial(faults, wrong, runs, unprotected)


def _twin(bench: Bench, block: str, plain: str, flip: Flip) -> Flip | None:
    cycle, site, word, bit = flip
    original = {bench.netlist.site(path): path for path in bench.netlist.renamed}
    path = original.get(site.path, site.path).replace(f"{block}.", f"{plain}.", 1)
    return (cycle, bench.sites[path], word, bit) if path in bench.sites else None


def _named(trial: Trial, runs: NDArray[np.bool_], problem: str) -> list[str]:
    return [
        f"{problem}: "
        + ", ".join(f"{s.path}[{w}] bit {b} in cycle {c}" for c, s, w, b in trial.faults[i])
        for i in np.flatnonzero(runs)
    ]


def correction_problems(trial: Trial, *, at_once: bool) -> list[str]:
    """Nothing wrong comes out and nothing is called uncorrectable; `corrected` is raised, in that
    very cycle and in no other (`at_once`), or whenever the upset would have been seen.
    """
    raised = trial.runs.corrected.any(axis=1)
    problems = _named(trial, trial.wrong.any(axis=1), "wrong output")
    problems += _named(trial, trial.runs.detected.any(axis=1), "corrected, but called detected")
    if not at_once:
        return problems + _named(trial, trial.unprotected & ~raised, "no alarm")
    cycles = np.arange(trial.wrong.shape[1])
    expected = cycles == np.array([flips[0][0] for flips in trial.faults])[:, None]
    return problems + _named(trial, (trial.runs.corrected != expected).any(axis=1), "alarm")


def detection_problems(trial: Trial, *, at_once: bool) -> list[str]:
    """`detected` is raised no later than the first wrong output; with `at_once` in the cycle of
    the upset itself, whatever comes of it.
    """
    seen = np.logical_or.accumulate(trial.runs.detected, axis=1)
    problems = _named(trial, (trial.wrong & ~seen).any(axis=1), "wrong output before any alarm")
    if at_once:
        first = [flips[0][0] for flips in trial.faults]
        quiet = ~trial.runs.detected[np.arange(len(first)), first]
        problems += _named(trial, quiet, "no alarm")
    return problems
