"""Graphs: checks, files, tiles, sources; why a scratchpad is too small; `bankside allocate`."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from bankside.cli import main
from bankside.errors import ConfigError
from bankside.mapping.npu_digits import graph as digits_graph
from bankside.mapping.npu_digits import load_network, quantise_network
from bankside.mapping.scheduling import generators
from bankside.mapping.scheduling.cosma import cosma
from bankside.mapping.scheduling.explain import require_capacity, shortage
from bankside.mapping.scheduling.graph import Graph, Task, load_graph
from bankside.mapping.scheduling.sources import of_npu_graph, of_workload
from bankside.mapping.scheduling.tiles import tiled
from bankside.mapping.workload import Architecture, Batch, operators

EXAMPLE = Path(__file__).parents[3] / "examples" / "allocate_block.yaml"


def task(name: str, inputs: str, output: str, **more) -> Task:
    return Task(name, tuple(inputs), output, **more)


@pytest.mark.parametrize(
    ("tasks", "outputs", "message"),
    [
        ((), "a", "no tasks"),
        ((task("t", "x", "a"), task("t", "a", "b")), "b", "another task of that name"),
        ((task("t", "q", "a"),), "a", "tensor 'q' has no size.*give its bytes"),
        ((task("t", "b", "a"), task("u", "x", "b")), "a", "reads 'b' before it is written"),
        ((task("t", "x", "a"), task("u", "x", "a")), "a", "writes 'a' again"),
        ((task("t", "a", "a"),), "a", "reads 'a' before it is written"),
        ((task("t", "x", "a", whole=("b",)),), "a", "whole names 'b', which it does not read"),
        ((task("t", "x", "a", ticks={"u": 0}),), "a", "0 ticks on 'u'; expected at least 1"),
        ((task("t", "x", "a"),), "b", "output 'b' is written by no task"),
    ],
)
def test_contradictions_are_refused(tasks, outputs, message):
    with pytest.raises(ConfigError, match=message):
        Graph("g", {"x": 1, "a": 1, "b": 1}, tasks, tuple(outputs))


def test_sizes_are_positive():
    with pytest.raises(ConfigError, match="tensor 'x' has 0 bytes"):
        Graph("g", {"x": 0, "a": 1}, (task("t", "x", "a"),), ("a",))


def test_structure():
    graph = generators.resnet(2)
    names = [t.name for t in graph.tasks]
    assert graph.window(names.index("stem")) == range(0, 1)
    assert graph.is_order(range(len(names))) and not graph.is_order(reversed(range(len(names))))
    assert graph.compulsory_bytes == sum(graph.sizes[t] for t in graph.loaded) + 10
    for i, before in enumerate(graph.before):
        assert all(i in graph.after[j] for j in before)


# --- files ----------------------------------------------------------------------------------------
def test_example_file():
    graph = load_graph(EXAMPLE)
    assert graph.largest_working_set == 49152 and graph.tasks[0].ticks == {"unit": 2400}


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("name: residual_block", "nam: r", "file.yaml:2: nam: unknown key.*did you mean 'name'"),
        ("outputs: [y]", "outputs: [z]", "file.yaml: graph.*output 'z' is written by no task"),
        ("x: 16384", "x: large", "file.yaml:4: tensors_bytes.x: is 'large'"),
    ],
)
def test_wrong_files_name_the_line(tmp_path, old, new, message):
    path = tmp_path / "file.yaml"
    path.write_text(EXAMPLE.read_text().replace(old, new))
    with pytest.raises(ConfigError, match=message):
        load_graph(path)


# --- tiles ----------------------------------------------------------------------------------------
@given(st.integers(1, 9), st.integers(1, 9))
def test_tiles_keep_bytes_and_work(first, second):
    whole = generators.transformer(tokens=16, hidden=32, heads=2)
    names = [t.name for t in whole.tasks]
    counts = {name: first if n % 2 else second for n, name in enumerate(names)}
    cut = tiled(whole, counts)
    assert len(cut.tasks) == sum(counts.values())
    assert sum(t.macs for t in cut.tasks) == sum(t.macs for t in whole.tasks)
    assert cut.compulsory_bytes == whole.compulsory_bytes
    assert sum(cut.sizes.values()) == sum(whole.sizes.values())


def test_one_tile_is_the_graph():
    whole = generators.unet(2)
    assert tiled(whole, 1) == whole


def test_a_tile_reads_what_overlaps():
    tasks = (task("t", "x", "a"), Task("u", ("a", "w"), "b", ("w",)))
    graph = Graph("g", {"x": 12, "a": 12, "w": 5, "b": 12}, tasks, ("b",))
    cut = tiled(graph, {"t": 2, "u": 3})
    reads = {t.name: t.inputs for t in cut.tasks}
    assert reads["u.0"] == ("a.0", "w") and reads["u.1"] == ("a.0", "a.1", "w")
    assert reads["u.2"] == ("a.1", "w") and reads["t.1"] == ("x.1",)


def test_tiles_need_less_scratchpad_and_no_more_traffic():
    whole = generators.inception(2)
    cut = tiled(whole, 4)
    assert cut.largest_working_set < whole.largest_working_set
    capacity = whole.largest_working_set
    assert cosma(cut, capacity).extra_bytes <= cosma(whole, capacity).extra_bytes


@pytest.mark.parametrize(
    ("tiles", "message"),
    [({"v": 2}, "no task 'v' to cut"), ({"t": 0}, "0 tiles; expected 1..2"), (3, "3 tiles")],
)
def test_impossible_tiles(tiles, message):
    graph = Graph("g", {"x": 2, "a": 4}, (task("t", "x", "a"),), ("a",))
    with pytest.raises(ConfigError, match=message):
        tiled(graph, tiles)


# --- too small ------------------------------------------------------------------------------------
def test_shortage_names_the_task_and_the_smallest_relaxation():
    graph = load_graph(EXAMPLE)
    found = shortage(graph, 40_000)
    assert found is not None
    assert (found.task, found.missing, found.others, found.tiles) == ("add", 9152, 0, 2)
    require_capacity(graph, 40_000 + found.missing)
    with pytest.raises(ConfigError, match="is 1 B too small for 'add'"):
        require_capacity(graph, 40_000 + found.missing - 1)
    # The other relaxation helps, and one tile fewer does not.
    assert shortage(tiled(graph, found.tiles), 40_000) is None
    assert shortage(tiled(graph, found.tiles - 1), 40_000) is not None


@given(st.integers(1, 60_000))
def test_the_relaxations_are_the_smallest(capacity):
    graph = load_graph(EXAMPLE)
    found = shortage(graph, capacity)
    if found is None:
        return
    assert shortage(graph, capacity + found.missing) is None
    assert shortage(graph, capacity + found.missing - 1) is not None
    if found.tiles is not None:
        place = graph.index[found.task]
        cut = tiled(graph, found.tiles)
        tiles = [i for i, t in enumerate(cut.tasks) if t.name.startswith(f"{found.task}.")]
        assert max(cut.working_set(i) for i in tiles) <= capacity < graph.working_set(place)


def test_no_tiles_help_against_weights():
    tasks = (Task("t", ("x", "w"), "y", ("w",)),)
    graph = Graph("g", {"x": 4, "w": 50, "y": 4}, tasks, ("y",))
    assert "no number of tiles helps" in str(shortage(graph, 40))


# --- sources --------------------------------------------------------------------------------------
def test_npu_network():
    network = digits_graph(quantise_network(load_network()))
    graph = of_npu_graph(network)
    assert [t.name for t in graph.tasks] == [layer.name for layer in network.layers]
    assert [t.macs for t in graph.tasks] == [layer.macs for layer in network.layers]
    conv = network.layers[0]
    assert graph.sizes[f"{conv.name}.w"] == conv.weights.nbytes + conv.bias.nbytes
    assert cosma(graph, graph.largest_working_set).optimal


@pytest.mark.parametrize("batch", [Batch.prefill(1, 256), Batch.decode(4, 2048)], ids=str)
def test_language_model_layer(batch):
    arch = Architecture.load("llama-3-8b")
    graph = of_workload(arch, batch)
    ops = {op.name: op for op in operators(arch, arch.layers[0], batch)}
    assert list(ops) == [t.name for t in graph.tasks]
    for t in graph.tasks:
        if t.kind in ("gemm", "norm"):
            assert graph.sizes[f"{t.name}.w"] == ops[t.name].weight_bytes
    add = next(t for t in graph.tasks if t.name == "ffn_add")
    assert set(add.inputs) == {"down.y", "attention_add.y"}
    assert "kv_append.y" in graph.outputs and "ffn_add.y" in graph.outputs


def test_one_point_only():
    with pytest.raises(ConfigError, match=r"has shape \(2,\).*give a batch of numbers"):
        of_workload(Architecture.load("llama-3-8b"), Batch.decode(np.array([1, 2]), 128))


def test_heads_divide():
    with pytest.raises(ConfigError, match="expected divisors"):
        generators.transformer(hidden=30, heads=4)


# --- command --------------------------------------------------------------------------------------
def allocate(*args: str):
    return CliRunner().invoke(main, ["allocate", str(EXAMPLE), *args])


def test_command_gives_a_plan(tmp_path):
    done = allocate("--bytes", "50000", "--json", "--baselines", "--out", str(tmp_path))
    assert done.exit_code == 0, done.output
    result = json.loads(done.output)
    assert json.loads((tmp_path / "allocation.json").read_text()) == result
    assert result["optimal"] and result["extra_bytes"] == 16384 == result["bound_bytes"]
    assert result["order"] == ["conv1", "conv2", "add"] and len(result["baselines"]) == 32


def test_command_in_time_and_tiles():
    done = allocate("--bytes", "50000", "--device", "unit", "--bytes-per-tick", "16")
    assert done.exit_code == 0 and "in time: 8616 ticks (bound 8616)" in done.output
    assert "traffic 37376 compulsory + 16384 bytes (optimal;" in done.output
    cut = allocate("--bytes", "40000", "--tiles", "4", "--json")
    assert json.loads(cut.output)["extra_bytes"] == 0


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("--bytes", "40000"), "too small for 'add'"),
        (("--bytes", "50000", "--device", "unit"), "go together"),
        (("--bytes", "50000", "--device", "x", "--bytes-per-tick", "1"), "has no ticks on 'x'"),
    ],
)
def test_command_refuses(args, message):
    done = allocate(*args)
    assert done.exit_code == 2 and message in done.output


def test_replace_keeps_checks():
    graph = load_graph(EXAMPLE)
    with pytest.raises(ConfigError):
        replace(graph, outputs=("nothing",))
