"""Dominance, crowding, hypervolume. Vectors are to be minimised."""

from __future__ import annotations

import math
from collections.abc import Sequence

Vector = tuple[float, ...]


def dominates(a: Vector, b: Vector) -> bool:
    """Whether `a` is nowhere worse and somewhere better."""
    return a != b and all(x <= y for x, y in zip(a, b, strict=True))


def front(vectors: Sequence[Vector]) -> list[int]:
    """Indices of those that no other dominates; of equal ones all."""
    order = sorted(range(len(vectors)), key=lambda i: vectors[i])
    kept: list[int] = []
    for i in order:  # whatever dominates comes before what it dominates
        if not any(dominates(vectors[j], vectors[i]) for j in kept):
            kept.append(i)
    return sorted(kept)


def ranks(vectors: Sequence[Vector]) -> list[int]:
    """Front of each vector, from 0. Ref: NSGA-II, Deb et al. 2002, section III-A."""
    found = [0] * len(vectors)
    left, rank = list(range(len(vectors))), 0
    while left:
        best = {left[i] for i in front([vectors[j] for j in left])}
        for i in best:
            found[i] = rank
        left = [i for i in left if i not in best]
        rank += 1
    return found


def crowding(vectors: Sequence[Vector]) -> list[float]:
    """Room around each vector of one front. Ref: NSGA-II, Deb et al. 2002, section III-B."""
    room = [0.0] * len(vectors)
    for axis in range(len(vectors[0]) if vectors else 0):
        order = sorted(range(len(vectors)), key=lambda i: (vectors[i][axis], i))
        low, high = vectors[order[0]][axis], vectors[order[-1]][axis]
        room[order[0]] = room[order[-1]] = math.inf
        if high == low:
            continue
        for before, i, after in zip(order, order[1:], order[2:], strict=False):
            room[i] += (vectors[after][axis] - vectors[before][axis]) / (high - low)
    return room


def hypervolume(vectors: Sequence[Vector], reference: Vector) -> float:
    """Volume that the vectors dominate up to a reference point; exact, by slices.

    Ref: Zitzler and Thiele, 1998; slicing as in While et al. 2006 (HSO).
    """
    inside = [v for v in set(vectors) if all(x < r for x, r in zip(v, reference, strict=True))]
    if not inside:
        return 0.0
    if len(reference) == 1:
        return reference[0] - min(inside)[0]
    inside.sort()
    total = 0.0
    for i, vector in enumerate(inside):
        end = inside[i + 1][0] if i + 1 < len(inside) else reference[0]
        if end > vector[0]:
            slab = [v[1:] for v in inside[: i + 1]]
            rest = [slab[j] for j in front(slab)]
            total += (end - vector[0]) * hypervolume(rest, reference[1:])
    return total
