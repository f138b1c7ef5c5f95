"""Parts of the controller in Amaranth's simulator: front end, loops, tokens, refresh, stalls."""

import itertools

import pytest
from amaranth.sim import Simulator

from bankside.config import HardwareConfig
from bankside.hw.pim.controller.array_engine import Kind, Refresh
from bankside.hw.pim.controller.dispatch import Dispatch, TokenBoard
from bankside.hw.pim.controller.frontend import Frontend
from bankside.hw.pim.controller.stalls import REASON, StallCounters
from bankside.isa.dram.table import STALL_TAGS
from bankside.isa.machine import Machine
from bankside.isa.program import Builder, walk
from bankside.isa.spec import load_spec

PIM = load_spec("pim")
MACHINE = Machine.of(HardwareConfig.load("pim_tiny_ddr4"))
ARRAY, BUFFER, RANK, HOST = range(4)


def simulate(component, bench) -> None:
    simulator = Simulator(component)
    simulator.add_clock(1e-9)
    simulator.add_testbench(bench)
    simulator.run()


# --- front end ------------------------------------------------------------------------------------


def execute(words, *, busy_until: int = 0, full_until: int = 0) -> dict:
    """Run the front end: pushes (cycle, engine, word), cycles, whether and where it refused."""
    front, found = Frontend(MACHINE), {"pushes": [], "error": None, "done": None, "geometry": []}

    async def bench(ctx):
        ctx.set(front.program_en, 1)
        for address, word in enumerate(words):
            ctx.set(front.program_addr, address)
            ctx.set(front.program_data, word)
            await ctx.tick()
        ctx.set(front.program_en, 0)
        ctx.set(front.start, 1)
        await ctx.tick()
        ctx.set(front.start, 0)
        for cycle in range(300):
            ctx.set(front.idle, int(cycle >= busy_until))
            ctx.set(front.full, 15 if cycle < full_until else 0)
            assert not ctx.get(front.running) or ctx.get(front.cycle) == cycle
            push = ctx.get(front.push)
            if push:
                found["pushes"].append((cycle, push.bit_length() - 1, ctx.get(front.word)))
            geometry = ctx.get(front.geometry)
            found["geometry"].append((geometry.nhc_log2, geometry.cpt, geometry.lanes))
            if ctx.get(front.done):
                found["done"] = cycle
            await ctx.tick()
            if ctx.get(front.error):
                found["error"] = ctx.get(front.pc)
            if not ctx.get(front.running):
                return

    simulate(front, bench)
    return found


def program(commands) -> tuple[int, ...]:
    b = Builder("pim", 8)
    commands(b)
    return b.build().words


def loops(b: Builder) -> None:
    b.SETA(areg=1, value=5)
    b.LOOP(count=2)
    b.OPEN(bank=1, row=3, areg_en=1, areg=1)
    b.LOOP(count=3)
    b.RDRBS()
    b.ENDLOOP()
    b.ADDA(areg=1, value=(1 << 20) - 1)
    b.CLOSE(bank=1)
    b.ENDLOOP()
    b.HWR()


def test_loops_and_registers_as_the_walk_says():
    """One command per cycle, in the order of `walk`, rows with their register added."""
    b = Builder("pim", 8)
    loops(b)
    chosen, found = b.build(), execute(program(loops))
    steps, expected = list(walk(chosen)), []
    for cycle, step in enumerate(steps):
        engine = PIM.commands[step.instruction.name].engine
        if engine != "control":
            fields = dict(step.instruction.fields)
            if step.instruction.name == "OPEN":
                fields["row"] = step.row
            word = PIM.encode(step.instruction.name, **fields)
            expected.append((cycle, PIM.engines.index(engine), word))
    assert found["pushes"] == expected
    assert (found["done"], found["error"]) == (len(steps) - 1, None)


def test_a_full_queue_holds_the_front_end():
    found = execute(program(lambda b: (b.WRR(), b.HRD())), full_until=7)
    assert [cycle for cycle, _, _ in found["pushes"]] == [7, 8]


@pytest.mark.parametrize("name", ["BARRIER", "GEOM", "HALT"])
def test_commands_that_wait_until_the_machine_is_idle(name):
    words = program(lambda b: (b.emit(name, **({"cpt": 9} if name == "GEOM" else {})), b.WRR()))
    found = execute(words, busy_until=11)
    if name == "HALT":
        assert found["done"] == 11 and found["pushes"] == []
        return
    assert [cycle for cycle, _, _ in found["pushes"]] == [12]
    if name == "GEOM":
        assert found["geometry"][11] == (0, 1, 1) and found["geometry"][12] == (0, 9, 1)


def nested(b: Builder) -> None:
    for _ in range(3):
        b.LOOP(count=2)


@pytest.mark.parametrize(
    ("words", "where"),
    [
        (program(nested), 2),
        (program(lambda b: (b.REF(), b.ENDLOOP())), 1),
        ((0,), 0),
        ((PIM.encode("REF"), PIM.encode("WRR"), 0x3F << 58), 2),
    ],
    ids=["loops too deep", "ENDLOOP alone", "word of zeros", "unknown opcode"],
)
def test_illegal_commands_stop_the_front_end(words, where):
    found = execute(words)
    assert found["error"] == where and found["done"] is None


# --- tokens ---------------------------------------------------------------------------------------


def test_tokens_are_counted_and_usable_one_cycle_later():
    board = TokenBoard()

    async def bench(ctx):
        present = lambda: ctx.get(board.present[BUFFER][ARRAY])  # noqa: E731
        ctx.set(board.gifts[ARRAY][BUFFER], 3)
        assert not present()
        await ctx.tick()
        ctx.set(board.gifts[ARRAY][BUFFER], 1)
        ctx.set(board.take[BUFFER], 1 << ARRAY)
        await ctx.tick()  # 3 + 1 - 1
        ctx.set(board.gifts[ARRAY][BUFFER], 0)
        for _ in range(3):
            assert present()
            await ctx.tick()
        assert not present()
        ctx.set(board.take[BUFFER], 0)
        assert all(
            not ctx.get(board.present[taker][giver]) for giver in range(4) for taker in range(4)
        )
        ctx.set(board.gifts[ARRAY][BUFFER], 2)
        ctx.set(board.clear, 1)
        await ctx.tick()
        assert not present()

    simulate(board, bench)


def test_every_pair_has_its_own_counter():
    board = TokenBoard()

    async def bench(ctx):
        for giver, taker in itertools.permutations(range(4), 2):
            ctx.set(board.gifts[giver][taker], 1)
            await ctx.tick()
            ctx.set(board.gifts[giver][taker], 0)
            for g, t in itertools.permutations(range(4), 2):
                assert ctx.get(board.present[t][g]) == ((g, t) == (giver, taker))
            ctx.set(board.clear, 1)
            await ctx.tick()
            ctx.set(board.clear, 0)

    simulate(board, bench)


def test_load_waits_for_the_token_and_for_the_engine():
    dispatch = Dispatch(2)

    async def bench(ctx):
        ctx.set(dispatch.word, PIM.encode("RDRBS", wait="array"))
        ctx.set(dispatch.push, 1 << BUFFER)
        await ctx.tick()
        assert not ctx.get(dispatch.full[BUFFER])
        await ctx.tick()
        ctx.set(dispatch.push, 0)
        assert ctx.get(dispatch.full[BUFFER]) and not ctx.get(dispatch.full[ARRAY])
        assert ctx.get(dispatch.missing[BUFFER]) == 1 << ARRAY
        ctx.set(dispatch.gifts[ARRAY][BUFFER], 1)
        ctx.set(dispatch.busy, 1 << BUFFER)
        assert not ctx.get(dispatch.load[BUFFER])
        await ctx.tick()
        ctx.set(dispatch.gifts[ARRAY][BUFFER], 0)
        assert not ctx.get(dispatch.load[BUFFER]) and not ctx.get(dispatch.missing[BUFFER])
        ctx.set(dispatch.busy, 0)
        assert ctx.get(dispatch.load[BUFFER])
        await ctx.tick()
        assert not ctx.get(dispatch.load[BUFFER]) and ctx.get(dispatch.waiting[BUFFER])

    simulate(dispatch, bench)


# --- refresh and stalls ---------------------------------------------------------------------------


def test_refresh_is_due_once_every_interval():
    refresh, interval = Refresh(MACHINE), MACHINE.refresh_interval

    async def bench(ctx):
        ctx.set(refresh.enable, 1)
        ctx.set(refresh.running, 1)
        for cycle in range(3 * interval + 2):
            # Taken in cycle 2 * interval + 1: of the two due by then one is left.
            ctx.set(refresh.taken, int(cycle == 2 * interval + 1))
            assert ctx.get(refresh.due) == (cycle // interval > 0), f"cycle {cycle}"
            await ctx.tick()
        ctx.set(refresh.enable, 0)
        assert not ctx.get(refresh.due)
        ctx.set(refresh.enable, 1)
        ctx.set(refresh.start, 1)
        await ctx.tick()
        ctx.set(refresh.start, 0)
        assert not ctx.get(refresh.due)

    simulate(refresh, bench)


def expected_reason(case: dict) -> str:
    """docs/pim.md section 7, test by test."""
    if not case["busy"]:
        asked = case["missing"] if case["waiting"] else case["active"]
        for engine, reason in ((RANK, "wait_rank"), (BUFFER, "wait_buffer"), (HOST, "wait_host")):
            if asked >> engine & 1:
                return reason
        return "control"
    kind = case["kind"]
    if kind == Kind.REFRESH:
        return "refresh"
    if case["issued"]:
        return {Kind.MAC: "mac", Kind.ACTIVATE: "activate", Kind.ROW: "row"}.get(kind, "transfer")
    if case["legal"]:
        return "command_bus"
    tag = STALL_TAGS[case["tag"]]
    if tag == "ccd":
        return "mac" if kind == Kind.MAC else "transfer"
    table = {"cmd": "command_bus", "rrd": "activate", "faw": "activate", "rfc": "refresh",
             "turn": "transfer"}  # fmt: skip
    return table.get(tag, "row")


def test_every_cycle_has_the_documented_reason():
    """All combinations that matter; each is counted exactly once, under the right reason."""
    busy = [dict(busy=1, kind=kind, issued=i, legal=max(i, legal), tag=tag, waiting=0, missing=0,
                 active=1) for kind in Kind for i in (0, 1) for legal in (0, 1)
            for tag in range(len(STALL_TAGS))]  # fmt: skip
    idle = [dict(busy=0, kind=Kind.MAC, issued=0, legal=0, tag=0, waiting=w, missing=m, active=a)
            for w in (0, 1) for m in range(0, 16, 2) for a in range(0, 16, 2)]  # fmt: skip
    counters = StallCounters()

    async def bench(ctx):
        expected = dict.fromkeys(PIM.stalls, 0)
        ctx.set(counters.running, 1)
        for case in busy + idle:
            for name, value in case.items():
                ctx.set(getattr(counters, name), value)
            await ctx.tick()
            expected[expected_reason(case)] += 1
            got = {name: ctx.get(counters.counts[index]) for name, index in REASON.items()}
            assert got == expected, case
        assert all(expected.values())
        ctx.set(counters.running, 0)
        await ctx.tick()
        assert sum(ctx.get(counters.counts[i]) for i in range(len(REASON))) == len(busy + idle)
        ctx.set(counters.clear, 1)
        await ctx.tick()
        assert not any(ctx.get(counters.counts[i]) for i in range(len(REASON)))

    simulate(counters, bench)
