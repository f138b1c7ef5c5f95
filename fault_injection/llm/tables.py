"""Tables of an experiment: shares and means with intervals, every one with its sample size."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from bankside.fault_injection.statistics import cluster_bootstrap, upper_bound, wilson

Run = dict[str, Any]
OUTCOMES = ("not stored", "corrected", "detected", "silent")
SHARES = ("first_flip", "any_flip", "broken")
MEANS = ("kl_bits", "added_bits")
PARTS = ("sign", "exponent", "mantissa")


def part_of(bit: int) -> str:
    """Part of an FP16 number that bit 0..15 belongs to."""
    return PARTS[0 if bit == 15 else 1 if bit >= 10 else 2]


DIMENSIONS: dict[str, Callable[[Run], object]] = {
    "phase": lambda run: run["phase"],
    "layer": lambda run: run["layer"],
    "side": lambda run: run["side"],
    "part": lambda run: part_of(run["bit"]),
}


class Summariser:
    """Numbers of a group of runs; `level`, `draws` and `seed` of the intervals."""

    def __init__(self, level: float, draws: int, seed: int) -> None:
        self.level, self.draws, self.seed = level, draws, seed

    def share(self, hits: Sequence[bool], clusters: Sequence[int]) -> dict:
        """Of a yes-or-no property. wilson: as if runs were independent; clustered: by prompt.

        `below`: upper bound where it was never seen (one-sided, exact for independent runs).
        """
        count, number = int(np.sum(hits)), len(hits)
        mixed = 0 < count < number
        return {
            "n": number,
            "seen": count,
            "share": count / number,
            "wilson": [float(end) for end in wilson(count, number, self.level)],
            "clustered": self._clustered(hits, clusters) if mixed else None,
            "below": float(upper_bound(0, number, self.level)) if count == 0 else None,
        }

    def mean(self, values: Sequence[float], clusters: Sequence[int]) -> dict:
        """Of a number; interval clustered by prompt, none where all values are zero."""
        some = any(value != 0 for value in values)
        return {
            "n": len(values),
            "mean": float(np.mean(values)) if values else None,
            "clustered": self._clustered(values, clusters) if some else None,
        }

    def _clustered(self, values: Sequence[float], clusters: Sequence[int]) -> list[float] | None:
        if len(set(clusters)) < 2:
            return None
        x = np.asarray(values, np.float64)
        return list(cluster_bootstrap(x, np.asarray(clusters), self.seed, self.draws, self.level))

    def group(self, runs: Sequence[Run]) -> dict:
        """Outcomes of all runs, and `effects`."""
        clusters = [run["window"] for run in runs]
        outcomes = {
            name: self.share([run["outcome"] == name for run in runs], clusters)
            for name in OUTCOMES
        }
        return {"faults": len(runs), "outcomes": outcomes} | self.effects(runs)

    def effects(self, runs: Sequence[Run]) -> dict:
        """What became of the texts. A run that ECC stopped delivers no wrong token: it counts as
        unchanged.
        """
        clusters = [run["window"] for run in runs]
        found: dict[str, Any] = {
            name: self.share([bool(run[name]) for run in runs], clusters) for name in SHARES
        }
        for name in MEANS:
            some = [run for run in runs if run[name] is not None]
            found[name] = self.mean([r[name] for r in some], [r["window"] for r in some])
        changed = [run for run in runs if run["any_flip"]]
        found["same_tokens_of_changed"] = self.mean(
            [run["same_tokens"] for run in changed], [run["window"] for run in changed]
        )
        return found


def _grouped(runs: Iterable[Run], key: Callable[[Run], object]) -> dict[object, list[Run]]:
    groups: dict[object, list[Run]] = {}
    for run in runs:
        groups.setdefault(key(run), []).append(run)
    return groups


def summary(config: Any, runs: Sequence[Run]) -> dict:
    """Tables of the runs of a `kv_cache.LlmKvCache`.

    schemes: one row per scheme and fault model. cells: of cell faults per scheme that lets one
    through, by phase, layer, side and part of the number, and by side and bit.
    """
    by = Summariser(config.level, config.draws, config.seed)
    rows = [
        {"scheme": scheme, "model": model} | by.group(group)
        for (scheme, model), group in _grouped(
            runs, lambda run: (run["scheme"], run["model"])
        ).items()
    ]
    names = [scheme.name for scheme in config.schemes]
    rows.sort(key=lambda row: (_first(runs, row["model"]), names.index(row["scheme"])))
    return {
        "kind": "llm_kv_cache",
        "faults": len(runs) // len(names),
        "windows": len({run["window"] for run in runs}),
        "level": config.level,
        "schemes": rows,
        "cells": _cells(by, [run for run in runs if run["model"] == "cell"]),
    }


def _first(runs: Sequence[Run], model: str) -> int:
    return next(run["number"] for run in runs if run["model"] == model)


def _cells(by: Summariser, runs: Sequence[Run]) -> dict:
    found = {}
    for scheme, group in _grouped(runs, lambda run: run["scheme"]).items():
        if not any(run["outcome"] == "silent" for run in group):
            continue
        tables: dict[str, list[dict]] = {
            name: [{name: value} | by.group(part) for value, part in _sorted(group, key)]
            for name, key in DIMENSIONS.items()
        }
        tables["bit"] = [
            {"side": side, "bit": bit} | by.group(part)
            for (side, bit), part in _sorted(group, lambda run: (run["side"], run["bit"]))
        ]
        found[str(scheme)] = tables
    return found


def _sorted(runs: Sequence[Run], key: Callable[[Run], Any]) -> list[tuple[Any, list[Run]]]:
    return sorted(_grouped(runs, key).items(), key=lambda item: item[0])


REPLAY_DIMENSIONS: dict[str, Callable[[Run], object]] = {
    "phase": lambda run: run["phase"],
    "layer": lambda run: run["layer"],
    "product": lambda run: run["product"],
    "top_bit": lambda run: (run["bits"], run["top_bit"]),
}


def replay_summary(config: Any, runs: Sequence[Run]) -> dict:
    """Tables of the runs of a `replay.LlmReplay`: all of each engine, then by its dimensions."""
    by = Summariser(config.level, config.draws, config.seed)
    engines = {
        engine: by.effects(group) | {"replays": len(group)} | {
            name: [{name: value} | by.effects(part) for value, part in _sorted(group, key)]
            for name, key in REPLAY_DIMENSIONS.items()
        }
        for engine, group in _grouped(runs, lambda run: run["engine"]).items()
    }  # fmt: skip
    return {"kind": "llm_replay", "replays": len(runs), "level": config.level, "engines": engines}
