"""Parts of the control of the `array` engine: front end and tokens."""

import itertools
import random

import pytest
from amaranth.sim import Simulator

from bankside.config import HardwareConfig
from bankside.errors import ProgramError
from bankside.hw.array.control.control import Control
from bankside.hw.array.control.frontend import DISPATCHED, FrontEnd, Registers
from bankside.hw.array.control.layouts import COMPUTE, LOAD, SPEC
from bankside.hw.array.control.tokens import Tokens
from bankside.isa.array_machine import ArrayMachine
from bankside.isa.program import Builder

MACHINE = ArrayMachine.of(HardwareConfig.load("array_4x4"))
ENGINES = ("load", "compute", "store")


def simulate(component, bench) -> None:
    simulator = Simulator(component)
    simulator.add_clock(1e-9)
    simulator.add_testbench(bench)
    simulator.run()


# --- front end ------------------------------------------------------------------------------------


async def store_program(ctx, front, words) -> None:
    ctx.set(front.program_en, 1)
    for address, word in enumerate(words):
        ctx.set(front.program_address, address)
        ctx.set(front.program_data, word)
        await ctx.tick()
    ctx.set(front.program_en, 0)


async def start(ctx, front) -> None:
    ctx.set(front.start, 1)
    await ctx.tick()
    ctx.set(front.start, 0)


def execute(words, *, compute_from=0, idle_from=0, ready_from=0, fault=None, limit=300) -> dict:
    """Run the front end; what it does, by cycle."""
    front = FrontEnd(MACHINE)
    found = {"sent": [], "schedule": [], "done": None, "error": None, "cycles": None}

    async def bench(ctx):
        await store_program(ctx, front, words)
        await start(ctx, front)
        for cycle in range(limit):
            ctx.set(front.compute_idle, cycle >= compute_from)
            ctx.set(front.idle, cycle >= idle_from)
            ctx.set(front.fault, cycle == fault)
            assert ctx.get(front.running) and ctx.get(front.cycle) == cycle
            for engine in ENGINES:
                port = getattr(front, engine)
                ctx.set(port.ready, cycle >= ready_from)
                if ctx.get(port.valid & port.ready):
                    payload = ctx.get(port.payload)
                    fields = {name: payload[name] for name, _ in port.payload.shape()}
                    found["sent"].append((cycle, engine, fields))
            if ctx.get(front.kernel_en | front.block_en):
                found["schedule"].append((cycle, ctx.get(front.word)))
            if ctx.get(front.done):
                found["done"] = cycle
            await ctx.tick()
            if not ctx.get(front.running):
                break
        found["error"] = ctx.get(front.pc) if ctx.get(front.error) else None
        found["cycles"] = ctx.get(front.cycle)

    simulate(front, bench)
    return found


def program(commands) -> tuple[int, ...]:
    b = Builder("array", 4)
    commands(b)
    return b.build().words


def test_commands_carry_a_copy_of_the_registers():
    """Every register set to its own value; each command has its operands and its registers, also
    after one of them has changed.
    """
    values = {name: number + 1 for name, number in SPEC.enums["register"].items()}
    values |= {"causal": 1, "bank": 1, "bank_step": 2, "inner": 3}
    operands = {
        "LOAD": {"side": 1, "each": 1, "wait": 4, "signal": 2},
        "STORE": {"wait": 2, "signal": 1},
        "RUN": {"tiles": 300, "each": 1, "free": 0, "first": 1, "last": 0, "set": 1, "wait": 5,
                "signal": 1},
    }  # fmt: skip

    def commands(b: Builder) -> None:
        for name, value in values.items():
            b.SET(reg=name, value=value)
        for name in DISPATCHED:
            b.emit(name, **operands[name])
        b.SET(reg="buf", value=77)
        b.LOAD()

    sent, length = execute(program(commands))["sent"], len(values)
    assert [(c, e) for c, e, _ in sent] == [
        *((length + i, SPEC.commands[name].engine) for i, name in enumerate(DISPATCHED)),
        (length + 4, "load"),
    ]
    values |= {"ring_start": values["ring_phase"] * values["buf_step"],
               "kv_start": values["kv_phase"] * values["kv_step"]}  # fmt: skip
    for name, (_, _, fields) in zip(DISPATCHED, sent, strict=False):
        expected = {f: operands[name].get(f, values.get(f)) for f in fields}
        assert fields == expected, name
    assert sent[3][2]["buf"] == 77 and sent[3][2]["wait"] == 0


@pytest.mark.parametrize("seed", range(4))
def test_starts_wrap_like_addresses(seed):
    registers, rng = Registers(MACHINE), random.Random(seed)
    phase, step, kv_phase, kv_step = (rng.getrandbits(24) for _ in range(4))

    async def bench(ctx):
        ctx.set(registers.en, 1)
        for name, value in (("ring_phase", phase), ("buf_step", step), ("kv_phase", kv_phase),
                            ("kv_step", kv_step)):  # fmt: skip
            ctx.set(registers.index, SPEC.enums["register"][name])
            ctx.set(registers.value, value)
            await ctx.tick()
        for engine, product in (("load", phase * step), ("store", phase * step),
                                ("compute", kv_phase * kv_step)):  # fmt: skip
            field = "kv_start" if engine == "compute" else "ring_start"
            got = ctx.get(getattr(registers, engine))[field]
            width = getattr(registers, engine).shape()[field].width
            assert got == product % (1 << width)

    simulate(registers, bench)


def test_a_full_queue_holds_the_command():
    found = execute(program(lambda b: (b.LOAD(), b.RUN())), ready_from=7)
    assert [cycle for cycle, _, _ in found["sent"]] == [7, 8]


def schedule(b: Builder) -> None:
    b.KERNEL(ii=5)
    b.BLOCK(index=3, op="qk", length=2)


@pytest.mark.parametrize(
    ("wait", "done"), [({}, 3), ({"compute_from": 6}, 9), ({"idle_from": 9}, 10)],
    ids=["idle", "compute engine busy", "others busy"],
)  # fmt: skip
def test_what_waits_for_idle(wait, done):
    """KERNEL and BLOCK for the compute engine only; BARRIER and HALT for all."""
    words = program(lambda b: (schedule(b), b.BARRIER()))
    found, first = execute(words, **wait), wait.get("compute_from", 0)
    assert found["schedule"] == [(first, words[0]), (first + 1, words[1])]
    assert (found["done"], found["cycles"], found["error"]) == (done, done + 1, None)


def test_registers_are_zero_at_the_start():
    """A second program does not see the registers of the first."""
    front, seen = FrontEnd(MACHINE), []

    async def bench(ctx):
        for engine in ENGINES:
            ctx.set(getattr(front, engine).ready, 1)
        ctx.set(front.idle, 1)
        for commands in (lambda b: (b.SET(reg="mem", value=99), b.STORE()), lambda b: b.STORE()):
            await store_program(ctx, front, program(commands))
            await start(ctx, front)
            for _ in range(3):
                if ctx.get(front.store.valid):
                    seen.append(ctx.get(front.store.payload).mem)
                await ctx.tick()
            assert not ctx.get(front.running)

    simulate(front, bench)
    assert seen == [99, 0]


def encode(name: str) -> int:
    """A legal word."""
    return SPEC.encode(name, **({"op": "qk"} if name == "BLOCK" else {}))


def rejected() -> list[tuple[str, int]]:
    """Words that the specification refuses, with every kind of reason."""
    return [
        ("zeros", 0),
        ("unknown opcode", 0x3F << 58),
        ("unknown register", encode("SET") | 12 << 32),
        ("unknown block op", encode("BLOCK") & ~(15 << 4) | 10 << 4),
        ("no block op", encode("BLOCK") & ~(15 << 4)),
        ("block index", encode("BLOCK") | 12),
        ("empty block", encode("BLOCK") & ~(0xFFF << 20)),
        ("ii = 0", encode("KERNEL") & ~0xFFF),
        ("no tiles", encode("RUN") & ~0xFFFF),
        ("reserved bit", encode("STORE") | 1),
        ("reserved bit of HALT", encode("HALT") | 1 << 57),
    ]


@pytest.mark.parametrize("word", [pytest.param(w, id=name) for name, w in rejected()])
def test_illegal_words_stop_the_front_end(word):
    """Before the third word; nothing of it happens, although everything is ready."""
    with pytest.raises(ProgramError):
        SPEC.decode(word)
    found = execute((SPEC.encode("SET"), SPEC.encode("LOAD"), word))
    assert (found["error"], found["done"], found["cycles"]) == (2, None, 3)
    assert [cycle for cycle, _, _ in found["sent"]] == [1] and not found["schedule"]


def test_legality_is_that_of_the_specification():
    """Random bits flipped in legal words: the decoder and `Spec.decode` refuse the same ones."""
    front, rng, verdicts = FrontEnd(MACHINE), random.Random(5), set()

    async def bench(ctx):
        ctx.set(front.idle, 0)
        for _ in range(600):
            name = rng.choice(list(SPEC.commands))
            word = encode(name)
            for bit in rng.sample(range(64), rng.randrange(4)):
                word ^= 1 << bit
            try:
                ok = bool(SPEC.decode(word))
            except ProgramError:
                ok = False
            await store_program(ctx, front, [word])
            await start(ctx, front)
            await ctx.tick()
            assert ctx.get(front.error) == (not ok), f"{name} {word:#018x}"
            verdicts.add((name, ok))
            # A BARRIER that waits is stopped, so that the next program can start.
            ctx.set(front.fault, 1)
            await ctx.tick()
            ctx.set(front.fault, 0)

    simulate(front, bench)
    assert len(verdicts) == 2 * len(SPEC.commands)


def test_a_fault_stops_the_machine():
    found = execute(program(lambda b: b.RUN()), ready_from=99, fault=6)
    assert (found["error"], found["cycles"], found["sent"]) == (0, 7, [])


def test_running_past_the_memory_is_an_error():
    depth = MACHINE.config.array.program_words
    found = execute((SPEC.encode("SET"),) * depth, limit=depth + 9)
    assert (found["cycles"], found["done"]) == (depth, None) and found["error"] is not None


def test_a_start_after_an_error_finds_a_fresh_machine():
    """A RUN and a LOAD wait for ever when an illegal word comes; the next program does not see
    them, nor the tokens, blocks and counters left over.
    """
    control, cycles = Control(MACHINE), []

    def hanging(b: Builder) -> None:
        schedule(b)
        for _ in range(2):
            b.RUN(tiles=9, each=1)
        b.LOAD()

    def clean(b: Builder) -> None:
        schedule(b)
        b.SET(reg="keys", value=4)
        b.RUN(tiles=3, each=1)

    async def bench(ctx):
        ctx.set(control.load_idle, 1)
        ctx.set(control.store_idle, 1)
        first = program(clean)
        for words in (first, (*program(hanging)[:-1], 0), first):
            await store_program(ctx, control, words)
            await start(ctx, control)
            for _ in range(400):
                # The broken program is given more tokens than it takes.
                give = words is not first or ctx.get(control.cycle) in (20, 40, 60)
                ctx.set(control.load_tokens.give, give << COMPUTE)
                await ctx.tick()
                if not ctx.get(control.running):
                    break
            assert not ctx.get(control.running)
            ctx.set(control.load_tokens.give, 0)
            counts = [ctx.get(control.counts[i]) for i in range(len(SPEC.stalls))]
            cycles.append((ctx.get(control.error), ctx.get(control.cycle), counts))
            assert ctx.get(control.ready) == (words is first)

    simulate(control, bench)
    assert cycles[0] == cycles[2] != cycles[1] and [c[0] for c in cycles] == [0, 1, 0]


# --- tokens ---------------------------------------------------------------------------------------


def test_every_pair_has_its_own_counter():
    tokens = Tokens()
    ports = [getattr(tokens, name) for name in ENGINES]

    async def bench(ctx):
        for giver, taker in itertools.permutations(range(3), 2):
            ctx.set(ports[giver].give, 1 << taker)
            assert not ctx.get(ports[taker].present)  # from the next cycle on
            await ctx.tick()
            ctx.set(ports[giver].give, 0)
            for engine in range(3):
                expected = 1 << giver if engine == taker else 0
                assert ctx.get(ports[engine].present) == expected, (giver, taker, engine)
            ctx.set(ports[taker].take, 1 << giver)
            await ctx.tick()
            ctx.set(ports[taker].take, 0)
            assert not ctx.get(ports[taker].present)

    simulate(tokens, bench)


def test_several_tokens_in_one_cycle():
    """Two `free` tokens and a completion come together; a RUN takes two for `wait` and `each`."""
    tokens = Tokens()

    async def bench(ctx):
        ctx.set(tokens.compute.give, 1 << LOAD)
        ctx.set(tokens.free, 2)
        ctx.set(tokens.load.give, 1 << COMPUTE)
        seconds = []
        for _ in range(3):
            await ctx.tick()
            seconds.append(ctx.get(tokens.second))
        assert seconds == [0, 1, 1]
        ctx.set(tokens.compute.give, 0)
        ctx.set(tokens.free, 0)
        ctx.set(tokens.load.give, 0)
        ctx.set(tokens.compute.take, 1 << LOAD)
        ctx.set(tokens.each, 1)
        await ctx.tick()
        ctx.set(tokens.compute.take, 0)
        ctx.set(tokens.each, 0)
        assert ctx.get(tokens.compute.present) == 1 << LOAD and not ctx.get(tokens.second)
        ctx.set(tokens.load.take, 1 << COMPUTE)
        taken = 0
        for _ in range(12):
            taken += ctx.get(tokens.load.present) >> COMPUTE
            ctx.set(tokens.load.take, ctx.get(tokens.load.present))
            await ctx.tick()
        assert taken == 9

    simulate(tokens, bench)
