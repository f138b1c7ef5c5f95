"""The GPU model: bounds, monotony, hand-made numbers, which parameters a GPU gets."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bankside.errors import ConfigError
from bankside.mapping.gpu import GpuModel, fit_names, load_fit
from bankside.mapping.gpu.attention import decode_floor, prefill_floor
from bankside.mapping.gpu.elementwise import elementwise_floor
from bankside.mapping.gpu.fitted import default_fit
from bankside.mapping.gpu.gemm import GemmParameters, gemm_floor, gemm_seconds
from bankside.mapping.system import gpu_names, load_gpu
from bankside.mapping.workload import Architecture, Batch, model_operators

A100, H100 = (GpuModel.load(name) for name in ("a100-sxm-80g", "h100-sxm"))
MODELS = {name: GpuModel.load(name) for name in gpu_names()}
sizes = st.integers(1, 20000)
models = st.sampled_from(sorted(MODELS))
LESS = 1 - 1e-12  # rounding


# --- products ---------------------------------------------------------------------------------
@given(models, sizes, sizes, sizes, st.sampled_from((8, 16)))
def test_gemm_is_never_faster_than_the_roofline(name, m, n, k, bits) -> None:
    model = MODELS[name]
    assert model.gemm(m, n, k, bits=bits) >= LESS * gemm_floor(model.gpu, m, n, k, bits=bits)


@given(models, sizes, sizes, sizes, st.integers(1, 500), st.sampled_from("mnk"))
def test_larger_products_are_hardly_ever_faster(name, m, n, k, more, which) -> None:
    """A few rows more may start another tile on an idle multiprocessor, whose loads come beside the
    others'; from 256 x 256 on that gains nothing.
    """
    size = {"m": m, "n": n, "k": k}
    larger = size | {which: size[which] + more}
    least = LESS if min(m, n) >= 256 else 0.75
    assert MODELS[name].gemm(**larger) >= least * MODELS[name].gemm(**size)


@given(models, sizes, sizes, sizes, st.integers(1, 64))
def test_many_products_cost_at_most_as_many_kernels(name, m, n, k, count) -> None:
    model = MODELS[name]
    together, one = model.gemm(m, n, k, count), model.gemm(m, n, k)
    # A long kernel is throttled, which many short ones would be, too, in a loop.
    throttled = 1 + model.fit.gemm.parameters.throttle
    assert LESS * one <= together <= count * one * throttled * (1 + 1e-12)
    assert together >= LESS * gemm_floor(model.gpu, m, n, k, count)


@given(models, st.floats(1, 8), sizes, sizes, sizes)
def test_more_bandwidth_is_never_slower(name, factor, m, n, k) -> None:
    model = MODELS[name]
    wide = model.gpu.model_copy(update={"memory_gbps": factor * model.gpu.memory_gbps})
    wide = GpuModel(wide, model.fit)
    assert wide.gemm(m, n, k) <= model.gemm(m, n, k) / LESS
    assert wide.elementwise(m * n, k) <= model.elementwise(m * n, k) / LESS
    for heads, kv_heads in ((32, 32), (32, 8), (64, 1)):
        shape = (heads, kv_heads, 128)
        assert wide.attention_decode(8, 8 * m, *shape) <= (
            model.attention_decode(8, 8 * m, *shape) / LESS
        )
        prompt = (m * (m + 1) / 2, m, m, *shape)
        assert wide.attention_prefill(*prompt) <= model.attention_prefill(*prompt) / LESS


def test_gemm_by_hand() -> None:
    """One tile size on a GPU of easy numbers: every term is on its own."""
    gpu = load_gpu("a100-sxm-80g").model_copy(
        update={"sms": 10, "memory_gbps": 1000.0,
                "matrix_tflops": load_gpu("a100-sxm-80g").matrix_tflops.model_copy(
                    update={"bf16": 1.0})}
    )  # fmt: skip
    p = GemmParameters(
        start_us=1.0, wave_us=2.0, matrix_efficiency=0.5, tile_loss=1.0, dram_efficiency=0.5,
        write_efficiency=0.25, sm_gbps=1000.0, l2_sm_gbps=1e6, split_us=1e9, throttle=1e-12,
        throttle_ms=1.0,
    )  # fmt: skip
    # 256 x 128 blocks: 4 x 8 = 32 on 10 multiprocessors are 4 waves; 1024 deep.
    m, n, k = 1024, 1000, 1000
    inner = 4 * 1024 * 2 * 256 * 128 / (0.1e12 * 0.5)
    writes = 2 * m * n / 0.25e12
    expected = 1e-6 + 4 * 2e-6 + inner + writes
    assert gemm_seconds(p, gpu, ((256, 128),), m, n, k) == pytest.approx(expected)
    # Few rows, many columns: reads count, and the same waves of blocks that are mostly padding.
    thin = gemm_seconds(p, gpu, ((256, 128),), 32, 65536, 1000)
    reads = 2 * 1000 * (32 + 65536) / 0.5e12
    waves = np.ceil(65536 / 128 / 10)
    inner = waves * 1024 * 2 * 256 * 128 / (0.1e12 * 0.5)
    assert thin == pytest.approx(1e-6 + waves * 2e-6 + max(inner, reads) + 2 * 32 * 65536 / 0.25e12)


def test_wave_quantisation() -> None:
    """108 tiles are one wave of an A100, 117 two, 216 still two, 225 three; splits soften it."""
    p, columns = A100.fit.gemm.parameters, 256 * np.array([12, 13, 24, 25])
    time = gemm_seconds(p, A100.gpu, ((128, 256),), 9 * 128, columns, 4096)
    per_column = time / columns
    assert time[1] > 1.35 * time[0] and time[3] > 1.2 * time[2]
    assert per_column[2] < 1.1 * per_column[0]


def test_shapes_broadcast_and_zero_is_free() -> None:
    time = A100.gemm(np.array([[1], [0], [4096]]), np.array([4096, 8192]), 4096)
    assert time.shape == (3, 2) and (time[1] == 0).all() and (time[[0, 2]] > 0).all()
    assert A100.gemm(1, 1, 1).shape == ()
    many = np.arange(1, 300)
    assert A100.gemm(many, 512, 512)[137] == A100.gemm(138, 512, 512)
    assert A100.attention_decode(np.array([0, 4]), np.array([0, 400]), 32, 8, 128)[0] == 0
    assert A100.attention_prefill(0, 0, 0, 32, 8, 128) == 0
    assert A100.elementwise(0, 0) == 0


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ((-1, 2, 3), "m is -1; expected 0 or more; correct the shape"),
        ((1, float("nan"), 3), "n is nan; expected 0 or more; correct the shape"),
        (([1, 2], [1, 2, 3], 3), r"do not broadcast: m \(2,\), n \(3,\)"),
    ],
)
def test_impossible_sizes(sizes, message) -> None:
    with pytest.raises(ConfigError, match=message):
        A100.gemm(*sizes)


# --- attention --------------------------------------------------------------------------------
heads = st.sampled_from(((32, 32), (32, 8), (32, 4), (64, 8), (96, 8), (64, 1), (8, 1)))


@given(models, st.integers(1, 300), st.integers(1, 70000), heads)
def test_decode_is_never_faster_than_the_roofline(name, requests, length, shape) -> None:
    model, args = MODELS[name], (requests, requests * length, *shape, 128)
    time = model.attention_decode(*args)
    assert time >= LESS * decode_floor(model.gpu, *args)
    assert time >= model.attention_decode(*args, as_measured=True)


@given(st.integers(1, 300), st.integers(1, 60000), st.integers(1, 20000), heads)
def test_longer_contexts_are_hardly_ever_faster(requests, length, more, shape) -> None:
    """Another kernel or split may take over, as in the measured tables, but gains little."""
    short = A100.attention_decode(requests, requests * length, *shape, 128)
    long = A100.attention_decode(requests, requests * (length + more), *shape, 128)
    assert long >= 0.75 * short


@given(st.integers(1, 200), st.integers(1, 60000), st.sampled_from((1, 2, 4, 8, 16)))
def test_shared_keys_are_not_slower_to_read(requests, length, kv_heads) -> None:
    own = A100.attention_decode(requests, requests * length, 32, 32, 128)
    shared = A100.attention_decode(requests, requests * length, 32, kv_heads, 128)
    # Short contexts: the kernel by groups has dearer blocks, in the measured table as well.
    slack = 0 if requests * length > 2**18 and length > 1024 else requests * kv_heads * 70e-9
    assert shared <= own / LESS + slack + (60e-6 if slack else 0)


@given(models, st.integers(1, 64), st.integers(1, 16000), st.integers(0, 16000), heads)
def test_prefill_is_never_faster_than_the_roofline(name, requests, new, past, shape) -> None:
    model = MODELS[name]
    pairs = requests * (new * past + new * (new + 1) / 2)
    args = (pairs, requests * (new + past), requests * new, *shape, 128)
    for rotate in (True, False):
        time = model.attention_prefill(*args, requests=requests, rotate=rotate)
        assert time >= LESS * prefill_floor(model.gpu, *args)


@given(st.integers(1, 16), st.integers(1, 8000), st.integers(1, 2000), heads)
def test_prefill_grows(requests, new, more, shape) -> None:
    def time(length, past=0):
        pairs = requests * (length * past + length * (length + 1) / 2)
        return A100.attention_prefill(
            pairs, requests * (length + past), requests * length, *shape, 128, requests=requests
        )

    assert time(new + more) >= LESS * time(new)
    assert time(new, more) >= LESS * time(new)


def test_window_saves_work() -> None:
    full = 8192 * 8193 / 2
    near = full - (8192 - 1024) * (8192 - 1023) / 2
    args = (8192, 8192, 32, 8, 128)
    assert A100.attention_prefill(near, *args) < 0.5 * A100.attention_prefill(full, *args)


def test_latent_attention_reads_one_vector() -> None:
    """MLA: 128 heads share 576 elements of a token, which are keys and values at once."""
    args = (32, 32 * 32768, 128, 1, 576, 512)
    whole, shared = A100.attention_decode(*args), A100.attention_decode(*args, kv_dim=576)
    flops = 2 * 32 * 32768 * 128 * (576 + 512) / A100.gpu.matrix_flops()
    assert flops <= shared < whole


def test_elementwise() -> None:
    gpu, p = A100.gpu, A100.fit.elementwise.parameters
    assert A100.elementwise(1e9, 0) == pytest.approx(
        p.start_us * 1e-6 + 1e9 / (gpu.memory_bandwidth * p.dram_efficiency)
    )
    assert A100.elementwise(1e9, 1e9) >= elementwise_floor(gpu, 1e9, 1e9)
    assert A100.elementwise(8, 8, 1e13) >= 1e13 / gpu.vector_flops


# --- whole models -----------------------------------------------------------------------------
BATCHES = Batch.prefill(np.array([1, 4]), np.array([2048, 300])) + Batch.decode(
    np.array([16, 200]), np.array([4096, 900])
)


@pytest.mark.parametrize("name", ["llama-3-8b", "mixtral-8x7b", "deepseek-v3", "opt-66b"])
@pytest.mark.parametrize("gpu", ["a100-sxm-80g", "h200-sxm"])
def test_operators_of_models(name: str, gpu: str) -> None:
    """Every operator has a time of the batch's shape, not below its bound."""
    model = MODELS[gpu]
    for _, op in model_operators(Architecture.load(name), BATCHES):
        time = np.broadcast_to(model.operator(op), (2,))
        assert np.isfinite(time).all() and (time >= LESS * model.floor(op)).all(), op.name
        assert (time > 0).all(), op.name


# Products: medians of Vidur's table; attention: AIConfigurator's, on an A100; us of one layer.
LAYERS = (
    (Batch.prefill(1, 2048), 3825, 370.9),
    (Batch.decode(1, 4096), 266, 58.2),
    (Batch.decode(16, 4096), 263, 687.1),
)


@pytest.mark.parametrize(("batch", "linear", "attention"), LAYERS)
def test_layer_as_measured(batch: Batch, linear: float, attention: float) -> None:
    """Llama-2-7B with the kernels of the library that Vidur measured."""
    model, arch = GpuModel.load("a100-sxm-80g", "a100-pytorch"), Architecture.load("llama-2-7b")
    found = {"gemm": 0.0, "attention": 0.0}
    for layers, op in model_operators(arch, batch):
        if layers == arch.layers[0].count and op.kind in found:
            found[op.kind] += 1e6 * float(model.operator(op))
    assert sum(found.values()) == pytest.approx(linear + attention, rel=0.08)


def test_not_an_operator() -> None:
    with pytest.raises(ConfigError, match="is no operator"):
        A100.operator(3)


# --- which parameters -------------------------------------------------------------------------
def test_every_gpu_has_parameters() -> None:
    assert A100.carried == {}
    assert H100.carried == dict.fromkeys(("prefill", "decode", "elementwise"), "a100-sxm-80g")
    assert MODELS["h200-sxm"].carried["gemm"] == "h100-sxm"
    assert 0 < A100.launch_s < 1e-5


def test_unknown_gpu_gets_the_nearest() -> None:
    own = load_gpu("h200-sxm").model_copy(update={"name": "our own"})
    assert default_fit(own) == "h100"
    assert default_fit(load_gpu("a100-sxm-40g").model_copy(update={"name": "x"})) == "a100"
    assert GpuModel.load(own).gemm(64, 4096, 4096) == MODELS["h200-sxm"].gemm(64, 4096, 4096)


def test_unknown_names() -> None:
    with pytest.raises(ConfigError, match=r"unknown fit 'a10' \(did you mean 'a100'\?\)"):
        GpuModel.load("a100-sxm-80g", "a10")
    with pytest.raises(ConfigError, match="unknown GPU 'h100-sxn'"):
        GpuModel.load("h100-sxn")


@pytest.mark.parametrize("name", fit_names())
def test_shipped_fits_say_where_they_come_from(name: str) -> None:
    fit = load_fit(name)
    for kind in ("gemm", "prefill", "decode", "elementwise"):
        section = getattr(fit, kind)
        assert section.data.rows > 100 and section.data.origin and section.data.date
        for key, (low, high) in section.intervals.items():
            assert low <= getattr(section.parameters, key) <= high
    assert set(fit.carried().values()) <= set(gpu_names())


@settings(max_examples=25)
@given(st.lists(st.tuples(sizes, sizes, sizes), min_size=1, max_size=200))
def test_one_call_is_many_calls(points) -> None:
    m, n, k = np.array(points).T
    together = A100.gemm(m, n, k)
    assert all(together[i] == A100.gemm(*map(int, p)) for i, p in enumerate(points[:5]))
