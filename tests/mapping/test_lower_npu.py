"""Compiled graphs of the npu: legal programs that give the integers of the reference."""

from dataclasses import replace

import numpy as np
import pytest
from tests.mapping.npu_graphs import KINDS, RandomGraphs

from bankside.errors import ConfigError, ProgramError
from bankside.isa.machines import load_machine
from bankside.isa.npu_machine import NpuMachine
from bankside.isa.npu_verify import verify, verify_chain
from bankside.isa.program import Program
from bankside.mapping.llm.quantise import Affine, multiplier
from bankside.mapping.lower_npu.compiled import Compiled, Compiler, compile_graph
from bankside.mapping.lower_npu.single import LAYERS, convolution, fully_connected, product
from bankside.mapping.npu_graph import Graph, Tensor
from bankside.mapping.npu_layers import Conv2d, Copy, Elementwise, MatMul
from bankside.mapping.npu_reference import integers
from bankside.sim.golden.npu import NpuGolden
from bankside.sim.timing.npu import NpuTiming

MACHINES = ("npu_u55_32", "npu_u55_256", "npu_llm_64", "npu_llm_256")


def machine(name: str, **keys: int) -> NpuMachine:
    """A preset with other sizes."""
    config = load_machine(name).config
    return NpuMachine.of(config.model_copy(update={"npu": config.npu.model_copy(update=keys)}))


def random_inputs(graph: Graph, seed: int = 1) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {t.name: rng.integers(t.form.low, t.form.high + 1, t.shape) for t in graph.inputs}


def check(graph: Graph, mc: NpuMachine) -> Compiled:
    """Compile, verify, run on the golden model, compare every output."""
    compiled = compile_graph(graph, mc)
    inputs = random_inputs(graph)
    program = compiled.bind(inputs)
    verify(program, mc)
    found = compiled.outputs(NpuGolden(mc).run(program).outputs)
    wanted = integers(graph, inputs)
    assert found
    for name, values in found.items():
        assert np.array_equal(values, wanted[name]), name
    return compiled


# --- random graphs ------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", MACHINES)
def test_single_layers(name: str, kind: str) -> None:
    mc = load_machine(name)
    if kind == "matmul" and not mc.wide:
        pytest.skip("profile u55")
    for seed in range(6):
        check(RandomGraphs(mc, seed).graph(1, (kind,)), mc)


@pytest.mark.parametrize("name", MACHINES)
def test_random_networks(name: str) -> None:
    mc = load_machine(name)
    for seed in range(8):
        check(RandomGraphs(mc, 100 + seed).graph(9), mc)


@pytest.mark.parametrize(("name", "words"), [("npu_u55_64", 1024), ("npu_llm_128", 1024)])
def test_networks_that_do_not_fit_are_cut_into_stripes(name: str, words: int) -> None:
    mc = machine(name, shared_words=words)
    kinds = ("conv2d", "depthwise", "pool", "elementwise", "lut", "norm")
    stripes = []
    for seed in range(8):
        graphs = RandomGraphs(mc, 200 + seed, size=24, channels=60, views=0)
        graph = graphs.graph(4, kinds)
        stripes += [layer.stripes for layer in check(graph, mc).report.layers]
    assert sum(n > 2 for n in stripes) >= 6


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("name", ["npu_u55_64", "npu_llm_64"])
def test_reshape_and_concatenation(name: str, bits: int) -> None:
    form = Affine(0.1, 0, bits)
    x, other = Tensor("x", (2, 4, 64), form), Tensor("other", (2, 4, 32), form)
    wide, narrow = Tensor("wide", (1, 2, 256), form), Tensor("narrow", (4, 4, 16), form)
    same, joined = Tensor("same", (1, 8, 64), form), Tensor("joined", (2, 4, 96), form)
    layers = [
        Copy("wide", wide, source=x),
        Copy("narrow", narrow, source=other),
        Copy("same", same, source=x),
        Copy("left", joined.view("left", (0, 0, 0), x.shape), source=x),
        Copy("right", joined.view("right", (0, 0, 64), other.shape), source=other),
    ]
    mc = load_machine(name)
    graph = Graph("copies", [x, other], layers, [wide, narrow, same, joined])
    program = check(graph, mc).program
    # The last COPY moves whole words, as everything is aligned.
    wide_register = program.spec.enums["register"]["wide"]
    values = [i.value for i in program.instructions() if i.name == "SET" and i.reg == wide_register]
    assert values[-1] == 1
    padded = Tensor("x", (2, 3, 32), form)
    target = Tensor("y", (1, 6, 32), form)
    flat = Graph("flat", [padded], [Copy("flat", target, source=padded)], [target])
    if mc.wide:
        with pytest.raises(ConfigError, match="rows of 'x' are padded for transfers"):
            compile_graph(flat, mc)
    else:
        check(flat, mc)


def test_a_random_network_takes_each_kind_and_views() -> None:
    graph = RandomGraphs(load_machine("npu_llm_64"), 3, views=0.5).graph(40)
    assert {layer.kind for layer in graph.layers} == set(KINDS)
    assert any(t.of for layer in graph.layers for t in layer.inputs)


# --- caches -------------------------------------------------------------------------------------

_FORM = Affine(0.02, 3)


def cache_step(position: int, caches: tuple[Tensor, Tensor], weights: np.ndarray) -> Graph:
    """One token: keys by rows, values by columns, scores over all tokens so far."""
    size, tokens = 32, position + 1
    keys, values = caches
    x = Tensor("x", (1, 1, size), _FORM)
    key = keys.view("key", (0, position, 0), (1, 1, size))
    linear = Conv2d(
        "key projection", key, source=x, weights=weights, bias=np.zeros(size, np.int32),
        mult=np.array([1 << 30], np.int32), shift=np.array([-6], np.int32),
    )  # fmt: skip
    block = values.view("block", (0, 0, position // 32 * 32), (1, size, 32))
    fresh = Tensor("fresh", (1, size, 32), _FORM)
    held = Tensor("held", (1, 1, size), _FORM)
    column = Tensor("column", (1, size, 1), _FORM)
    mult, shift = (np.array([v], np.int32) for v in multiplier(0.002))
    scores = Tensor("scores", (1, 1, tokens), _FORM)
    score = MatMul(
        "scores", scores, a=x, b=keys.view("all keys", (0, 0, 0), (1, tokens, size)),
        mult=mult, shift=shift,
    )  # fmt: skip
    layers = [
        linear,
        Copy("hold", held, source=x),
        Copy("turn", column, source=held, order=(0, 2, 1)),
        Elementwise("spread", fresh, op="mul", a=Tensor(
            "ones", (1, size, 32), Affine(1.0), np.ones((1, size, 32), int)
        ), b=column, o_scale=(1 << 30, 1)),
        Copy("keep", block, source=fresh),
        score,
    ]  # fmt: skip
    return Graph(f"step {position}", [x], layers, [scores, values], caches)


def test_caches_stay_from_program_to_program() -> None:
    mc = load_machine("npu_llm_64")
    rng = np.random.default_rng(4)
    caches = (
        Tensor("keys", (1, 40, 32), _FORM, persistent=True),
        Tensor("values", (1, 32, 64), _FORM, persistent=True),
    )
    weights = rng.integers(-60, 60, (32, 1, 1, 32)).astype(np.int8)
    compiler, golden, kept, programs = Compiler(mc), NpuGolden(mc), {}, []
    for position in range(34):
        compiled = compiler.compile(cache_step(position, caches, weights))
        inputs = random_inputs(compiled.graph, position)
        programs.append(compiled.bind(inputs))
        found = compiled.outputs(golden.run(programs[-1]).outputs)
        wanted = integers(compiled.graph, inputs, kept)
        assert all(np.array_equal(v, wanted[name]) for name, v in found.items())
        assert found["scores"].any()
    verify_chain(programs, mc)
    with pytest.raises(Exception, match="nothing has written before"):
        verify(programs[1], mc)


# --- cycles -------------------------------------------------------------------------------------


def cycles(name: str, layer: str) -> tuple[int, Compiled]:
    mc = load_machine(name)
    compiled = compile_graph(LAYERS[layer](), mc)
    program = compiled.bind(random_inputs(compiled.graph))
    return NpuTiming(mc).run(program).cycles, compiled


@pytest.mark.parametrize("name", MACHINES)
def test_predicted_cycles(name: str) -> None:
    """The search predicts the kernel engine within 4 %, where no transfer holds it up."""
    mc = load_machine(name)
    for layer in ("conv1x1_M64_K64_N64", "conv1x1_M256_K256_N256"):
        compiled = compile_graph(LAYERS[layer](), mc)
        result = NpuTiming(mc).run(compiled.bind(random_inputs(compiled.graph)))
        kernel = sum(result.counters[k] for k in ("mac", "weights", "output", "setup"))
        assert kernel == pytest.approx(compiled.report.layers[0].cycles, rel=0.04)


def test_the_choice_is_not_beaten_by_another_block() -> None:
    mc = load_machine("npu_llm_256")
    found, compiled = cycles("npu_llm_256", "conv1x1_M64_K64_N64")
    spec = compiled.program.spec
    block = spec.enums["register"]["block"]
    for other in (4, 16, 48, 64):
        words = tuple(
            spec.encode("SET", reg=block, value=other)
            if (ins := spec.decode(word)).name == "SET" and ins.reg == block else word
            for word in compiled.program.words
        )  # fmt: skip
        program = replace(compiled.bind(random_inputs(compiled.graph)), words=words)
        assert NpuTiming(mc).run(program).cycles >= 0.99 * found


def test_only_the_named_layers_are_measured() -> None:
    mc = load_machine("npu_u55_64")
    graph = RandomGraphs(mc, 5).graph(6)
    names = [layer.name for layer in graph.layers]
    whole = compile_graph(graph, mc)
    part = compile_graph(graph, mc, measured=(names[2], names[3]))
    found = NpuTiming(mc).run(part.bind(random_inputs(graph)))
    everything = NpuTiming(mc).run(whole.bind(random_inputs(graph)))
    assert sum(everything.counters.values()) == everything.cycles
    assert 0 < sum(found.counters.values()) < 0.9 * sum(everything.counters.values())
    predicted = sum(layer.cycles for layer in part.report.layers[2:4])
    assert sum(found.counters.values()) >= predicted * 0.9
    with pytest.raises(ConfigError, match="no layer 'nowhere'"):
        compile_graph(graph, mc, measured=("nowhere", names[0]))


# --- programs -----------------------------------------------------------------------------------


def test_registers_are_set_only_to_new_values() -> None:
    mc = load_machine("npu_u55_128")
    program = compile_graph(RandomGraphs(mc, 7).graph(12), mc).program
    held: dict[int, int] = {}
    sets = [ins for ins in program.instructions() if ins.name == "SET"]
    for ins in sets:
        assert held.get(ins.reg, 0) != ins.value
        held[ins.reg] = ins.value
    assert len(sets) > 50


@pytest.mark.parametrize("wait", ["DMA_WAIT", "KERNEL_WAIT"])
def test_waits_are_not_there_for_nothing(wait: str) -> None:
    """Without one of them most programs are illegal; without all of them every one."""
    mc = load_machine("npu_llm_64")
    refused = total = 0
    for seed in range(4):
        graph = RandomGraphs(mc, 300 + seed).graph(8)
        program = compile_graph(graph, mc).bind(random_inputs(graph))
        waits = [i for i, ins in enumerate(program.instructions()) if ins.name == wait]
        for gone in ([w] for w in waits):
            refused += illegal(without(program, gone), mc)
            total += 1
        assert illegal(without(program, waits), mc)
    assert refused > 0.6 * total


def without(program: Program, gone: list[int]) -> Program:
    words = tuple(w for i, w in enumerate(program.words) if i not in gone)
    return replace(program, words=words)


def illegal(program: Program, mc: NpuMachine) -> bool:
    try:
        verify(program, mc)
    except ProgramError:
        return True
    return False


def test_operations_start_early_only_where_they_may() -> None:
    """Chunks of one layer do; a layer that reads the one before does not."""
    mc = load_machine("npu_llm_64")
    x = Tensor("x", (2, 2, 32), _FORM)
    middle, y = Tensor("m", (2, 2, 320), _FORM), Tensor("y", (2, 2, 32), _FORM)
    rng = np.random.default_rng(2)
    layers = []
    for name, source, output in (("first", x, middle), ("second", middle, y)):
        outputs, inputs = output.shape[2], source.shape[2]
        weights = rng.integers(-50, 50, (outputs, 3, 3, inputs)).astype(np.int8)
        layers.append(Conv2d(
            name, output, source=source, kernel=(3, 3), pad=(1, 1), weights=weights,
            bias=np.zeros(outputs, np.int32), mult=np.array([1 << 30], np.int32),
            shift=np.array([-9], np.int32),
        ))  # fmt: skip
    graph = Graph("two", [x], layers, [y])
    program = check(graph, mc).bind(random_inputs(graph))
    depend, flags, held = program.spec.enums["register"]["depend"], [], 0
    for ins in program.instructions():
        held = ins.value if ins.name == "SET" and ins.reg == depend else held
        if ins.name == "CONV":
            flags.append(held)
    assert flags[0] == 0 and 1 in flags and flags.count(0) == 2
    early = tuple(
        program.spec.encode("SET", reg=depend, value=1)
        if ins.name == "SET" and ins.reg == depend else word
        for ins, word in zip(program.instructions(), program.words, strict=True)
    )  # fmt: skip
    assert illegal(replace(program, words=early), mc)


def test_weights_come_while_the_operation_before_runs() -> None:
    mc = load_machine("npu_llm_256")
    compiled = compile_graph(fully_connected(768, 768), mc)
    result = NpuTiming(mc).run(compiled.bind(random_inputs(compiled.graph)))
    layer = compiled.report.layers[0]
    assert layer.operations == 24
    assert result.cycles < 0.8 * (layer.bytes_bound + layer.cycles)


def test_weights_that_fit_are_loaded_once_for_all_stripes() -> None:
    mc = machine("npu_u55_64", shared_words=2048)
    graph = convolution((40, 40, 32), 32, 3)
    report = check(graph, mc).report
    weights = 32 * 32 * 9
    assert report.layers[0].stripes > 2
    maps = 2 * 40 * 40 * 32
    halo = 2 * report.layers[0].stripes * 40 * 32
    assert weights + maps < report.layers[0].bytes < 1.1 * (weights + maps + halo)


def test_pieces_smaller_than_a_word() -> None:
    """A layer of which a word of results needs more weights than fit half of the buffer."""
    mc = machine("npu_u55_64", weight_bytes=16384)
    report = check(fully_connected(768, 80), mc).report
    assert report.layers[0].operations == 10 + 1
    report = check(convolution((3, 3, 512), 44), mc).report
    assert report.layers[0].operations > 2


def test_four_bit_weights() -> None:
    mc = load_machine("npu_llm_256")
    check(convolution((2, 3, 100), 50, 3, bits=4), mc)
    four, eight = (check(fully_connected(768, 64, bits=b), mc).report.layers[0] for b in (4, 8))
    assert four.bytes < 0.8 * eight.bytes
    assert four.mode == "row"
    with pytest.raises(ConfigError, match="4-bit weights; profile u55 has 8 bits"):
        compile_graph(fully_connected(64, 32, bits=4), load_machine("npu_u55_32"))


# --- what does not fit --------------------------------------------------------------------------


def test_messages_name_layer_and_buffer() -> None:
    with pytest.raises(ConfigError, match="'layer' .matmul.: profile u55 has no product"):
        compile_graph(product(4, 32, 4), load_machine("npu_u55_64"))
    small = machine("npu_u55_64", weight_bytes=1024)
    with pytest.raises(ConfigError, match=r"'layer' .conv2d.: one group .* weight_bytes = 1024"):
        compile_graph(convolution((2, 2, 512), 8), small)
    small = machine("npu_u55_64", shared_words=64, banks=4)
    with pytest.raises(ConfigError, match=r"'layer' .conv2d.: needs \d+ words of the shared"):
        compile_graph(convolution((4, 90, 32), 8), small)
    config = load_machine("npu_u55_64").config
    memory = config.memory.model_copy(update={"bytes": 4096})
    with pytest.raises(ConfigError, match="bytes of main memory, memory.bytes is 4096"):
        compile_graph(
            fully_connected(256, 64), NpuMachine.of(config.model_copy(update={"memory": memory}))
        )


def test_inputs_are_checked() -> None:
    compiled = compile_graph(fully_connected(40, 8), load_machine("npu_u55_64"))
    with pytest.raises(ConfigError, match=r"inputs \['z'\]; 'convolution' has \['x'\]"):
        compiled.bind({"z": np.zeros((1, 1, 40))})
    with pytest.raises(ConfigError, match=r"input 'x': shape \(1, 1, 39\)"):
        compiled.bind({"x": np.zeros((1, 1, 39))})
    with pytest.raises(ConfigError, match=r"input 'x'.*expected .*-128..127"):
        compiled.bind({"x": np.full((1, 1, 40), 128)})
