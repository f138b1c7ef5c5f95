"""Lanes on numpy: those in C give the same; registers, memories and nets changed from outside."""

import functools
import re
import sys
from pathlib import Path

import numpy as np
import pytest

from bankside.errors import ConfigError, ToolError
from bankside.sim.elaborate import to_json
from bankside.sim.lanes import numpy_cells, numpy_code, numpy_lanes
from bankside.sim.lanes.flatten import load
from bankside.sim.lanes.lanes import Lanes, ints, limbs
from bankside.sim.lanes.numpy_lanes import NumpyLanes, make_lanes
from bankside.sim.lanes.schedule import plan_all

sys.path.insert(0, str(Path(__file__).parent))

from lockstep import agree, apply, next_inputs, same_outputs, same_state  # noqa: E402
from random_design import RandomDesign  # noqa: E402
from random_units import RandomUnits  # noqa: E402


@functools.cache
def random_netlist(seed: int) -> Path:
    return to_json(RandomDesign(seed), "bankside_random")


@functools.cache
def units_netlist(seed: int) -> Path:
    return to_json(RandomUnits(seed), "bankside_units")


def both(netlist: Path, lanes: int = 16) -> tuple[Lanes, NumpyLanes]:
    return Lanes(netlist, lanes), NumpyLanes(netlist, lanes)


# --- the same as in C -----------------------------------------------------------------------------
@pytest.mark.parametrize("seed", range(15))
def test_random_designs(seed) -> None:
    assert agree(*both(random_netlist(seed)), cycles=32, seed=seed) > 600


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(15, 60))
def test_many_random_designs(seed) -> None:
    assert agree(*both(random_netlist(seed), 48), cycles=200, seed=seed) > 3000


@pytest.mark.parametrize("seed", range(3))
def test_kept_modules_and_clocks_that_stop(seed) -> None:
    assert agree(*both(units_netlist(seed)), cycles=40, seed=seed) > 200


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3, 20))
def test_many_kept_modules(seed) -> None:
    assert agree(*both(units_netlist(seed), 32), cycles=200, seed=seed) > 1000


def test_units_are_what_they_are_for() -> None:
    """A kept module in a kept one, with and without a clock of its own, called several times."""
    plans = plan_all(load(units_netlist(0)))
    inner = [p for p in plans if p.module.name == "bankside_stage__inner"]
    stages = [p for p in plans if p.module.name == "bankside_stage"]
    assert sorted("clk" in p.module.inputs for p in inner) == [False, True]
    assert sorted("clk" in p.module.inputs for p in stages) == [False, True]
    assert all(p.module.memories for p in inner)
    assert len(plans[-1].module.instances) == 5
    for plan in stages:
        assert {"result", "went", "stopped", "held"} <= {o for p in plan.phases for o in p.outputs}
        assert len(plan.phases) >= 5
    assert any(flop.enable for flop in plans[-1].module.flops)


def test_lanes_are_rounded_up_and_places_are_those_of_c() -> None:
    compiled, plain = both(random_netlist(0), 17)
    assert (plain.lanes, plain.groups) == (compiled.lanes, compiled.groups) == (32, 2)
    described = [
        [(p.kind, p.path, p.width, p.depth, p.init) for p in lanes.design.places]
        for lanes in (compiled, plain)
    ]
    assert described[0] == described[1]


def test_reset_is_power_on() -> None:
    compiled, plain = both(random_netlist(2))
    agree(compiled, plain, cycles=20, seed=1)
    plain.reset()
    same_state(Lanes(random_netlist(2)), plain, "after reset")
    compiled.reset()
    assert agree(compiled, plain, cycles=20, seed=2)


# --- wrong twins ----------------------------------------------------------------------------------
WRONG_CELLS = {
    "add": ("$add", numpy_cells._arithmetic("|", "|")),
    "sub": ("$sub", numpy_cells._arithmetic("+", "^")),
    "less": ("$lt", numpy_cells._compare("<=")),
    "equal": ("$eq", numpy_cells._compare("!=")),
    "mux": ("$mux", lambda cell, s: s.value(cell.inputs["A"])),
    "first case": ("$pmux", lambda cell, s: s.value(cell.inputs["A"])),
    "parity": ("$reduce_xor", numpy_cells._reduce("{a} != 0")),
    "all": ("$reduce_and", numpy_cells._reduce("{a} != 0")),
    "right": ("$shift", numpy_cells._left),
    "left": ("$shl", numpy_cells._right),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG_CELLS)
def test_a_wrong_cell_is_noticed(name, monkeypatch) -> None:
    kind, code = WRONG_CELLS[name]
    has = [s for s in range(15) if f'"{kind}"' in random_netlist(s).read_text()]
    assert has, f"no random design has a {kind}"
    monkeypatch.setitem(numpy_cells._CODE, kind, code)
    with pytest.raises(AssertionError, match=r"cycle \d+"):
        for seed in has:
            agree(*both(random_netlist(seed)), cycles=64, seed=seed)


def test_a_clock_that_never_stops_is_noticed(monkeypatch) -> None:
    monkeypatch.setattr(numpy_code.ModuleCode, "_enable", lambda self, sig, s: None)
    with pytest.raises(AssertionError, match=r"cycle \d+"):
        agree(*both(units_netlist(0)), cycles=80, seed=0)


def test_a_write_of_too_many_bits_is_noticed(monkeypatch) -> None:
    right = numpy_code.Ram.write

    def wrong(self, enable, address, mask, data):
        return right(self, enable, address, mask | ~mask, data)

    monkeypatch.setattr(numpy_code.Ram, "write", wrong)
    with pytest.raises(AssertionError, match=r"cycle \d+"):
        for seed in range(5):
            agree(*both(random_netlist(seed)), cycles=64, seed=seed)


# --- deposits -------------------------------------------------------------------------------------
def flipped(lanes, path: str, width: int, rng) -> np.ndarray:
    """Random bits of a register other than they are, at least one in every second lane."""
    whole = (1 << width) - 1
    masks = [1 << int(rng.integers(width)) if lane % 2 else 0 for lane in range(lanes.lanes)]
    masks = [m | int.from_bytes(rng.bytes(16), "little") & whole if m else 0 for m in masks]
    return lanes.read(path) ^ limbs(masks, width)


def warmed(netlist: Path, seed: int):
    """Both engines after some cycles, with inputs of one more."""
    lanes, rng = both(netlist), np.random.default_rng(seed)
    inputs = [p for p in lanes[0].design.places if p.kind == "input"]
    for cycle in range(12):
        values = next_inputs(inputs, 16, rng, cycle)
        for engine in lanes:
            apply(engine, values)
            engine.step()
    return lanes, rng, inputs


@pytest.mark.parametrize("seed", range(2))
def test_readers_see_what_is_put_into_a_register(seed) -> None:
    """Registers r0, r1, ... are outputs: o6, o7, ..."""
    lanes, rng, _ = warmed(random_netlist(seed), seed)
    seen = 0
    for place in [p for p in lanes[0].design.places if p.kind == "flop"]:
        values = flipped(lanes[1], place.path, place.width, rng)
        number = re.fullmatch(r"r(\d+)", place.path)
        for engine in lanes:
            engine.write(place.path, values)
            assert np.array_equal(engine.read(place.path), values), place.path
            engine.settle()
            if number:
                shown = ints(engine.get(f"o{6 + int(number[1])}"))
                cut = [v & (1 << place.width) - 1 for v in shown]
                assert cut == ints(values), place.path
                seen += 1
        same_outputs(*lanes, f"after a deposit into {place.path}")
    assert seen >= 20


@pytest.mark.parametrize("netlist", [random_netlist, units_netlist])
def test_every_register_goes_on_from_what_is_put_into_it(netlist) -> None:
    """Also one that nobody writes, whose clock stands still, or that a kept module has."""
    lanes, rng, inputs = warmed(netlist(1), 7)
    flops = [p for p in lanes[0].design.places if p.kind == "flop"]
    for place in flops:
        values = flipped(lanes[1], place.path, place.width, rng)
        for engine in lanes:
            engine.write(place.path, values)
        for cycle in range(3):
            same_outputs(*lanes, f"{place.path}, {cycle} cycles later") if cycle else None
            given = next_inputs(inputs, 16, rng, 60)
            for engine in lanes:
                apply(engine, given)
                engine.step()
        same_state(*lanes, f"after a deposit into {place.path}")


def test_readers_see_what_is_put_into_a_memory() -> None:
    """memory1 is read without a clock, at `address ^ enable`."""
    design = RandomDesign(3)
    lanes, rng, _ = warmed(random_netlist(3), 3)
    shown = f"o{len(design.widths) + design.size + 1}"
    place = next(p for p in lanes[0].design.places if p.path.startswith("memory1"))
    for word in range(place.depth):
        values = limbs([int(rng.integers(1 << place.width)) for _ in range(16)], place.width)
        for engine in lanes:
            engine.set("address", word)
            engine.set("enable", 0)
            engine.write_memory(place.path, word, values)
            assert np.array_equal(engine.read_memory(place.path, word), values)
            engine.settle()
            assert ints(engine.get(shown)) == ints(values), word
    same_state(*lanes, "after deposits into memory1")


def test_memories_go_on_from_what_is_put_into_them() -> None:
    lanes, rng, inputs = warmed(units_netlist(1), 4)
    memories = [p for p in lanes[0].design.places if p.kind == "memory"]
    assert any("unit1." in p.path for p in memories)
    for place in memories:
        word = int(rng.integers(place.depth))
        drawn = [int.from_bytes(rng.bytes(8), "little") % (1 << place.width) for _ in range(16)]
        for engine in lanes:
            engine.write_memory(place.path, word, limbs(drawn, place.width))
        agree_on = next_inputs(inputs, 16, rng, 60)
        for engine in lanes:
            apply(engine, agree_on)
            engine.step(2)
        same_state(*lanes, f"after a deposit into {place.path}")


# --- forced nets ----------------------------------------------------------------------------------
def test_forced_nets() -> None:
    """v0, v1, ... are outputs: o6, o7, ...; what is forced differs from lane to lane."""
    lanes = NumpyLanes(random_netlist(1), nets=True)
    # Of a register its output is shown, not what it becomes.
    registers = {p.path[1:] for p in lanes.design.places if p.kind == "flop"}
    nets = [
        p for p in lanes.design.places
        if p.kind == "net" and re.fullmatch(r"v\d+", p.path) and p.path[1:] not in registers
    ]  # fmt: skip
    assert len(nets) >= 20
    for place in nets:
        port, whole = f"o{6 + int(place.path[1:])}", (1 << place.width) - 1

        def shown(port=port, whole=whole):
            lanes.settle()
            return [v & whole for v in ints(lanes.get(port))]

        before, mask = shown(), [1 << lane % place.width if lane % 3 else 0 for lane in range(16)]
        lanes.force(place.path, limbs(mask, place.width))
        inverted = shown()
        lanes.force(place.path, whole, 0)
        zero = shown()
        lanes.release(place.path)
        assert shown() == before
        assert inverted == [v ^ m for v, m in zip(before, mask, strict=True)], place.path
        assert zero == [0] * 16, place.path


# --- errors ---------------------------------------------------------------------------------------
def test_errors() -> None:
    lanes = NumpyLanes(random_netlist(0))
    with pytest.raises(ConfigError, match="no input 'adress' in the design; nearest: address"):
        lanes.set("adress", 0)
    with pytest.raises(ConfigError, match="'address' has 4 bits; got a value with more"):
        lanes.set("address", 16)
    lanes.close()
    with pytest.raises(ConfigError, match="these lanes are closed"):
        lanes.step()


def test_engine_is_chosen_by_what_there_is(monkeypatch) -> None:
    netlist = random_netlist(0)
    assert isinstance(make_lanes(netlist), Lanes)
    assert isinstance(make_lanes(netlist, engine="numpy"), NumpyLanes)
    with pytest.raises(ConfigError, match="unknown engine 'fast'; expected auto, compiled or nu"):
        make_lanes(netlist, engine="fast")

    def missing() -> str:
        raise ToolError("C++ compiler is missing")

    monkeypatch.setattr(numpy_lanes, "find_cxx", missing)
    assert isinstance(make_lanes(netlist), NumpyLanes)
