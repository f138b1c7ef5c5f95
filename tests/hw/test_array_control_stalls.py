"""Stall counters of the `array` engine, and when it is settled."""

import itertools

from amaranth.sim import Simulator

from bankside.config import HardwareConfig
from bankside.hw.array.control.layouts import SPEC
from bankside.hw.array.control.stalls import REASON, Settle, StallCounters
from bankside.isa.array_machine import ArrayMachine

MACHINE = ArrayMachine.of(HardwareConfig.load("array_4x4"))


def simulate(component, bench) -> None:
    simulator = Simulator(component)
    simulator.add_clock(1e-9)
    simulator.add_testbench(bench)
    simulator.run()


def test_settled_after_whole_cycles_without_a_pass():
    settle = Settle(MACHINE)

    async def bench(ctx):
        assert ctx.get(settle.settled)
        ctx.set(settle.active, 1)
        await ctx.tick()
        ctx.set(settle.active, 0)
        for _ in range(MACHINE.settle):
            assert not ctx.get(settle.settled)
            await ctx.tick()
        assert ctx.get(settle.settled)

    simulate(settle, bench)


FLAGS = (
    "covered", "pe_en", "lane_en", "decision", "waiting", "lacks_load", "lacks_store", "settled",
    "load_busy", "store_busy",
)  # fmt: skip


def expected_reason(case: dict) -> str:
    """docs/array.md section 5, from the top of the table."""
    if case["active"]:
        if case["pe_en"]:
            moves = {SPEC.enums["block_op"][n] for n in ("drain", "passx", "passd", "fill")}
            return "move" if case["pe_op"] in moves else "mac"
        return "lane" if case["lane_en"] else "bubble" if case["covered"] else "slot"
    if case["waiting"]:
        if case["decision"]:
            return "control"
        return next((f"wait_{e}" for e in ("load", "store") if case[f"lacks_{e}"]), "control")
    if not case["settled"]:
        return "settle"
    return next((e for e in ("store", "load") if case[f"{e}_busy"]), "control")


def cases() -> list[dict]:
    """All combinations that can occur."""
    found = []
    for bits in itertools.product((0, 1), repeat=len(FLAGS)):
        case = dict(zip(FLAGS, bits, strict=True))
        issued = case["pe_en"] or case["lane_en"]
        lacks = case["lacks_load"] or case["lacks_store"]
        if case["decision"] > case["waiting"] or (lacks and not case["waiting"]):
            continue
        if (lacks and case["decision"]) or issued > case["covered"]:
            continue
        found += [{**case, "active": 1, "pe_op": op} for op in range(1, 10) if not case["waiting"]]
        found += [{**case, "active": 0, "pe_op": 1}] if not case["covered"] else []
    return found


def test_every_cycle_has_the_documented_reason():
    counters = StallCounters()

    async def bench(ctx):
        expected = dict.fromkeys(SPEC.stalls, 0)
        ctx.set(counters.running, 1)
        for case in cases():
            for name, value in case.items():
                ctx.set(getattr(counters, name), value)
            await ctx.tick()
            expected[expected_reason(case)] += 1
            got = {name: ctx.get(counters.counts[index]) for name, index in REASON.items()}
            assert got == expected, case
        assert all(expected.values())
        ctx.set(counters.running, 0)
        await ctx.tick()
        assert sum(ctx.get(counters.counts[i]) for i in range(len(REASON))) == len(cases())

    simulate(counters, bench)
