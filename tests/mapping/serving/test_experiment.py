"""Serving experiments: descriptions, two machines, results, files, the real policies."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from tests.mapping.serving.plain import Linear

from bankside.cli import main
from bankside.errors import ConfigError
from bankside.mapping.serving.continuous import DecodeOnly, PromptsOnly
from bankside.mapping.serving.experiment import _moves, _over_the_link, load_experiment, run
from bankside.mapping.serving.simulate import Prices, simulate
from bankside.mapping.serving.state import Batching
from bankside.mapping.serving.trace import make_trace

ROOT = Path(__file__).parents[3]
TRACE = Path(os.environ.get("BANKSIDE_REF", ROOT.parent / "shared" / "ref"))
TRACE = TRACE / "traces" / "AzureLLMInferenceTrace_conv.csv"
SMALL = """
model: llama-3-8b
machine: l3
policy: l3
generate: {requests: 120, rate: 20.0, seed: 3}
batching: {token_budget: 512}
"""
TWO = """
model: llama-3-8b
machine: l3
policy: l3
generate: {requests: 60, rate: 5.0, seed: 3}
batching: {strategy: disaggregated, token_budget: 4096}
prompts: {machine: dgx-a100, policy: gpu_only, link_gbps: 50.0}
"""


@pytest.mark.bad_inputs("serve")
def test_bad_descriptions_are_refused(bad_case) -> None:
    with pytest.raises(ConfigError) as error:
        load_experiment(bad_case.path)
    bad_case.check(error.value)


def write(folder: Path, text: str) -> Path:
    (folder / "job.yaml").write_text(text)
    return folder / "job.yaml"


@pytest.mark.parametrize("strategy", ["chunked", "adaptive", "continuous", "layered"])
def test_results_are_consistent(tmp_path: Path, strategy: str) -> None:
    text = SMALL.replace("{token_budget", f"{{strategy: {strategy}, token_budget")
    experiment = load_experiment(write(tmp_path, text))
    result = run(experiment)
    json.dumps(result, allow_nan=False)
    assert result["served"] == result["requests"] == 120 and result["rejected"] == 0
    assert result["output_tokens"] == experiment.trace.outputs.sum()
    assert result["output_tokens_per_s"] == result["output_tokens"] / result["seconds"]
    for key in ("ttft_s", "tbt_s", "e2e_s"):
        row = result[key]
        assert 0 < row["p50"] <= row["p90"] <= row["p99"] <= row["max"]
    assert result["ttft_s"]["max"] <= result["e2e_s"]["max"] <= result["seconds"]
    assert 0 < result["kv_peak"] < 1 and result["energy_j"] is None
    assert result["distribution"]["tbt_s"][-1] == result["tbt_s"]["max"]
    (timeline,) = result["timeline"]
    prompt = np.array(timeline["prompt_tokens_per_s"]) * (
        result["seconds"] / len(timeline["start_s"])
    )
    shares = experiment.description.batching.groups if strategy == "layered" else 1
    assert prompt.sum() == pytest.approx(shares * experiment.trace.inputs.sum())


def test_energy_where_it_is_known(tmp_path: Path) -> None:
    text = SMALL.replace("l3", "dgx-a100", 1).replace("machine: l3", "machine: dgx-a100")
    text = SMALL.replace("machine: l3", "machine: dgx-a100").replace(
        "policy: l3", "policy: gpu_only"
    )
    result = run(load_experiment(write(tmp_path, text)))
    assert result["energy_j"] > 0
    assert result["energy_j_per_token"] == result["energy_j"] / result["output_tokens"]


# --- two machines -------------------------------------------------------------------------------


def test_disaggregation_by_hand() -> None:
    """Two requests, prices that can be added up on paper."""
    trace = make_trace("two", [(0.0, 100, 3, ()), (0.0, 50, 1, ())])
    policy = Linear(fixed=1.0, token=0.01, pair=0, key=0, longest=0)
    batching = Batching(strategy="disaggregated", token_budget=100, preemption="swap")
    first = simulate(PromptsOnly(trace, batching, 1000), Prices(policy))
    # A prompt of 100 tokens takes the whole budget, so the other one waits.
    assert first.first_s.tolist() == [2.0, 3.5] and first.complete == 2
    later = make_trace("one", [(2.5, 100, 3, ())])
    later = type(later)(later.name, np.array([2.5]), later.inputs, later.outputs)
    second = simulate(DecodeOnly(later, batching, 1000), Prices(policy), first_s=np.array([2.0]))
    assert second.gaps == pytest.approx([0.5 + 1.01, 1.01]) and second.counts == [1, 1]
    assert second.done_s.tolist() == pytest.approx([2.5 + 2 * 1.01])


def test_a_link_carries_one_after_the_other() -> None:
    ends = _over_the_link(np.array([0.0, 0.1, 5.0]), np.array([1.0, 2.0, 0.5]))
    assert ends.tolist() == [1.0, 3.0, 5.5]


def test_two_machines(tmp_path: Path) -> None:
    experiment = load_experiment(write(tmp_path, TWO))
    result = run(experiment)
    assert result["served"] == 60 and len(result["timeline"]) == 2
    assert result["output_tokens"] == experiment.trace.outputs.sum()
    together = run(load_experiment(write(tmp_path, TWO.split("batching")[0])))
    # Nobody's prompt holds up those who decode.
    assert result["tbt_s"]["p90"] < together["tbt_s"]["p90"]


# --- command ------------------------------------------------------------------------------------


def test_the_command_writes_a_page(tmp_path: Path) -> None:
    job = write(tmp_path, SMALL)
    done = CliRunner().invoke(main, ["serve", str(job), "--out", str(tmp_path / "out")])
    assert done.exit_code == 0, done.output
    assert "between tokens (TBT)" in done.output and "120 in" in done.output
    page = (tmp_path / "out" / "serve.html").read_text()
    for part in ("llama-3-8b on l3", "Over time", "<svg", "tokens/s"):
        assert part in page
    result = json.loads((tmp_path / "out" / "serve.json").read_text())
    assert result["files"] == ["serve.html"] and result["kind"] == "serve"


def test_the_same_description_gives_the_same_result(tmp_path: Path) -> None:
    one, two = (run(load_experiment(write(tmp_path, SMALL))) for _ in range(2))
    assert one == two


def test_the_example(tmp_path: Path) -> None:
    experiment = load_experiment(ROOT / "examples" / "serve_azure_l3.yaml")
    assert len(experiment.trace) == 2000


AZURE = SMALL.replace("llama-3-8b", "llama-3-70b").replace(
    "generate: {requests: 120, rate: 20.0, seed: 3}", f"trace: {TRACE}"
)


@pytest.mark.slow
@pytest.mark.skipif(not TRACE.exists(), reason=f"{TRACE} is not there; set BANKSIDE_REF")
def test_adaptive_chunks_serve_more_requests_well(tmp_path: Path) -> None:
    """First tokens within 2 s, 0.1 s per token: every fixed budget misses one of both more often.

    No pass exceeds the bound, which is loose enough for the tokens that pass in any case. So it is
    with two stages of four GPUs, which have time to spare. In one of eight a layer's exchanges fill
    the bound, first tokens wait, and large chunks serve more requests well (0.79 against 0.71).
    """
    kinds = ["adaptive, tbt_s: 0.1"] + [f"chunked, token_budget: {n}" for n in (512, 1024, 2048)]
    results = []
    for kind in kinds:
        text = AZURE.replace("token_budget: 512", f"strategy: {kind}, max_requests: 1024")
        text += "tp: 4\nrequests: 2000\ngoal: {ttft_s: 2.0, tpot_s: 0.1}\n"
        results.append(run(load_experiment(write(tmp_path, text))))
    share = [result["goodput_share"] for result in results]
    assert share[0] > 1.05 * max(share[1:])
    assert results[0]["tbt_s"]["max"] <= 0.1 * 1.03


@pytest.mark.slow
@pytest.mark.skipif(not TRACE.exists(), reason=f"{TRACE} is not there; set BANKSIDE_REF")
def test_the_whole_public_trace(tmp_path: Path) -> None:
    text = AZURE.replace("token_budget: 512", "token_budget: 2048, max_requests: 1024")
    result = run(load_experiment(write(tmp_path, text)))
    assert result["served"] == 19366 and result["seconds"] > 3480


def test_swapping_needs_a_link(tmp_path: Path) -> None:
    text = SMALL.replace("token_budget: 512", "token_budget: 512, preemption: swap")
    text = text.replace("machine: l3", "machine: dgx-a100").replace(
        "policy: l3", "policy: gpu_only"
    )
    experiment = load_experiment(write(tmp_path, text))
    assert run(experiment)["served"] == 120
    experiment.policy.system = experiment.policy.system.with_("host_link", None)
    with pytest.raises(ConfigError, match="no link to a host"):
        run(experiment)


def test_swapped_keys_and_values_wait_for_links_or_dram(tmp_path: Path) -> None:
    text = SMALL.replace("token_budget: 512", "token_budget: 512, preemption: swap")
    text = text.replace("machine: l3", "machine: dgx-a100").replace(
        "policy: l3", "policy: gpu_only"
    )
    experiment = load_experiment(write(tmp_path, text))
    system, arch = experiment.policy.system, experiment.architecture
    tokens, none = np.array([0.0, 1000.0, 9000.0]), np.zeros(3)
    linked = tokens * arch.kv_bytes_per_token() / (system.host_links * system.host_link.bandwidth)
    moves = _moves(experiment)
    for out, back in ((tokens, none), (none, tokens), (tokens, tokens)):
        assert moves(out, back) == pytest.approx(linked)
    experiment.policy.system = system.with_("host.channels", 1)
    assert (_moves(experiment)(tokens, none)[1:] > 2 * linked[1:]).all()


def test_shares_are_those_asked_for(tmp_path: Path) -> None:
    assert load_experiment(write(tmp_path, SMALL)).policy.shares.tp == 8
    text = TWO.replace("policy: l3", "policy: l3\ntp: 2").replace("gpu_only,", "gpu_only, tp: 4,")
    experiment = load_experiment(write(tmp_path, text))
    assert (experiment.policy.shares.tp, experiment.prompts.shares.tp) == (2, 4)
