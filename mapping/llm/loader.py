"""Load a Hugging Face model folder (Llama, GPT-2 or OPT, as safetensors) into a `Model`."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bankside.errors import ConfigError
from bankside.mapping.llm.model import Layer, Linear, Model, Norm
from bankside.mapping.llm.tensors import TensorFolder, read_json

ACTIVATIONS = {
    "silu": "silu",
    "swish": "silu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu": "gelu_erf",
    "relu": "relu",
}
SHIPPED = Path(__file__).parents[1] / "models"
# Buffers that old checkpoints carry beside the weights.
BUFFERS = (".attn.bias", ".attn.masked_bias", "rotary_emb.inv_freq")


class Settings:
    """Typed access to config.json; every complaint names the file and the key."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.values = read_json(path)

    def wrong(self, key: str, expected: str) -> ConfigError:
        """The error for a key whose value cannot be used."""
        return ConfigError(f"{self.path}: {key} is {self.values.get(key)!r}, expected {expected}")

    def size(self, key: str, default: int | None = None) -> int:
        """A positive integer; null counts as absent, as in Hugging Face configurations."""
        value = self.values.get(key)
        value = default if value is None else value
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise self.wrong(key, "a positive integer")
        return value

    def number(self, key: str, default: float) -> float:
        """A positive finite number."""
        value = self.values.get(key, default)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < np.inf:
            raise self.wrong(key, "a positive number")
        return float(value)

    def flag(self, key: str, default: bool) -> bool:
        """true or false."""
        value = self.values.get(key, default)
        if not isinstance(value, bool):
            raise self.wrong(key, "true or false")
        return value

    def activation(self, key: str, default: str) -> str:
        """The activation under the name that `layers.activate` knows."""
        value = self.values.get(key, default)
        if not isinstance(value, str) or value not in ACTIVATIONS:
            raise self.wrong(key, f"one of {', '.join(ACTIVATIONS)}")
        return ACTIVATIONS[value]

    def require(self, key: str, default: Any, supported: Any) -> None:
        """Refuse a variant of the architecture that is not built."""
        if self.values.get(key, default) != supported:
            raise self.wrong(key, f"{supported!r} (other variants are not supported)")


def shipped_models() -> tuple[str, ...]:
    """Names of the models that come with the package."""
    return tuple(sorted(p.parent.name for p in SHIPPED.glob("*/config.json")))


def find_model(name: str) -> Path:
    """The folder of a shipped model by its name, or any other folder by its path.

    Errors: ConfigError when `name` is neither; the message lists the shipped names.
    """
    if name in shipped_models():
        return SHIPPED / name
    if Path(name).is_dir():
        return Path(name)
    raise ConfigError(
        f"model {name!r} is neither a folder nor one of {', '.join(shipped_models())}; give one of "
        "these names or the path of a Hugging Face model folder"
    )


def load_model(folder: Path | str) -> Model:
    """Load `folder` (config.json with model.safetensors, or a sharded index).

    Errors: ConfigError naming file, key or tensor, what was expected and what to do. Weights
    become float32; Conv1D weights of GPT-2 are transposed to [outputs, inputs] and its fused
    query, key and value are separated.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ConfigError(f"{folder}: no such model folder; give one with config.json and weights")
    settings = Settings(folder / "config.json")
    kind = settings.values.get("model_type")
    family = FAMILIES.get(kind) if isinstance(kind, str) else None
    if family is None:
        raise settings.wrong("model_type", f"one of {', '.join(FAMILIES)}; choose such a model")
    tensors = TensorFolder(folder)
    model = family(settings, tensors)
    tensors.finish(BUFFERS)
    return model


def _prefix(tensors: TensorFolder, long: str, probe: str) -> str:
    """Models saved without their language-model head drop the outer name."""
    return "" if long + probe not in tensors.entries and probe in tensors.entries else long


def _linear(tensors: TensorFolder, name: str, outputs: int, inputs: int, bias: bool) -> Linear:
    weight = tensors.take(f"{name}.weight", (outputs, inputs))
    return Linear(weight, tensors.take(f"{name}.bias", (outputs,)) if bias else None)


def _norm(tensors: TensorFolder, name: str, width: int, bias: bool) -> Norm:
    gain = tensors.take(f"{name}.weight", (width,))
    return Norm(gain, tensors.take(f"{name}.bias", (width,)) if bias else None)


def _head(
    settings: Settings, tensors: TensorFolder, embedding: NDArray[np.float32], tied_by_default: bool
) -> Linear:
    """The output matrix: `lm_head.weight`, or the embedding itself when tied."""
    if settings.flag("tie_word_embeddings", tied_by_default):
        # Some converters store the tied matrix a second time; the embedding is the one that counts.
        tensors.taken.add("lm_head.weight")
        return Linear(embedding)
    return Linear(tensors.take("lm_head.weight", embedding.shape))


def _heads(settings: Settings, hidden: int, query_heads: int, kv_heads: int) -> None:
    if hidden % query_heads:
        raise ConfigError(
            f"{settings.path}: {query_heads} attention heads do not divide a hidden "
            f"size of {hidden}; correct config.json"
        )
    if query_heads % kv_heads:
        raise ConfigError(
            f"{settings.path}: num_key_value_heads {kv_heads} does not divide num_attention_heads "
            f"{query_heads}; correct config.json"
        )


def _rope_number(settings: Settings, scaling: dict[str, Any], key: str) -> float:
    """A positive number inside rope_scaling."""
    kind = scaling.get("rope_type", scaling.get("type"))
    if key not in scaling:
        raise ConfigError(
            f"{settings.path}: rope_scaling of type {kind} has no {key!r}; correct config.json"
        )
    value = scaling[key]
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < np.inf:
        raise ConfigError(
            f"{settings.path}: {key} of rope_scaling is {value!r}, expected a positive number"
        )
    return float(value)


def _rope_inverse(settings: Settings, head_dim: int) -> NDArray[np.float64]:
    """Radians per token of each rotated pair, [head_dim / 2].

    Ref: rope_scaling types "linear" and "llama3" (Llama 3.1: long wavelengths are slowed by
    `factor`, with a linear transition between the two frequency limits).
    """
    scaling = settings.values.get("rope_parameters") or settings.values.get("rope_scaling") or {}
    if not isinstance(scaling, dict):
        raise settings.wrong("rope_scaling", "an object or null")
    theta = settings.number("rope_theta", 10000.0)
    if "rope_theta" in scaling:
        theta = _rope_number(settings, scaling, "rope_theta")
    inverse = theta ** (-np.arange(0, head_dim, 2, dtype=np.float64) / head_dim)
    kind = scaling.get("rope_type", scaling.get("type", "default"))
    if kind == "default":
        return inverse
    if kind == "linear":
        return inverse / _rope_number(settings, scaling, "factor")
    if kind != "llama3":
        raise settings.wrong("rope_scaling", "rope_type default, linear or llama3")
    factor, low, high, trained = (
        _rope_number(settings, scaling, key)
        for key in (
            "factor",
            "low_freq_factor",
            "high_freq_factor",
            "original_max_position_embeddings",
        )
    )
    turns = trained * inverse / (2 * np.pi)
    if high <= low:
        raise settings.wrong("rope_scaling", "high_freq_factor above low_freq_factor")
    kept = np.clip((turns - low) / (high - low), 0.0, 1.0)
    return kept * inverse + (1 - kept) * inverse / factor


def _llama(settings: Settings, tensors: TensorFolder) -> Model:
    """Llama 1 to 3: RMSNorm, RoPE, SwiGLU, optional grouped queries and biases."""
    hidden, wide = settings.size("hidden_size"), settings.size("intermediate_size")
    heads = settings.size("num_attention_heads")
    kv_heads = settings.size("num_key_value_heads", heads)
    if settings.values.get("head_dim") is None or heads % kv_heads:
        _heads(settings, hidden, heads, kv_heads)
    head_dim = settings.size("head_dim", hidden // heads)
    if head_dim % 2:
        raise settings.wrong("head_dim", "an even number, because RoPE rotates pairs")
    bias, mlp_bias = settings.flag("attention_bias", False), settings.flag("mlp_bias", False)
    root = _prefix(tensors, "model.", "embed_tokens.weight")
    vocabulary = settings.size("vocab_size")
    embedding = tensors.take(f"{root}embed_tokens.weight", (vocabulary, hidden))

    def layer(index: int) -> Layer:
        name = f"{root}layers.{index}"
        part = f"{name}.self_attn"
        return Layer(
            _norm(tensors, f"{name}.input_layernorm", hidden, False),
            _linear(tensors, f"{part}.q_proj", heads * head_dim, hidden, bias),
            _linear(tensors, f"{part}.k_proj", kv_heads * head_dim, hidden, bias),
            _linear(tensors, f"{part}.v_proj", kv_heads * head_dim, hidden, bias),
            _linear(tensors, f"{part}.o_proj", hidden, heads * head_dim, bias),
            _norm(tensors, f"{name}.post_attention_layernorm", hidden, False),
            _linear(tensors, f"{name}.mlp.gate_proj", wide, hidden, mlp_bias),
            _linear(tensors, f"{name}.mlp.up_proj", wide, hidden, mlp_bias),
            _linear(tensors, f"{name}.mlp.down_proj", hidden, wide, mlp_bias),
        )

    return Model(
        family="llama",
        vocabulary=vocabulary,
        hidden=hidden,
        query_heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        context=settings.size("max_position_embeddings", 2048),
        norm="rms",
        epsilon=settings.number("rms_norm_eps", 1e-6),
        activation=settings.activation("hidden_act", "silu"),
        pre_norm=True,
        embedding=embedding,
        positions=None,
        position_offset=0,
        rope_inverse=_rope_inverse(settings, head_dim),
        project_in=None,
        layers=tuple(layer(i) for i in range(settings.size("num_hidden_layers"))),
        final_norm=_norm(tensors, f"{root}norm", hidden, False),
        project_out=None,
        head=_head(settings, tensors, embedding, False),
    )


def _conv1d(tensors: TensorFolder, name: str, inputs: int, outputs: int) -> Linear:
    """GPT-2 stores [inputs, outputs]."""
    weight = tensors.take(f"{name}.weight", (inputs, outputs))
    return Linear(np.ascontiguousarray(weight.T), tensors.take(f"{name}.bias", (outputs,)))


def _rows(linear: Linear, part: int, size: int) -> Linear:
    """Rows [part * size, (part + 1) * size) of a fused matrix with bias."""
    assert linear.bias is not None
    rows = slice(part * size, (part + 1) * size)
    return Linear(np.ascontiguousarray(linear.weight[rows]), linear.bias[rows].copy())


def _gpt2(settings: Settings, tensors: TensorFolder) -> Model:
    """GPT-2: LayerNorm, learned positions, GELU, fused query/key/value."""
    settings.require("scale_attn_weights", True, True)
    settings.require("scale_attn_by_inverse_layer_idx", False, False)
    settings.require("add_cross_attention", False, False)
    hidden, heads = settings.size("n_embd"), settings.size("n_head")
    _heads(settings, hidden, heads, heads)
    wide = settings.size("n_inner", 4 * hidden)
    vocabulary, context = settings.size("vocab_size"), settings.size("n_positions", 1024)
    root = _prefix(tensors, "transformer.", "wte.weight")
    embedding = tensors.take(f"{root}wte.weight", (vocabulary, hidden))

    def layer(index: int) -> Layer:
        name = f"{root}h.{index}"
        fused = _conv1d(tensors, f"{name}.attn.c_attn", hidden, 3 * hidden)
        return Layer(
            _norm(tensors, f"{name}.ln_1", hidden, True),
            _rows(fused, 0, hidden),
            _rows(fused, 1, hidden),
            _rows(fused, 2, hidden),
            _conv1d(tensors, f"{name}.attn.c_proj", hidden, hidden),
            _norm(tensors, f"{name}.ln_2", hidden, True),
            None,
            _conv1d(tensors, f"{name}.mlp.c_fc", hidden, wide),
            _conv1d(tensors, f"{name}.mlp.c_proj", wide, hidden),
        )

    return Model(
        family="gpt2",
        vocabulary=vocabulary,
        hidden=hidden,
        query_heads=heads,
        kv_heads=heads,
        head_dim=hidden // heads,
        context=context,
        norm="layer",
        epsilon=settings.number("layer_norm_epsilon", 1e-5),
        activation=settings.activation("activation_function", "gelu_new"),
        pre_norm=True,
        embedding=embedding,
        positions=tensors.take(f"{root}wpe.weight", (context, hidden)),
        position_offset=0,
        rope_inverse=None,
        project_in=None,
        layers=tuple(layer(i) for i in range(settings.size("n_layer"))),
        final_norm=_norm(tensors, f"{root}ln_f", hidden, True),
        project_out=None,
        head=_head(settings, tensors, embedding, True),
    )


def _opt(settings: Settings, tensors: TensorFolder) -> Model:
    """OPT: LayerNorm before (or, in 350M, after) each part, learned positions from row 2, ReLU."""
    settings.require("layer_norm_elementwise_affine", True, True)
    hidden, heads = settings.size("hidden_size"), settings.size("num_attention_heads")
    _heads(settings, hidden, heads, heads)
    wide, bias = settings.size("ffn_dim"), settings.flag("enable_bias", True)
    vocabulary, context = (
        settings.size("vocab_size"),
        settings.size("max_position_embeddings", 2048),
    )
    narrow = settings.size("word_embed_proj_dim", hidden)
    before = settings.flag("do_layer_norm_before", True)
    final = before and not settings.flag("_remove_final_layer_norm", False)
    root = _prefix(tensors, "model.", "decoder.embed_tokens.weight") + "decoder."
    embedding = tensors.take(f"{root}embed_tokens.weight", (vocabulary, narrow))

    def project(name: str, outputs: int, inputs: int) -> Linear | None:
        return _linear(tensors, root + name, outputs, inputs, False) if narrow != hidden else None

    def project_heads(name: str) -> Linear:
        return _linear(tensors, name, hidden, hidden, bias)

    def layer(index: int) -> Layer:
        name = f"{root}layers.{index}"
        part = f"{name}.self_attn"
        return Layer(
            _norm(tensors, f"{part}_layer_norm", hidden, True),
            project_heads(f"{part}.q_proj"),
            project_heads(f"{part}.k_proj"),
            project_heads(f"{part}.v_proj"),
            project_heads(f"{part}.out_proj"),
            _norm(tensors, f"{name}.final_layer_norm", hidden, True),
            None,
            _linear(tensors, f"{name}.fc1", wide, hidden, bias),
            _linear(tensors, f"{name}.fc2", hidden, wide, bias),
        )

    return Model(
        family="opt",
        vocabulary=vocabulary,
        hidden=hidden,
        query_heads=heads,
        kv_heads=heads,
        head_dim=hidden // heads,
        context=context,
        norm="layer",
        epsilon=1e-5,
        activation=settings.activation("activation_function", "relu"),
        pre_norm=before,
        embedding=embedding,
        positions=tensors.take(f"{root}embed_positions.weight", (context + 2, hidden)),
        position_offset=2,
        rope_inverse=None,
        project_in=project("project_in", hidden, narrow),
        layers=tuple(layer(i) for i in range(settings.size("num_hidden_layers"))),
        final_norm=_norm(tensors, f"{root}final_layer_norm", hidden, True) if final else None,
        project_out=project("project_out", narrow, hidden),
        head=_head(settings, tensors, embedding, True),
    )


FAMILIES: dict[str, Callable[[Settings, TensorFolder], Model]] = {
    "llama": _llama,
    "gpt2": _gpt2,
    "opt": _opt,
}
