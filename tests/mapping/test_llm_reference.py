"""Logits of tiny random Llama, GPT-2 and OPT folders against a plain float64 implementation.

The reference reads the raw tensors by their Hugging Face names, keeps no cache and rounds nothing,
so it shares neither code nor layout with the package.
"""

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from bankside.errors import ConfigError
from bankside.mapping.llm import attention, transformer
from bankside.mapping.llm.attention import attend_wide
from bankside.mapping.llm.loader import load_model
from bankside.mapping.llm.transformer import NumpyAttention, generate, prompt_logits

HIDDEN, WIDE, VOCABULARY, CONTEXT, LAYERS = 32, 48, 50, 24, 3
PROMPT = [3, 49, 0, 7, 7, 21, 30, 12, 5, 44, 1]

CONFIGS = {
    "llama_mha": {"model_type": "llama", "num_attention_heads": 4, "rms_norm_eps": 1e-5},
    "llama_gqa": {
        "model_type": "llama",
        "num_attention_heads": 8,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "rope_theta": 500.0,
    },
    "llama_bias_tied": {
        "model_type": "llama",
        "num_attention_heads": 4,
        "attention_bias": True,
        "mlp_bias": True,
        "tie_word_embeddings": True,
    },
    "llama_linear_rope": {
        "model_type": "llama",
        "num_attention_heads": 4,
        "rope_scaling": {"type": "linear", "factor": 4.0},
    },
    "llama_rope3": {
        "model_type": "llama",
        "num_attention_heads": 2,
        "rope_parameters": {
            "rope_type": "llama3",
            "rope_theta": 100.0,
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 16,
        },
    },
    "gpt2": {"model_type": "gpt2", "n_head": 4},
    "gpt2_inner": {"model_type": "gpt2", "n_head": 2, "n_inner": 40, "activation_function": "relu"},
    "opt": {"model_type": "opt", "num_attention_heads": 4},
    "opt_post_norm": {
        "model_type": "opt",
        "num_attention_heads": 2,
        "do_layer_norm_before": False,
        "word_embed_proj_dim": 20,
    },
    "opt_gelu": {
        "model_type": "opt",
        "num_attention_heads": 4,
        "activation_function": "gelu",
        "enable_bias": False,
        "_remove_final_layer_norm": True,
    },
}


def complete(config: dict) -> dict:
    """Add the sizes under the names that the family uses."""
    if config["model_type"] == "gpt2":
        sizes = {"n_embd": HIDDEN, "n_layer": LAYERS, "n_positions": CONTEXT}
    else:
        wide = "ffn_dim" if config["model_type"] == "opt" else "intermediate_size"
        sizes = {
            "hidden_size": HIDDEN,
            "num_hidden_layers": LAYERS,
            wide: WIDE,
            "max_position_embeddings": CONTEXT,
        }
    return {"vocab_size": VOCABULARY, **sizes, **config}


def llama_shapes(c: dict) -> dict[str, tuple[int, ...]]:
    heads = c["num_attention_heads"]
    dim = c.get("head_dim", HIDDEN // heads)
    kv = c.get("num_key_value_heads", heads) * dim
    shapes = {"model.embed_tokens.weight": (VOCABULARY, HIDDEN), "model.norm.weight": (HIDDEN,)}
    if not c.get("tie_word_embeddings", False):
        shapes["lm_head.weight"] = (VOCABULARY, HIDDEN)
    for i in range(LAYERS):
        p = f"model.layers.{i}."
        shapes[p + "input_layernorm.weight"] = (HIDDEN,)
        shapes[p + "post_attention_layernorm.weight"] = (HIDDEN,)
        matrices = {
            "self_attn.q_proj": (heads * dim, HIDDEN),
            "self_attn.k_proj": (kv, HIDDEN),
            "self_attn.v_proj": (kv, HIDDEN),
            "self_attn.o_proj": (HIDDEN, heads * dim),
            "mlp.gate_proj": (WIDE, HIDDEN),
            "mlp.up_proj": (WIDE, HIDDEN),
            "mlp.down_proj": (HIDDEN, WIDE),
        }
        for name, shape in matrices.items():
            shapes[p + name + ".weight"] = shape
            if c.get("attention_bias" if "attn" in name else "mlp_bias", False):
                shapes[p + name + ".bias"] = shape[:1]
    return shapes


def gpt2_shapes(c: dict) -> dict[str, tuple[int, ...]]:
    wide = c.get("n_inner", 4 * HIDDEN)
    shapes = {
        "transformer.wte.weight": (VOCABULARY, HIDDEN),
        "transformer.wpe.weight": (CONTEXT, HIDDEN),
        "transformer.ln_f.weight": (HIDDEN,),
        "transformer.ln_f.bias": (HIDDEN,),
    }
    for i in range(LAYERS):
        p = f"transformer.h.{i}."
        for name in ("ln_1", "ln_2"):
            shapes[p + name + ".weight"] = shapes[p + name + ".bias"] = (HIDDEN,)
        for name, shape in {
            "attn.c_attn": (HIDDEN, 3 * HIDDEN),
            "attn.c_proj": (HIDDEN, HIDDEN),
            "mlp.c_fc": (HIDDEN, wide),
            "mlp.c_proj": (wide, HIDDEN),
        }.items():
            shapes[p + name + ".weight"], shapes[p + name + ".bias"] = shape, shape[1:]
    return shapes


def opt_shapes(c: dict) -> dict[str, tuple[int, ...]]:
    narrow, d = c.get("word_embed_proj_dim", HIDDEN), "model.decoder."
    shapes = {
        d + "embed_tokens.weight": (VOCABULARY, narrow),
        d + "embed_positions.weight": (CONTEXT + 2, HIDDEN),
    }
    if narrow != HIDDEN:
        shapes[d + "project_in.weight"] = (HIDDEN, narrow)
        shapes[d + "project_out.weight"] = (narrow, HIDDEN)
    norms = [
        f"layers.{i}.{n}"
        for i in range(LAYERS)
        for n in ("self_attn_layer_norm", "final_layer_norm")
    ]
    if c.get("do_layer_norm_before", True) and not c.get("_remove_final_layer_norm", False):
        norms.append("final_layer_norm")
    for name in norms:
        shapes[f"{d}{name}.weight"] = shapes[f"{d}{name}.bias"] = (HIDDEN,)
    for i in range(LAYERS):
        for name, shape in {
            "self_attn.q_proj": (HIDDEN, HIDDEN),
            "self_attn.k_proj": (HIDDEN, HIDDEN),
            "self_attn.v_proj": (HIDDEN, HIDDEN),
            "self_attn.out_proj": (HIDDEN, HIDDEN),
            "fc1": (WIDE, HIDDEN),
            "fc2": (HIDDEN, WIDE),
        }.items():
            shapes[f"{d}layers.{i}.{name}.weight"] = shape
            if c.get("enable_bias", True):
                shapes[f"{d}layers.{i}.{name}.bias"] = shape[:1]
    return shapes


SHAPES = {"llama": llama_shapes, "gpt2": gpt2_shapes, "opt": opt_shapes}


def random_tensors(c: dict, seed: int = 1) -> dict[str, np.ndarray]:
    """Weights with a visible effect everywhere: gains around 1, no small biases."""
    rng = np.random.default_rng(seed)
    tensors = {}
    for name, shape in SHAPES[c["model_type"]](c).items():
        values = rng.normal(size=shape)
        if name.endswith("weight") and len(shape) == 1:
            values = 1 + 0.3 * values
        elif len(shape) == 1:
            values = 0.3 * values
        elif "proj" in name or ".c_" in name or ".fc" in name:
            values = values * 1.5 / np.sqrt(HIDDEN)
        tensors[name] = values.astype(np.float32)
    return tensors


def write_folder(folder: Path, config: dict, tensors: dict[str, np.ndarray]) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    save_file(tensors, folder / "model.safetensors")
    return folder


# The reference: one function per family, float64, whole sequence at once.


def softmax(s: np.ndarray) -> np.ndarray:
    e = np.exp(s - s.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def causal(q: np.ndarray, k: np.ndarray, v: np.ndarray, heads: int, kv_heads: int) -> np.ndarray:
    """q [T, heads * d]; k, v [T, kv_heads * d]."""
    tokens, dim = len(q), q.shape[1] // heads
    mask = np.triu(np.full((tokens, tokens), -np.inf), 1)
    out = []
    for h in range(heads):
        g = h * kv_heads // heads
        qh, kh, vh = q[:, h * dim :][:, :dim], k[:, g * dim :][:, :dim], v[:, g * dim :][:, :dim]
        out.append(softmax(qh @ kh.T / np.sqrt(dim) + mask) @ vh)
    return np.concatenate(out, axis=1)


def rms(x: np.ndarray, gain: np.ndarray, eps: float) -> np.ndarray:
    return x / np.sqrt((x**2).mean(axis=1, keepdims=True) + eps) * gain


def layer_norm(x: np.ndarray, t: dict, name: str) -> np.ndarray:
    centred = x - x.mean(axis=1, keepdims=True)
    return (
        centred / np.sqrt(x.var(axis=1, keepdims=True) + 1e-5) * t[name + ".weight"]
        + t[name + ".bias"]
    )


def affine(x: np.ndarray, t: dict, name: str) -> np.ndarray:
    return x @ t[name + ".weight"].T + t.get(name + ".bias", 0)


def inverse_frequencies(c: dict, dim: int) -> np.ndarray:
    scaling = c.get("rope_parameters") or c.get("rope_scaling") or {}
    theta = scaling.get("rope_theta", c.get("rope_theta", 10000.0))
    inverse = np.array([theta ** (-2 * i / dim) for i in range(dim // 2)])
    if scaling.get("type") == "linear":
        return inverse / scaling["factor"]
    if scaling.get("rope_type") == "llama3":
        old = scaling["original_max_position_embeddings"]
        for i, f in enumerate(inverse):
            wavelength = 2 * np.pi / f
            if wavelength > old / scaling["low_freq_factor"]:
                inverse[i] = f / scaling["factor"]
            elif wavelength > old / scaling["high_freq_factor"]:
                smooth = (old / wavelength - scaling["low_freq_factor"]) / (
                    scaling["high_freq_factor"] - scaling["low_freq_factor"]
                )
                inverse[i] = (1 - smooth) * f / scaling["factor"] + smooth * f
    return inverse


def rope(x: np.ndarray, dim: int, inverse: np.ndarray) -> np.ndarray:
    """Rotate each pair as a complex number."""
    y = x.copy()
    for start in range(0, x.shape[1], dim):
        for i, f in enumerate(inverse):
            a, b = start + i, start + i + dim // 2
            z = (x[:, a] + 1j * x[:, b]) * np.exp(1j * np.arange(len(x)) * f)
            y[:, a], y[:, b] = z.real, z.imag
    return y


def reference_llama(c: dict, t: dict, ids: list[int]) -> np.ndarray:
    heads = c["num_attention_heads"]
    kv_heads, dim = c.get("num_key_value_heads", heads), c.get("head_dim", HIDDEN // heads)
    eps, inverse = c.get("rms_norm_eps", 1e-6), inverse_frequencies(c, dim)
    x = t["model.embed_tokens.weight"][ids]
    for i in range(LAYERS):
        p = f"model.layers.{i}."
        h = rms(x, t[p + "input_layernorm.weight"], eps)
        q, k, v = (affine(h, t, f"{p}self_attn.{n}_proj") for n in "qkv")
        a = causal(rope(q, dim, inverse), rope(k, dim, inverse), v, heads, kv_heads)
        x = x + affine(a, t, p + "self_attn.o_proj")
        h = rms(x, t[p + "post_attention_layernorm.weight"], eps)
        gate = affine(h, t, p + "mlp.gate_proj")
        x = x + affine(
            gate / (1 + np.exp(-gate)) * affine(h, t, p + "mlp.up_proj"), t, p + "mlp.down_proj"
        )
    head = t.get("lm_head.weight", t["model.embed_tokens.weight"])
    return rms(x, t["model.norm.weight"], eps) @ head.T


def reference_gpt2(c: dict, t: dict, ids: list[int]) -> np.ndarray:
    t = {n: v.T if ".c_" in n and n.endswith("weight") else v for n, v in t.items()}
    x = t["transformer.wte.weight"][ids] + t["transformer.wpe.weight"][: len(ids)]
    for i in range(LAYERS):
        p = f"transformer.h.{i}."
        q, k, v = np.split(affine(layer_norm(x, t, p + "ln_1"), t, p + "attn.c_attn"), 3, axis=1)
        x = x + affine(causal(q, k, v, c["n_head"], c["n_head"]), t, p + "attn.c_proj")
        h = affine(layer_norm(x, t, p + "ln_2"), t, p + "mlp.c_fc")
        if c.get("activation_function") == "relu":
            h = h * (h > 0)
        else:
            h = h / (1 + np.exp(-2 * np.sqrt(2 / np.pi) * (h + 0.044715 * h**3)))
        x = x + affine(h, t, p + "mlp.c_proj")
    return layer_norm(x, t, "transformer.ln_f") @ t["transformer.wte.weight"].T


def normal_cdf(x: np.ndarray) -> np.ndarray:
    """By integrating the density, not by erf: trapezoids of width 1e-3 from -12."""
    grid = np.arange(-12, 12, 1e-3)
    density = np.exp(-(grid**2) / 2) / np.sqrt(2 * np.pi)
    return np.interp(x, grid, np.cumsum(density) * 1e-3 - density * 5e-4)


def reference_opt(c: dict, t: dict, ids: list[int]) -> np.ndarray:
    t = {n.removeprefix("model.decoder."): v for n, v in t.items()}
    before, heads = c.get("do_layer_norm_before", True), c["num_attention_heads"]
    x = t["embed_tokens.weight"][ids]
    if "project_in.weight" in t:
        x = x @ t["project_in.weight"].T
    x = x + t["embed_positions.weight"][2 : 2 + len(ids)]
    for i in range(LAYERS):
        p = f"layers.{i}."
        h = layer_norm(x, t, p + "self_attn_layer_norm") if before else x
        q, k, v = (affine(h, t, f"{p}self_attn.{n}_proj") for n in "qkv")
        x = x + affine(causal(q, k, v, heads, heads), t, p + "self_attn.out_proj")
        x = x if before else layer_norm(x, t, p + "self_attn_layer_norm")
        h = affine(layer_norm(x, t, p + "final_layer_norm") if before else x, t, p + "fc1")
        h = h * normal_cdf(h) if c.get("activation_function") == "gelu" else np.maximum(h, 0)
        x = x + affine(h, t, p + "fc2")
        x = x if before else layer_norm(x, t, p + "final_layer_norm")
    if "final_layer_norm.weight" in t:
        x = layer_norm(x, t, "final_layer_norm")
    if "project_out.weight" in t:
        x = x @ t["project_out.weight"].T
    return x @ t["embed_tokens.weight"].T


REFERENCES = {"llama": reference_llama, "gpt2": reference_gpt2, "opt": reference_opt}


def reference(config: dict, tensors: dict[str, np.ndarray], ids: list[int]) -> np.ndarray:
    wide = {n: v.astype(np.float64) for n, v in tensors.items()}
    return REFERENCES[config["model_type"]](config, wide, ids)


def error_of(logits: np.ndarray, expected: np.ndarray) -> float:
    """Largest difference over the standard deviation of the logits."""
    return float(np.abs(logits - expected).max() / expected.std())


# Without rounding to float16 only float32 sums differ; measured up to 6e-6.
EXACT = 1e-5
# With float16 operands and results (2^-11 each, through three layers); measured up to 8e-3.
ROUNDED = 1e-2


@pytest.fixture
def unrounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Attention without its float16 formats, so that the comparison can be tight."""
    monkeypatch.setattr(transformer, "to_half", lambda x, what: x.astype(np.float64))
    monkeypatch.setattr(attention, "attend", attend_wide)


@pytest.mark.parametrize("name", CONFIGS)
def test_unrounded_logits_match_the_float64_reference(
    name: str, tmp_path: Path, unrounded: None
) -> None:
    config = complete(CONFIGS[name])
    tensors = random_tensors(config)
    model = load_model(write_folder(tmp_path / name, config, tensors))
    expected = reference(config, tensors, PROMPT)
    assert error_of(prompt_logits(model, PROMPT), expected) < EXACT


@pytest.mark.parametrize("name", CONFIGS)
def test_rounded_logits_stay_near_the_float64_reference(name: str, tmp_path: Path) -> None:
    config = complete(CONFIGS[name])
    tensors = random_tensors(config)
    model = load_model(write_folder(tmp_path / name, config, tensors))
    error = error_of(prompt_logits(model, PROMPT), reference(config, tensors, PROMPT))
    # A value of zero would mean that nothing was rounded.
    assert EXACT < error < ROUNDED


@pytest.mark.parametrize(
    ("name", "tensor"),
    [
        ("llama_gqa", "model.layers.1.self_attn.k_proj.weight"),
        ("llama_bias_tied", "model.layers.2.mlp.up_proj.bias"),
        ("gpt2", "transformer.h.0.attn.c_attn.bias"),
        ("opt", "model.decoder.embed_positions.weight"),
    ],
)
def test_the_comparison_notices_a_changed_tensor(name: str, tensor: str, tmp_path: Path) -> None:
    config = complete(CONFIGS[name])
    tensors = random_tensors(config)
    model = load_model(write_folder(tmp_path / name, config, tensors))
    tensors[tensor] = np.roll(tensors[tensor], 1, axis=0)
    expected = reference(config, tensors, PROMPT)
    assert error_of(prompt_logits(model, PROMPT), expected) > 5 * ROUNDED


@pytest.mark.parametrize("name", CONFIGS)
def test_cached_decode_equals_full_recompute_in_every_bit(name: str, tmp_path: Path) -> None:
    config = complete(CONFIGS[name])
    model = load_model(write_folder(tmp_path / name, config, random_tensors(config)))
    engine = NumpyAttention()
    made = generate(model, engine, PROMPT, 8)
    whole = prompt_logits(model, [*PROMPT, *made.tokens[:-1]])
    assert np.array_equal(made.logits, whole[len(PROMPT) - 1 :])
    assert made.tokens == tuple(int(t) for t in made.logits.argmax(axis=1))
    assert engine.calls == made.attention_calls == 7 * LAYERS


def test_an_engine_that_swaps_kv_heads_changes_the_logits(tmp_path: Path) -> None:
    class Swapped(NumpyAttention):
        def decode(self, layer, q, k, v):
            return super().decode(layer, q, k[::-1], v)

    config = complete(CONFIGS["llama_gqa"])
    model = load_model(write_folder(tmp_path / "m", config, random_tensors(config)))
    good = generate(model, NumpyAttention(), PROMPT, 4).logits
    bad = generate(model, Swapped(), PROMPT, 4).logits
    assert np.array_equal(good[0], bad[0])
    assert error_of(bad[1:], good[1:]) > 5 * ROUNDED


def test_grouped_queries_equal_repeated_kv_heads(tmp_path: Path) -> None:
    """Query head h reads K/V head h // group: storing each head `group` times changes no bit."""
    config = complete(CONFIGS["llama_gqa"])
    tensors = random_tensors(config)
    grouped = load_model(write_folder(tmp_path / "grouped", config, tensors))
    for name in tensors:
        if "k_proj" in name or "v_proj" in name:
            tensors[name] = (
                tensors[name].reshape(2, 8, HIDDEN).repeat(4, axis=0).reshape(-1, HIDDEN)
            )
    full = load_model(
        write_folder(tmp_path / "full", {**config, "num_key_value_heads": 8}, tensors)
    )
    a, b = (generate(m, NumpyAttention(), PROMPT, 5).logits for m in (grouped, full))
    assert np.array_equal(a, b)


def test_gpt2_without_its_outer_name_loads_alike(tmp_path: Path) -> None:
    """Old GPT-2 checkpoints drop `transformer.` and carry the causal mask as a buffer."""
    config = complete(CONFIGS["gpt2"])
    tensors = random_tensors(config)
    expected = prompt_logits(load_model(write_folder(tmp_path / "a", config, tensors)), PROMPT)
    bare = {n.removeprefix("transformer."): v for n, v in tensors.items()}
    bare["h.0.attn.bias"] = np.tril(np.ones((1, 1, CONTEXT, CONTEXT), np.float32))
    model = load_model(write_folder(tmp_path / "b", config, bare))
    assert np.array_equal(prompt_logits(model, PROMPT), expected)


@pytest.mark.parametrize("name", ["llama_gqa", "gpt2", "opt"])
def test_context_ends_where_the_model_says(name: str, tmp_path: Path) -> None:
    config = complete(CONFIGS[name])
    model = load_model(write_folder(tmp_path / name, config, random_tensors(config)))
    assert len(generate(model, NumpyAttention(), PROMPT, CONTEXT - len(PROMPT)).tokens) == 13
    with pytest.raises(ConfigError) as error:
        generate(model, NumpyAttention(), PROMPT, CONTEXT - len(PROMPT) + 1)
    assert str(error.value) == (
        "25 tokens exceed the context of the model, which is 24 tokens; shorten the prompt or "
        "generate less"
    )
