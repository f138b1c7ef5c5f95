"""The bench of the npu engine: what it measures and compares."""

import json
from dataclasses import replace

import numpy as np
import pytest
from click.testing import CliRunner

from bankside.cli import main
from bankside.errors import ToolError
from bankside.isa.machines import load_machine
from bankside.sim.bench import npu
from bankside.sim.rtl.cocotb_runner import missing_simulator
from bankside.sim.rtl.npu import NpuRtl

needs_verilator = pytest.mark.skipif(
    bool(missing_simulator("verilator")), reason=missing_simulator("verilator") or "-"
)


def test_compression_counts_what_the_machine_reads() -> None:
    narrow = npu.compression(load_machine("npu_u55_32"))
    wide = npu.compression(load_machine("npu_llm_256"))
    assert {row["format"] for row in narrow.values()} == {"packed"}
    assert wide["gpt_mha_w8a8"]["ratio"] == 1 and wide["gpt_mha_w8a8"]["weights"] == 884736
    # Half a byte each and a byte of scale per 32; a tile of 544 bytes takes three words of 256.
    assert wide["gpt_mha_w4a8"]["bits_per_weight"] == pytest.approx(3 * 256 * 8 / (32 * 32))
    # A bit of mask and a quarter of the numbers, a header of 64 bits per tile of 128.
    pruned = narrow["random, 3 of 4 zero"]["bits_per_weight"]
    assert 1 + 0.25 * 7.8 + 0.5 < pruned < 1 + 0.25 * 8 + 0.5 + 0.3


@needs_verilator
def test_models_and_decoder_in_rtl() -> None:
    machine = load_machine("npu_llm_64")
    found = npu.model_cycles(machine)
    assert set(found) == {"digits_cnn", "gpt_mha_w8a8", "gpt_mha_w4a8"}
    assert found["digits_cnn"]["cycles_per_image"] > found["digits_cnn"]["macs_bound"]
    assert found["gpt_mha_w8a8"]["cycles_per_token"] > 884736 / 64
    decoder = npu.decoder(load_machine("npu_u55_64"), 1)
    assert 7 < decoder["weights_per_decoding_cycle"] <= 8 == decoder["port_bytes"]
    # 256 weights of 8 bits and a header of 64 bits.
    ratio = decoder["bits_per_decoding_cycle"] / decoder["weights_per_decoding_cycle"]
    assert ratio == pytest.approx(8 + 64 / 256)


@needs_verilator
def test_cycles_that_differ_stop_the_bench(monkeypatch: pytest.MonkeyPatch) -> None:
    run = NpuRtl.run

    def other(self, *args, **kwargs):
        result = run(self, *args, **kwargs)
        return replace(result, cycles=result.cycles + 1)

    monkeypatch.setattr(NpuRtl, "run", other)
    with pytest.raises(ToolError, match="rtl and timing disagree"):
        npu.model_cycles(load_machine("npu_u55_64"))


@needs_verilator
@pytest.mark.slow
def test_bench_from_the_command_line(tmp_path) -> None:
    args = ["bench", "--preset", "npu_u55_64", "--no-build", "--no-cocotb", "--repeats", "1"]
    found = CliRunner().invoke(main, [*args, "--out", str(tmp_path)])
    assert found.exit_code == 0, found.output
    assert "cycles per image (RTL)" in found.output and "weight decoder" in found.output
    (written,) = tmp_path.glob("*.json")
    result = json.loads(written.read_text())["presets"]["npu_u55_64"]
    assert result["rtl"]["cycles"] == result["timing"]["cycles"]
    assert result["models"]["digits_cnn"]["cycles_per_image"] == result["rtl"]["cycles"]


@needs_verilator
@pytest.mark.slow
def test_cocotb_runs_the_same_program_and_a_wrong_memory_is_noticed(monkeypatch) -> None:
    machine = load_machine("npu_u55_32")
    program, _ = npu.image_program(machine)
    found = npu.cocotb_speed(machine, program, internals=False)
    assert found["cycles"] == NpuRtl(machine).run(program).cycles and found["cycles_per_s"] > 0
    run = NpuRtl.run

    def other(self, *args, **kwargs):
        result = run(self, *args, **kwargs)
        changed = np.array(result.outputs)
        changed.flat[0] ^= 1
        return replace(result, outputs=changed)

    monkeypatch.setattr(NpuRtl, "run", other)
    with pytest.raises(ToolError, match="cocotb and the rtl execution disagree"):
        npu.cocotb_speed(machine, program, internals=False)
