"""Programs of the quantised language model on the golden model, against the same integers in numpy:
every score, on machines of several sizes, across runs of tokens.
"""

from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from bankside.errors import ConfigError
from bankside.isa.machines import load_machine
from bankside.isa.npu_verify import Buffers, verify
from bankside.mapping.llm import quantise_np
from bankside.mapping.llm.loader import SHIPPED, load_model
from bankside.mapping.npu_gpt import QuantGpt, prepared
from bankside.mapping.npu_gpt_stream import GptPrograms
from bankside.sim.golden.npu import NpuGolden

PROMPT = list(b"In the beginning God")


@cache
def quantised(name: str, form: str) -> QuantGpt:
    text = (SHIPPED / "text_kjv" / "calibration.txt").read_bytes()[:512]
    runs = list(np.frombuffer(text, np.uint8).astype(np.int64).reshape(-1, 256))
    return prepared(load_model(SHIPPED / name), runs, form, name=name)


def scores(machine, model: QuantGpt, runs: list[list[int]], tokens: int = 32) -> list[np.ndarray]:
    """Scores after every run; the programs are legal."""
    programs, golden, buffers = (
        GptPrograms(machine, model, tokens),
        NpuGolden(machine),
        Buffers(machine),
    )
    verify(programs.setup(), machine, buffers)
    golden.run(programs.setup())
    found, position = [], 0
    for run in runs:
        program = programs.run(run, position)
        verify(program, machine, buffers)
        found.append(programs.logits(golden.run(program).output(program, "logits")))
        position += len(run)
    return found


@pytest.mark.parametrize(
    ("name", "form", "machine"),
    [
        ("gpt_mha", "w8a8", "npu_llm_256"),
        ("gpt_mha", "w4a8", "npu_llm_256"),
        ("gpt_mha", "w8a8", "npu_llm_32"),
        ("gpt_gqa", "w4a8", "npu_llm_64"),
    ],
)
def test_programs_compute_the_integer_model(name: str, form: str, machine: str) -> None:
    model = quantised(name, form)
    runs = [PROMPT[:13], PROMPT[13:19], PROMPT[19:]]
    wanted = quantise_np.logits(model, PROMPT)
    found = scores(load_machine(machine), model, runs)
    for row, at in zip(found, (12, 18, 19), strict=True):
        assert np.array_equal(row, wanted[at])


def test_another_past_gives_other_scores() -> None:
    """The cache is read: the comparison above could not pass without it."""
    model, machine = quantised("gpt_mha", "w8a8"), load_machine("npu_llm_256")
    one, two = (scores(machine, model, [head, [32]])[1] for head in ([65, 66], [67, 68]))
    assert not np.array_equal(one, two)


def test_a_wrong_multiplier_shows() -> None:
    model = quantised("gpt_mha", "w8a8")
    layer = model.layers[3]
    spoiled = replace(layer, down=replace(layer.down, mult=layer.down.mult - (1 << 24)))
    wrong = replace(model, layers=(*model.layers[:3], spoiled))
    found = scores(load_machine("npu_llm_256"), model, [PROMPT[:4]])[0]
    assert np.array_equal(found, quantise_np.logits(model, PROMPT[:4])[-1])
    assert not np.array_equal(found, quantise_np.logits(wrong, PROMPT[:4])[-1])


def test_a_run_without_scores_streams_no_last_projection() -> None:
    programs = GptPrograms(load_machine("npu_llm_256"), quantised("gpt_mha", "w8a8"), 32)
    with_scores, without = (programs.run([1, 2], 0, logits=flag) for flag in (True, False))
    assert with_scores.outputs and not without.outputs
    assert len(without.words) < len(with_scores.words)
    assert programs.streamed() - programs.streamed(logits=False) == 256 * 128
    assert programs.macs(2, 0) - programs.macs(2, 0, logits=False) == 256 * 128


def test_products_are_counted() -> None:
    """Every weight but those of the embedding once per token; two products per pair of tokens."""
    programs = GptPrograms(load_machine("npu_llm_256"), quantised("gpt_mha", "w8a8"), 32)
    linear = 4 * (4 * 128 * 128 + 3 * 128 * 384)
    assert programs.macs(1, 9) == linear + 256 * 128 + 4 * 2 * 10 * 128
    assert programs.macs(3, 0, logits=False) == 3 * linear + 4 * 2 * (1 + 2 + 3) * 128


@pytest.mark.parametrize(
    ("machine", "tokens", "message"),
    [
        ("npu_u55_256", 32, "npu_u55_256: profile u55 has no product of two inputs"),
        ("npu_llm_256", 257, "257 tokens with gpt_mha, whose context is 256"),
    ],
)
def test_what_cannot_be_placed_is_refused(machine: str, tokens: int, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        GptPrograms(load_machine(machine), quantised("gpt_mha", "w8a8"), tokens)


def shrunk(**changes: int):
    config = load_machine("npu_llm_256").config
    npu = config.npu.model_copy(update=changes)
    return type(load_machine("npu_llm_256")).of(config.model_copy(update={"npu": npu}))


def test_buffers_that_are_too_small_are_named() -> None:
    model = quantised("gpt_mha", "w8a8")
    with pytest.raises(ConfigError, match="words of the shared buffer, which has 8192; about"):
        GptPrograms(shrunk(shared_words=8192), model, 256)
    assert GptPrograms(shrunk(shared_words=8192), model, 64)


def test_positions_are_checked() -> None:
    programs = GptPrograms(load_machine("npu_llm_256"), quantised("gpt_mha", "w8a8"), 32)
    for tokens, position in (([1] * 17, 0), ([], 0), ([1, 2], 31)):
        with pytest.raises(ConfigError, match="one program takes 1 to 16, all together 32"):
            programs.run(tokens, position)


def test_weights_are_fetched_in_pieces_when_the_buffer_is_small() -> None:
    model = quantised("gpt_mha", "w8a8")
    found = scores(shrunk(weight_bytes=16384), model, [PROMPT[:3]])[0]
    assert np.array_equal(found, quantise_np.logits(model, PROMPT[:3])[-1])
