"""Architectures from minimal `config.json` texts of each family; what is refused."""

import json
from pathlib import Path

import pytest

from bankside.errors import ConfigError
from bankside.mapping.workload import Architecture, LayerKind
from bankside.mapping.workload.huggingface import FAMILIES, parse_config

LLAMA = {
    "model_type": "llama", "hidden_size": 4096, "intermediate_size": 14336,
    "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8,
    "vocab_size": 128256, "max_position_embeddings": 8192, "hidden_act": "silu",
    "torch_dtype": "bfloat16", "rope_theta": 500000.0,
}  # fmt: skip
QWEN3 = LLAMA | {
    "model_type": "qwen3", "hidden_size": 5120, "intermediate_size": 25600,
    "num_hidden_layers": 64, "num_attention_heads": 64, "head_dim": 128, "vocab_size": 151936,
    "max_position_embeddings": 40960, "sliding_window": None, "use_sliding_window": False,
}  # fmt: skip

# preset -> what its published config.json says
PRESETS: dict[str, dict] = {
    "llama-3-8b": LLAMA,
    "llama-2-7b": {
        k: v for k, v in LLAMA.items() if k != "num_key_value_heads"
    } | {"intermediate_size": 11008, "vocab_size": 32000, "max_position_embeddings": 4096},
    "llama-3.2-3b": LLAMA | {
        "hidden_size": 3072, "num_attention_heads": 24, "head_dim": 128, "num_hidden_layers": 28,
        "intermediate_size": 8192, "tie_word_embeddings": True, "max_position_embeddings": 131072,
    },
    "mistral-7b-v0.1": LLAMA | {
        "model_type": "mistral", "vocab_size": 32000, "max_position_embeddings": 32768,
        "sliding_window": 4096,
    },
    "mixtral-8x7b": LLAMA | {
        "model_type": "mixtral", "vocab_size": 32000, "max_position_embeddings": 32768,
        "sliding_window": None, "num_local_experts": 8, "num_experts_per_tok": 2,
    },
    "qwen2.5-7b": LLAMA | {
        "model_type": "qwen2", "hidden_size": 3584, "intermediate_size": 18944,
        "num_hidden_layers": 28, "num_attention_heads": 28, "num_key_value_heads": 4,
        "vocab_size": 152064, "max_position_embeddings": 131072, "sliding_window": 131072,
        "use_sliding_window": False, "max_window_layers": 28,
    },
    "qwen3-32b": QWEN3,
    "qwen3-30b-a3b": QWEN3 | {
        "model_type": "qwen3_moe", "hidden_size": 2048, "intermediate_size": 6144,
        "num_hidden_layers": 48, "num_attention_heads": 32, "num_key_value_heads": 4,
        "num_experts": 128, "num_experts_per_tok": 8, "moe_intermediate_size": 768,
        "decoder_sparse_step": 1, "mlp_only_layers": [],
    },
    "deepseek-v3": {
        "model_type": "deepseek_v3", "hidden_size": 7168, "intermediate_size": 18432,
        "num_hidden_layers": 61, "num_attention_heads": 128, "num_key_value_heads": 128,
        "vocab_size": 129280, "max_position_embeddings": 163840, "q_lora_rank": 1536,
        "kv_lora_rank": 512, "qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "v_head_dim": 128,
        "n_routed_experts": 256, "n_shared_experts": 1, "num_experts_per_tok": 8,
        "moe_intermediate_size": 2048, "first_k_dense_replace": 3, "moe_layer_freq": 1,
        "num_nextn_predict_layers": 1, "attention_bias": False,
    },
    "opt-66b": {
        "model_type": "opt", "hidden_size": 9216, "ffn_dim": 36864, "num_hidden_layers": 64,
        "num_attention_heads": 72, "vocab_size": 50272, "max_position_embeddings": 2048,
        "word_embed_proj_dim": 9216, "activation_function": "relu",
    },
    "gpt3-175b": {
        "model_type": "gpt2", "n_embd": 12288, "n_layer": 96, "n_head": 96, "n_inner": None,
        "n_positions": 2048, "vocab_size": 50257, "activation_function": "gelu_new",
    },
    "gpt2": {
        "model_type": "gpt2", "n_embd": 768, "n_layer": 12, "n_head": 12, "n_inner": None,
        "n_positions": 1024, "vocab_size": 50257, "activation_function": "gelu_new",
    },
}  # fmt: skip


@pytest.mark.parametrize("name", PRESETS)
def test_config_gives_the_preset(name: str) -> None:
    arch = parse_config(json.dumps(PRESETS[name]))
    assert arch.model_copy(update={"name": name}) == Architecture.load(name)


def test_every_family_is_read_by_a_test() -> None:
    read = {config["model_type"] for config in PRESETS.values()} | {"deepseek_v2"}
    assert read == set(FAMILIES)


def _read(config: dict, **changes: object) -> Architecture:
    return parse_config(json.dumps(config | changes), "config.json")


def test_deepseek_v2_lite_has_no_query_rank() -> None:
    arch = _read(
        PRESETS["deepseek-v3"], model_type="deepseek_v2", q_lora_rank=None, hidden_size=2048,
        num_hidden_layers=27, num_attention_heads=16, num_key_value_heads=16,
        intermediate_size=10944, moe_intermediate_size=1408, n_routed_experts=64,
        n_shared_experts=2, num_experts_per_tok=6, first_k_dense_replace=1, vocab_size=102400,
    )  # fmt: skip
    # Ref: model card of DeepSeek-V2-Lite: 15.7 G parameters, 2.4 G active without embeddings.
    assert arch.parameters / 1e9 == pytest.approx(15.7, rel=2e-3)
    embeddings = 2 * 102400 * 2048
    assert (arch.active_parameters - embeddings) / 1e9 == pytest.approx(2.4, rel=0.08)


def test_small_opt_projects_its_embedding() -> None:
    # OPT-350M: embedding 512 wide, norms after the blocks, none at the end. Ref: 331.2 M weights.
    arch = _read(
        PRESETS["opt-66b"], hidden_size=1024, ffn_dim=4096, num_hidden_layers=24,
        num_attention_heads=16, word_embed_proj_dim=512, do_layer_norm_before=False,
    )  # fmt: skip
    assert arch.embed_dim == 512 and not arch.final_norm
    assert arch.parameters / 1e6 == pytest.approx(331.2, rel=1e-3)


def test_gpt2_small() -> None:
    # Ref: 124.4 M parameters
    assert _read(PRESETS["gpt2"]).parameters == 124_439_808


def test_windows_by_switches_and_by_list() -> None:
    qwen2 = PRESETS["qwen2.5-7b"] | {"sliding_window": 4096}
    assert _read(qwen2).window is None
    upper = _read(qwen2, use_sliding_window=True, max_window_layers=20)
    assert [(kind.count, kind.window) for kind in upper.layers] == [(20, None), (8, 4096)]
    assert _read(qwen2, use_sliding_window=True, max_window_layers=28).window is None
    types = ["sliding_attention", "full_attention"] * 14
    listed = _read(qwen2, use_sliding_window=True, layer_types=types)
    assert [kind.window for kind in listed.layers] == [4096, None] * 14
    assert _read(PRESETS["mistral-7b-v0.1"], sliding_window=None).window is None


def test_dense_layers_between_experts() -> None:
    arch = _read(
        PRESETS["qwen3-30b-a3b"], num_hidden_layers=6, decoder_sparse_step=2, mlp_only_layers=[5]
    )
    assert [kind.ffn for kind in arch.layers for _ in range(kind.count)] == [
        "dense", "moe", "dense", "moe", "dense", "dense",
    ]  # fmt: skip


def test_biases() -> None:
    llama = _read(LLAMA, attention_bias=True, mlp_bias=True)
    assert llama.qkv_bias and llama.out_bias and llama.ffn_bias
    qwen = _read(PRESETS["qwen2.5-7b"])
    assert qwen.qkv_bias and not qwen.out_bias


def test_load_file_and_folder(tmp_path: Path) -> None:
    folder = tmp_path / "my-model"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(LLAMA))
    by_folder = Architecture.load(folder)
    assert by_folder == Architecture.load(str(folder / "config.json"))
    assert by_folder.name == "my-model"
    assert by_folder.layers == (LayerKind(32, "heads", None, "dense"),)


# --- refused ----------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "lama"}, "unknown model family 'lama' (did you mean 'llama'?)"),
        ({"model_type": None}, "the key 'model_type' is missing; known are llama"),
        ({"hidden_size": "4096"}, "hidden_size: is '4096'; expected a positive integer"),
        ({"hidden_size": 0}, "hidden_size: is 0; expected a positive integer"),
        ({"hidden_size": True}, "hidden_size: is True; expected a positive integer"),
        ({"hidden_size": 4100}, "4100 does not divide among 32 heads and there is no head_dim"),
        ({"num_key_value_heads": 5}, "kv_heads: is 5, which does not divide 32 heads"),
        ({"hidden_act": "gellu"}, "did you mean 'gelu'"),
        ({"tie_word_embeddings": 1}, "expected true or false"),
    ],
)
def test_values_refused(changes: dict, message: str) -> None:
    with pytest.raises(ConfigError) as error:
        _read(LLAMA, **changes)
    assert message in str(error.value) and str(error.value).startswith("config.json")


@pytest.mark.parametrize("key", ["hidden_size", "vocab_size", "intermediate_size"])
def test_missing_key_refused(key: str) -> None:
    config = {k: v for k, v in LLAMA.items() if k != key}
    with pytest.raises(ConfigError, match=f"the key '{key}' is missing.*llama family"):
        _read(config)


@pytest.mark.parametrize(
    ("name", "key"),
    [("mixtral-8x7b", "num_local_experts"), ("deepseek-v3", "kv_lora_rank"), ("opt-66b", "ffn_dim"),
     ("gpt3-175b", "n_embd"), ("qwen3-30b-a3b", "moe_intermediate_size")],
)  # fmt: skip
def test_missing_key_of_a_family_refused(name: str, key: str) -> None:
    config = {k: v for k, v in PRESETS[name].items() if k != key}
    with pytest.raises(ConfigError, match=f"the key '{key}' is missing"):
        _read(config)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"model_type": "llama",\n "hidden_size" 3}', "config.json:2: not valid JSON"),
        ("[1]", "expected a JSON object"),
        ('{"a": 1, "a": 2}', "key 'a' is given twice"),
    ],
)
def test_text_refused(text: str, message: str) -> None:
    with pytest.raises(ConfigError) as error:
        parse_config(text, "config.json")
    assert message in str(error.value)


def test_missing_file_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read: No such file.*config.json or the"):
        Architecture.load(tmp_path / "config.json")


def test_line_of_a_wrong_value() -> None:
    text = json.dumps(LLAMA | {"vocab_size": -1}, indent=1)
    with pytest.raises(ConfigError, match=r"^config.json:8: vocab_size: is -1"):
        parse_config(text, "config.json")
