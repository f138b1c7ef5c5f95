"""Every class of docs/faults.md, and the order in which they are tried."""

import numpy as np
import pytest

from bankside.fault_injection.classes import CLASSES, DEFINITIONS, classify, false_alarms
from bankside.sim.faults import END_DONE, END_ERROR, END_LIMIT, OUTCOME


def row(**values: int) -> np.ndarray:
    rows = np.zeros(1, OUTCOME)
    for name, value in ({"cycles": 50, "output": 1, "state": 1, "counters": 1} | values).items():
        rows[name] = value
    return rows


@pytest.mark.parametrize(
    ("values", "name"),
    [
        ({}, "masked"), ({"state": 0}, "latent"), ({"cycles": 51}, "timing-only"),
        ({"cycles": 51, "state": 0}, "timing-only"), ({"corrected": 1}, "detected-corrected"),
        ({"corrected": 1, "cycles": 51}, "detected-corrected"), ({"output": 0}, "SDC"),
        ({"output": 0, "corrected": 1}, "SDC"), ({"output": 0, "state": 0, "cycles": 9}, "SDC"),
        ({"detected": 1}, "detected-uncorrected"), ({"end": END_ERROR}, "detected-uncorrected"),
        ({"output": 0, "detected": 1}, "detected-uncorrected"), ({"end": END_LIMIT}, "hang"),
        ({"end": END_LIMIT, "output": 0}, "hang"),
        ({"end": END_LIMIT, "detected": 1}, "detected-uncorrected"), ({"counters": 0}, "masked"),
        ({"end": END_DONE, "first": 7}, "masked"),
    ],
)  # fmt: skip
def test_class(values: dict[str, int], name: str) -> None:
    assert CLASSES[int(classify(row(**values), 50)[0])] == name


def test_false_alarms_are_those_with_the_right_output() -> None:
    rows = np.concatenate([row(detected=1), row(detected=1, output=0), row(output=0), row()])
    assert false_alarms(rows, classify(rows, 50)).tolist() == [True, False, False, False]


def test_every_class_is_defined() -> None:
    assert set(DEFINITIONS) == set(CLASSES)
