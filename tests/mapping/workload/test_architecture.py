"""Presets reproduce the published sizes; layers; what is refused."""

import os
from pathlib import Path

import pytest

from bankside.errors import ConfigError
from bankside.mapping.workload import Architecture, LayerKind
from bankside.mapping.workload.load import (
    PRESETS,
    architecture_names,
    preset_sources,
    read_presets,
)
from bankside.strict_yaml import load_yaml

REFERENCE = Path(os.environ.get("BANKSIDE_REF", "../shared/ref")) / "models.yaml"

# Parameters in 10^9 as published: all, and those that a token meets where that is another number.
# Ref: the models' cards and papers (partly recalled); qwen2.5-32b: its weight files (its card says
# 32.5); deepseek-v3: README_WEIGHTS.md, 36.6 active without the embedding of 0.93.
SIZES = {
    "llama-2-7b": ("6.74",), "llama-2-70b": ("69.0",), "llama-3-8b": ("8.03",),
    "llama-3-70b": ("70.6",), "llama-3.1-8b": ("8.03",), "llama-3.2-3b": ("3.21",),
    "mistral-7b-v0.1": ("7.24",), "mixtral-8x7b": ("46.7", "12.9"), "qwen2.5-7b": ("7.62",),
    "qwen2.5-14b": ("14.7",), "qwen2.5-32b": ("32.8",), "qwen2.5-72b": ("72.7",),
    "qwen3-8b": ("8.2",), "qwen3-32b": ("32.8",), "qwen3-30b-a3b": ("30.5", "3.3"),
    "deepseek-v3": ("671", "37.5"), "opt-66b": ("65.7",), "gpt3-175b": ("174.6",),
    "gpt2": ("0.124",),
}  # fmt: skip

# KiB per token in 16 bits.
CACHE = {
    "llama-2-7b": 512, "llama-3-8b": 128, "llama-3-70b": 320, "qwen2.5-7b": 56,
    "deepseek-v3": 68.625, "opt-66b": 2304, "gpt3-175b": 4608, "qwen2.5-72b": 320,
}  # fmt: skip


def test_every_preset_has_a_published_size() -> None:
    assert set(SIZES) == set(architecture_names())


def _is_rounded(value: float, text: str) -> bool:
    """Whether `text` is the value, rounded or cut off to the digits that it shows."""
    unit = 10.0 ** -len(text.partition(".")[2])
    return abs(value - float(text)) < unit


@pytest.mark.parametrize("name", SIZES)
def test_parameters(name: str) -> None:
    arch = Architecture.load(name)
    published = SIZES[name]
    assert _is_rounded(arch.parameters / 1e9, published[0])
    assert _is_rounded(arch.active_parameters / 1e9, published[-1])
    assert arch.weight_bytes(8) == arch.parameters
    assert arch.active_weight_bytes() == 2 * arch.active_parameters


@pytest.mark.parametrize("name", CACHE)
def test_cache_per_token(name: str) -> None:
    arch = Architecture.load(name)
    assert arch.kv_bytes_per_token() == CACHE[name] * 1024
    assert arch.kv_bytes_per_token(8) == CACHE[name] * 512


def test_latent_cache_holds_576_elements() -> None:
    assert Architecture.load("deepseek-v3").kv_elements == 576


def test_window_bounds_the_cache() -> None:
    arch = Architecture.load("mistral-7b-v0.1")
    assert arch.kv_bytes(1000) == 1000 * arch.kv_bytes_per_token()
    assert arch.kv_bytes(100_000) == 4096 * arch.kv_bytes_per_token()
    half = arch.model_copy(update={"window_layers": tuple(range(16))})
    assert half.kv_bytes(8192) == (4096 + 8192) / 2 * arch.kv_bytes_per_token()


@pytest.mark.skipif(not REFERENCE.is_file(), reason=f"no {REFERENCE}; set BANKSIDE_REF")
def test_presets_agree_with_the_reference() -> None:
    models = load_yaml(REFERENCE)[0]["models"]  # type: ignore[index, call-overload]
    keys = {
        "layers": "depth", "hidden": "hidden", "q_heads": "heads", "kv_heads": "kv_heads",
        "head_dim": "head_dim", "ffn_hidden": "ffn_hidden", "norm": "norm", "vocab": "vocab",
        "max_pos": "max_positions", "qkv_bias": "qkv_bias", "tie_embed": "tied",
        "sliding_window": "window", "qk_norm": "qk_norm", "pos": "position",
    }  # fmt: skip
    # gpt2, which the sheet lacks, has its exact number of parameters in test_huggingface.py.
    assert set(models) == set(architecture_names()) - {"gpt2"}
    for name, model in models.items():
        arch = Architecture.load(name)
        for theirs, ours in keys.items():
            if theirs in model:
                assert getattr(arch, ours) == model[theirs], (name, ours)
        if "moe" in model:
            for key in ("experts", "top_k", "shared", "expert_hidden", "first_dense"):
                assert getattr(arch.moe, key) == model["moe"][key], (name, key)


def test_every_number_has_a_source() -> None:
    for name in architecture_names():
        sources = preset_sources(name)
        assert {"depth", "hidden", "vocab"} <= set(sources) and all(sources.values()), name


# --- layers -----------------------------------------------------------------------------------
def test_runs_of_equal_layers() -> None:
    arch = Architecture.load("deepseek-v3")
    assert arch.layers == (
        LayerKind(3, "latent", None, "dense"),
        LayerKind(58, "latent", None, "moe"),
    )
    assert sum(kind.count for kind in arch.layers) == arch.depth


def test_windows_alternate() -> None:
    arch = _small(depth=4, window=8, window_layers=(0, 2))
    assert [kind.window for kind in arch.layers] == [8, None, 8, None]


def _small(**changes: object) -> Architecture:
    fields = dict(
        name="small", depth=2, hidden=32, heads=4, kv_heads=2, head_dim=8, ffn_hidden=64,
        ffn="gated", activation="silu", norm="rmsnorm", position="rope", vocab=100,
        max_positions=64,
    )  # fmt: skip
    return Architecture(**(fields | changes))  # type: ignore[arg-type]


def test_parameters_by_hand() -> None:
    # q, k, v: 32 x (32 + 16 + 16); out: 32 x 32; three of 32 x 64; two norms of 32.
    layer = 32 * 64 + 32 * 32 + 3 * 32 * 64 + 2 * 32
    assert _small().parameters == 2 * layer + 2 * 100 * 32 + 32
    assert _small(tied=True).parameters == 2 * layer + 100 * 32 + 32
    assert _small(qkv_bias=True).parameters == 2 * (layer + 64) + 2 * 100 * 32 + 32
    learned = _small(position="learned", position_rows=70, final_norm=False)
    assert learned.parameters == 2 * layer + 2 * 100 * 32 + 70 * 32


def test_describe() -> None:
    text = "\n".join(Architecture.load("qwen3-30b-a3b").describe())
    assert "30.53 G parameters" in text and "96.0 KiB per token" in text


# --- refused ----------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("kv_heads: 3", "which does not divide 4 heads"),
        ("kv_head: 2", "did you mean 'kv_heads'"),
        ("hidden: 0", "is 0; expected an integer >= 1"),
        ("norm: rmsnrm", "did you mean 'rmsnorm'"),
        ("window_layers: [2]", "names a layer outside 0 to 1"),
        ("moe: {experts: 4, top_k: 5, expert_hidden: 8}", "more than the 4 experts"),
        ("moe: {experts: 4, top_k: 1, expert_hidden: 8, first_dense: 3}", "there are 2 layers"),
    ],
)
def test_yaml_refused(tmp_path: Path, change: str, message: str) -> None:
    fields = {k: v for k, v in _small().model_dump().items() if v is not None and v != ()}
    fields.pop(change.partition(":")[0], None)
    lines = [f"{key}: {str(value).lower()}" for key, value in fields.items()]
    path = tmp_path / "model.yaml"
    path.write_text("\n".join([*lines, change]))
    with pytest.raises(ConfigError) as error:
        Architecture.load(path)
    assert f"model.yaml:{len(lines) + 1}: " in str(error.value) and message in str(error.value)


def test_yaml_read(tmp_path: Path) -> None:
    path = tmp_path / "small.yaml"
    fields = {k: v for k, v in _small().model_dump().items() if v is not None and k != "name"}
    path.write_text("\n".join(f"{k}: {str(v).lower()}" for k, v in fields.items()))
    assert Architecture.load(str(path)) == _small()


def test_unknown_name() -> None:
    with pytest.raises(ConfigError, match="did you mean 'llama-3-70b'") as error:
        Architecture.load("llama3-70b")
    assert "opt-66b" in str(error.value)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("source: vidur", "source: vidurr", "unknown source 'vidurr' (did you mean 'vidur'?)"),
        ("    source: vidur\n", "", "expected `source: KEY`"),
        ("{vocab: recalled}", "{vocap: recalled}", "'vocap', which is not given"),
        ("depth: 32", "depht: 32", "did you mean 'depth'"),
    ],
)
def test_presets_refused(tmp_path: Path, old: str, new: str, message: str) -> None:
    path = tmp_path / "presets.yaml"
    text = PRESETS.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(ConfigError) as error:
        read_presets(path)
    assert message in str(error.value) and "presets.yaml:" in str(error.value)


def test_copies_forget_what_was_computed() -> None:
    arch = Architecture.load("llama-3-8b")
    assert arch.parameters and arch.layers
    tied = arch.model_copy(update={"tied": True, "depth": 16})
    assert tied.parameters < arch.parameters / 1.9 and tied.layers[0].count == 16
    with pytest.raises(ValueError, match="does not divide"):
        arch.model_copy(update={"kv_heads": 3})
