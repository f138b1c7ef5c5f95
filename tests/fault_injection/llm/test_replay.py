"""Error patterns: their files, and that a replay is what the fault did."""

from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from bankside.errors import ConfigError
from bankside.fault_injection.llm import replay, report
from bankside.fault_injection.llm.forced import Corruption, Forced
from bankside.fault_injection.llm.patterns import (
    ErrorPattern,
    Tile,
    difference,
    read_patterns,
    write_patterns,
)
from bankside.fault_injection.llm.replay import HalfRuns, IntegerRuns, LlmReplay, Target
from bankside.fault_injection.llm.windows import Window
from bankside.mapping.llm import quantise_np
from bankside.mapping.llm.loader import SHIPPED, find_model, load_model
from bankside.mapping.npu_gpt import QuantGpt, prepared

PROMPT, NEW = 20, 8
ROWS = PROMPT + NEW - 1
TEXT = list((SHIPPED / "text_kjv" / "held_out.txt").read_bytes()[: PROMPT + NEW])


def pattern(**changes) -> ErrorPattern:
    base = {"fault": "core.mac.0:3", "engine": "npu", "op": "gemm", "bits": 8,
            "tile": {"row": 0, "column": 0, "rows": 1, "columns": 16},
            "elements": [(0, 3)], "xor": [128]}  # fmt: skip
    return ErrorPattern.model_validate(base | changes)


@cache
def quantised() -> QuantGpt:
    text = (SHIPPED / "text_kjv" / "calibration.txt").read_bytes()[:128]
    return prepared(load_model(find_model("gpt_mha")), [list(text)])


@cache
def integer_runs() -> IntegerRuns:
    return IntegerRuns(quantised(), TEXT, PROMPT, NEW)


@cache
def half_runs() -> tuple[HalfRuns, Forced]:
    window = Window.of(load_model(find_model("gpt_gqa")), TEXT, PROMPT, NEW, None)
    return HalfRuns(window), window.text


def test_a_pattern_does_what_it_says() -> None:
    x = np.zeros((4, 32), np.int64)
    x[2, 19] = 5
    found = pattern(xor=[0b10000001]).apply(x, 2, 16)
    assert found[2, 19] == 0b10000100 - 256 and (found != x).sum() == 1 and x[2, 19] == 5
    assert pattern(xor=None, delta=[-7]).apply(x, 2, 16)[2, 19] == -2
    assert pattern(xor=None, delta=[300]).apply(x, 2, 16)[2, 19] == 127
    half = np.array([[1.5, -2.0]], np.float16).view(np.uint16)
    signs = pattern(engine="pim", op="attention", bits=16, elements=[(0, 0), (0, 1)],
                    xor=[0x8000, 0x8000])  # fmt: skip
    assert signs.apply(half, 0, 0).view(np.float16).tolist() == [[-1.5, 2.0]]


def test_a_wrong_multiplier_replayed_is_the_wrong_model() -> None:
    """Recorded at one product of the fault-free and of a model with another weight row."""
    runs, model = integer_runs(), quantised()
    part = model.layers[1].up
    numbers = part.weights.numbers.copy()
    numbers[40] = -numbers[40]
    broken_part = replace(part, weights=replace(part.weights, numbers=numbers))
    layers = list(model.layers)
    layers[1] = replace(layers[1], up=broken_part)
    broken = replace(model, layers=tuple(layers))
    kept: dict[str, np.ndarray] = {}

    def record(which: str):
        def tap(name: str, result: np.ndarray) -> np.ndarray:
            if name == "1.up":
                kept[which] = result.copy()
            return result

        return tap

    fed = TEXT[:ROWS]
    quantise_np.logits(model, fed, record("golden"))
    wanted = quantise_np.logits(broken, fed, record("faulty"))
    tile = Tile(row=0, column=0, rows=ROWS, columns=kept["golden"].shape[1])
    found = difference("row 40", "npu", "gemm", tile, kept["golden"], kept["faulty"], 8)
    assert found is not None and {c for _, c in found.elements} == {40}
    replayed = runs.faulty("text", found, Target(1, "up", 0, 0))
    assert np.array_equal(replayed, model.head.out.real(wanted))
    assert not np.array_equal(replayed, runs.golden("text"))
    elsewhere = runs.faulty("text", found, Target(2, "up", 0, 0))
    assert not np.array_equal(elsewhere, replayed)


def test_a_wrong_key_replayed_at_the_output_is_the_wrong_cache() -> None:
    """A row that reads a faulty cache once, against the same difference at its output."""
    runs, forced = half_runs()
    last, kept = ROWS - 1, {}
    mask = np.zeros((ROWS, *forced._golden.keys[2].shape[1:]), np.uint16)
    mask[4:12, 1, 5] = 0x4000
    attend = forced._attend

    def record(q, k, v, first):
        kept["faulty"] = attend(q, k, v, first)
        forced._attend = attend  # only the first call is that of layer 2
        return kept["faulty"]

    forced._attend = record
    wanted = forced.faulty(Corruption(last, {2: mask}))
    golden = forced._golden.outputs[2][last:].reshape(1, -1)
    tile = Tile(row=0, column=0, rows=1, columns=golden.shape[1])
    bits = [x.reshape(1, -1).view(np.uint16) for x in (golden, kept["faulty"])]
    found = difference("key", "pim", "attention", tile, *bits, 16)
    assert found is not None
    replayed = runs.faulty("text", found, Target(2, "context", last, 0))
    assert np.array_equal(replayed, wanted) and not np.array_equal(wanted, forced.logits)


def test_an_error_in_the_prompt_stays_in_the_cache() -> None:
    """A wrong value at row 3 reaches every later row, none before."""
    runs = integer_runs()
    found = runs.faulty("text", pattern(xor=[0x40]), Target(0, "value", 3, 0))
    differs = (found != runs.golden("text")).any(axis=1)
    assert not differs[:3].any() and differs[3] and differs[4:].sum() > 10


def test_equal_tiles_make_no_pattern() -> None:
    tile = Tile(row=0, column=0, rows=1, columns=2)
    same = np.ones((1, 2), np.int64)
    assert difference("x", "npu", "gemm", tile, same, same, 8) is None


def test_files_round_trip(tmp_path: Path) -> None:
    patterns = [
        pattern(),
        pattern(xor=None, delta=[-3]),
        pattern(control=True, elements=[], xor=None),
    ]
    write_patterns(tmp_path / "p.jsonl", patterns)
    assert read_patterns(tmp_path / "p.jsonl") == patterns


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"xor": None}, "xor: give either xor or delta"),
        ({"xor": [1, 2]}, "elements: are 1 for 2 numbers"),
        ({"xor": [256]}, "xor: has masks outside of 1 to 255"),
        ({"elements": [(0, 16)]}, r"elements: \[0, 16\] lies outside of the tile"),
        ({"elements": [(0, 1), (0, 1)], "xor": [1, 1]}, "elements: name a result twice"),
        ({"engine": "pim", "xor": None, "delta": [1]}, "delta: has no meaning for FP16 of pim"),
        ({"engine": "gpu"}, "engine: Input should be"),
    ],
)
def test_bad_patterns_are_named(tmp_path: Path, changes: dict, message: str) -> None:
    good = pattern()
    bad = good.model_copy(update=changes)
    path = tmp_path / "p.jsonl"
    path.write_text(good.model_dump_json() + "\n" + bad.model_dump_json(warnings=False) + "\n")
    with pytest.raises(ConfigError, match=message) as error:
        read_patterns(path)
    assert f"{path}:2:" in str(error.value)


def test_files_that_hold_no_pattern(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="one JSON object a line"):
        read_patterns(tmp_path / "missing.jsonl")
    (tmp_path / "empty.jsonl").write_text("\n")
    with pytest.raises(ConfigError, match="holds none"):
        read_patterns(tmp_path / "empty.jsonl")


def description(tmp_path: Path, patterns: list[ErrorPattern], **changes) -> LlmReplay:
    write_patterns(tmp_path / "p.jsonl", patterns)
    text = (SHIPPED / "text_kjv" / "calibration.txt").read_bytes()
    (tmp_path / "calibration.txt").write_bytes(text[:256])
    base = {"kind": "llm_replay", "patterns": "p.jsonl", "calibration": "calibration.txt",
            "represented": {"share": 0.62, "source": "campaign 7"},
            "windows": 2, "prompt_tokens": PROMPT, "new_tokens": 5, "placements": 4,
            "draws": 100}  # fmt: skip
    return LlmReplay.model_validate(base | changes)


def test_a_replay_from_file_to_page(tmp_path: Path) -> None:
    wide = {"row": 0, "column": 0, "rows": 4, "columns": 32}
    patterns = [
        pattern(fault="a", bits=16, xor=[0x4000]),
        pattern(fault="b", engine="pim", op="attention", bits=16, xor=[0x4000]),
        pattern(fault="c", engine="array", op="attention", bits=16, xor=[0x4000], tile=wide),
        pattern(fault="d", control=True),
        pattern(fault="e", tile={"row": 0, "column": 0, "rows": 1, "columns": 4096}),
    ]
    config = description(tmp_path, patterns)
    found = replay.run(config, base=tmp_path)
    assert found == replay.run(config, base=tmp_path)
    assert (found["patterns"], found["control_patterns"], found["unplaced"]) == (5, 1, ["e"])
    assert found["represented"] == {"share": 0.62, "source": "campaign 7"}
    assert {e["fault"] for e in found["runs"]} == {"a", "b", "c"}
    phases = {(e["engine"], e["phase"]) for e in found["runs"]}
    assert phases == {
        ("npu", "prefill"), ("npu", "decode"), ("pim", "decode"), ("array", "prefill"),
    }  # fmt: skip
    assert all(e["row"] % 4 == 0 and e["column"] % 32 == 0 for e in found["runs"]
               if e["fault"] == "c")  # fmt: skip
    # 16-bit results: queries and keys, what is added to the residual, the scores.
    products = {e["product"] for e in found["runs"] if e["fault"] == "a"}
    assert products <= {"query_key", "output", "down", "head"}
    assert found["engines"]["npu"]["replays"] == 4
    assert any(e["kl_bits"] for e in found["runs"])
    page = report.page(found)
    assert "62 % of the sites (campaign 7)" in page and "1 of 5 patterns" in page
    assert "62 % of the sites" in report.text(found)


def test_a_pattern_of_an_operation_the_engine_does_not_do(tmp_path: Path) -> None:
    config = description(tmp_path, [pattern(engine="pim", bits=16)])
    with pytest.raises(ConfigError, match="the pim computes attention of this model"):
        replay.run(config, base=tmp_path)


def test_the_share_that_is_represented_has_no_default(tmp_path: Path) -> None:
    config = description(tmp_path, [pattern()], represented=None)
    with pytest.raises(ConfigError, match="represented: is missing, and no campaign wrote it into"):
        replay.run(config, base=tmp_path)
