"""The result of a campaign as plain data: per block, per stratum, per design; profiles."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bankside.fault_injection.campaign import Found
from bankside.fault_injection.classes import (
    CLASSES,
    DEFINITIONS,
    FAILURES,
    OutcomeClass,
    false_alarms,
)
from bankside.fault_injection.sampling import Stratum, bits_in
from bankside.fault_injection.statistics import rate, wilson, wilson_share
from bankside.fault_injection.strata import Strata

__all__ = ["share_of", "tables"]

_BINS, _EXAMPLES, _REGISTERS = 32, 3, 15
Group = Callable[[Stratum], tuple[str, ...]]


def tables(found: Found) -> dict[str, Any]:
    """Keys injections, models (one row each), blocks (model x block), strata, profiles,
    examples, definitions.
    """
    level = found.prepared.campaign.description.sampling.level
    return {
        "injections": len(found.faults),
        "cycles": found.prepared.cycles,
        "level": level,
        "models": _rows(found, level, ("model",), lambda s: (s.model.name,)),
        "blocks": _rows(found, level, ("model", "block"), lambda s: (s.model.name, s.block)),
        "strata": _rows(
            found,
            level,
            ("model", "block", "role", "phase"),
            lambda s: (s.model.name, s.block, s.role, s.phase.name),
        ),  # fmt: skip
        "hierarchy": _hierarchy(found),
        "by_cycle": _by_cycle(found),
        "by_bit": _by_bit(found),
        "registers": _registers(found),
        "examples": _examples(found),
        "definitions": {str(name): text for name, text in DEFINITIONS.items()},
    }


# --- shares ---------------------------------------------------------------------------------------


def share_of(
    strata: Sequence[Stratum], hits: Sequence[int], trials: Sequence[int], level: float
) -> dict[str, Any]:
    """A share over strata: estimate, interval, and how it stands in a table.

    One stratum alone, or all exhaustive: `statistics.rate`. Else the weighted estimate, with the
    Wilson interval of as many even injections as its variance is worth; without hits, or with hits
    only, the exact bound over all strata (Sidak's split).
    """
    sizes = [s.population for s in strata]
    every = [n == size for n, size in zip(trials, sizes, strict=True)]
    k, n = sum(hits), sum(trials)
    joint = Strata.of(sizes, hits, trials, every)
    estimate = joint.estimate()
    if len(strata) == 1 or all(every):
        text = rate(k, n, level, exhaustive=all(every))
        low, high = (estimate, estimate) if all(every) else map(float, wilson(k, n, level))
        return {"estimate": estimate, "low": low, "high": high, "text": text}
    if k in (0, n):
        bound = joint.interval(level, "each")
        sign, edge = ("<", bound.high) if k == 0 else (">", bound.low)
        low, high = (0.0, bound.high) if k == 0 else (bound.low, 1.0)
        return {
            "estimate": estimate,
            "low": low,
            "high": high,
            "text": f"{sign} {_percent(edge)} %",
        }
    low, high = wilson_share(estimate, _even(joint), level)
    text = f"{_percent(estimate)} % ({_percent(low)}-{_percent(high)} %)"
    return {"estimate": estimate, "low": low, "high": high, "text": text}


def _even(joint: Strata) -> float:
    """Even injections that the variance is worth, with (hits + 1) / (trials + 2) as shares: no
    stratum without hits is sure.
    """
    known = joint.hits / joint.trials
    p = np.where(joint.exhaustive, known, (joint.hits + 1) / (joint.trials + 2))
    each = np.where(joint.exhaustive, 0.0, joint.weights**2 * p * (1 - p) / joint.trials)
    mean = float(joint.weights @ p)
    return mean * (1 - mean) / float(each.sum())


def _percent(share: float) -> str:
    return f"{100 * share:#.2g}" if share < 0.1 else f"{100 * share:.1f}"


def _rows(found: Found, level: float, names: tuple[str, ...], group: Group) -> list[dict[str, Any]]:
    """One row per group of strata, in their order."""
    groups: dict[tuple[str, ...], list[Stratum]] = {}
    for stratum in found.prepared.strata:
        groups.setdefault(group(stratum), []).append(stratum)
    counted = _counts(found)
    alarms = np.bincount(
        found.stratum, false_alarms(found.outcomes, found.classes), minlength=len(found.sizes)
    )
    rows = []
    for key, strata in groups.items():
        numbers = [s.number for s in strata]
        counts = counted[numbers]
        trials = [int(n) for n in found.sizes[numbers]]
        row: dict[str, Any] = dict(zip(names, key, strict=True))
        row |= {
            "kinds": sorted({site.kind for s in strata for site in s.sites}),
            "unit": strata[0].model.unit,
            "bits": bits_in(strata),
            "population": sum(s.population for s in strata),
            "faults": sum(trials),
            "exhaustive": all(n == s.population for n, s in zip(trials, strata, strict=True)),
            "classes": {str(c): int(counts[:, i].sum()) for i, c in enumerate(CLASSES)},
            "shares": _weighted(strata, counts),
            "false_alarms": int(alarms[numbers].sum()),
            "avf": share_of(strata, _sum(counts, FAILURES), trials, level),
            "due": share_of(strata, _sum(counts, (OutcomeClass.DETECTED,)), trials, level),
        }
        rows.append(row)
    return rows


def _weighted(strata: Sequence[Stratum], counts: NDArray[np.int64]) -> dict[str, float]:
    """Share of all possible faults by class, as the strata tell."""
    sizes = np.array([s.population for s in strata], np.float64)
    shares = sizes / sizes.sum() @ (counts / np.maximum(counts.sum(axis=1, keepdims=True), 1))
    return {str(c): float(share) for c, share in zip(CLASSES, shares, strict=True)}


def _counts(found: Found) -> NDArray[np.int64]:
    """Faults by stratum and class."""
    flat = found.stratum * len(CLASSES) + found.classes
    shape = (len(found.sizes), len(CLASSES))
    return np.bincount(flat, minlength=shape[0] * shape[1]).reshape(shape)


def _sum(counts: NDArray[np.int64], classes: Iterable[OutcomeClass]) -> list[int]:
    return [int(n) for n in counts[:, [CLASSES.index(c) for c in classes]].sum(axis=1)]


# --- profiles -------------------------------------------------------------------------------------


def _failed(found: Found) -> NDArray[np.bool_]:
    return np.isin(found.classes, [CLASSES.index(c) for c in FAILURES])


def _hierarchy(found: Found) -> list[dict[str, Any]]:
    """AVF of every instance path, from the top down, all its sites together; weighted."""
    weights, failed = found.weights, _failed(found)
    sums: dict[tuple[str, str], list[float]] = {}
    for fault, weight, bad in zip(found.faults, weights, failed, strict=True):
        parts = fault.site.split(".")[:-1]
        for depth in range(len(parts) + 1):
            row = sums.setdefault((fault.model, ".".join(parts[:depth])), [0.0, 0.0, 0, 0])
            row[0] += weight
            row[1] += weight * bad
            row[2] += 1
            row[3] += int(bad)
    bits: dict[tuple[str, str], int] = {}
    for stratum in found.prepared.strata:
        if stratum.phase.first == 0:
            for site in stratum.sites:
                parts = site.path.split(".")[:-1]
                for depth in range(len(parts) + 1):
                    key = (stratum.model.name, ".".join(parts[:depth]))
                    bits[key] = bits.get(key, 0) + site.width * site.depth
    return [
        {"model": model, "path": path, "bits": bits[model, path], "faults": int(row[2]),
         "failures": int(row[3]), "avf": row[1] / row[0]}
        for (model, path), row in sorted(sums.items())
    ]  # fmt: skip


def _by_cycle(found: Found) -> list[dict[str, Any]]:
    """Faults and failures by the cycle in which they begin, in windows of equal length."""
    cycles = np.array([fault.cycle for fault in found.faults])
    count = min(_BINS, found.prepared.cycles)
    edges = [found.prepared.cycles * i // count for i in range(count + 1)]
    return _profile(found, np.digitize(cycles, edges[1:]), [
        {"first": first, "last": end - 1} for first, end in zip(edges, edges[1:], strict=False)
    ])  # fmt: skip


def _by_bit(found: Found) -> list[dict[str, Any]]:
    """The same by the number of the bit in its word; of sites of role data wider than a bit."""
    sites = [found.prepared.sites[fault.site] for fault in found.faults]
    words = np.array([site.role == "data" and site.width > 1 for site in sites])
    bits = np.array([fault.bit for fault in found.faults])
    top = int(bits[words].max()) + 1 if words.any() else 0
    return _profile(found, np.where(words, bits, -1), [{"bit": bit} for bit in range(top)])


def _profile(
    found: Found, places: NDArray[np.int64], rows: list[dict[str, Any]]
) -> list[dict[str, Any]]:
    """`rows` of every model that begins its faults in any cycle, with what lies at their places."""
    weights, failed = found.weights, _failed(found)
    models = [s.model.name for s in found.prepared.strata]
    out = []
    for model, _ in found.prepared.campaign.models:
        if model.when != "cycle":
            continue
        own = np.array([name == model.name for name in models])[found.stratum]
        for place, row in enumerate(rows):
            mine = own & (places == place)
            total, bad = (float(weights[m].sum()) for m in (mine, mine & failed))
            out.append({"model": model.name} | row | {
                "faults": int(mine.sum()), "failures": int((mine & failed).sum()),
                "avf": bad / total if total else None,
            })  # fmt: skip
    return out


def _registers(found: Found) -> list[dict[str, Any]]:
    """Of every model the sites with the most failures that their faults stand for."""
    weights, failed = found.weights, _failed(found)
    sums: dict[tuple[str, str], list[float]] = {}
    for fault, weight, bad in zip(found.faults, weights, failed, strict=True):
        row = sums.setdefault((fault.model, fault.site), [0.0, 0, 0])
        row[0] += weight * bad
        row[1] += 1
        row[2] += int(bad)
    out = []
    for model, _ in found.prepared.campaign.models:
        mine = sorted(
            ((-row[0], site, row) for (name, site), row in sums.items() if name == model.name),
            key=lambda item: item[:2],
        )
        out += [
            {"model": model.name, "site": site, "faults": int(row[1]), "failures": int(row[2])}
            for _, site, row in mine[:_REGISTERS] if row[2]
        ]  # fmt: skip
    return out


def _examples(found: Found) -> list[dict[str, Any]]:
    """The first faults of each class and model, to be replayed."""
    seen: dict[tuple[str, int], int] = {}
    rows = []
    for number, fault in enumerate(found.faults):
        key = (fault.model, int(found.classes[number]))
        seen[key] = seen.get(key, 0) + 1
        if seen[key] <= _EXAMPLES:
            rows.append({"id": number, "class": str(CLASSES[key[1]]), **fault.as_dict()})
    return sorted(rows, key=lambda row: (row["model"], row["class"], row["id"]))
