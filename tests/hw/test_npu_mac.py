"""MAC path of the npu against the integer reference and the formulas of docs/npu.md section 5."""

import sys
from pathlib import Path
from random import Random

import pytest

from bankside.hw.lib.testing import simulate
from bankside.hw.npu.mac import engine, feed, results
from bankside.hw.npu.mac.engine import MacEngine
from bankside.hw.npu.operation import opcode, register_shapes
from bankside.isa.machines import load_machine
from bankside.isa.npu_machine import NpuMachine

sys.path.insert(0, str(Path(__file__).parent))
from npu_mac_reference import (  # noqa: E402
    Clock,
    Cycles,
    Image,
    Layer,
    expected_shared,
    random_layer,
)


def _fields(machine: NpuMachine, layer: Layer) -> dict[str, int]:
    registers = {name: int(layer.reg[name]) for name in register_shapes(machine)}
    return {"opcode": opcode(layer.name), "mode": layer.mode, **registers}


def _run(machine: NpuMachine, image: Image, layers: list[Layer], limit: int) -> Cycles:
    """Run the layers on the engine; `image.shared` is changed by it."""
    dut, seen = MacEngine(machine), Cycles()
    reads = [(dut.read0, image.shared, 32), (dut.read1, image.shared, 32)]
    reads += [
        (dut.read2, image.shared, 32),
        (dut.weights, image.weights, machine.weight_port_bytes),
    ]

    async def buffers(ctx) -> None:
        signals = [s for port, _, _ in reads for s in (port.en, port.address)]
        write = dut.write0
        signals += [write.en, write.address, write.data, write.mask]
        while True:
            _, _, *values = await ctx.tick().sample(*signals)
            for i, (port, cells, size) in enumerate(reads):
                en, address = values[2 * i : 2 * i + 2]
                if en:
                    data = cells[address * size : (address + 1) * size]
                    assert len(data) == size, f"read of word {address}"
                    ctx.set(port.data, int.from_bytes(data, "little"))
            en, address, data, mask = values[-4:]
            for byte in range(32 if en else 0):
                if mask >> byte & 1:
                    image.shared[32 * address + byte] = data >> 8 * byte & 255

    async def watch(ctx) -> None:
        cycle = 0
        names = {
            "started": seen.starts,
            "steps_done": seen.steps_done,
            "complete": seen.complete,
            "in_step": seen.in_step,
            "lacks_weights": seen.waits_weights,
        }
        pairs = [(getattr(dut, name), cycles) for name, cycles in names.items()]
        pairs += [(dut.write0.en, seen.writes), (dut.read2.en, seen.scale_reads)]
        pairs += [(dut.weights.en, seen.weight_reads), (dut.lacks_output, seen.waits_output)]
        while True:
            _, _, *values = await ctx.tick().sample(*(signal for signal, _ in pairs))
            for (_, cycles), value in zip(pairs, values, strict=True):
                if value:
                    cycles.append(cycle)
            cycle += 1

    async def bench(ctx) -> None:
        for layer in layers:
            ctx.set(dut.operation.payload, _fields(machine, layer))
            ctx.set(dut.operation.valid, 1)
            taken = False
            while not taken:
                _, _, taken = await ctx.tick().sample(dut.operation.ready)
        ctx.set(dut.operation.valid, 0)
        while not ctx.get(dut.idle):
            await ctx.tick()
        for _ in range(4):
            await ctx.tick()

    simulate(dut, bench, background=(buffers, watch), limit=limit)
    return seen


def _check(machine: NpuMachine, image: Image, layers: list[Layer]) -> None:
    clock = Clock(machine)
    head = 0
    for layer in layers:
        clock.add(layer, head)
        head = clock.seen.starts[-1] + 1
    clock.finish()
    before = bytes(image.shared)
    seen = _run(machine, image, layers, clock.complete + 50)
    want = clock.seen
    for name in ("starts", "steps_done", "complete", "in_step", "writes", "scale_reads"):
        assert getattr(seen, name) == getattr(want, name), name
    for name in ("weight_reads", "waits_weights", "waits_output"):
        assert getattr(seen, name) == getattr(want, name), name
    assert bytes(image.shared) == expected_shared(image, layers, before)


def _machine(name: str) -> NpuMachine:
    return load_machine(f"hw/presets/npu_{name}.yaml")


@pytest.mark.parametrize("name", ["u55_32", "llm_32"])
@pytest.mark.parametrize("kind", ["CONV", "DEPTHWISE", "POOL", "MATMUL"])
def test_small(name: str, kind: str) -> None:
    machine = _machine(name)
    if kind == "MATMUL" and not machine.wide:
        pytest.skip("profile u55 has no MATMUL")
    image = Image(machine, Random(f"{name}{kind}"))
    layers = [random_layer(image, kind, small=True) for _ in range(4)]
    _check(machine, image, layers)


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("name", ["u55_32", "u55_256", "llm_32", "llm_256"])
def test_chain(name: str, seed: int) -> None:
    """Operations of all kinds behind each other, most of them with `depend`."""
    machine = _machine(name)
    random = Random(f"{name}{seed}")
    image = Image(machine, random)
    kinds = ("CONV", "DEPTHWISE", "POOL") + (("MATMUL",) if machine.wide else ())
    layers = [
        random_layer(image, random.choice(kinds), small=True, depend=random.random() < 0.8)
        for _ in range(8)
    ]
    _check(machine, image, layers)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("name", [f"{p}_{n}" for p in ("u55", "llm") for n in (32, 64, 128, 256)])
def test_long_chain(name: str, seed: int) -> None:
    """The whole range of channels, with any share of `depend`."""
    machine = _machine(name)
    random = Random(f"long {name}{seed}")
    image = Image(machine, random)
    kinds = ("CONV", "DEPTHWISE", "POOL") + (("MATMUL",) if machine.wide else ())
    share = random.choice((0, 0.5, 1))
    layers = [
        random_layer(image, random.choice(kinds), depend=random.random() < share) for _ in range(5)
    ]
    _check(machine, image, layers)


@pytest.mark.parametrize(
    "module,name,value",
    [
        (engine, "MAC_LATENCY", 5),
        (engine, "MAC_LATENCY", 7),
        (feed, "_INT8_MIN", 0),
        (results, "_CLAMP", 5),
        (results, "TABLE_WORDS", 4),
    ],
)
def test_known_bad(monkeypatch: pytest.MonkeyPatch, module, name: str, value: int) -> None:
    """The checks above find an engine that is wrong in one number."""
    monkeypatch.setattr(module, name, value)
    machine = _machine("llm_32")
    image = Image(machine, Random(name))
    layers = [
        random_layer(image, kind, small=True, depend=1, lut_enable=kind == "CONV", pad_top=4)
        for kind in ("CONV", "POOL", "POOL", "CONV")
    ]
    layers[1].mode = layers[2].mode = 0
    with pytest.raises(AssertionError):
        _check(machine, image, layers)
