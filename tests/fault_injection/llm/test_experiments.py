"""From description files: what they name is looked for beside them."""

from pathlib import Path

import yaml

from bankside.fault_injection.llm import kv_cache, replay
from bankside.fault_injection.llm.patterns import ErrorPattern, Tile, write_patterns
from bankside.mapping.llm.loader import SHIPPED


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
