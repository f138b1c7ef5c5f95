"""FuseMax's bindings: fused traffic is at most unfused, and nothing is below what is compulsory."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bankside.mapping.paper.fusemax import estimate
from bankside.mapping.paper.fusemax_counts import Attention
from bankside.mapping.paper.fusemax_data import fusemax

#: FLAT's tilings are those of the artifact's search, which at 1 M tokens moves more than unfused.
FUSED = ("cascade", "architecture", "interleaved")


def traffic(binding: str, work: Attention) -> float:
    return float(np.asarray(estimate(binding, work, artifact=False).traffic_bytes))


@pytest.mark.parametrize("binding", FUSED)
def test_fused_traffic_is_at_most_unfused(binding: str) -> None:
    data = fusemax()

    @settings(max_examples=40)
    @given(st.sampled_from(list(data.models)), st.integers(2, 12))
    def every_size(model: str, power: int) -> None:
        work = Attention.of(model, 256 << power)
        moved = traffic(binding, work)
        # Queries, keys and results; values: each at least once.
        elements = 2 * work.e * work.queries + 2 * work.f * work.queries
        least = data.batch * data.models[model].heads * elements * data.element_bytes
        assert least <= moved <= traffic("unfused", work)

    every_size()


def test_the_comparison_can_fail() -> None:
    """Known-bad twin: FLAT's published tiling of the longest length."""
    work = Attention.of("BERT", 1 << 20)
    assert traffic("flat", work) > traffic("unfused", work)
