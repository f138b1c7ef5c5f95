"""Cycles of operators on an NPU: those of programs timed whole, where only parts were."""

import numpy as np
import pytest

from bankside.config_npu import NpuHardware
from bankside.errors import ConfigError
from bankside.isa.npu_machine import NpuMachine
from bankside.isa.npu_verify import verify
from bankside.isa.program import Program
from bankside.mapping.lower_npu.compiled import compile_graph
from bankside.mapping.policy import npu_graphs, npu_latency
from bankside.mapping.policy.npu_latency import NpuLatency
from bankside.sim.golden.npu import NpuGolden
from bankside.sim.timing.npu import NpuTiming

GB = 1e9
#: Bytes per second of a whole number of cycles per beat.
BANDWIDTH = {1: 64 * GB, 3: 64 * GB / 3}


def hardware(name: str = "npu_llm_256") -> NpuHardware:
    return NpuHardware.load(name)


def machine(beats: int = 3, name: str = "npu_llm_256") -> NpuMachine:
    base = hardware(name)
    memory = base.memory.model_copy(update={"beat_cycles": beats, "bytes": 1 << 32})
    return NpuMachine.of(base.model_copy(update={"memory": memory}))


def cycles(program: Program, on: NpuMachine) -> int:
    return NpuTiming(on).run(program).cycles or 0


def whole(graph, beats: int = 3, name: str = "npu_llm_256") -> int:
    """Of a program for the whole graph."""
    on = machine(beats, name)
    return cycles(compile_graph(graph, on).program, on)


def cut(size: int, tile: int) -> list[int]:
    return [min(tile, size - at) for at in range(0, size, tile)]


@pytest.mark.parametrize(
    ("name", "beats", "bits", "rows", "outputs", "inner"),
    [
        ("npu_llm_256", 3, 8, 1, 2304, 768), ("npu_llm_256", 1, 8, 5, 1300, 5000),
        ("npu_llm_256", 3, 4, 2, 1536, 4096), ("npu_llm_128", 3, 8, 16, 900, 3072),
        ("npu_llm_32", 1, 8, 1, 1920, 1024), ("npu_llm_256", 1, 8, 40, 800, 3072),
    ],
)  # fmt: skip
def test_tiles_of_a_product_repeat(
    name: str, beats: int, bits: int, rows: int, outputs: int, inner: int
) -> None:
    latency = NpuLatency(hardware(name), BANDWIDTH[beats], bits)
    graph = npu_graphs.product(rows, cut(inner, latency._part()), cut(outputs, 128), bits)
    found = float(latency.product(rows, outputs, inner))
    assert found == pytest.approx(whole(graph, beats, name), rel=2e-3)


@pytest.mark.parametrize("rows", [10, 13, 27, 30, 59])
def test_rows_between_those_that_are_timed(rows: int) -> None:
    latency = NpuLatency(hardware(), BANDWIDTH[3], 8)
    graph = npu_graphs.product(rows, cut(1536, latency._part()), cut(640, 128))
    assert float(latency.product(rows, 640, 1536)) == pytest.approx(whole(graph), rel=0.015)


def test_more_rows_are_whole_tiles() -> None:
    latency = NpuLatency(hardware(), BANDWIDTH[3], 8)
    one, rest, many = latency.product(np.array([64, 7, 5 * 64 + 7]), 640, 768)
    assert many == pytest.approx(5 * one + rest)
    assert float(latency.product(0.0, 640, 768)) == 0


@pytest.mark.parametrize(
    ("rows", "context", "masked", "off"),
    [
        (1, 17, False, 0.025), (1, 40, False, 0.025), (8, 90, False, 0.015),
        (8, 200, False, 0.015), (7, 700, False, 0.015), (8, 1025, False, 0.015),
        (1, 3000, False, 0.015), (8, 8000, False, 0.015), (4, 30_000, False, 0.015),
        (64, 2048, True, 0.015), (1, npu_latency.LONGEST, False, 0.015),
    ],
)  # fmt: skip
def test_any_context_is_nearly_the_models(
    rows: int, context: int, masked: bool, off: float
) -> None:
    """Steps of 32 tokens, blocks that repeat, the largest that the shared buffer takes."""
    latency = NpuLatency(hardware(), BANDWIDTH[3], 8)
    assert latency._fits(rows, np.array(float(context)), 128)
    found = float(latency._context(rows, np.array(float(context)), 128, masked))
    graph = npu_graphs.attention(rows, context, 128, latency.block, masked)
    assert found == pytest.approx(whole(graph), rel=off)


def test_tiles_of_queries_are_those_that_fit() -> None:
    """Eight heads in one program while their scores fit, then in two."""
    latency = NpuLatency(hardware(), BANDWIDTH[3], 8)
    short, long = (float(latency.attention(8, c, 128, 8, False)) for c in (8192, 32_768))
    at = [float(latency._context(n, np.array(c), 128, False)) for n, c in
          ((8, 8192.0), (4, 32_768.0))]  # fmt: skip
    assert (short, long) == pytest.approx((at[0], 2 * at[1]))


@pytest.mark.parametrize("rows", [1, 3, 9])
def test_the_vector_unit(rows: int) -> None:
    latency = NpuLatency(hardware(), BANDWIDTH[3], 8)
    pairs = {
        "norm": (latency.norm(rows, 2, 768, False), npu_graphs.norm(rows, 2, 768, False)),
        "add": (latency.addition(rows, 768), npu_graphs.addition(rows, 768)),
        "act": (latency.activation(rows, 768, True), npu_graphs.activation(rows, 768, True)),
        "rope": (latency.rotation(rows, 12, 64), npu_graphs.rotation(rows, 12, 64)),
    }
    for name, (found, graph) in pairs.items():
        assert float(found) == pytest.approx(whole(graph), rel=0.015), name


# --- cache --------------------------------------------------------------------------------------
@pytest.mark.parametrize("tokens", [1, 5, 128])
def test_new_values_are_columns_of_their_block(tokens: int) -> None:
    on, dim = machine(), 64
    program = npu_graphs.append(on, tokens, dim)
    verify(program, on)
    memory = np.random.default_rng(tokens).integers(0, 256, program.host_in.size * 2, np.uint8)
    filled = memory.view(np.uint16).reshape(program.host_in.shape)
    after = NpuGolden(on).run(
        Program("npu", program.words, filled, program.outputs, program.regions)
    )
    found = np.ascontiguousarray(after.outputs, np.uint16).view(np.uint8).reshape(-1)
    new = -(-tokens * dim // 128) * 128
    values = memory[new : new + tokens * dim].reshape(tokens, dim)
    block, before = (m[2 * new :].reshape(dim, 128) for m in (found, memory))
    assert (block[:, :tokens] == values.T).all()
    assert (block[:, tokens:] == before[:, tokens:]).all()


def test_each_request_changes_one_block_more() -> None:
    latency = NpuLatency(hardware(), BANDWIDTH[3], 8)
    on = machine()
    one, block = (cycles(npu_graphs.append(on, n, 128), on) for n in (1, 128))
    assert float(latency.append(3, 3, 128)) == 3 * one
    assert float(latency.append(257, 1, 128)) == pytest.approx(one + 2 * block)


# --- memory -------------------------------------------------------------------------------------
def test_cycles_are_convex_in_those_of_a_beat() -> None:
    """What a straight line between two memories stands on."""
    for graph in (npu_graphs.product(1, [768], [128] * 3), npu_graphs.attention(8, 900, 64, 512,
                  True), npu_graphs.norm(4, 1, 768, True)):  # fmt: skip
        program = compile_graph(graph, machine(3)).program
        at = [cycles(program, machine(beats)) for beats in range(1, 9)]
        assert (np.diff(at, 2) >= 0).all() and at == sorted(at)


def test_memory_between_two_whole_numbers_of_cycles() -> None:
    one, between, two, more = (
        float(NpuLatency(hardware(), 64 * GB / beats, 8).product(1, 768, 768))
        for beats in (1, 1.25, 2, 0.5)
    )
    assert between == pytest.approx(0.75 * one + 0.25 * two)
    assert more == one < two


@pytest.mark.parametrize(
    ("name", "bits", "stored"),
    [("npu_llm_256", 8, 8), ("npu_llm_256", 4, 6), ("npu_llm_128", 4, 8), ("npu_llm_32", 8, 16)],
)
def test_weights_in_memory_are_padded_to_the_port(name: str, bits: int, stored: float) -> None:
    assert NpuLatency(hardware(name), 64 * GB, bits).stored_bits == stored


def test_what_it_cannot_time_is_refused() -> None:
    with pytest.raises(ConfigError, match="u55 has no product of two activations"):
        NpuLatency(hardware("npu_u55_256"), 4 * GB, 8)
    with pytest.raises(ConfigError, match="at most 64: 1 GB/s or more"):
        NpuLatency(hardware(), 0.5 * GB, 8)


def test_points_are_kept(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("BANKSIDE_BUILD", str(tmp_path))
    wanted = float(NpuLatency(hardware(), 25.6 * GB, 8).addition(3, 768))
    monkeypatch.setattr(npu_latency._Engine, "run", lambda *_: pytest.fail("timed again"))
    assert float(NpuLatency(hardware(), 25.6 * GB, 8).addition(3, 768)) == wanted
    for file in (tmp_path / "npu_latency").iterdir():
        file.write_text("{")
    with pytest.raises(pytest.fail.Exception, match="timed again"):
        NpuLatency(hardware(), 25.6 * GB, 8).addition(3, 768)
