"""The two shipped models, `generate` and the attention engines."""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from bankside.errors import ConfigError
from bankside.mapping.llm.attention import attend, scale_query, to_half
from bankside.mapping.llm.layers import activate
from bankside.mapping.llm.loader import find_model, load_model, shipped_models
from bankside.mapping.llm.model import Model
from bankside.mapping.llm.transformer import (
    NumpyAttention,
    bits_per_byte,
    generate,
    prompt_logits,
)

MODELS = Path(__file__).parents[2] / "mapping" / "models"
NAMES = ("gpt_mha", "gpt_gqa")
# Close to the training text in style and not in it: Bunyan, The Pilgrim's Progress, 1678.
UNSEEN = (
    b"As I walked through the wilderness of this world, I lighted on a certain place where was a "
    b"den, and laid me down in that place to sleep; and as I slept, I dreamed a dream."
)


@pytest.fixture(scope="module", params=NAMES)
def model(request: pytest.FixtureRequest) -> Model:
    return load_model(MODELS / request.param)


def test_sizes_and_shapes() -> None:
    total = sum(p.stat().st_size for n in NAMES for p in (MODELS / n).iterdir())
    assert total <= 4_000_000
    mha, gqa = (load_model(MODELS / n) for n in NAMES)
    assert (len(mha.layers), mha.query_heads, mha.kv_heads, mha.head_dim) == (4, 2, 2, 64)
    assert (len(gqa.layers), gqa.query_heads, gqa.kv_heads, gqa.head_dim) == (4, 8, 2, 32)
    assert mha.hidden == gqa.hidden == 128
    assert mha.context == gqa.context == 256


def test_models_are_found_by_name_or_path(tmp_path: Path) -> None:
    assert shipped_models() == tuple(sorted(NAMES))
    assert (find_model("gpt_mha") / "config.json").samefile(MODELS / "gpt_mha" / "config.json")
    assert find_model(str(tmp_path)) == tmp_path
    with pytest.raises(ConfigError) as error:
        find_model("gpt_moe")
    assert str(error.value) == (
        "model 'gpt_moe' is neither a folder nor one of gpt_gqa, gpt_mha; give one of these names "
        "or the path of a Hugging Face model folder"
    )


@pytest.mark.parametrize("name", NAMES)
def test_provenance_says_where_the_weights_come_from(name: str) -> None:
    note = json.loads((MODELS / name / "PROVENANCE.json").read_text())
    assert note["held_out_bits_per_byte"] < 1.6
    assert {"text", "text_sha256", "steps", "seed", "torch", "held_out_rule"} <= set(note)


def test_unseen_prose_is_predicted(model: Model) -> None:
    """8 bits per byte is chance, about 4.2 the frequencies of single letters."""
    bits = bits_per_byte(model, UNSEEN)
    assert bits < 2.4
    assert bits_per_byte(model, UNSEEN, NumpyAttention()) == bits
    backwards = bits_per_byte(model, UNSEEN[::-1])
    assert backwards > bits + 1


def test_greedy_text_is_english_and_repeatable(model: Model) -> None:
    seen: list[int] = []
    first = generate(model, NumpyAttention(), b"And it came to pass", 60, on_token=seen.append)
    again = generate(model, NumpyAttention(), b"And it came to pass", 60)
    assert tuple(seen) == first.tokens == again.tokens
    assert first.text == bytes(first.tokens)
    assert np.array_equal(first.logits, again.logits)
    words = first.text.decode("ascii").lower().replace(",", " ").split()
    assert {"the", "and", "of", "unto", "that"} & set(words)


def test_cached_decode_equals_full_recompute(model: Model) -> None:
    made = generate(model, NumpyAttention(), UNSEEN[:40], 12)
    whole = prompt_logits(model, UNSEEN[:40] + made.text[:-1])
    assert np.array_equal(made.logits, whole[39:])


def test_sampling_follows_its_seed(model: Model) -> None:
    def sampled(seed: int) -> bytes:
        return generate(model, NumpyAttention(), b"And", 40, temperature=0.9, seed=seed).text

    assert sampled(1) == sampled(1)
    assert len({sampled(s) for s in range(4)}) > 1


def test_windows_of_one_context(model: Model) -> None:
    """Two windows count as the mean over their own bytes, each without its first."""
    data = (UNSEEN * 3)[:300]
    parts = [bits_per_byte(model, data[:256]) * 255, bits_per_byte(model, data[256:]) * 43]
    assert bits_per_byte(model, data) == pytest.approx(sum(parts) / 298, abs=1e-12)


SCRIPT = """
import hashlib, sys
from bankside.mapping.llm.loader import find_model, load_model, shipped_models
from bankside.mapping.llm.transformer import NumpyAttention, generate
made = generate(load_model(sys.argv[1]), NumpyAttention(), b"And the LORD said", 24)
print(hashlib.sha256(made.text + made.logits.tobytes()).hexdigest())
"""


def test_thread_count_changes_no_bit() -> None:
    made = generate(load_model(MODELS / "gpt_gqa"), NumpyAttention(), b"And the LORD said", 24)
    here = hashlib.sha256(made.text + made.logits.tobytes()).hexdigest()
    for threads in ("1", "2"):
        names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
        environment = os.environ | dict.fromkeys(names, threads)
        environment["PYTHONPATH"] = os.pathsep.join(p for p in sys.path if p)
        command = [sys.executable, "-c", SCRIPT, str(MODELS / "gpt_gqa")]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        assert done.stdout.strip() == here


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((b"", 1), "the prompt is empty; give at least one token"),
        (
            ([1, 256], 1),
            "token 256 in the prompt, expected 0 to 255; tokenise it for this model",
        ),
        (
            (b"a" * 200, 57),
            (
                "257 tokens exceed the context of the model, which is 256 tokens; shorten the "
                "prompt or generate less"
            ),
        ),
        (
            (b"a", 0),
            (
                "new_tokens is 0 and temperature 0.0; expected at least 1 token and a finite "
                "temperature of at least 0"
            ),
        ),
    ],
)
def test_bad_requests(model: Model, arguments: tuple, message: str) -> None:
    with pytest.raises(ConfigError) as error:
        generate(model, NumpyAttention(), *arguments)
    assert str(error.value) == message


def test_an_engine_of_the_wrong_form_is_refused(model: Model) -> None:
    class Wide(NumpyAttention):
        def decode(self, layer, q, k, v):
            return super().decode(layer, q, k, v).astype(np.float32)

    with pytest.raises(ConfigError, match="attention engine Wide returned float32 .* in layer 0"):
        generate(model, Wide(), b"And", 3)


def test_the_reference_engine_refuses_to_overflow() -> None:
    engine = NumpyAttention()
    engine.start(layers=1, kv_heads=1, query_heads=2, head_dim=4, max_tokens=2)
    k = np.ones((2, 1, 4), np.float16)
    engine.prefill(0, k, k)
    with pytest.raises(ConfigError, match="layer 0: the K/V cache holds 2 tokens and 3 are needed"):
        engine.decode(0, np.ones((2, 4), np.float16), k[0], k[0])
    with pytest.raises(ConfigError, match="3 query heads cannot share 2 key/value heads evenly"):
        engine.start(layers=1, kv_heads=2, query_heads=3, head_dim=4, max_tokens=2)


def test_attend_is_the_base_two_softmax() -> None:
    """Against exact powers of two: scores 0, 1 and 3 weigh 1, 2 and 8 of 11."""
    q = np.array([[1, 0]], np.float16)
    k = np.array([[[0, 5]], [[1, 5]], [[3, 5]]], np.float16)
    v = np.array([[[11, 0]], [[0, 11]], [[22, 1]]], np.float16)
    assert attend(q, k, v).tolist() == [[(11 + 8 * 22) / 11, float(np.float16((22 + 8) / 11))]]


def test_query_scale_turns_the_natural_softmax_into_base_two() -> None:
    q, s = np.full((1, 16), 2.0, np.float32), np.linspace(-3, 3, 16)
    assert 2.0 ** (scale_query(q)[0] @ s) == pytest.approx(np.exp(q[0] @ s / 4))


def test_values_beyond_float16_are_refused() -> None:
    assert to_half(np.array([65504.0]), "key").tolist() == [65504.0]
    with pytest.raises(ConfigError) as error:
        to_half(np.array([1.0, -7e4]), "key of layer 3")
    assert str(error.value) == (
        "key of layer 3 reaches 7e+04, expected at most 65504, the largest float16; this model "
        "cannot keep its K/V cache in float16"
    )


def test_activations_at_known_points() -> None:
    x = np.array([-100, -1, 0, 1, 100], np.float32)
    assert activate(x, "relu").tolist() == [0, 0, 0, 1, 100]
    assert activate(x, "silu") == pytest.approx([0, -0.26894142, 0, 0.73105858, 100], abs=1e-7)
    assert activate(x, "gelu_erf") == pytest.approx([0, -0.15865525, 0, 0.84134475, 100], abs=1e-7)
    assert activate(x, "gelu_tanh") == pytest.approx([0, -0.15880801, 0, 0.84119199, 100], abs=1e-7)
    with pytest.raises(ValueError, match="unknown activation 'mish'"):
        activate(x, "mish")
