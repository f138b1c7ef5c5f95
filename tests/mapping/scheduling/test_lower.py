"""A scheduled attention layer on array and rank: RTL equal to golden, both near float64."""

from dataclasses import replace

import numpy as np
import pytest

from bankside.errors import ConfigError
from bankside.isa.machines import load_machine
from bankside.mapping.lower_array import scaled_queries, to_bits
from bankside.mapping.scheduling.exact import exact
from bankside.mapping.scheduling.heft import heft
from bankside.mapping.scheduling.lower import ARRAY, PIM, AttentionLayer, Tokens, execute, lower
from bankside.mapping.scheduling.machine import Link, Machine
from bankside.sim.executions import make_engine
from bankside.sim.rtl.cocotb_runner import missing_simulator

needs_verilator = pytest.mark.skipif(
    bool(missing_simulator("verilator")), reason=missing_simulator("verilator") or "-"
)
HEADS, KV_HEADS, DIM = 4, 2, 8
LENGTHS = (9, 5, 12)
LINK = Link(bytes_per_tick=4, latency=10, channel="bus")
SYSTEM = Machine((ARRAY, PIM), {(ARRAY, PIM): LINK, (PIM, ARRAY): LINK})


def tokens(length: int, seed: int) -> tuple[Tokens, dict[str, np.ndarray]]:
    """Bits of random data, and the numbers that they stand for."""
    rng = np.random.default_rng(seed)
    shapes = {
        "q": (length, HEADS, DIM), "k": (length, KV_HEADS, DIM), "v": (length, KV_HEADS, DIM),
        "new_q": (HEADS, DIM), "new_k": (KV_HEADS, DIM), "new_v": (KV_HEADS, DIM),
    }  # fmt: skip
    numbers = {name: rng.normal(size=shape) for name, shape in shapes.items()}
    bits = {
        name: scaled_queries(x, "fp16") if name.endswith("q") else to_bits(x, "fp16")
        for name, x in numbers.items()
    }
    return Tokens(**bits), numbers


@pytest.fixture(scope="module")
def layer() -> AttentionLayer:
    data = [tokens(length, seed)[0] for seed, length in enumerate(LENGTHS)]
    return AttentionLayer(data, load_machine("array_4x4"), load_machine("pim_tiny_ddr4"))


@pytest.fixture(scope="module")
def table(layer):
    return exact(layer.graph(), SYSTEM)


def results(layer, table, execution: str) -> dict[str, np.ndarray]:
    engines = {
        ARRAY: make_engine(execution, layer.array), PIM: make_engine(execution, layer.rank)
    }  # fmt: skip
    return execute(lower(table, layer), layer, engines)


def attention(numbers: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Causal attention of the prompt, and of the token after it, in float64."""
    q = np.concatenate([numbers["q"], numbers["new_q"][None]])
    k = np.concatenate([numbers["k"], numbers["new_k"][None]])
    v = np.concatenate([numbers["v"], numbers["new_v"][None]])
    out = np.zeros((len(q), HEADS, DIM))
    for t in range(len(q)):
        for h in range(HEADS):
            group = h * KV_HEADS // HEADS
            scores = k[: t + 1, group] @ q[t, h] / np.sqrt(DIM)
            weights = np.exp(scores - scores.max())
            out[t, h] = weights @ v[: t + 1, group] / weights.sum()
    return out[:-1], out[-1]


def test_the_timetable_overlaps_both_machines(layer, table):
    assert table.optimal and table.makespan <= heft(layer.graph(), SYSTEM).makespan
    busy = {d: sum(r.end - r.start for r in table.runs if r.device == d) for d in (ARRAY, PIM)}
    assert max(busy.values()) <= table.makespan < sum(busy.values())


def test_golden_is_attention(layer, table):
    found = results(layer, table, "golden")
    assert len(found) == 2 * len(LENGTHS)
    for s, length in enumerate(LENGTHS):
        prompt, new = attention(tokens(length, s)[1])
        for name, expected in ((f"prefill.{s}", prompt), (f"decode.{s}", new)):
            error = np.abs(found[name].view(np.float16).astype(float) - expected).max()
            assert error < 4e-3, (name, error)


@needs_verilator
def test_rtl_equals_golden(layer, table):
    golden, rtl = results(layer, table, "golden"), results(layer, table, "rtl")
    assert golden.keys() == rtl.keys()
    for name, expected in golden.items():
        assert np.array_equal(rtl[name], expected), name


def test_order_matters_to_the_rank(layer, table):
    """The comparison can fail: a token that is decoded before its prompt is appended is wrong."""
    programs = lower(table, layer)
    wrong = [each for each in programs if each.run.task != "append.1"]
    engines = {d: make_engine("golden", m) for d, m in ((ARRAY, layer.array), (PIM, layer.rank))}
    found = execute(wrong, layer, engines)
    assert not np.array_equal(found["decode.1"], results(layer, table, "golden")["decode.1"])


def test_bad_shapes_and_tasks_are_named(layer):
    data = layer.sequences[0]
    with pytest.raises(ConfigError, match=r"sequence 0: v is uint16 \[8, 2, 8\]; expected .*\[9"):
        AttentionLayer([replace(data, v=data.v[1:])], layer.array, layer.rank)
    with pytest.raises(ConfigError, match="no sequences"):
        AttentionLayer([], layer.array, layer.rank)
    with pytest.raises(ConfigError, match="no task 'prefill.3'"):
        layer.programs("prefill.3")
    with pytest.raises(ConfigError, match="no task 'mul.0'; kinds: prefill"):
        layer.programs("mul.0")
