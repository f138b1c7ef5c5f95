"""Operators: sums against the architecture, invariants, phases, shares."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bankside.errors import ConfigError
from bankside.mapping.workload import (
    Architecture,
    Attention,
    Batch,
    Bits,
    Gemm,
    head_operators,
    model_operators,
    operators,
)
from bankside.mapping.workload.load import architecture_names

MANY = 10**7  # tokens enough that every expert is visited
PREFILL = Batch.prefill(3, 500, 100)
DECODE = Batch.decode(7, 900)

counts = st.integers(0, 64)
lengths = st.integers(1, 5000)


@st.composite
def batches(draw: st.DrawFn) -> Batch:
    return Batch.prefill(draw(counts), draw(lengths), draw(st.integers(0, 5000))) + Batch.decode(
        draw(counts), draw(lengths)
    )


def total(ops: list, what: str) -> float:
    return sum(getattr(op, what) for op in ops)


# --- against the architecture -------------------------------------------------------------------
@pytest.mark.parametrize("name", architecture_names())
@pytest.mark.parametrize("batch", [Batch.prefill(1, MANY), Batch.decode(MANY, 10)])
def test_weights_read_are_the_layers(name: str, batch: Batch) -> None:
    arch = Architecture.load(name)
    for layer in arch.layers:
        ops = operators(arch, layer, batch)
        assert total(ops, "weight_bytes") == pytest.approx(2 * arch.layer_parameters(layer))


@pytest.mark.parametrize("name", architecture_names())
def test_products_are_two_operations_per_active_weight(name: str) -> None:
    arch, tokens = Architecture.load(name), 1000
    for layer in arch.layers:
        ops = operators(arch, layer, Batch.decode(tokens, 1))
        products = sum(op.matrix_flops for op in ops if isinstance(op, Gemm))
        # Norms, biases and the router's correction are the weights that are not multiplied so.
        norms = 2 * (arch.hidden if arch.norm == "rmsnorm" else 2 * arch.hidden)
        other = norms + 2 * arch.head_dim * arch.qk_norm
        if arch.mla:
            other += (arch.mla.q_rank or 0) + arch.mla.kv_rank
        other += arch.qkv_bias * (arch.heads + 2 * arch.kv_heads) * arch.head_dim
        other += arch.hidden * arch.out_bias
        other += (arch.ffn_hidden + arch.hidden) * arch.ffn_bias
        if layer.ffn == "moe":
            other += arch.moe.experts * arch.moe.bias
        weights = arch.layer_parameters(layer, active=True) - other
        assert products == pytest.approx(2 * tokens * weights, rel=1e-12)


@pytest.mark.parametrize("name", architecture_names())
def test_cache_written_and_read(name: str) -> None:
    arch = Architecture.load(name).model_copy(update={"window": None})
    batch, bits = PREFILL + DECODE, Bits(kv=8)
    ops = operators(arch, arch.layers[0], batch, bits)
    assert total(ops, "kv_written_bytes") == batch.tokens * arch.kv_elements
    context = batch.prefill_context + batch.decode_context
    assert total(ops, "kv_bytes") == context * arch.kv_elements


def test_attention_by_hand() -> None:
    arch = Architecture.load("llama-3-8b")
    (decode,) = [o for o in operators(arch, arch.layers[0], DECODE) if isinstance(o, Attention)]
    assert decode.phase == "decode" and decode.pairs == decode.context == 7 * 900
    assert decode.matrix_flops == 2 * 2 * 32 * 128 * 7 * 900
    assert decode.vector_flops == 5 * 32 * 7 * 900
    assert decode.kv_bytes == 2 * 2 * 8 * 128 * 7 * 900
    assert decode.input_bytes == decode.output_bytes == 2 * 7 * 32 * 128
    assert decode.longest == 900


def test_latent_attention_both_forms() -> None:
    arch = Architecture.load("deepseek-v3")
    ops = {op.name: op for op in operators(arch, arch.layers[0], PREFILL + DECODE)}
    absorbed, expanded = ops["attention_decode"], ops["attention_prefill"]
    assert (absorbed.kv_heads, absorbed.head_dim, absorbed.value_dim) == (1, 576, 512)
    assert absorbed.kv_bytes == 7 * 900 * 576 * 2
    assert absorbed.matrix_flops == 2 * 7 * 900 * 128 * (576 + 512)
    assert (expanded.kv_heads, expanded.head_dim, expanded.value_dim) == (128, 192, 128)
    assert expanded.matrix_flops == 2 * PREFILL.prefill_pairs * 128 * (192 + 128)
    # Expansion works on the whole context, also on what earlier chunks left in the cache.
    assert ops["kv_b"].m == PREFILL.prefill_context and ops["kv_b"].input_bytes == 0
    # Both forms compute the same scores, so their weights are the same.
    pair = ops["absorb_key"].weight_bytes + ops["absorb_value"].weight_bytes
    assert pair == ops["kv_b"].weight_bytes


def test_phase_that_nobody_has_is_left_out() -> None:
    for name in ("llama-3-8b", "deepseek-v3"):
        arch = Architecture.load(name)
        only = {op.name for op in operators(arch, arch.layers[0], DECODE)}
        assert "attention_prefill" not in only and "attention_decode" in only
        assert "kv_b" not in only


def test_window_cuts_the_cache_read() -> None:
    arch = Architecture.load("mistral-7b-v0.1")
    ops = operators(arch, arch.layers[0], Batch.decode(2, 10_000) + Batch.prefill(1, 5000))
    by_phase = {op.phase: op for op in ops if isinstance(op, Attention)}
    assert by_phase["decode"].context == 2 * 4096 and by_phase["decode"].window == 4096
    assert by_phase["prefill"].pairs == sum(min(i, 4096) for i in range(1, 5001))


# --- experts ------------------------------------------------------------------------------------
def test_experts_visited() -> None:
    arch = Architecture.load("mixtral-8x7b")
    for tokens, expected in ((1, 2.0), (2, 8 * (1 - 0.75**2)), (10_000, 8.0)):
        ops = {op.name: op for op in operators(arch, arch.layers[0], Batch.decode(tokens, 1))}
        up = ops["expert_gate_up"]
        assert up.count == pytest.approx(expected)
        assert up.m * up.count == pytest.approx(2 * tokens)
        assert up.weight_bytes == pytest.approx(expected * 2 * 14336 * 4096 * 2)
        assert ops["dispatch"].bytes > 0 and ops["combine"].flops > 0 and ops["top_k"].flops > 0


def test_experts_visited_by_drawing() -> None:
    """The expectation against routing drawn at random."""
    rng = np.random.default_rng(5)
    moe = Architecture.load("qwen3-30b-a3b").moe
    scores = rng.random((400, 20, moe.experts))
    chosen = np.argpartition(scores, moe.top_k)[..., : moe.top_k].reshape(400, -1)
    mean = np.mean([len(set(row)) for row in chosen])
    assert mean == pytest.approx(moe.touched(20), rel=0.01)


def test_shared_experts_meet_every_token() -> None:
    arch = Architecture.load("deepseek-v3")
    ops = {op.name: op for op in operators(arch, arch.layers[1], Batch.decode(5, 1))}
    assert (ops["shared_gate_up"].m, ops["shared_gate_up"].n) == (5, 2 * 2048)
    assert "expert_gate_up" not in {o.name for o in operators(arch, arch.layers[0], DECODE)}


# --- invariants ---------------------------------------------------------------------------------
@settings(deadline=None, max_examples=60)
@given(batch=batches(), window=st.sampled_from([None, 1, 100, 4096]))
def test_fewer_key_heads_never_read_more(batch: Batch, window: int | None) -> None:
    base = Architecture.load("llama-2-7b").model_copy(update={"window": window})
    reads = []
    for kv_heads in (1, 2, 4, 8, 16, 32):
        arch = base.model_copy(update={"kv_heads": kv_heads})
        ops = operators(arch, arch.layers[0], batch)
        reads.append((total(ops, "kv_bytes"), total(ops, "read_bytes"), total(ops, "bytes")))
    assert reads == sorted(reads)
    assert all(a <= b for one, two in zip(reads, reads[1:], strict=False)
               for a, b in zip(one, two, strict=True))  # fmt: skip


@settings(deadline=None, max_examples=60)
@given(a=batches(), b=batches(), name=st.sampled_from(["llama-3-8b", "deepseek-v3", "opt-66b"]))
def test_batches_add_up(a: Batch, b: Batch, name: str) -> None:
    arch = Architecture.load(name)
    for layer in arch.layers:
        one, two, both = (operators(arch, layer, batch) for batch in (a, b, a + b))
        for what in ("flops", "kv_bytes", "kv_written_bytes", "input_bytes", "output_bytes"):
            assert total(both, what) == pytest.approx(
                total(one, what) + total(two, what), rel=1e-9, abs=1e-3
            ), what
        weights = total(both, "weight_bytes")
        parts = total(one, "weight_bytes"), total(two, "weight_bytes")
        assert max(parts) * (1 - 1e-12) <= weights <= sum(parts) * (1 + 1e-12)


@settings(deadline=None, max_examples=40)
@given(
    batch=batches(),
    name=st.sampled_from(architecture_names()),
    bits=st.sampled_from([(8, 16, 16), (16, 8, 16), (16, 16, 8), (4, 8, 4)]),
)
def test_nothing_is_negative_and_fewer_bits_move_less(
    batch: Batch, name: str, bits: tuple[float, float, float]
) -> None:
    arch = Architecture.load(name)
    full, narrow = (model_operators(arch, batch, Bits(*b)) for b in ((16, 16, 16), bits))
    for (_, wide), (_, thin) in zip(full, narrow, strict=True):
        assert wide.flops == thin.flops >= 0
        assert 0 <= thin.read_bytes <= wide.read_bytes
        assert 0 <= thin.written_bytes <= wide.written_bytes


def test_nothing_is_free() -> None:
    for name in architecture_names():
        arch = Architecture.load(name)
        for _, op in model_operators(arch, PREFILL + DECODE):
            assert op.bytes > 0, (name, op.name)
            if op.kind not in ("cache", "embed") and op.name != "dispatch":
                assert op.flops > 0, (name, op.name)


def test_names_are_unique_in_a_layer() -> None:
    for name in architecture_names():
        arch = Architecture.load(name)
        for layer in arch.layers:
            names = [op.name for op in operators(arch, layer, PREFILL + DECODE)]
            assert len(names) == len(set(names))


# --- arrays -------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", ["llama-3-70b", "deepseek-v3", "mistral-7b-v0.1", "opt-66b"])
def test_a_sweep_is_the_same_as_its_points(name: str) -> None:
    arch = Architecture.load(name)
    requests, context = np.array([[0], [1], [64]]), np.array([1, 5000, 131072])
    swept = model_operators(arch, Batch.decode(requests, context) + Batch.prefill(1, context, 7))
    for i, row in enumerate(requests[:, 0]):
        for j, length in enumerate(context):
            point = Batch.decode(int(row), int(length)) + Batch.prefill(1, int(length), 7)
            single = {op.name: op for _, op in model_operators(arch, point)}
            for _, op in swept:
                for what in ("flops", "read_bytes", "written_bytes"):
                    value = np.broadcast_to(getattr(op, what), (3, 3))[i, j]
                    wanted = getattr(single[op.name], what) if op.name in single else 0
                    assert value == pytest.approx(wanted, rel=1e-12), (op.name, what)


def test_no_tokens_read_no_weights() -> None:
    for name in ("mixtral-8x7b", "deepseek-v3", "gpt3-175b"):
        arch = Architecture.load(name)
        batch = Batch.decode(np.array([0, 4]), 100)
        for _, op in model_operators(arch, batch):
            assert np.broadcast_to(op.bytes, 2)[0] == 0, op.name


def test_bound_is_the_longest_of_three() -> None:
    arch = Architecture.load("llama-3-8b")
    op = operators(arch, arch.layers[0], Batch.decode(np.array([1, 4096]), 100))[1]
    bound = op.bound_seconds(312e12, 19.5e12, 2e12)
    assert bound[0] == op.bytes[0] / 2e12 and bound[1] == op.matrix_flops[1] / 312e12
    assert np.all(op.bound_seconds(312e12, 19.5e12, 4e12) <= bound)
    assert op.intensity[0] < 1.01 < op.intensity[1]


# --- head and shares ----------------------------------------------------------------------------
def test_head_by_hand() -> None:
    arch = Architecture.load("llama-3-8b")
    ops = {op.name: op for op in head_operators(arch, PREFILL + DECODE)}
    assert ops["lm_head"].m == 3 + 7 and ops["lm_head"].n == 128256
    assert ops["embedding"].weight_bytes == (1500 + 7) * 4096 * 2
    small = arch.model_copy(update={"embed_dim": 512})
    widths = {op.name: op for op in head_operators(small, DECODE)}
    assert widths["project_in"].k == 512 and widths["lm_head"].k == 512


@pytest.mark.parametrize("tp", [2, 4, 8])
@pytest.mark.parametrize("name", ["llama-3-70b", "deepseek-v3", "qwen3-30b-a3b"])
def test_shares_divide_the_products(name: str, tp: int) -> None:
    arch = Architecture.load(name)
    batch = PREFILL + DECODE
    for layer in arch.layers:
        whole = {op.name: op for op in operators(arch, layer, batch)}
        for op in operators(arch, layer, batch, tp=tp):
            if isinstance(op, Attention):
                assert op.flops * tp == pytest.approx(whole[op.name].flops)
            if isinstance(op, Gemm):
                copied = op.name in ("q_a", "kv_a", "router")
                repeated = op.name == "qkv" and arch.kv_heads < tp
                share = 1 if copied else tp
                if not repeated:
                    assert op.weight_bytes * share == pytest.approx(whole[op.name].weight_bytes)


def test_key_heads_repeat_on_more_shares_than_heads() -> None:
    arch = Architecture.load("qwen3-30b-a3b")  # 4 key heads
    (op,) = [o for o in operators(arch, arch.layers[0], DECODE, tp=8) if isinstance(o, Attention)]
    assert (op.heads, op.kv_heads, op.kv_elements) == (4, 1, 256)


@pytest.mark.parametrize(
    ("name", "tp", "message"),
    [
        ("llama-3-8b", 3, "heads = 32 does not divide among 3 devices; expected one of 1, 2, 4"),
        ("llama-3-8b", 0, "heads = 32 does not divide among 0 devices"),
        ("qwen2.5-7b", 7, "ffn_hidden = 18944 does not divide among 7 devices"),
    ],
)
def test_shares_refused(name: str, tp: int, message: str) -> None:
    arch = Architecture.load(name)
    with pytest.raises(ConfigError) as error:
        operators(arch, arch.layers[0], DECODE, tp=tp)
    assert message in str(error.value)


def test_key_heads_must_repeat_evenly() -> None:
    arch = Architecture.load("qwen2.5-7b").model_copy(update={"ffn_hidden": 7 * 2700})
    with pytest.raises(ConfigError, match="4 key heads neither divide among 7 devices nor repeat"):
        operators(arch, arch.layers[0], DECODE, tp=7)
