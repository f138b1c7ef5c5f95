"""Error patterns: their files, and that a replay is what the fault did."""

import json
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
    Recording,
    Represented,
    Tile,
    difference,
    read_patterns,
    read_recorded,
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


def test_a_difference_keeps_what_is_asked_for() -> None:
    tile = Tile(row=0, column=0, rows=1, columns=3)
    golden, faulty = np.array([[-100, 5, 0]]), np.array([[27, 4, 0]])
    bits = difference("x", "npu", "gemm", tile, golden, faulty, 8, number=4, role="data")
    steps = difference("x", "npu", "gemm", tile, golden, faulty, 8, change="delta", weight=2.0)
    assert bits is not None and steps is not None
    assert (bits.xor, bits.delta, bits.number, bits.role) == ([0x9C ^ 0x1B, 1], None, 4, "data")
    assert (steps.xor, steps.delta, steps.weight) == (None, [127, -1], 2.0)
    for made in (bits, steps):
        assert made.elements == [(0, 0), (0, 1)]
        assert np.array_equal(made.apply(golden, 0, 0), faulty)


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
    assert "62 % of the faults with an effect (campaign 7)" in page and "1 of 5 patterns" in page
    text = report.text(found)
    assert "62 % of the faults with an effect" in text and "1 patterns fit nowhere" in text
    for title in ("npu: phase", "npu: layer", "npu: operation", "npu: width, highest wrong bit"):
        assert title in text


def recording(**changes) -> Recording:
    counts = {"tile": 2, "outside": 0, "unread": 0, "control": 1, "hang": 1, "stopped": 0}
    base = {"campaign": "0123456789abcdef", "name": "some", "machine": "npu_llm_32",
            "workload": {"gpt_product": {}}, "model": "seu", "faults": 40, "effective": 4,
            "effective_share": 0.1, "parts": {k: v / 4 for k, v in counts.items()},
            "counts": counts,
            "represented": {"share": 0.5, "low": 0.2, "high": 0.8, "level": 0.95, "source": "it"},
            }  # fmt: skip
    return Recording.model_validate(base | changes)


PAIR = [pattern(fault="often", weight=9.0), pattern(fault="rare", weight=1.0, number=3),
        pattern(fault="steered", control=True, xor=None, elements=[])]  # fmt: skip


def test_what_the_campaign_says_comes_with_the_patterns(tmp_path: Path) -> None:
    config = description(tmp_path, [], represented=None, placements=5)
    write_patterns(tmp_path / "p.jsonl", PAIR, recording())
    assert read_recorded(tmp_path / "p.jsonl") == (PAIR, recording())
    found = replay.run(config, base=tmp_path)
    assert found["represented"]["share"] == 0.5 and found["recording"]["effective"] == 4
    assert [e["fault"] for e in found["runs"]] == ["often"] * 9 + ["rare"]
    text = report.text(found)
    assert "50 % (20 to 80 %) of the faults with an effect (it)" in text
    assert "10 % of the possible seu faults of npu_llm_32 have an effect: tile 50 %" in text
    typed = config.model_copy(update={"represented": Represented(share=0.25, source="mine")})
    assert replay.run(typed, base=tmp_path)["represented"] == {"share": 0.25, "source": "mine"}


@pytest.mark.parametrize("left", [[0, 2], [0, 1], [0, 1, 2, 2]])
def test_a_file_with_other_patterns_than_recorded_is_refused(tmp_path: Path, left) -> None:
    write_patterns(tmp_path / "p.jsonl", [PAIR[i] for i in left], recording())
    with pytest.raises(ConfigError, match="but its campaign recorded [12]; record it again"):
        read_recorded(tmp_path / "p.jsonl")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"effective": 5}, "counts: do not sum to the 5 effective faults"),
        ({"parts": {"tile": 1.0}}, "parts: expected the keys tile, outside, unread"),
        ({"represented": {"share": 1.5, "source": "x"}}, "recording.represented.share"),
        ({"faults": "many"}, "recording.faults: Input should be a valid integer"),
        ({"more": 1}, "recording.more: Extra inputs.*with the keys campaign, name"),
    ],
)
def test_a_spoilt_line_of_the_campaign_is_named(tmp_path: Path, changes, message: str) -> None:
    path, good = tmp_path / "p.jsonl", recording().model_dump()
    lines = [json.dumps({"recording": good | changes}), PAIR[0].model_dump_json()]
    path.write_text("\n".join(lines))
    with pytest.raises(ConfigError, match=message) as error:
        read_recorded(path)
    assert f"{path}:1:" in str(error.value)


@pytest.mark.parametrize(
    ("share", "ends", "text"),
    [
        (0.5, (0.2, 0.8), "50 % (20 to 80 %)"),
        (0.0, (0.0, 0.12), "less than 12 %"),
        (1.0, (0.9, 1.0), "more than 90 %"),
        (0.25, (0.25, 0.25), "25 %"),
        (0.0, (None, None), "0 %"),
    ],
)
def test_a_share_carries_what_is_known(share: float, ends, text: str) -> None:
    assert report.held_text({"share": share, "low": ends[0], "high": ends[1]}) == text


def test_patterns_of_several_rows_take_all_their_turns_in_the_prompt(tmp_path: Path) -> None:
    tall = {"row": 0, "column": 0, "rows": 2, "columns": 16}
    patterns = [
        pattern(tile=tall),
        pattern(fault="b", engine="pim", op="attention", bits=16, tile=tall),
    ]
    found = replay.run(description(tmp_path, patterns), base=tmp_path)
    assert [e["phase"] for e in found["runs"]] == ["prefill"] * 4 and found["unplaced"] == ["b"]


def test_turns_are_shared_by_weight() -> None:
    assert replay.shared_out([1, 1, 0, 1], 7, seed=3) == [7, 7, 0, 7]
    assert replay.shared_out([0.1] * 10, 3, seed=1) == [3] * 10
    assert replay.shared_out([0.0, 0.0], 3, seed=1) == [0, 0]
    weights = np.random.default_rng(0).exponential(size=50)
    due = 50 * 2 * weights / weights.sum()
    turns = np.array([replay.shared_out(list(weights), 2, seed) for seed in range(400)])
    assert (turns.sum(axis=1) == 100).all() and (abs(turns - due) < 1).all()
    # On average everybody gets the due: four standard errors of a sum of 0 or 1.
    assert (abs(turns.mean(axis=0) - due) < 4 * 0.5 / 20).all()


def test_a_pattern_of_an_operation_the_engine_does_not_do(tmp_path: Path) -> None:
    config = description(tmp_path, [pattern(engine="pim", bits=16)])
    with pytest.raises(ConfigError, match="the pim computes attention of this model"):
        replay.run(config, base=tmp_path)


def test_the_share_that_is_represented_has_no_default(tmp_path: Path) -> None:
    config = description(tmp_path, [pattern()], represented=None)
    with pytest.raises(ConfigError, match="represented: is missing, and no campaign wrote it into"):
        replay.run(config, base=tmp_path)
