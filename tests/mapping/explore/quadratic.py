"""An evaluator of a user: two objectives that pull apart, refusals, breakage."""

import os
import time
from typing import Any

from bankside.errors import ConfigError

_calls = 0


def evaluate(point: dict[str, Any], workload: dict[str, Any]) -> dict[str, float]:
    global _calls
    x, y = point["x"], point["y"]
    _calls += 1
    if _calls > int(os.environ.get("EXPLORE_TEST_HOLD", 1 << 30)):
        time.sleep(3600)  # whoever is to be killed shall still be there
    if log := os.environ.get("EXPLORE_TEST_LOG"):
        with open(log, "a") as file:
            file.write(f"{x} {y}\n")
    time.sleep(workload.get("delay_s", 0))
    if (x + y) % 13 == 0:
        raise ConfigError(f"{x} and {y} do not go together")
    if (x + y) % 17 == 0:
        raise ZeroDivisionError("broke")
    return {"near": x * x + (y - 5) ** 2, "far": (x - 40) ** 2 + abs(y - 5), "sum": x + y}


def zdt1(point: dict[str, float], workload: dict[str, Any]) -> dict[str, float]:
    """Two objectives; the front is where all values but the first are 0."""
    first, *rest = point.values()
    g = 1 + 9 * sum(rest) / len(rest)
    return {"first": first, "second": g * (1 - (first / g) ** 0.5)}
