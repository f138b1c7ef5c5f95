"""From description files: what they name is looked for beside them."""

import json
from pathlib import Path

import pytest
import yaml

from bankside.fault_injection.llm import kv_cache, replay
from bankside.fault_injection.llm.patterns import ErrorPattern, Tile, write_patterns
from bankside.mapping.llm.loader import SHIPPED

ROOT = Path(__file__).parents[3]


def described(folder: Path, **values) -> Path:
    (folder / "x.yaml").write_text(yaml.safe_dump(values))
    return folder / "x.yaml"


def test_kv_cache(tmp_path: Path) -> None:
    text = (SHIPPED / "text_kjv" / "held_out.txt").read_bytes()
    (tmp_path / "text.txt").write_bytes(text[:100])
    models = ("burst", "row", "column", "pin", "chip")
    path = described(
        tmp_path, kind="llm_kv_cache", text="text.txt", windows=2, prompt_tokens=20, new_tokens=6,
        faults=dict.fromkeys(models, 0) | {"cell": 1},
        schemes=[{"name": "banks", "attention": "banks"}],
    )  # fmt: skip
    seen = []
    found = kv_cache.run(kv_cache.load(path), base=tmp_path, on_fault=lambda *at: seen.append(at))
    assert found["faults"] == 32 and seen[-1] == (32, 32) and len(seen) == 32


def test_replay(tmp_path: Path) -> None:
    tile = Tile(row=0, column=0, rows=1, columns=8)
    write_patterns(tmp_path / "p.jsonl", [
        ErrorPattern(fault="a", engine="pim", op="attention", tile=tile, bits=16,
                     elements=[(0, 1)], xor=[1 << 14]),
    ])  # fmt: skip
    path = described(
        tmp_path, kind="llm_replay", patterns="p.jsonl", prompt_tokens=20,
        represented={"share": 1.0, "source": "one pattern of a test"},
    )  # fmt: skip
    found = replay.run(replay.load(path), base=tmp_path, quick=True)
    assert found["replays"] == 2 and found["engines"]["pim"]["any_flip"]["n"] == 2


@pytest.mark.slow  # compiles a machine
def test_recorded_at_the_rtl_and_replayed_in_the_model(run_cli, tmp_path: Path) -> None:
    """The examples, smaller: two files, and nobody types in what they stand for."""
    (tmp_path / "examples").mkdir()
    for name, changes in (
        ("npu_gemm_patterns.yaml", {"faults: 3000, pilot: 40": "faults: 500, pilot: 20"}),
        ("llm_replay.yaml", {"windows: 16": "windows: 2", "placements: 12": "placements: 2"}),
    ):
        text = (ROOT / "examples" / name).read_text()
        for old, new in changes.items():
            assert old in text
            text = text.replace(old, new)
        (tmp_path / "examples" / name).write_text(text)
    campaign, replayed = (
        run_cli("inject", tmp_path / "examples" / name, "--json", timeout=600)
        for name in ("npu_gemm_patterns.yaml", "llm_replay.yaml")
    )
    assert campaign.returncode == replayed.returncode == 0, campaign.stderr + replayed.stderr
    recorded, found = json.loads(campaign.stdout)["patterns"], json.loads(replayed.stdout)
    assert recorded["counts"]["tile"] > 5 and (tmp_path / "build" / "patterns").is_dir()
    assert found["represented"] == recorded["represented"]
    assert found["replays"] == 2 * recorded["counts"]["tile"]
    assert {row["product"] for row in found["engines"]["npu"]["product"]} <= {"gate", "up"}
