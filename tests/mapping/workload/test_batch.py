"""Batches: sums over requests, chunks, windows."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bankside.errors import ConfigError
from bankside.mapping.workload import Batch

requests = st.lists(st.tuples(st.integers(1, 300), st.integers(0, 300)), max_size=5)


def brute_pairs(prefills: list[tuple[int, int]], window: int | None = None) -> int:
    """Keys that each query sees, counted one by one."""
    return sum(
        min(position, window or position)
        for tokens, past in prefills
        for position in range(past + 1, past + tokens + 1)
    )


@settings(deadline=None)
@given(prefills=requests, decodes=st.lists(st.integers(1, 10_000), max_size=6))
def test_sums_over_requests(prefills: list[tuple[int, int]], decodes: list[int]) -> None:
    batch = Batch.of(prefills, decodes)
    assert batch.prefill_pairs == brute_pairs(prefills)
    assert batch.prefill_context == sum(tokens + past for tokens, past in prefills)
    assert batch.tokens == sum(tokens for tokens, _ in prefills) + len(decodes)
    assert batch.outputs == len(prefills) + len(decodes)
    assert batch.decode_context == sum(decodes)
    assert batch.decode_longest == max(decodes, default=0)


@settings(deadline=None)
@given(
    chunks=st.lists(st.integers(1, 400), min_size=1, max_size=8),
    past=st.integers(0, 500),
    window=st.sampled_from([None, 1, 37, 256, 5000]),
)
def test_chunks_are_the_whole(chunks: list[int], past: int, window: int | None) -> None:
    whole = Batch.prefill(1, sum(chunks), past).windowed(window)
    done, pairs, tokens = past, 0.0, 0.0
    for chunk in chunks:
        part = Batch.prefill(1, chunk, done).windowed(window)
        pairs, tokens, done = pairs + part.prefill_pairs, tokens + part.prefill_tokens, done + chunk
    assert pairs == whole.prefill_pairs == brute_pairs([(sum(chunks), past)], window)
    assert tokens == whole.prefill_tokens


@settings(deadline=None)
@given(
    prefills=requests,
    decodes=st.lists(st.integers(1, 2000), max_size=6),
    window=st.integers(1, 1000),
)
def test_windows_of_mixed_requests(
    prefills: list[tuple[int, int]], decodes: list[int], window: int
) -> None:
    batch = Batch.of(prefills, decodes)
    seen = batch.windowed(window)
    assert seen.decode_context >= sum(min(context, window) for context in decodes)
    assert seen.decode_context <= batch.decode_context
    reads = sum(min(tokens + past, tokens + window - 1) for tokens, past in prefills)
    assert seen.prefill_context >= reads
    assert batch.prefill_tokens <= seen.prefill_pairs <= batch.prefill_pairs
    assert seen.prefill_pairs <= batch.prefill_tokens * window


@given(count=st.integers(1, 9), tokens=st.integers(1, 300), past=st.integers(0, 300),
       window=st.integers(1, 700))  # fmt: skip
def test_windows_of_equal_requests(count: int, tokens: int, past: int, window: int) -> None:
    seen = Batch.prefill(count, tokens, past).windowed(window)
    assert seen.prefill_pairs == pytest.approx(count * brute_pairs([(tokens, past)], window))
    assert seen.prefill_context == count * min(tokens + past, tokens + window - 1)
    decode = Batch.decode(count, tokens).windowed(window)
    assert decode.decode_context == count * min(tokens, window)
    assert decode.decode_longest == min(tokens, window)


def test_arrays_broadcast() -> None:
    batch = Batch.decode(np.arange(4)[:, None], np.array([10, 20])) + Batch.prefill(1, [5, 6])
    assert batch.shape == (4, 2) and batch.decode_context.shape == (4, 2)
    assert np.all(batch.decode_longest[0] == 0) and batch.decode_longest[3, 1] == 20
    assert np.array_equal(batch.prefill_pairs, [15, 21])
    assert Batch().shape == () and Batch().tokens == 0
    assert isinstance(Batch.decode(2, 3).decode_context, float)


def test_no_tokens_no_request() -> None:
    batch = Batch.prefill(5, 0, 100)
    assert batch.prefill_requests == batch.prefill_context == batch.prefill_pairs == 0


@pytest.mark.parametrize("bad", [-1, float("nan"), float("inf"), np.array([1, -2])])
def test_refused(bad: object) -> None:
    with pytest.raises(ConfigError, match="expected numbers of requests and tokens >= 0"):
        Batch.decode(bad, 10)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="makes no sense"):
        Batch.prefill(1, 10, bad)  # type: ignore[arg-type]
