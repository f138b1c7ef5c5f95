"""The same weights in every form of storage give the same model."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from bankside.mapping.llm.loader import load_model
from bankside.mapping.llm.transformer import prompt_logits

SHIPPED = Path(__file__).parents[2] / "mapping" / "models" / "gpt_mha"
PROMPT = b"storage"
Tensors = dict[str, np.ndarray]


@pytest.fixture(scope="module")
def tensors() -> Tensors:
    return load_file(SHIPPED / "model.safetensors")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    shutil.copy(SHIPPED / "config.json", tmp_path)
    return tmp_path


def logits(folder: Path) -> np.ndarray:
    return prompt_logits(load_model(folder), PROMPT)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_wider_types(dtype: type, folder: Path, tensors: Tensors) -> None:
    wide = {n: v.astype(dtype) for n, v in tensors.items()}
    save_file(wide, folder / "model.safetensors")
    assert np.array_equal(logits(folder), logits(SHIPPED))


def test_shards(folder: Path, tensors: Tensors) -> None:
    weight_map = {}
    for part in range(3):
        file = f"model-{part + 1:05d}-of-00003.safetensors"
        some = {n: v for i, (n, v) in enumerate(tensors.items()) if i % 3 == part}
        save_file(some, folder / file)
        weight_map |= dict.fromkeys(some, file)
    index = {"metadata": {"total_size": 1}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert np.array_equal(logits(folder), logits(SHIPPED))


def test_names_without_the_outer_model(folder: Path, tensors: Tensors) -> None:
    bare = {n.removeprefix("model."): v for n, v in tensors.items()}
    save_file(bare, folder / "model.safetensors")
    assert np.array_equal(logits(folder), logits(SHIPPED))


def test_a_stored_copy_of_the_tied_matrix_is_not_read(folder: Path, tensors: Tensors) -> None:
    save_file(
        tensors | {"lm_head.weight": np.zeros((1,), np.float16)}, folder / "model.safetensors"
    )
    assert np.array_equal(logits(folder), logits(SHIPPED))


def write_bfloat16(path: Path, bits: Tensors) -> None:
    """By hand, because numpy has no bfloat16: uint16 arrays labelled BF16."""
    header, data = {}, b""
    for name, array in bits.items():
        end = len(data) + array.nbytes
        header[name] = {
            "dtype": "BF16",
            "shape": list(array.shape),
            "data_offsets": [len(data), end],
        }
        data += array.astype("<u2").tobytes()
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)


def test_bfloat16_is_widened_exactly(folder: Path, tensors: Tensors) -> None:
    bits = {n: (v.astype("<f4").view("<u4") >> 16).astype("<u2") for n, v in tensors.items()}
    write_bfloat16(folder / "model.safetensors", bits)
    short = logits(folder)
    exact = {n: (b.astype("<u4") << 16).view("<f4") for n, b in bits.items()}
    save_file(exact, folder / "model.safetensors")
    assert np.array_equal(short, logits(folder))
    # Cutting the significand must have been visible, or nothing was compared.
    assert not np.array_equal(short, logits(SHIPPED))
