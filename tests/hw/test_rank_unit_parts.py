# amaranth: UnusedElaboratable=no
"""Parts of the rank unit on their own: networks, reduction cycle by cycle, softmax of a head."""

import random
import sys
from pathlib import Path

import numpy as np
import pytest
from amaranth.hdl import Module
from amaranth.sim import Simulator

sys.path.insert(0, str(Path(__file__).parents[1] / "cosim" / "benches"))

from rank_reference import MOODS, Geometry, Reference, Scores, fp32, make_machine, pack, unpack

from bankside.hw.pim.rank_unit import ports
from bankside.hw.pim.rank_unit.permute import Relayout, Rotate
from bankside.hw.pim.rank_unit.reduce import Reduce
from bankside.hw.pim.rank_unit.softmax_head import ExponentialTerm, HeadState, MaximumStep
from bankside.hw.pim.rank_unit.staging import Locate, place_layout
from bankside.isa import numerics as nm
from bankside.isa import relayout as rl

SEED = 20250611
D4, D5 = "ddr4_3200", "ddr5_4800"


def simulate(dut, bench, *, clocked: bool = True) -> None:
    """Run `bench(ctx)` on `dut`."""
    simulator = Simulator(dut)
    if clocked:
        simulator.add_clock(1e-9)
    simulator.add_testbench(bench)
    simulator.run()


# --- permutation network ------------------------------------------------------------------------
@pytest.mark.parametrize(("chips", "standard"), [(2, D4), (8, D4), (4, D5)])
@pytest.mark.parametrize("back", [False, True])
def test_rotate(chips, standard, back):
    machine = make_machine(standard, chips, 4, 2)
    dut = Rotate(machine, back=back)
    slices = [random.Random(SEED).getrandbits(machine.slice_bits) for _ in range(chips)]

    async def bench(ctx):
        for amount in range(chips):
            ctx.set(dut.i, pack(slices, machine.slice_bits))
            ctx.set(dut.amount, amount)
            await ctx.delay(1e-9)
            got = list(unpack(ctx.get(dut.o), machine.slice_bits, chips))
            assert got == list(np.roll(slices, -amount if back else amount))

    simulate(dut, bench, clocked=False)


@pytest.mark.parametrize(("chips", "standard"), [(2, D4), (8, D4), (16, D5)])
@pytest.mark.parametrize("layout", [rl.RAW, rl.BIT, rl.HEAD])
def test_locate_and_relayout_fill_the_columns(chips, standard, layout):
    """Every burst of two lanes lands where the reference puts it, whatever N_hc and base."""
    machine = make_machine(standard, chips, 4, 2)
    locate, network = Locate(machine), Relayout(machine)
    size, ne = chips.bit_length() - 1, machine.elements

    async def check(ctx, nhc_log2, base):
        nhc, cpt = 1 << nhc_log2, 2 * (chips >> nhc_log2)
        count = 2 * cpt
        elements = np.arange(count * chips * ne).reshape(count, chips * ne)
        size = {"chips": chips, "elements": ne, "nhc": nhc, "cpt": cpt}
        want = rl.relayout(elements, layout, **size)
        got = np.full((count, chips, ne), -1)
        heads, within = chips // nhc, cpt * nhc // chips
        for i, burst in enumerate(elements):
            lane, r = divmod(i, cpt)
            address, head = base + i, 0
            if layout == rl.HEAD:
                head, address = r // within, base + lane * cpt + heads * (r % within)
            place = {"address": address, "head": head, "layout": layout}
            ctx.set(locate.place, place)
            ctx.set(locate.nhc_log2, nhc_log2)
            ctx.set(network.i, pack(burst, 16))
            await ctx.delay(1e-9)
            ctx.set(network.group, ctx.get(locate.group))
            ctx.set(network.amount, ctx.get(locate.amount))
            await ctx.delay(1e-9)
            columns = unpack(ctx.get(network.o), 16, chips, ne)
            width = place_layout(machine)["address"].shape.width
            addresses = unpack(ctx.get(locate.addresses), width, chips)
            for column, (a, piece) in enumerate(zip(addresses, columns, strict=True)):
                # The chip whose piece of this address is in this column.
                chip = (column - nhc * a) % chips
                got[a - base, chip] = piece
        assert (got == want).all(), (nhc_log2, base)

    async def bench(ctx):
        for nhc_log2 in range(size + 1):
            for base in (0, 3):
                await check(ctx, nhc_log2, base)

    m = Module()
    m.submodules += [locate, network]
    simulate(m, bench, clocked=False)


# --- reduction ----------------------------------------------------------------------------------
async def feed(ctx, dut, layout, values, **info):
    """One burst, in this cycle."""
    ctx.set(dut.valid, 1)
    ctx.set(dut.info, layout.const(info))
    ctx.set(dut.data, pack(values, 32))


@pytest.mark.parametrize("standard", [D4, D5])
@pytest.mark.parametrize(("chips", "nhc_log2"), [(2, 0), (2, 1), (4, 1), (8, 2)])
def test_score_word_and_maximum_appear_in_their_cycle(standard, chips, nhc_log2):
    machine = make_machine(standard, chips, 4, 2, lanes=1)
    dut, layout = Reduce(machine), ports.burst_layout(machine)
    reference = Reference(machine, Geometry(nhc_log2, 8, 1))
    delay = (machine.tree_levels + 1) * machine.step
    heads = chips >> nhc_log2

    async def bench(ctx):
        ctx.set(dut.nhc_log2, nhc_log2)
        for n in range(machine.banks):
            values = Scores(random.Random(SEED + n)).burst(machine)
            old = dict(reference.maximum)
            reference.score_burst(n, 0, 0, n, 0, 1000, values)
            await feed(
                ctx, dut, layout, values, address=n, bank=machine.visit(n), valid=1000,
                first_of_lane=n == 0,
            )  # fmt: skip
            ctx.set(dut.score_address, n)
            for cycle in range(delay + 1):
                ctx.set(dut.score_en, cycle == delay)  # old contents in the cycle of the write
                keys = list(unpack(ctx.get(dut.keys), 32, chips))[:heads]
                assert keys == [old.get((0, 0, h), 0) for h in range(heads)], cycle
                await ctx.tick()
                ctx.set(dut.valid, 0)
            assert ctx.get(dut.score_data) == 0
            ctx.set(dut.score_en, 1)
            keys = list(unpack(ctx.get(dut.keys), 32, chips))[:heads]
            assert keys == [reference.maximum[0, 0, h] for h in range(heads)]
            await ctx.tick()
            ctx.set(dut.score_en, 0)
            got = unpack(ctx.get(dut.score_data), 32, chips, machine.slots_per_burst)
            assert got[:heads].tolist() == reference.score[n]

    simulate(dut, bench)


def test_bursts_at_every_distance():
    """Bursts overlap in the tree; distance STEP and the next few must not disturb each other."""
    machine = make_machine(D4, 8, 4, 4, lanes=1)
    dut, layout = Reduce(machine), ports.burst_layout(machine)
    reference = Reference(machine, Geometry(3, 8, 1))
    gaps = [4, 4, 4, 5, 4, 7, 4, 6, 9, 4, 4, 11, 13, 4, 4, 40]

    async def bench(ctx):
        ctx.set(dut.nhc_log2, 3)
        for n, gap in enumerate(gaps):
            values = Scores(random.Random(SEED + n)).burst(machine)
            reference.score_burst(n, 0, 0, n, 1, 9, values)
            await feed(
                ctx, dut, layout, values, address=n, bank=machine.visit(n), valid=9,
                first_of_lane=n == 0, buf=1,
            )  # fmt: skip
            for _ in range(gap):
                await ctx.tick()
                ctx.set(dut.valid, 0)
                ctx.set(dut.data, random.getrandbits(512))
        ctx.set(dut.score_en, 1)
        for n in range(len(gaps)):
            ctx.set(dut.score_address, n)
            await ctx.tick()
            assert ctx.get(dut.score_data) & (1 << 64) - 1 == pack(reference.score[n], 32)
        ctx.set(dut.max_buf, 1)
        assert ctx.get(dut.keys) & 0xFFFFFFFF == reference.maximum[1, 0, 0]
        ctx.set(dut.max_buf, 0)
        assert ctx.get(dut.keys) & 0xFFFFFFFF == 0

    simulate(dut, bench)


def test_context_is_written_once_per_word():
    machine = make_machine(D4, 4, 4, 4, lanes=1)
    dut, layout = Reduce(machine), ports.burst_layout(machine)
    reference = Reference(machine, Geometry(1, 8, 1))
    bursts = [Scores(random.Random(SEED + n)).burst(machine) for n in range(machine.banks)]
    delay = (machine.tree_levels + 1) * machine.step
    reference.context_word(5, bursts)

    async def bench(ctx):
        ctx.set(dut.nhc_log2, 1)
        ctx.set(dut.score_en, 1)
        ctx.set(dut.score_address, 5)
        for n, values in enumerate(bursts):
            await feed(
                ctx, dut, layout, values, context=1, address=5, first_bank=n == 0,
                last_bank=n == machine.banks - 1,
            )  # fmt: skip
            for _ in range(machine.step if n < machine.banks - 1 else delay + 1):
                await ctx.tick()
                ctx.set(dut.valid, 0)
                assert ctx.get(dut.score_data) == 0
        await ctx.tick()
        assert ctx.get(dut.score_data) == pack(reference.score[5], 32)
        assert ctx.get(dut.keys) == 0

    simulate(dut, bench)


# --- softmax of one head ------------------------------------------------------------------------
def peaks(rng):
    """FP32 maxima of every mood, and corners."""
    corners = (0.0, 1e-30, -1e-30, 0.5, -0.5, 1.0, -1.0, 2.0**42, -(2.0**42), 8.7e12, -8.7e12)
    return [fp32(x) for x in corners] + [Scores(rng, m).value() for m in MOODS for _ in range(40)]


def test_maximum_step():
    rng = random.Random(SEED)
    dut = MaximumStep()

    async def bench(ctx):
        for s in peaks(rng):
            near = nm.ceil_int(s) + rng.randrange(-300, 300)
            for old in (near, rng.randrange(-(1 << 43), 1 << 43)):
                for first in (0, 1):
                    ctx.set(dut.order_key, nm.order_key(s))
                    ctx.set(dut.old, max(-(1 << 43), min(old, (1 << 43) - 1)))
                    ctx.set(dut.first, first)
                    await ctx.delay(1e-9)
                    old = ctx.get(dut.old)
                    new = nm.ceil_int(s) if first else max(old, nm.ceil_int(s))
                    k = 255 if first else min(new - old, 255)
                    assert (ctx.get(dut.new), ctx.get(dut.k)) == (new, k), (hex(s), old, first)

    simulate(dut, bench, clocked=False)


def test_exponential_term():
    rng = random.Random(SEED)
    dut = ExponentialTerm()

    async def bench(ctx):
        for s in peaks(rng):
            m = nm.ceil_int(s) + rng.randrange(40)
            for exists in (1, 0):
                ctx.set(dut.maximum, min(m, (1 << 43) - 1))
                ctx.set(dut.score, s)
                ctx.set(dut.take_score, 1)
                await ctx.tick()
                ctx.set(dut.take_score, 0)
                ctx.set(dut.score, rng.getrandbits(32))
                ctx.set(dut.exists, exists)
                ctx.set(dut.take_distance, 1)
                await ctx.tick()
                ctx.set(dut.take_distance, 0)
                ctx.set(dut.exists, rng.getrandbits(1))
                await ctx.tick()
                p = nm.softmax_term(min(m, (1 << 43) - 1), s) if exists else 0
                assert (ctx.get(dut.p), ctx.get(dut.p24)) == (p, nm.p24(p)), (hex(s), m)

    simulate(dut, bench)


def test_denominator_of_a_head():
    """Shifts by every k, lanes apart from each other."""
    rng = random.Random(SEED)
    machine = make_machine(lanes=2)
    dut = HeadState(machine)
    top, sums, maxima = 0, [0, 0], [0, 0]

    async def bench(ctx):
        nonlocal top
        for i in range(160):
            lane, first = i & 1, i < 2
            top += rng.choice((0, 0, 1, 3, 60, 300)) if i % 4 == 0 else 0
            ctx.set(dut.lane, lane)
            ctx.set(dut.first, first)
            ctx.set(dut.order_key, nm.order_key(fp32(float(top))))
            ctx.set(dut.begin, 1)
            k = ctx.get(dut.k)
            assert k == (255 if first else min(top - maxima[lane], 255))
            await ctx.tick()
            ctx.set(dut.begin, 0)
            total = 0
            for _ in range(3):
                terms = [rng.randrange(1 << 24) for _ in range(machine.slots_per_burst)]
                ctx.set(dut.terms, pack(terms, 25))
                ctx.set(dut.add, 1)
                await ctx.tick()
                total += sum(terms)
            ctx.set(dut.add, 0)
            ctx.set(dut.finish, 1)
            await ctx.tick()
            ctx.set(dut.finish, 0)
            sums[lane] = (0 if first else nm.rescale_denominator(sums[lane], k)) + total
            maxima[lane] = top
            for other in (0, 1):
                ctx.set(dut.norm_lane, other)
                assert ctx.get(dut.denominator) == sums[other]

    simulate(dut, bench)
