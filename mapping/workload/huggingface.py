"""Architectures from Hugging Face `config.json` files, by model family.

Only what shapes the computation is read; the many other keys of such files are ignored. A key that
the family's own code has a default for may be missing, any other may not.

Ref: the `configuration_*.py` of each family in `huggingface/transformers`.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from bankside.errors import ConfigError
from bankside.mapping.workload.architecture import Architecture, Mla, Moe
from bankside.registry import nearest

_ACTIVATIONS = {
    "silu": "silu", "swish": "silu", "relu": "relu", "gelu": "gelu", "gelu_new": "gelu",
    "gelu_fast": "gelu", "gelu_pytorch_tanh": "gelu",
}  # fmt: skip
_MISSING = object()


def read_config(path: str | Path) -> Architecture:
    """Read a `config.json`.

    Raises:
        ConfigError: no such file, not JSON, an unknown family, a missing or impossible value.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as bad:
        raise ConfigError(
            f"{path}: cannot be read: {bad.strerror}; give a Hugging Face config.json or the "
            f"folder that holds it"
        ) from bad
    except UnicodeDecodeError as bad:
        raise ConfigError(f"{path}: not UTF-8 text (byte {bad.start}); is it a JSON file?") from bad
    return parse_config(text, str(path))


def parse_config(text: str, name: str = "<text>") -> Architecture:
    """Read the text of a `config.json`; `name` stands for the file in messages."""
    try:
        data = json.loads(text, object_pairs_hook=_unique)
    except json.JSONDecodeError as bad:
        raise ConfigError(f"{name}:{bad.lineno}: not valid JSON: {bad.msg}") from bad
    except _Twice as twice:
        raise ConfigError(f"{name}: key {twice.args[0]!r} is given twice; remove one") from twice
    if not isinstance(data, dict):
        raise ConfigError(f"{name}: expected a JSON object with the keys of a model's config.json")
    return _Reader(data, text, name).read()


class _Twice(ValueError):
    pass


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise _Twice(key)
        found[key] = value
    return found


class _Reader:
    """Typed access to one file's keys."""

    def __init__(self, data: dict[str, Any], text: str, name: str) -> None:
        self.data, self.text, self.file = data, text, name

    def refuse(self, key: str, message: str) -> ConfigError:
        lines = self.text[: max(self.text.find(f'"{key}"'), 0)].count("\n") + 1
        return ConfigError(f"{self.file}:{lines}: {key}: {message}")

    def _get(self, key: str, default: Any, types: tuple[type, ...], words: str) -> Any:
        value = self.data.get(key, _MISSING)
        if value is _MISSING or (value is None and default is not _MISSING):
            if default is _MISSING:
                known = nearest(key, self.data)
                raise ConfigError(
                    f"{self.file}: the key {key!r} is missing{known}; expected {words}, as the "
                    f"{self.data.get('model_type')} family has"
                )
            return default
        if not isinstance(value, types) or (bool not in types and isinstance(value, bool)):
            raise self.refuse(key, f"is {value!r}; expected {words}")
        return value

    def size(self, key: str, default: Any = _MISSING) -> Any:
        """A positive integer, or the default (which may be None) where missing or null."""
        value = self._get(key, default, (int,), "a positive integer")
        if value is not None and value < 1:
            raise self.refuse(key, f"is {value}; expected a positive integer")
        return value

    def count(self, key: str, default: int) -> int:
        """An integer from 0."""
        value = self._get(key, default, (int,), "an integer from 0")
        if value < 0:
            raise self.refuse(key, f"is {value}; expected an integer from 0")
        return value

    def flag(self, key: str, default: bool) -> bool:
        return self._get(key, default, (bool,), "true or false")

    def activation(self, key: str, default: str) -> str:
        name = self._get(key, default, (str,), "text")
        if name not in _ACTIVATIONS:
            raise self.refuse(
                key, f"is {name!r}{nearest(name, _ACTIVATIONS)}; known: {', '.join(_ACTIVATIONS)}"
            )
        return _ACTIVATIONS[name]

    def numbers(self, key: str) -> list[int]:
        value = self._get(key, [], (list,), "a list of layer numbers")
        if any(not isinstance(item, int) or isinstance(item, bool) for item in value):
            raise self.refuse(key, f"is {value!r}; expected a list of layer numbers")
        return value

    # --- families ---------------------------------------------------------------------------------
    def read(self) -> Architecture:
        """The architecture, by the reader of the file's family."""
        family = self.data.get("model_type")
        if family not in FAMILIES:
            shown = "the key 'model_type' is missing" if family is None else (
                f"unknown model family {family!r}{nearest(str(family), FAMILIES)}"
            )  # fmt: skip
            raise ConfigError(
                f"{self.file}: {shown}; known are {', '.join(FAMILIES)}; other models can be "
                f"described in a YAML file (docs/workloads.md)"
            )
        fields = FAMILIES[family](self)
        try:
            return Architecture(name=self._name(), **fields)
        except ValidationError as bad:
            first = bad.errors()[0]
            key = ".".join(map(str, first["loc"])) or first.get("ctx", {}).get("key", "")
            raise ConfigError(f"{self.file}: {key}: {first['msg']}") from bad

    def _name(self) -> str:
        given = self.data.get("_name_or_path")
        path = Path(self.file)
        folder = path.parent.name if path.name == "config.json" else path.stem
        return str(given).rpartition("/")[2] if given else folder or str(self.data["model_type"])

    def head_dim(self, hidden: int, heads: int) -> int:
        given = self.size("head_dim", None)
        if given is None and hidden % heads:
            raise self.refuse(
                "hidden_size",
                f"{hidden} does not divide among {heads} heads and there is no head_dim; give it",
            )
        return given or hidden // heads

    def window(self, depth: int) -> dict[str, Any]:
        """Sliding window by `layer_types`, else as the family's switches say."""
        window = self.size("sliding_window", None)
        types = self._get("layer_types", None, (list,), "a list of attention types")
        if window is None or not self.flag("use_sliding_window", True):
            return {}
        layers: Any = None
        if types is not None:
            layers = [i for i, kind in enumerate(types) if kind == "sliding_attention"]
        elif "max_window_layers" in self.data:
            layers = list(range(min(self.count("max_window_layers", depth), depth), depth))
        return {} if layers == [] else {"window": window, "window_layers": layers}


def _decoder(read: _Reader) -> dict[str, Any]:
    """What Llama and all that grew from it share."""
    depth, hidden = read.size("num_hidden_layers"), read.size("hidden_size")
    heads = read.size("num_attention_heads")
    return dict(
        depth=depth, hidden=hidden, heads=heads,
        kv_heads=read.size("num_key_value_heads", heads), head_dim=read.head_dim(hidden, heads),
        ffn_hidden=read.size("intermediate_size"), ffn="gated",
        activation=read.activation("hidden_act", "silu"), norm="rmsnorm", position="rope",
        vocab=read.size("vocab_size"), max_positions=read.size("max_position_embeddings"),
        tied=read.flag("tie_word_embeddings", False),
    )  # fmt: skip


def _llama(read: _Reader) -> dict[str, Any]:
    bias = read.flag("attention_bias", False)
    return _decoder(read) | dict(
        qkv_bias=bias, out_bias=bias, ffn_bias=read.flag("mlp_bias", False)
    )


def _mistral(read: _Reader) -> dict[str, Any]:
    fields = _decoder(read)
    return fields | read.window(fields["depth"])


def _mixtral(read: _Reader) -> dict[str, Any]:
    fields = _mistral(read)
    moe = Moe(
        experts=read.size("num_local_experts"),
        top_k=read.size("num_experts_per_tok"),
        expert_hidden=fields["ffn_hidden"],
    )
    return fields | dict(moe=moe)


def _qwen2(read: _Reader) -> dict[str, Any]:
    fields = _decoder(read)
    # This family's default is no window, whatever `sliding_window` says.
    window = read.window(fields["depth"]) if read.flag("use_sliding_window", False) else {}
    return fields | dict(qkv_bias=True) | window


def _qwen3(read: _Reader) -> dict[str, Any]:
    bias = read.flag("attention_bias", False)
    return _qwen2(read) | dict(qkv_bias=bias, out_bias=bias, qk_norm=True)


def _qwen3_moe(read: _Reader) -> dict[str, Any]:
    fields = _qwen3(read)
    step, depth = read.size("decoder_sparse_step", 1), fields["depth"]
    dense = {layer for layer in range(depth) if (layer + 1) % step} | set(
        read.numbers("mlp_only_layers")
    )
    moe = Moe(
        experts=read.size("num_experts"),
        top_k=read.size("num_experts_per_tok"),
        expert_hidden=read.size("moe_intermediate_size"),
        dense_layers=tuple(sorted(dense)),
    )
    return fields | dict(moe=moe)


def _deepseek(read: _Reader) -> dict[str, Any]:
    bias, depth = read.flag("attention_bias", False), read.size("num_hidden_layers")
    first, step = read.count("first_k_dense_replace", 0), read.size("moe_layer_freq", 1)
    mla = Mla(
        q_rank=read.size("q_lora_rank", None),
        kv_rank=read.size("kv_lora_rank"),
        nope_dim=read.size("qk_nope_head_dim"),
        rope_dim=read.size("qk_rope_head_dim"),
        value_dim=read.size("v_head_dim"),
    )
    fields = _decoder(read) | dict(
        kv_heads=read.size("num_attention_heads"), head_dim=mla.nope_dim, mla=mla,
        qkv_bias=bias, out_bias=bias,
    )  # fmt: skip
    moe = Moe(
        experts=read.size("n_routed_experts"), top_k=read.size("num_experts_per_tok"),
        expert_hidden=read.size("moe_intermediate_size"),
        shared=read.count("n_shared_experts", 0), first_dense=first,
        dense_layers=tuple(layer for layer in range(first, depth) if layer % step),
        bias=read.data["model_type"] == "deepseek_v3",
    )  # fmt: skip
    return fields | dict(moe=moe)


def _opt(read: _Reader) -> dict[str, Any]:
    hidden, heads = read.size("hidden_size"), read.size("num_attention_heads")
    positions, bias = read.size("max_position_embeddings"), read.flag("enable_bias", True)
    width = read.size("word_embed_proj_dim", hidden)
    before = read.flag("do_layer_norm_before", True)
    return dict(
        depth=read.size("num_hidden_layers"), hidden=hidden, heads=heads, kv_heads=heads,
        head_dim=read.head_dim(hidden, heads), ffn_hidden=read.size("ffn_dim"), ffn="plain",
        activation=read.activation("activation_function", "relu"), norm="layernorm",
        position="learned", position_rows=positions + 2,  # the family's table starts at row 2
        vocab=read.size("vocab_size"), max_positions=positions,
        embed_dim=None if width == hidden else width,
        qkv_bias=bias, out_bias=bias, ffn_bias=bias,
        final_norm=before and not read.flag("_remove_final_layer_norm", False),
        tied=read.flag("tie_word_embeddings", True),
    )  # fmt: skip


def _gpt2(read: _Reader) -> dict[str, Any]:
    hidden, heads = read.size("n_embd"), read.size("n_head")
    return dict(
        depth=read.size("n_layer"), hidden=hidden, heads=heads, kv_heads=heads,
        head_dim=read.head_dim(hidden, heads), ffn_hidden=read.size("n_inner", 4 * hidden),
        ffn="plain", activation=read.activation("activation_function", "gelu_new"),
        norm="layernorm", position="learned", vocab=read.size("vocab_size"),
        max_positions=read.size("n_positions"), qkv_bias=True, out_bias=True, ffn_bias=True,
        tied=read.flag("tie_word_embeddings", True),
    )  # fmt: skip


FAMILIES: dict[str, Callable[[_Reader], dict[str, Any]]] = {
    "llama": _llama,
    "mistral": _mistral,
    "mixtral": _mixtral,
    "qwen2": _qwen2,
    "qwen3": _qwen3,
    "qwen3_moe": _qwen3_moe,
    "opt": _opt,
    "gpt2": _gpt2,
    "deepseek_v2": _deepseek,
    "deepseek_v3": _deepseek,
}
"""Reader of each `model_type`."""
