"""The experiment on faults under the KV cache, small."""

import json
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from bankside.errors import ConfigError
from bankside.fault_injection.llm import report
from bankside.fault_injection.llm.kv_cache import LlmKvCache, Scheme, load, run
from bankside.fault_injection.llm.tables import Summariser, part_of

EXAMPLE = Path(__file__).parents[3] / "examples" / "llm_kv_cache.yaml"


@pytest.fixture(scope="module")
def result() -> dict:
    return run(load(EXAMPLE), quick=True)


def by_fault(result: dict) -> dict[int, dict[str, dict]]:
    found: dict[int, dict[str, dict]] = defaultdict(dict)
    for entry in result["runs"]:
        found[entry["number"]][entry["scheme"]] = entry
    return found


def test_every_fault_meets_every_scheme(result: dict) -> None:
    schemes = {scheme.name for scheme in load(EXAMPLE).schemes}
    faults = by_fault(result)
    assert result["faults"] == len(faults) == 148
    assert all(set(entries) == schemes for entries in faults.values())
    strata = {(e["side"], e["bit"]) for e in result["runs"] if e["model"] == "cell"}
    assert len(strata) == 32
    assert {e["phase"] for e in result["runs"]} == {"prefill", "decode"}


def test_the_code_of_the_rank_does_nothing_for_bank_units(result: dict) -> None:
    """The open question: the same runs, to the last bit, as without ECC."""
    for entries in by_fault(result).values():
        one, two = entries["no ECC, banks"], entries["rank SEC-DED, banks"]
        assert one | {"scheme": ""} == two | {"scheme": ""}


@pytest.mark.parametrize(
    ("scheme", "harmless"),
    [
        ("rank SEC-DED, GPU", {"cell", "column", "pin"}),
        ("on-die SEC, banks", {"cell", "column"}),
        ("rank SDDC, GPU", {"cell", "burst", "row", "column", "pin", "chip"}),
    ],
)
def test_what_a_code_can_correct_reads_right(result: dict, scheme: str, harmless: set) -> None:
    outcomes = defaultdict(set)
    for entry in result["runs"]:
        if entry["scheme"] == scheme:
            outcomes[entry["model"]].add(entry["outcome"])
    assert {m for m, o in outcomes.items() if o <= {"corrected", "not stored"}} == harmless


def test_a_row_is_detected_on_the_channel_and_silent_in_the_banks(result: dict) -> None:
    rows = {(row["scheme"], row["model"]): row["outcomes"] for row in result["schemes"]}
    stopped = rows["rank SEC-DED, GPU", "row"]["detected"]
    assert stopped["seen"] == stopped["n"] and stopped["n"] > 0
    silent = rows["on-die SEC, banks", "row"]["silent"]
    assert silent["seen"] == silent["n"]
    assert stopped["below"] is None and silent["clustered"] is None


def test_tables_agree_with_runs(result: dict) -> None:
    for row in result["schemes"]:
        mine = [
            e for e in result["runs"]
            if (e["scheme"], e["model"]) == (row["scheme"], row["model"])
        ]  # fmt: skip
        assert row["faults"] == len(mine)
        assert row["any_flip"]["seen"] == sum(bool(e["any_flip"]) for e in mine)
        kl = [e["kl_bits"] for e in mine if e["kl_bits"] is not None]
        assert row["kl_bits"]["n"] == len(kl)
        if kl:
            assert row["kl_bits"]["mean"] == pytest.approx(np.mean(kl))
        assert sum(o["seen"] for o in row["outcomes"].values()) == len(mine)


def test_equal_seeds_equal_bytes_and_others_not() -> None:
    config = load(EXAMPLE).model_copy(update={"schemes": load(EXAMPLE).schemes[:2]}).quick()
    few = dict.fromkeys(("burst", "row", "column", "pin"), 0) | {"cell": 1, "chip": 2}
    small = config.model_copy(update={"faults": config.faults.model_copy(update=few)})
    one, two = (json.dumps(run(small), allow_nan=False) for _ in range(2))
    assert one == two
    assert json.loads(one)["runs"] != run(small.model_copy(update={"seed": 1}))["runs"]


def test_files_are_written_and_no_share_is_bare_zero(result: dict, tmp_path: Path) -> None:
    files = report.write(tmp_path, result)
    page = (tmp_path / files["report"]).read_text()
    assert page.count("<svg") == 1 + len(result["cells"])
    assert ">0 %" not in page and ">0.0 %" not in page and "nan" not in page.lower()
    saved = json.loads((tmp_path / files["result"]).read_text())
    assert saved["schemes"] == result["schemes"] and "runs" not in saved
    assert len((tmp_path / files["runs"]).read_text().splitlines()) == len(result["runs"]) + 1
    assert "rank SEC-DED, banks" in report.text(result)


def folder_of(kind: str, folder: Path) -> Path:
    """A random model of two layers whose tokens are no bytes."""
    random, size, heads, words = np.random.default_rng(5), 16, 2, 40
    arrays = {"wte.weight": (words, size), "wpe.weight": (64, size)}
    shapes = {"attn.c_attn": (size, 3 * size), "attn.c_proj": (size, size),
              "mlp.c_fc": (size, 4 * size), "mlp.c_proj": (4 * size, size),
              "ln_1": (size,), "ln_2": (size,)}  # fmt: skip
    for i in range(2):
        for name, shape in shapes.items():
            arrays |= {f"h.{i}.{name}.weight": shape, f"h.{i}.{name}.bias": shape[-1:]}
    arrays |= {"ln_f.weight": (size,), "ln_f.bias": (size,)}
    tensors = {name: random.normal(size=s).astype(np.float32) for name, s in arrays.items()}
    save_file(tensors, folder / "model.safetensors")
    config = {"model_type": kind, "n_embd": size, "n_head": heads, "n_layer": 2,
              "n_positions": 64, "vocab_size": words}  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def test_any_loaded_model_and_machine(tmp_path: Path) -> None:
    folder_of("gpt2", tmp_path)
    random = np.random.default_rng(1)
    config = LlmKvCache(
        kind="llm_kv_cache", model=str(tmp_path), machine="pim_tiny_ddr4", prompt_tokens=10,
        new_tokens=6, tokens=random.integers(40, size=(3, 16)).tolist(),
        schemes=[Scheme(name="x", attention="banks"),
                 Scheme(name="y", attention="gpu", rank="secded")],
    )  # fmt: skip
    found = run(config, quick=True)
    assert found["windows"] == 3 and not found["facts"]["bytes_are_tokens"]
    assert any(entry["any_flip"] for entry in found["runs"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("windows: 1", r"windows: is 1; expected an integer from 2 to 10000"),
        ("colour: 1", r"colour: unknown key"),
        ("schemes: [{name: a, attention: cpu}]", "attention: is 'cpu' .*banks, gpu"),
        ("schemes: [{name: a, attention: gpu}, {name: a, attention: gpu}]", "a name each"),
        (
            "faults: {cell: 0, burst: 0, row: 0, column: 0, pin: 0, chip: 0}",
            "expected at least one",
        ),
        ("tokens: [[1, 2]]", "intervals need at least 2 windows"),
    ],
)
def test_bad_descriptions(tmp_path: Path, change: str, message: str) -> None:
    path = tmp_path / "x.yaml"
    path.write_text(f"kind: llm_kv_cache\n{change}\n")
    with pytest.raises(ConfigError, match=message) as error:
        load(path)
    assert f"{path}:" in str(error.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"windows": 40}, "has 2048 bytes, but 40 windows of 72 bytes need 2880"),
        ({"text": "missing.txt"}, "missing.txt: No such file"),
        ({"prompt_tokens": 250}, "are 274 tokens, the context of the model is 256"),
        ({"tokens": [[1] * 72, [1] * 70]}, r"tokens\[1\] has 70 tokens, expected at least"),
        ({"tokens": [[1] * 72, [300] * 72]}, r"tokens\[1\] holds token 300, expected 0 to 255"),
        ({"model": "gpt_x"}, "model 'gpt_x' is neither"),
        ({"machine": "npu_llm_32"}, "engine"),
    ],
)
def test_what_cannot_be_run(change: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        run(LlmKvCache(kind="llm_kv_cache", **change))


def test_parts_of_a_number() -> None:
    assert [part_of(bit) for bit in (15, 14, 10, 9, 0)] == [
        "sign", "exponent", "exponent", "mantissa", "mantissa",
    ]  # fmt: skip


def test_shares_and_means_say_how_sure_they_are() -> None:
    by = Summariser(0.95, 500, 0)
    none = by.share([False] * 300, [i % 5 for i in range(300)])
    assert none["below"] == pytest.approx(1 - 0.05 ** (1 / 300)) and none["clustered"] is None
    # All hits in one of ten prompts: by prompt far less is known than by run.
    some = by.share([i < 100 for i in range(1000)], [i // 100 for i in range(1000)])
    wide, narrow = (some[k][1] - some[k][0] for k in ("clustered", "wilson"))
    assert wide > 3 * narrow and some["share"] == 0.1
    assert by.mean([0.0, 0.0], [0, 1]) == {"n": 2, "mean": 0.0, "clustered": None}
    assert by.mean([], []) == {"n": 0, "mean": None, "clustered": None}
