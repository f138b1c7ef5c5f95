"""Outcome classes of docs/faults.md."""

from __future__ import annotations

from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from bankside.sim.faults import END_ERROR, END_LIMIT

__all__ = ["CLASSES", "DEFINITIONS", "FAILURES", "OutcomeClass", "classify", "false_alarms"]


class OutcomeClass(StrEnum):
    """What a fault has come to."""

    HANG = "hang"
    DETECTED = "detected-uncorrected"
    SDC = "SDC"
    CORRECTED = "detected-corrected"
    TIMING = "timing-only"
    LATENT = "latent"
    MASKED = "masked"


#: In the order in which they are tried.
CLASSES: tuple[OutcomeClass, ...] = tuple(OutcomeClass)
#: What the AVF counts; `detected-uncorrected` (DUE) is shown beside it.
FAILURES = (OutcomeClass.SDC, OutcomeClass.HANG)

#: As printed in reports.
DEFINITIONS = {
    OutcomeClass.HANG: "The run reached its limit (twice the fault-free run and 1,000 cycles) "
    "without an alarm.",
    OutcomeClass.DETECTED: "An alarm `detected` was raised, or the machine itself stopped with an "
    "error. With the right output: a false alarm, counted apart as well.",
    OutcomeClass.SDC: "Silent data corruption: what the run delivers differs from the fault-free "
    "run, and nobody noticed.",
    OutcomeClass.CORRECTED: "An alarm `corrected` was raised, and the output is right.",
    OutcomeClass.TIMING: "The output is right, but the run took another number of cycles.",
    OutcomeClass.LATENT: "Output and cycles are right, but a register or memory differs at the "
    "end: a later run may read it.",
    OutcomeClass.MASKED: "None of the above: no trace is left.",
}


def classify(outcomes: NDArray[np.void], cycles: int) -> NDArray[np.uint8]:
    """Index into `CLASSES` of every row of `OUTCOME`.

    Args:
        cycles: of the fault-free run.
    """
    alarm = outcomes["detected"] != 0
    wrong = outcomes["output"] == 0
    conditions = [
        (outcomes["end"] == END_LIMIT) & ~alarm,
        alarm | (outcomes["end"] == END_ERROR),
        wrong,
        outcomes["corrected"] != 0,
        outcomes["cycles"] != cycles,
        outcomes["state"] == 0,
    ]
    masked = len(conditions)
    return np.select(conditions, range(masked), masked).astype(np.uint8)


def false_alarms(outcomes: NDArray[np.void], classes: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Rows of the class `detected-uncorrected` whose output is right."""
    return (classes == CLASSES.index(OutcomeClass.DETECTED)) & (outcomes["output"] == 1)
