"""Fronts and hypervolume against definitions computed the slow way."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bankside.mapping.explore.pareto import crowding, dominates, front, hypervolume, ranks


def vectors(length: int) -> st.SearchStrategy:
    return st.lists(st.tuples(*[st.integers(0, 6)] * length), max_size=12)


@given(st.integers(1, 4).flatmap(vectors))
def test_front_holds_what_nothing_dominates(found: list) -> None:
    slow = [i for i, a in enumerate(found) if not any(dominates(b, a) for b in found)]
    assert front(found) == slow


@given(vectors(3))
def test_ranks_peel_fronts(found: list) -> None:
    rank = ranks(found)
    for i, j in itertools.permutations(range(len(found)), 2):
        if dominates(found[i], found[j]):
            assert rank[i] < rank[j]
    for i, r in enumerate(rank):
        before = [j for j in range(len(found)) if rank[j] == r - 1]
        assert r == 0 or any(dominates(found[j], found[i]) for j in before)


@pytest.mark.parametrize("length", [1, 2, 3, 4])
def test_hypervolume_counts_cells(length: int) -> None:
    """Integer vectors dominate whole cells of a grid, which can be counted."""
    rng = np.random.default_rng(length)
    for _ in range(30):
        found = [tuple(map(int, v)) for v in rng.integers(0, 6, (rng.integers(0, 9), length))]
        cells = itertools.product(range(5), repeat=length)
        slow = sum(any(all(x <= c for x, c in zip(v, cell, strict=True)) for v in found)
                   for cell in cells)  # fmt: skip
        assert hypervolume(found, (5,) * length) == slow


def test_crowding_by_hand() -> None:
    assert crowding([(0, 4), (1, 2), (4, 0)]) == [float("inf"), 2.0, float("inf")]
    assert crowding([]) == []
