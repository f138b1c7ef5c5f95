"""Load and store engine in Amaranth's simulator: every event in its cycle, in front of the memory
of docs/array.md section 4.
"""

import sys
from collections import Counter
from pathlib import Path
from random import Random

import pytest
from amaranth.hdl import Value

from bankside.config import HardwareConfig
from bankside.hw.array.load import LoadEngine
from bankside.hw.array.store import StoreEngine
from bankside.hw.lib.testing import simulate
from bankside.isa.array_machine import ArrayMachine

sys.path.insert(0, str(Path(__file__).parents[1] / "cosim" / "benches"))

import array_dma_reference as reference  # noqa: E402

ENGINES = 3


def make_machine(bus_bytes: int = 8, **memory: int) -> ArrayMachine:
    memory_text = "".join(f"  {key}: {value}\n" for key, value in memory.items())
    return ArrayMachine.of(
        HardwareConfig.parse(
            f"name: dma\nengine: array\narray:\n  rows: 3\n  columns: 5\n  bus_bytes: {bus_bytes}\n"
            f"  row_words: 700\n  column_words: 300\nmemory:\n  bytes: 65536\n{memory_text}"
        )
    )


def content(address: int, bits: int) -> int:
    """Data of main memory: no two addresses of a test look alike."""
    return (address * 0x9E3779B97F4A7C15 + 0x1234567) % (1 << bits)


class Case:
    """Random commands with the cycles in which they arrive and in which others give tokens."""

    def __init__(self, machine: ArrayMachine, seed: int, count: int, *, load: bool) -> None:
        random = Random(seed)
        self.machine = machine
        self.commands = [reference.random_command(machine, random, load=load) for _ in range(count)]
        self.bursts = reference.bursts_of(machine, self.commands)
        now, self.arrivals = 0, []
        for _ in self.commands:
            now += random.choice((0, 0, 30))
            self.arrivals.append(now)
        self.given: list[list[int]] = [[] for _ in range(ENGINES)]
        for burst in self.bursts:
            for engine in range(ENGINES):
                if burst.take >> engine & 1:
                    self.given[engine].append(random.randint(0, 12 * len(self.bursts)))
        times = reference.load_times if load else reference.store_times
        times(machine, self.bursts, self.arrivals, reference.Tokens(self.given))

    def end(self) -> int:
        return max(b.response for b in self.bursts) + 3

    def run(self, dut, per_cycle) -> None:
        """Feed commands and tokens, call `per_cycle(ctx, cycle)` in the middle of every cycle."""

        async def bench(ctx) -> None:
            present, head = [0] * ENGINES, 0
            for cycle in range(self.end()):
                here = head < len(self.commands) and cycle >= self.arrivals[head]
                ctx.set(dut.commands.valid, here)
                if here:
                    ctx.set(dut.commands.payload, reference.with_start(self.commands[head]))
                mask = sum((present[e] > 0) << e for e in range(ENGINES))
                ctx.set(dut.tokens.present, mask)
                per_cycle(ctx, cycle)
                take = ctx.get(dut.tokens.take)
                assert not take & ~mask, f"cycle {cycle}: takes {take:b} of {mask:b}"
                for e in range(ENGINES):
                    present[e] += self.given[e].count(cycle) - (take >> e & 1)
                assert here or not ctx.get(dut.commands.ready)
                head += here and ctx.get(dut.commands.ready)
                await ctx.tick()
            assert head == len(self.commands)

        simulate(dut, bench, limit=self.end() + 10)


def expected(case: Case) -> dict[str, list]:
    """All events by the reference: (cycle, what)."""
    bursts = case.bursts
    events = {
        "address": [(b.accepted, b.address, b.beats - 1) for b in bursts],
        "take": [(b.accepted, b.take) for b in bursts if b.take],
        "give": [(b.response, b.give) for b in bursts if b.give],
        "begin": [b.accepted for b in bursts if b.first],
        "complete": [b.response for b in bursts if b.last],
    }
    events["beat"] = [
        (cycle, b.side, b.bank, b.word + k, b.address + k * case.machine.bus_elements * 2)
        for b in bursts
        for k, cycle in enumerate(b.beat_cycles)
    ]
    return events


def common_events(ctx, dut, cycle: int, found: dict[str, list]) -> None:
    for name in ("take", "give"):
        if mask := ctx.get(getattr(dut.tokens, name)):
            found[name].append((cycle, mask))
    for name in ("begin", "last", "complete"):
        if ctx.get(getattr(dut, name)):
            found[name].append(cycle)


def run_load(case: Case) -> dict[str, list]:
    machine, dut = case.machine, LoadEngine(case.machine)
    found: dict[str, list] = {name: [] for name in (*expected(case), "last")}
    bits, axi = len(dut.data), dut.axi
    waiting: list[tuple[int, int, int]] = []
    memory = machine.config.memory
    state = {"last": -(10**6)}

    def per_cycle(ctx, cycle: int) -> None:
        ctx.set(axi.arready, 1)
        assert ctx.get(dut.busy) == bool(waiting)
        beat = None
        if waiting:
            at, left, accepted = waiting[0]
            if cycle >= accepted + memory.read_latency_cycles:
                if cycle >= state["last"] + memory.beat_cycles:
                    beat, state["last"] = at, cycle
                    waiting[0] = (at + bits // 8, left - 1, accepted)
        ctx.set(axi.rvalid, beat is not None)
        ctx.set(axi.rdata, 0 if beat is None else content(beat, bits))
        ctx.set(axi.rlast, beat is not None and left == 1)
        if beat is not None:
            assert ctx.get(axi.rready)
            if left == 1:
                waiting.pop(0)
        if ctx.get(axi.arvalid):
            address, length = ctx.get(axi.araddr), ctx.get(axi.arlen)
            assert (ctx.get(axi.arsize), ctx.get(axi.arburst)) == (bits.bit_length() - 4, 1)
            found["address"].append((cycle, address, length))
            waiting.append((address, length + 1, cycle))
        row, column = ctx.get(dut.row_en), ctx.get(dut.column_en)
        assert row + column == (beat is not None)
        if row or column:
            assert ctx.get(dut.data) == content(beat, bits)
            place = column, ctx.get(dut.bank), ctx.get(dut.address)
            found["beat"].append((cycle, *place, beat))
        common_events(ctx, dut, cycle, found)

    case.run(dut, per_cycle)
    return found


def run_store(case: Case) -> dict[str, list]:
    machine, dut = case.machine, StoreEngine(case.machine)
    found: dict[str, list] = {name: [] for name in (*expected(case), "last")}
    bits, axi, memory = len(dut.data), dut.axi, machine.config.memory
    state = {"last": -(10**6), "read": None, "at": 0}
    responses: list[int] = []

    def per_cycle(ctx, cycle: int) -> None:
        ctx.set(axi.awready, 1)
        if state["read"] is not None:
            # Bank and word stand for the data, so that a beat tells where it was read.
            ctx.set(dut.data, state["read"][0] << 16 | state["read"][1])
        ready = cycle >= state["last"] + memory.beat_cycles
        ctx.set(axi.wready, ready)
        answer = bool(responses) and responses[0] == cycle
        ctx.set(axi.bvalid, answer)
        if answer:
            assert ctx.get(axi.bready)
            responses.pop(0)
        if ctx.get(axi.awvalid):
            address, length = ctx.get(axi.awaddr), ctx.get(axi.awlen)
            assert (ctx.get(axi.awsize), ctx.get(axi.awburst)) == (bits.bit_length() - 4, 1)
            found["address"].append((cycle, address, length))
            state["at"] = address
        if ctx.get(axi.wvalid) and ready:
            data = ctx.get(axi.wdata)
            assert ctx.get(axi.wstrb) == (1 << bits // 8) - 1
            found["beat"].append((cycle, 1, data >> 16, data & 0xFFFF, state["at"]))
            state["at"] += bits // 8
            state["last"] = cycle
            if ctx.get(axi.wlast):
                responses.append(cycle + memory.write_latency_cycles)
        if ctx.get(dut.en):
            state["read"] = ctx.get(dut.bank), ctx.get(dut.address)
        common_events(ctx, dut, cycle, found)

    case.run(dut, per_cycle)
    return found


MEMORIES = [
    {},
    {"read_latency_cycles": 1, "write_latency_cycles": 1, "outstanding": 1},
    {"read_latency_cycles": 9, "write_latency_cycles": 5, "outstanding": 3, "beat_cycles": 3},
    {"read_latency_cycles": 40, "write_latency_cycles": 30, "outstanding": 2},
]


@pytest.mark.parametrize("memory", range(len(MEMORIES)))
@pytest.mark.parametrize("bus_bytes", [4, 8, 64])
def test_load_in_every_cycle(bus_bytes, memory):
    case = Case(make_machine(bus_bytes, **MEMORIES[memory]), 7 * bus_bytes + memory, 12, load=True)
    found, want = run_load(case), expected(case)
    want["last"] = [b.accepted for b in case.bursts if b.last]
    for name, events in want.items():
        assert found[name] == events, name


@pytest.mark.parametrize("memory", range(len(MEMORIES)))
@pytest.mark.parametrize("bus_bytes", [4, 8, 64])
def test_store_in_every_cycle(bus_bytes, memory):
    case = Case(make_machine(bus_bytes, **MEMORIES[memory]), 5 * bus_bytes + memory, 12, load=False)
    found, want = run_store(case), expected(case)
    want["last"] = [b.beat_cycles[-1] for b in case.bursts if b.last]
    for name, events in want.items():
        assert found[name] == events, name


def test_the_cases_are_varied():
    """Rings that turn, steps that wait each, rows that cross a block, tokens that come late."""
    seen: Counter = Counter()
    for bus_bytes in (4, 8, 64):
        for memory in range(len(MEMORIES)):
            machine = make_machine(bus_bytes, **MEMORIES[memory])
            case = Case(machine, 7 * bus_bytes + memory, 12, load=True)
            for c in case.commands:
                seen["ring"] += c["ring_phase"] + c["outer"] > c["ring"] > 1 and c["buf_step"] > 0
                seen["each"] += bool(c["each"] and c["wait"] and c["outer"] > 1)
                seen["banks"] += c["bank_step"] > 0
            rows = sum(c["outer"] * c["inner"] for c in case.commands)
            seen["crossed"] += len(case.bursts) > rows
            pairs = zip(case.bursts, case.bursts[1:], strict=False)
            seen["held"] += sum(b.accepted > a.accepted + 30 for a, b in pairs if b.take)
    assert min(seen[name] for name in ("ring", "each", "banks", "crossed", "held")) >= 3, seen


@pytest.mark.parametrize("engine", [LoadEngine, StoreEngine])
def test_stop_keeps_what_was_offered_and_begins_nothing(engine):
    """An address that waits stays until it is taken; no other follows while `stop`."""
    case = Case(make_machine(), 3, 1, load=engine is LoadEngine)
    command = case.commands[0] | {"wait": 0, "outer": 3, "ring": 3, "ring_phase": 0}
    dut, letter = engine(case.machine), "r" if engine is LoadEngine else "w"
    valid, ready = getattr(dut.axi, f"a{letter}valid"), getattr(dut.axi, f"a{letter}ready")

    async def bench(ctx) -> None:
        ctx.set(dut.commands.payload, reference.with_start(command))
        ctx.set(dut.stop, 1)
        ctx.set(dut.commands.valid, 1)
        for _ in range(3):
            await ctx.tick()
            assert not ctx.get(valid)
        ctx.set(dut.stop, 0)
        await ctx.tick()
        ctx.set(dut.stop, 1)
        for _ in range(3):
            assert ctx.get(valid)
            await ctx.tick()
        ctx.set(ready, 1)
        await ctx.tick()
        for _ in range(40):
            assert not ctx.get(valid) and ctx.get(dut.busy)
            await ctx.tick()

    simulate(dut, bench)


@pytest.mark.parametrize("resp,error", [(0, 0), (1, 0), (2, 1), (3, 1)])
@pytest.mark.parametrize("engine", [LoadEngine, StoreEngine])
def test_error_responses(engine, resp, error):
    case = Case(make_machine(), 3, 1, load=engine is LoadEngine)
    command = case.commands[0] | {"wait": 0, "outer": 1, "inner": 1, "beats": 1}
    dut = engine(case.machine)

    async def bench(ctx) -> None:
        axi = dut.axi
        ctx.set(dut.commands.payload, reference.with_start(command))
        ctx.set(dut.commands.valid, 1)
        ctx.set(axi.arready if engine is LoadEngine else axi.awready, 1)
        await ctx.tick()
        ctx.set(dut.commands.valid, 0)
        if engine is StoreEngine:
            ctx.set(axi.wready, 1)
            await ctx.tick()
        assert ctx.get(dut.busy) and not ctx.get(dut.bus_error)
        response = {"rvalid": 1, "rlast": 1, "rresp": resp}
        if engine is StoreEngine:
            response = {"bvalid": 1, "bresp": resp}
        for name, value in response.items():
            ctx.set(Value.cast(getattr(axi, name)), value)
        assert ctx.get(dut.bus_error) == error and ctx.get(dut.complete)
        await ctx.tick()
        assert not ctx.get(dut.busy) and not ctx.get(dut.bus_error)

    simulate(dut, bench)
