"""Traces: public schemas, what is refused, statistics of files and of the generator."""

import os
from pathlib import Path

import numpy as np
import pytest

from bankside.errors import ConfigError
from bankside.mapping.serving.generator import PRESETS, Generate, Lengths, generate
from bankside.mapping.serving.trace import load_trace

TRACES = Path(os.environ.get("BANKSIDE_REF", Path(__file__).parents[4] / "shared" / "ref"))
TRACES = TRACES / "traces"
needs_traces = pytest.mark.skipif(
    not TRACES.is_dir(), reason=f"no traces at {TRACES}; set BANKSIDE_REF"
)
AZURE = "TIMESTAMP,ContextTokens,GeneratedTokens\r\n"


def write(folder: Path, text: str, name: str = "trace.csv") -> Path:
    (folder / name).write_bytes(text.encode())
    return folder / name


# --- schemas ------------------------------------------------------------------------------------


def test_azure_with_its_line_ends(tmp_path: Path) -> None:
    rows = "2023-11-16 18:17:03.9799600,4808,10\r\n2023-11-16 18:17:04.0319600,3180,8"
    trace = load_trace(write(tmp_path, AZURE + rows))
    assert trace.inputs.tolist() == [4808, 3180] and trace.outputs.tolist() == [10, 8]
    assert trace.arrival_s[0] == 0 and trace.arrival_s[1] == pytest.approx(0.052, abs=1e-6)


def test_mooncake_keeps_shared_blocks(tmp_path: Path) -> None:
    text = (
        '{"timestamp": 27000, "input_length": 1100, "output_length": 5, "hash_ids": [4, 5, 7]}\n'
        '{"timestamp": 3000, "input_length": 600, "output_length": 9, "hash_ids": [4, 5]}\n\n'
    )
    trace = load_trace(write(tmp_path, text, "trace.jsonl"))
    assert trace.arrival_s.tolist() == [0, 24] and trace.inputs.tolist() == [600, 1100]
    assert trace.prefixes == ((4, 5), (4, 5, 7)) and trace.prefix_tokens == 512


def test_burstgpt_without_failed_requests(tmp_path: Path) -> None:
    text = (
        "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\n"
        "5,ChatGPT,472,18,490,Conversation log\n45,ChatGPT,1087,0,1087,Conversation log\n"
        "118,GPT-4,417,276,693,API log\n"
    )
    trace = load_trace(write(tmp_path, text))
    assert trace.arrival_s.tolist() == [0, 113] and trace.outputs.tolist() == [18, 276]


def test_own_columns_in_any_order_and_more(tmp_path: Path) -> None:
    text = "output_tokens,arrival_s,input_tokens,remark\n3,2.5,10,x\n4,0.5,20,y\n"
    trace = load_trace(write(tmp_path, text))
    assert trace.arrival_s.tolist() == [0, 2] and trace.inputs.tolist() == [20, 10]
    assert trace.faster(2).arrival_s.tolist() == [0, 1] and len(trace.head(1)) == 1


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("a,b\n1,2\n", ("trace.csv:1", "columns a, b", "azure: ContextTokens")),
        ("", ("trace.csv:1", "columns none")),
        (AZURE, ("no request",)),
        (AZURE + "2023-11-16 18:17:03.97,x,10\r\n", ("trace.csv:2", "not a request")),
        (AZURE + "2023-11-16 18:17:03.97,7\r\n", ("trace.csv:2", "not a request")),
        (AZURE + "yesterday,7,7\r\n", ("trace.csv:2", "yesterday")),
        (AZURE + "2023-11-16 18:17:03.97,-7,7\r\n", ("trace.csv:2", "expected >= 0")),
    ],
)
def test_bad_files_are_refused(tmp_path: Path, text: str, parts: tuple) -> None:
    with pytest.raises(ConfigError) as error:
        load_trace(write(tmp_path, text))
    assert all(part in str(error.value) for part in parts), error.value


def test_bad_lines_and_missing_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"trace\.jsonl:1: not a request"):
        load_trace(write(tmp_path, '{"timestamp": 3}\n', "trace.jsonl"))
    with pytest.raises(ConfigError, match="cannot be read: No such file"):
        load_trace(tmp_path / "absent.csv")


@needs_traces
@pytest.mark.parametrize(
    ("name", "requests", "inputs", "outputs"),
    [
        ("AzureLLMInferenceTrace_code.csv", 8819, (2048, 1469, 5194, 7437), (28, 13, 55, 1899)),
        ("AzureLLMInferenceTrace_conv.csv", 19366, (1155, 1020, 2735, 14050),
         (211, 129, 424, 1000)),
        ("mooncake_fast25_synthetic_first3993.jsonl", 3993, (15325, 11587, 38615, 191378),
         (149, 69, 389, 893)),
        ("llmservingsim_sharegpt_llama31_8b_300_lengths.csv", 300, (857, 733, 1479, 3998),
         (653, 633, 770, 1021)),
    ],
)  # fmt: skip
def test_statistics_of_public_traces(name: str, requests: int, inputs, outputs) -> None:
    trace = load_trace(TRACES / name)
    found = trace.statistics()
    # Of 300 rows the published percentile is a row, ours lies between two.
    if len(trace) < 1000:
        found["input_p90"] = np.quantile(trace.inputs, 0.9, method="higher")
    assert found["requests"] == requests
    for kind, wanted in (("input", inputs), ("output", outputs)):
        keys = [f"{kind}_{part}" for part in ("mean", "median", "p90", "max")]
        assert [found[key] for key in keys] == pytest.approx(wanted, rel=0.01, abs=1)


# --- generator ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", list(PRESETS))
def test_generated_requests_have_the_published_statistics(name: str) -> None:
    wanted = PRESETS.get(name)
    trace = generate(Generate(preset=name, requests=40_000, seed=3))
    for values, lengths in ((trace.inputs, wanted.inputs), (trace.outputs, wanted.outputs)):
        assert np.median(values) == pytest.approx(lengths.median, rel=0.03, abs=1)
        assert values.mean() == pytest.approx(lengths.mean, rel=0.03)
        assert 1 <= values.min() and values.max() <= lengths.top
    assert len(trace) / trace.arrival_s[-1] == pytest.approx(wanted.rate, rel=0.03)


def test_bursts_vary_more_and_a_seed_gives_the_same_requests() -> None:
    def gaps(**keys) -> np.ndarray:
        return np.diff(generate(Generate(requests=20_000, rate=5.0, **keys)).arrival_s)

    calm, bursty = gaps(), gaps(arrivals="gamma", burstiness=3.0)
    assert calm.std() / calm.mean() == pytest.approx(1, rel=0.05)
    assert bursty.std() / bursty.mean() == pytest.approx(3, rel=0.1)
    assert np.array_equal(gaps(seed=4), gaps(seed=4)) and not np.array_equal(gaps(seed=4), calm)


def test_lengths_without_spread() -> None:
    assert set(Lengths(100, 100, 200).draw(np.random.default_rng(1), 50).tolist()) == {100}


def test_unknown_presets_are_named() -> None:
    with pytest.raises(ConfigError, match="azure_con"):
        generate(Generate(preset="azure_con"))
