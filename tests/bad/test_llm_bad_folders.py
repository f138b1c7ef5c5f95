"""Model folders that must be refused, each with its exact message."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from bankside.errors import ConfigError
from bankside.mapping.llm.loader import load_model

AGAIN = "download or convert the model again"
BELONG = "check that weights and config.json belong together"
Header = dict[str, dict]

CONFIG = {
    "model_type": "llama",
    "vocab_size": 4,
    "hidden_size": 4,
    "intermediate_size": 4,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "tie_word_embeddings": True,
}


def tensors() -> dict[str, np.ndarray]:
    square = ["model.embed_tokens"]
    square += [f"model.layers.0.self_attn.{n}_proj" for n in "qkvo"]
    square += [f"model.layers.0.mlp.{n}_proj" for n in ("gate", "up", "down")]
    vectors = [
        "model.layers.0.input_layernorm",
        "model.layers.0.post_attention_layernorm",
        "model.norm",
    ]
    shapes = dict.fromkeys(square, (4, 4)) | dict.fromkeys(vectors, (4,))
    return {f"{n}.weight": np.full(s, 0.5, np.float32) for n, s in shapes.items()}


def encode(arrays: dict[str, np.ndarray], edit: Callable[[Header], None] | None = None) -> bytes:
    """A safetensors file written by hand, so that its header can be spoilt."""
    header, data = {}, b""
    for name, array in arrays.items():
        end = len(data) + array.nbytes
        header[name] = {
            "dtype": "F32",
            "shape": list(array.shape),
            "data_offsets": [len(data), end],
        }
        data += array.tobytes()
    if edit is not None:
        edit(header)
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    (tmp_path / "model.safetensors").write_bytes(encode(tensors()))
    return tmp_path


def refusal(folder: Path) -> str:
    """The message without the folder's own name."""
    with pytest.raises(ConfigError) as error:
        load_model(folder)
    return str(error.value).replace(str(folder), "M")


def test_the_unspoilt_folder_loads(folder: Path) -> None:
    assert load_model(folder).head_dim == 2


EMBED, NORM = "model.embed_tokens.weight", "model.norm.weight"
FILE = "M/model.safetensors"


def entry(key: str, value: object, name: str = EMBED) -> Callable[[Header], None]:
    return lambda header: header[name].update({key: value})


HEADERS = {
    "unknown_dtype": (
        entry("dtype", "F12"),
        (
            f"{FILE}: tensor '{EMBED}': unknown dtype 'F12'; expected one of BOOL, U8, I8, "
            "F8_E4M3, F8_E5M2, U16, I16, F16, BF16, U32, I32, F32, U64, I64, F64"
        ),
    ),
    "integer_weights": (
        entry("dtype", "I32"),
        (
            f"{FILE}: tensor '{EMBED}' is I32, expected one of F16, BF16, F32, F64; "
            "convert the weights to floating point (quantised models are not supported)"
        ),
    ),
    "half_the_bytes": (
        entry("dtype", "F64"),
        (
            f"{FILE}: tensor '{EMBED}': data_offsets [0, 64] hold 64 bytes, but F64 [4, 4] "
            f"needs 128; {AGAIN}"
        ),
    ),
    "twice_the_bytes": (
        entry("dtype", "F16"),
        (
            f"{FILE}: tensor '{EMBED}': data_offsets [0, 64] hold 64 bytes, but F16 [4, 4] "
            f"needs 32; {AGAIN}"
        ),
    ),
    "negative_size": (
        entry("shape", [-4, -4]),
        f"{FILE}: tensor '{EMBED}': shape [-4, -4] is not a list of sizes; {AGAIN}",
    ),
    "true_is_no_size": (
        entry("shape", [True, 16]),
        f"{FILE}: tensor '{EMBED}': shape [True, 16] is not a list of sizes; {AGAIN}",
    ),
    "one_offset": (
        entry("data_offsets", [64]),
        f"{FILE}: tensor '{EMBED}': data_offsets [64] are not [begin, end]; {AGAIN}",
    ),
    "reversed_offsets": (
        entry("data_offsets", [64, 0]),
        (
            f"{FILE}: tensor '{EMBED}': data_offsets [64, 0] hold -64 bytes, but F32 "
            f"[4, 4] needs 64; {AGAIN}"
        ),
    ),
    "overlap": (
        entry("data_offsets", [32, 96]),
        (
            f"{FILE}: tensor '{EMBED}' starts at data byte 32 and leaves a hole after the header, "
            f"which ends at 0; {AGAIN}"
        ),
    ),
    "extra_key": (
        entry("stride", 4),
        f"{FILE}: tensor '{EMBED}': expected dtype, shape and data_offsets in the header; {AGAIN}",
    ),
    "not_an_object": (
        lambda header: header.update({EMBED: [1, 2]}),
        f"{FILE}: tensor '{EMBED}': expected dtype, shape and data_offsets in the header; {AGAIN}",
    ),
    "wrong_shape": (
        entry("shape", [2, 8]),
        f"{FILE}: tensor '{EMBED}' has shape [2, 8], expected [4, 4] from config.json; {BELONG}",
    ),
}


@pytest.mark.parametrize("name", HEADERS)
def test_spoilt_headers(name: str, folder: Path) -> None:
    edit, message = HEADERS[name]
    (folder / "model.safetensors").write_bytes(encode(tensors(), edit))
    assert refusal(folder) == message


def test_overlapping_offsets(folder: Path) -> None:
    """The second tensor claims the bytes of the first."""
    second = "model.layers.0.self_attn.q_proj.weight"
    edit = entry("data_offsets", [32, 96], second)
    (folder / "model.safetensors").write_bytes(encode(tensors(), edit))
    assert refusal(folder) == (
        f"{FILE}: tensor '{second}' starts at data byte 32 and overlaps tensor '{EMBED}', "
        f"which ends at 64; {AGAIN}"
    )


SIZE = len(encode(tensors()))
HEADER_SIZE = int.from_bytes(encode(tensors())[:8], "little")
BYTES = {
    "empty": (lambda b: b"", f"{FILE}: 0 bytes are too few for a safetensors header; {AGAIN}"),
    "five_bytes": (
        lambda b: b[:5],
        f"{FILE}: 5 bytes are too few for a safetensors header; {AGAIN}",
    ),
    "truncated_header": (
        lambda b: b[:100],
        f"{FILE}: the header is truncated: it announces {HEADER_SIZE} bytes, 92 follow; {AGAIN}",
    ),
    "huge_header": (
        lambda b: b"\xff" * 8 + b[8:],
        (
            f"{FILE}: the header is truncated: it announces {2**64 - 1} bytes, {SIZE - 8} "
            f"follow; {AGAIN}"
        ),
    ),
    "truncated_data": (
        lambda b: b[:-1],
        (
            f"{FILE}: the file is truncated: {SIZE - 1} bytes, but its header describes "
            f"{SIZE}; {AGAIN}"
        ),
    ),
    "trailing_data": (
        lambda b: b + b"\0",
        (
            f"{FILE}: the file has bytes that no tensor owns: {SIZE + 1} bytes, but its "
            f"header describes {SIZE}; {AGAIN}"
        ),
    ),
    "bad_json": (
        lambda b: b[:8] + b"(" + b[9:],
        (
            f"{FILE}: safetensors header: not valid JSON (Expecting value: line 1 column 1 "
            f"(char 0)); {AGAIN}"
        ),
    ),
    "bad_utf8": (
        lambda b: b[:8] + b"\xff" + b[9:],
        (
            f"{FILE}: safetensors header: not valid JSON ('utf-8' codec can't decode byte 0xff "
            f"in position 0: invalid start byte); {AGAIN}"
        ),
    ),
    "header_is_a_list": (
        lambda b: (2).to_bytes(8, "little") + b"[]",
        f"{FILE}: safetensors header: expected a JSON object, found list; {AGAIN}",
    ),
    "tensor_twice": (
        lambda b: (20).to_bytes(8, "little") + b'{"a": {}, "a": {}}  ',
        f"{FILE}: safetensors header: the key 'a' appears twice; keep one of them",
    ),
}


@pytest.mark.parametrize("name", BYTES)
def test_spoilt_bytes(name: str, folder: Path) -> None:
    spoil, message = BYTES[name]
    (folder / "model.safetensors").write_bytes(spoil(encode(tensors())))
    assert refusal(folder) == message


def test_every_truncation_is_refused(folder: Path) -> None:
    whole = encode(tensors())
    for length in range(len(whole)):
        (folder / "model.safetensors").write_bytes(whole[:length])
        with pytest.raises(ConfigError):
            load_model(folder)


def test_missing_tensor(folder: Path) -> None:
    some = tensors()
    del some[NORM]
    (folder / "model.safetensors").write_bytes(encode(some))
    assert (
        refusal(folder) == f"M: tensor '{NORM}' [4] is missing; config.json asks for it: {BELONG}"
    )


def test_tensor_of_another_architecture(folder: Path) -> None:
    more = tensors() | {"model.layers.0.self_attn.q_norm.weight": np.ones(2, np.float32)}
    (folder / "model.safetensors").write_bytes(encode(more))
    assert refusal(folder) == (
        f"{FILE}: tensor 'model.layers.0.self_attn.q_norm.weight' and 0 more are not part of this "
        "architecture; check model_type in config.json"
    )


def test_weights_that_are_not_numbers(folder: Path) -> None:
    some = tensors()
    some[NORM][2] = np.nan
    (folder / "model.safetensors").write_bytes(encode(some))
    assert refusal(folder) == (
        f"{FILE}: tensor '{NORM}' holds infinities or NaN, expected finite weights; {AGAIN}"
    )


SETTINGS = {
    "mamba": (
        {"model_type": "mamba"},
        (
            "M/config.json: model_type is 'mamba', expected one of llama, "
            "gpt2, opt; choose such a model"
        ),
    ),
    "no_type": (
        {"model_type": None},
        "M/config.json: model_type is None, expected one of llama, gpt2, opt; choose such a model",
    ),
    "text_size": (
        {"hidden_size": "4"},
        "M/config.json: hidden_size is '4', expected a positive integer",
    ),
    "no_layers": (
        {"num_hidden_layers": 0},
        "M/config.json: num_hidden_layers is 0, expected a positive integer",
    ),
    "heads": (
        {"num_attention_heads": 3},
        "M/config.json: 3 attention heads do not divide a hidden size of 4; correct config.json",
    ),
    "kv_heads": (
        {"num_attention_heads": 2, "num_key_value_heads": 3, "head_dim": 2},
        (
            "M/config.json: num_key_value_heads 3 does not divide num_attention_heads 2; correct "
            "config.json"
        ),
    ),
    "odd_head": (
        {"head_dim": 3},
        "M/config.json: head_dim is 3, expected an even number, because RoPE rotates pairs",
    ),
    "activation": (
        {"hidden_act": "mish"},
        (
            "M/config.json: hidden_act is 'mish', expected one of silu, "
            "swish, gelu_new, gelu_pytorch_tanh, gelu, relu"
        ),
    ),
    "epsilon": (
        {"rms_norm_eps": -1},
        "M/config.json: rms_norm_eps is -1, expected a positive number",
    ),
    "flag": (
        {"attention_bias": "no"},
        "M/config.json: attention_bias is 'no', expected true or false",
    ),
    "rope_type": (
        {"rope_scaling": {"rope_type": "yarn"}},
        (
            "M/config.json: rope_scaling is {'rope_type': 'yarn'}, expected rope_type default, "
            "linear or llama3"
        ),
    ),
    "rope_factor": (
        {"rope_scaling": {"rope_type": "linear"}},
        "M/config.json: rope_scaling of type linear has no 'factor'; correct config.json",
    ),
    "rope_zero": (
        {"rope_scaling": {"rope_type": "linear", "factor": 0}},
        "M/config.json: factor of rope_scaling is 0, expected a positive number",
    ),
    "gpt2_scale": (
        {"model_type": "gpt2", "scale_attn_by_inverse_layer_idx": True},
        (
            "M/config.json: scale_attn_by_inverse_layer_idx is True, expected False (other "
            "variants are not supported)"
        ),
    ),
}


@pytest.mark.parametrize("name", SETTINGS)
def test_spoilt_settings(name: str, folder: Path) -> None:
    change, message = SETTINGS[name]
    (folder / "config.json").write_text(json.dumps(CONFIG | change))
    assert refusal(folder) == message


def test_absent_files(folder: Path) -> None:
    assert refusal(folder / "none") == (
        "M: no such model folder; give one with config.json and weights"
    )
    (folder / "model.safetensors").unlink()
    assert refusal(folder) == (
        "M: neither model.safetensors nor model.safetensors.index.json; give a Hugging Face model "
        "folder with safetensors weights"
    )
    (folder / "pytorch_model.bin").write_bytes(b"\x80\x04.")
    assert refusal(folder) == (
        "M: pytorch_model.bin is a pickle file, which can run code when loaded and is refused; "
        "convert it to model.safetensors"
    )
    (folder / "config.json").unlink()
    assert refusal(folder) == "cannot read M/config.json: No such file or directory"


INDEX = "M/model.safetensors.index.json"
SHARDS = {
    "no_map": ({}, f"{INDEX}: no weight_map from tensor to file; {AGAIN}"),
    "outside": (
        {"weight_map": {NORM: "../x.safetensors"}},
        f"{INDEX}: tensor '{NORM}': '../x.safetensors' is no .safetensors file name; {AGAIN}",
    ),
    "pickle": (
        {"weight_map": {NORM: "x.bin"}},
        f"{INDEX}: tensor '{NORM}': 'x.bin' is no .safetensors file name; {AGAIN}",
    ),
    "absent": (
        {"weight_map": {NORM: "b.safetensors"}},
        "cannot read M/b.safetensors: No such file or directory",
    ),
    "elsewhere": (
        {"weight_map": {"x": "a.safetensors"}},
        f"{INDEX}: tensor 'x' is not in M/a.safetensors; {AGAIN}",
    ),
}


@pytest.mark.parametrize("name", SHARDS)
def test_spoilt_index(name: str, folder: Path) -> None:
    index, message = SHARDS[name]
    (folder / "model.safetensors").rename(folder / "a.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert refusal(folder) == message
