"""The control of the `array` engine in Amaranth's simulator, word by word and cycle by cycle
against the model in reference_array_control.py, with the same tokens from outside.
"""

import importlib.util
import itertools
import random
import sys
from pathlib import Path

import pytest
from amaranth.sim import Simulator

from bankside.config import HardwareConfig
from bankside.hw.array.control.control import Control
from bankside.hw.array.words import word_layout
from bankside.isa.array_machine import ArrayMachine
from bankside.isa.program import Builder


def _sibling(name: str):
    """A module of this folder (tests are not a package)."""
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
    return sys.modules[name]


reference = _sibling("reference_array_control")
SPEC, Model, Outside = reference.SPEC, reference.Model, reference.Outside
LOAD, COMPUTE, STORE = reference.LOAD, reference.COMPUTE, reference.STORE
MACHINES = {
    name: ArrayMachine.of(HardwareConfig.load(name))
    for name in ("array_4x4", "array_6x10", "array_8x8_deep")
}


# --- the RTL --------------------------------------------------------------------------------------


def described(layout, value: int) -> dict:
    """Fields of a word that are not 0, for messages."""
    word = layout.from_bits(value)
    parts = {p: {f: getattr(word[p][f], "value", word[p][f]) for f, _ in shape.shape}
             for p, shape in layout}  # fmt: skip
    return {p: {f: v for f, v in fields.items() if v} for p, fields in parts.items()}


async def load_program(ctx, dut, words) -> None:
    ctx.set(dut.program_en, 1)
    for address, word in enumerate(words):
        ctx.set(dut.program_address, address)
        ctx.set(dut.program_data, word)
        await ctx.tick()
    ctx.set(dut.program_en, 0)


def drive(ctx, dut, outside: Outside, cycle: int) -> None:
    """The engines outside in this cycle."""
    for engine, name in ((LOAD, "load"), (STORE, "store")):
        port, queue = getattr(dut, f"{name}_tokens"), getattr(dut, name)
        present = ctx.get(port.present) >> COMPUTE & 1
        ctx.set(port.give, bool(outside.gives[cycle, engine]) << COMPUTE)
        ctx.set(port.take, (present & ((cycle, engine) in outside.takes)) << COMPUTE)
        ctx.set(queue.ready, (cycle, engine) in outside.pops)
        ctx.set(getattr(dut, f"{name}_idle"), cycle not in outside.busy)


def compare(machine, program, outside: Outside = Outside()) -> Model:  # noqa: B008 (not changed)
    """Run model and RTL; AssertionError on the first difference. Returns the finished model."""
    model, dut = Model(machine, program, outside).finish(), Control(machine)
    layout = word_layout(machine)
    words = [layout.const(entry[0]).as_value().value for entry in model.log] + [0]
    macros = {"decision": [], "done": [], "complete": []}

    async def bench(ctx) -> None:
        await load_program(ctx, dut, program.words)
        ctx.set(dut.start, 1)
        await ctx.tick()
        ctx.set(dut.start, 0)
        for cycle, (_, tile, present) in enumerate(model.log):
            drive(ctx, dut, outside, cycle)
            issued, expected = ctx.get(dut.word.as_value()), words[cycle - 1]
            assert issued == expected, (
                f"word of cycle {cycle - 1}: {described(layout, issued)}, expected "
                f"{described(layout, expected)}"
            )
            assert ctx.get(dut.running) and ctx.get(dut.cycle) == cycle
            trace = ctx.get(dut.trace)
            assert (trace.slot_0, trace.slot_0 and (trace.iteration, trace.tile)) == (
                tile is not None, tile or 0), f"pass of cycle {cycle}"  # fmt: skip
            assert present == [
                bool(ctx.get(port.present) >> COMPUTE & 1)
                for port in (dut.load_tokens, dut.store_tokens)
            ], f"tokens of cycle {cycle}"
            for name, cycles in macros.items():
                if trace[name]:
                    cycles.append(cycle)
            assert ctx.get(dut.done) == (cycle == len(model.log) - 1), f"cycle {cycle}"
            await ctx.tick()
        assert not ctx.get(dut.running) and not ctx.get(dut.error)
        assert macros == model.macros
        counts = {name: ctx.get(dut.counts[i]) for i, name in enumerate(SPEC.stalls)}
        assert counts == {name: model.counters[name] for name in SPEC.stalls}
        assert sum(counts.values()) == ctx.get(dut.cycle) == len(model.log)

    simulator = Simulator(dut)
    simulator.add_clock(1e-9)
    simulator.add_testbench(bench)
    simulator.run()
    return model


# --- programs -------------------------------------------------------------------------------------

DEFAULTS = {"kv_ring": 4096, "s_ring": 4096, "group": 1, "keys": 64, "q": 2, "k": 8, "v": 40}


def schedule(b: Builder, ii: int, blocks, **kernel) -> None:
    """KERNEL and its BLOCKs: (index, op, start, length, stage, flags)."""
    b.KERNEL(ii=ii, **kernel)
    for index, op, start, length, stage, flags in blocks:
        b.BLOCK(index=index, op=op, start=start, length=length, stage=stage,
                free="f" in flags, done="d" in flags)  # fmt: skip


def registers(b: Builder, **values: int) -> None:
    for name, value in values.items():
        b.SET(reg=name, value=value)


def program(commands, **values: int):
    b = Builder("array", 4)
    registers(b, **(DEFAULTS | values))
    commands(b)
    b.HALT()
    return b.build()


# One tile per pass, its blocks in three stages (E = 6, F = 4 on the 4 x 4 array).
FUSED = [
    (0, "qk", 0, 6, 0, ""), (1, "lm", 6, 1, 0, ""), (2, "exp", 7, 7, 1, ""),
    (3, "sld", 14, 1, 1, ""), (4, "slnv", 15, 4, 1, "f"), (8, "rcp", 1, 1, 2, ""),
    (9, "av", 7, 4, 2, "d"),
]  # fmt: skip
# One tile at a time; every pass ends early.
SERIAL = [
    (0, "qk", 0, 6, 0, ""), (1, "drain", 7, 4, 0, ""), (2, "passx", 22, 4, 0, ""),
    (3, "fill", 38, 4, 0, ""), (4, "slnv", 42, 4, 0, "fd"),
]  # fmt: skip


def test_tiles_overlap_and_end_early():
    """Three tiles in flight; the last passes are bubbles, the last one ends with `done`."""

    def commands(b: Builder) -> None:
        schedule(b, 19, FUSED, format="bf16")
        b.RUN(tiles=5, first=1, last=1)

    model = compare(MACHINES["array_4x4"], program(commands, kv_step=2, causal=1, position=7))
    passes = [entry[1] for entry in model.log if entry[1]]
    assert passes == [(True, tile) for tile in range(5)] + [(False, 0), (False, 0)]
    # `rcp` and `av` only in the last tile; `done` is in slot 10 of the last pass.
    assert model.counters["mac"] == 5 * 19 and model.counters["lane"] == 1 + 4
    assert model.counters["bubble"] == 6 * 19 + 11 - 5 * 19 - 5


def test_runs_follow_each_other_without_draining():
    """Iterations of two RUNs in one pass, each with its own operands, set and tokens."""

    def commands(b: Builder) -> None:
        schedule(b, 19, FUSED)
        for which in range(3):
            registers(b, q=2 + 2 * which, out=20 + which, position=9 + which, kv_phase=which)
            b.RUN(tiles=2, first=1, last=1, set=which & 1, signal="store")

    takes = [(cycle, STORE) for cycle in range(200, 400)]
    model = compare(
        MACHINES["array_4x4"],
        program(commands, kv_step=3, kv_ring=3, s_ring=2, s_step=1),
        Outside(takes=takes),
    )
    assert len([e for e in model.log if e[1]]) == 6 + 2
    assert [b - a for a, b in zip(*[model.macros["decision"][i:] for i in (0, 1)], strict=False)]
    assert model.macros["complete"] == [
        c + MACHINES["array_4x4"].settle for c in model.macros["done"]
    ]


def test_one_tile_at_a_time():
    """Every pass ends early, and the next begins two cycles later."""

    def commands(b: Builder) -> None:
        schedule(b, 50, SERIAL, chunked=1, correct=1)
        b.RUN(tiles=4, first=1)

    model = compare(MACHINES["array_4x4"], program(commands, s=64, s_step=1, s_ring=3, window=5))
    starts = [cycle for cycle, entry in enumerate(model.log) if entry[1]]
    assert [b - a for a, b in itertools.pairwise(starts)] == [46 + 1] * 3


@pytest.mark.parametrize("seed", range(3))
def test_tiles_wait_for_tokens_of_the_load_engine(seed):
    """Bubbles while a token is missing, and passes that end early before the RUN does."""
    rng = random.Random(seed)

    def commands(b: Builder) -> None:
        schedule(b, 19, FUSED)
        b.RUN(tiles=4, each=1, free=1, first=1, last=1, wait="load", signal=("load", "store"))
        b.RUN(tiles=1, each=1, free=1, first=1, last=1, wait=("load", "store"), signal="load")

    gives = [(c, LOAD) for c in rng.sample(range(40, 400), 7)] + [(rng.randrange(500), STORE)]
    takes = [(cycle, LOAD) for cycle in rng.sample(range(60, 700), 400)]
    model = compare(MACHINES["array_4x4"], program(commands), Outside(gives, takes))
    assert model.counters["wait_load"]


def test_two_load_tokens_are_needed_for_wait_and_each():
    def commands(b: Builder) -> None:
        schedule(b, 19, FUSED)
        b.RUN(tiles=1, each=1, wait="load")

    for second in (90, 91):
        model = compare(
            MACHINES["array_4x4"], program(commands), Outside([(60, LOAD), (second, LOAD)])
        )
        assert model.macros["decision"] == [second + 1]


def test_waiting_counts_by_reason():
    """The store token comes last; then the engines finish: store first, load later."""

    def commands(b: Builder) -> None:
        schedule(b, 19, FUSED)
        b.RUN(tiles=1, wait=("load", "store"))
        b.LOAD(side="column")
        b.STORE()

    outside = Outside(
        gives=[(80, LOAD), (100, STORE)], pops=[(70, LOAD), (170, STORE)], busy=range(60, 240)
    )
    model = compare(MACHINES["array_4x4"], program(commands), outside)
    assert model.counters["wait_store"] == 20
    for name in ("wait_load", "settle", "store", "control"):
        assert model.counters[name], name


def test_barrier_and_kernel_wait_until_settled():
    """A second schedule begins with tag 0 and without the blocks of the first."""

    def commands(b: Builder) -> None:
        schedule(b, 19, FUSED)
        b.RUN(tiles=1)
        schedule(b, 8, [(3, "qk", 0, 5, 0, "d")])
        b.RUN(tiles=3)
        b.BARRIER()
        b.SET(reg="q", value=9)
        b.RUN(tiles=2)

    compare(MACHINES["array_4x4"], program(commands))


def test_a_full_queue_holds_the_front_end():
    def commands(b: Builder) -> None:
        schedule(b, 1, [(0, "qk", 0, 1, 0, "d")])
        for index in range(9):
            registers(b, q=index)
            b.RUN(tiles=7)

    model = compare(MACHINES["array_4x4"], program(commands))
    # One slot per pass: no cycle is lost between tiles and RUNs.
    assert model.counters["mac"] == 63
    assert model.macros["done"][-1] - model.macros["decision"][0] == 63


# --- random schedules -----------------------------------------------------------------------------


def random_blocks(rng: random.Random, ii: int, stages: int) -> list:
    """Blocks that share no slots, some empty slots; the one that ends last has `done`."""
    names, blocks, slot, quiet = list(SPEC.enums["block_op"]), [], rng.randrange(min(2, ii)), []
    while slot < ii and len(blocks) < 8:
        op = rng.choice(names[:9])
        length = rng.randint(1, min(9, ii - slot))
        blocks.append([len(blocks), op, slot, length, rng.randrange(stages), rng.choice("f ")])
        if op in ("qk", "exp") and length > 1:
            quiet.append((slot, length))
        slot += length + rng.choice((0, 0, 1, 3))
    for index, (slot, length) in enumerate(quiet[:4]):
        part = rng.randint(1, length)
        stage, op = rng.randrange(stages), rng.choice(names[9:])
        blocks.append([8 + index, op, slot + length - part, part, stage, ""])
    last = max(blocks, key=lambda block: (block[4], block[2] + block[3]))
    last[5] += "d"
    return blocks


def random_case(seed: int, machine) -> tuple:
    """Schedules and RUNs with random operands and tokens; every token that is needed comes."""
    rng, need = random.Random(seed), [0, 0]

    def commands(b: Builder) -> None:
        for _ in range(2):
            ii = rng.choice((1, 2, rng.randint(3, 40)))
            blocks = random_blocks(rng, ii, rng.randint(1, 8))
            schedule(b, ii, blocks, format=rng.randrange(2), chunked=rng.randrange(2))
            for _ in range(rng.randint(1, 4)):
                tiles, flags = rng.randint(1, 6), [rng.randrange(2) for _ in range(5)]
                each, free, first, last, which = flags
                ring, s_ring = rng.randint(1, 5), rng.randint(1, 4)
                registers(
                    b, q=rng.randrange(50), out=rng.randrange(50), k=rng.randrange(99),
                    v=rng.randrange(99), kv_ring=ring, kv_phase=rng.randrange(ring),
                    kv_step=rng.randrange(12), s=rng.randrange(50), s_ring=s_ring,
                    s_step=rng.randrange(9), position=rng.randrange(200), keys=rng.randrange(200),
                    first_key=rng.randrange(90), window=rng.randrange(50),
                    causal=rng.randrange(2), group=rng.randint(1, 9),
                )  # fmt: skip
                wait = [name for name in ("load", "store") if rng.random() < 0.3]
                need[0] += each * tiles + ("load" in wait)
                need[1] += "store" in wait
                signal = tuple(name for name in ("load", "store") if rng.random() < 0.5)
                b.RUN(tiles=tiles, each=each, free=free, first=first, last=last, set=which,
                      wait=tuple(wait), signal=signal)  # fmt: skip

    chosen = program(commands)
    gives = [(c, e) for e, n in zip((LOAD, STORE), need, strict=True)
             for c in rng.sample(range(600), n)]  # fmt: skip
    takes = [(rng.randrange(1200), rng.choice((LOAD, STORE))) for _ in range(800)]
    return chosen, Outside(gives, takes, rng.sample(range(1500), 700))


@pytest.mark.parametrize("name", MACHINES)
@pytest.mark.parametrize("seed", range(6))
def test_random_schedules(name, seed):
    compare(MACHINES[name], *random_case(100 * len(name) + seed, MACHINES[name]))
