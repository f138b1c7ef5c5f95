"""Reduction: scores across the chips of a head, context sums across the banks, chunk maximum."""

from amaranth.hdl import Cat, Module, Mux, Signal, Value, unsigned
from amaranth.lib import memory, wiring
from amaranth.lib.data import StructLayout
from amaranth.lib.wiring import In, Out

from bankside.hw.arith.fp32 import Fp32Add, order_key
from bankside.hw.lib.unit import Unit
from bankside.hw.pim.rank_unit.permute import chip_bits, slices
from bankside.hw.pim.rank_unit.ports import LANE_BITS, burst_layout, field_width
from bankside.isa.machine import Machine


def tag_layout(machine: Machine) -> StructLayout:
    """What travels with a burst through the tree: burst_layout with the token number resolved.

    valid : bit u set when the token of slot u exists (score).
    """
    burst = burst_layout(machine)
    kept = ("context", "address", "lane", "first_of_lane", "first_bank", "last_bank", "buf")
    members = {name: burst[name].shape for name in kept}
    return StructLayout({**members, "valid": unsigned(machine.slots_per_burst)})


def valid_slots(machine: Machine, group: Value, bank: Value, valid: Value) -> Value:
    """Bit u is set when token (group*S + u)*B + bank of the chunk is below `valid`."""
    slots = range(machine.slots_per_burst)
    first = group * machine.slots_per_burst
    return Cat(((first + u) * machine.banks + bank) < valid for u in slots)


def add(m: Module, a: Value, b: Value, name: str) -> Value:
    """Sum of two FP32 numbers by an adder of its own."""
    m.submodules[name] = adder = Unit(Fp32Add(), "bankside_fp32_add")
    m.d.comb += [adder.a.eq(a), adder.b.eq(b)]
    return adder.y


class BankLevel(wiring.Component):
    """Level 1: sums of chip pairs (score), or the running sums over the banks (context).

    Members
    -------
    en : In(1), tag : In(tag_layout), i : In(C*NE*16)
        Take the captured burst at the end of this cycle.
    pair : In(1)
        Score: add the chips of a pair (else pass).
    o : Out(C*NE*16), register
        Score: S values per pair (or chip); context: S running sums per chip.
    """

    en: Signal
    tag: Signal
    i: Signal
    pair: Signal
    o: Signal

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        burst = machine.chips * machine.slice_bits
        super().__init__(
            {
                "en": In(1),
                "tag": In(tag_layout(machine)),
                "i": In(burst),
                "pair": In(1),
                "o": Out(burst),
            }
        )

    def elaborate(self, platform) -> Module:
        m = Module()
        width = self.machine.slots_per_burst
        held, new, target = slices(self.o, 32), slices(self.i, 32), []
        keep = Mux(self.tag.context, self.tag.first_bank, ~self.pair)
        for k, value in enumerate(new):
            chip, u = divmod(k, width)
            a, b = held[k], value
            if chip < self.machine.chips // 2:
                # The same adder serves chip pairs and banks.
                pair = 2 * chip * width + u
                a = Mux(self.tag.context, a, new[pair])
                b = Mux(self.tag.context, b, new[pair + width])
            target.append(Mux(keep, value, add(m, a, b, f"add{k}")))
        with m.If(self.en):
            m.d.sync += self.o.eq(Cat(target))
        return m


class PairLevel(wiring.Component):
    """Level `level` >= 2 of the tree: adds neighbours, or passes everything on.

    Members
    -------
    en : In(1), pair : In(1), i : In(C*NE*16)
    o : Out(C*NE*16), register
    """

    en: Signal
    pair: Signal
    i: Signal
    o: Signal

    def __init__(self, machine: Machine, level: int) -> None:
        self.machine = machine
        self.level = level
        burst = machine.chips * machine.slice_bits
        super().__init__({"en": In(1), "pair": In(1), "i": In(burst), "o": Out(burst)})

    def elaborate(self, platform) -> Module:
        m = Module()
        width = self.machine.slots_per_burst
        values = slices(self.i, 32)
        target = list(values)
        for k in range((self.machine.chips >> self.level) * width):
            chip, u = divmod(k, width)
            pair = 2 * chip * width + u
            total = add(m, values[pair], values[pair + width], f"add{k}")
            target[k] = Mux(self.pair, total, values[k])
        with m.If(self.en):
            m.d.sync += self.o.eq(Cat(target))
        return m


class ChunkMaximum(wiring.Component):
    """Order key of the largest existing score, per buffer, lane and head.

    Members
    -------
    en : In(1), tag : In(tag_layout), scores : In(C*NE*16)
        S scores per head, taken at the end of this cycle.
    buf, lane : In(1), In(3)
    keys : Out(C*32)
        Keys of that buffer and lane, combinational.
    """

    en: Signal
    tag: Signal
    scores: Signal
    buf: Signal
    lane: Signal
    keys: Signal

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        burst = machine.chips * machine.slice_bits
        super().__init__(
            {
                "en": In(1),
                "tag": In(tag_layout(machine)),
                "scores": In(burst),
                "buf": In(1),
                "lane": In(LANE_BITS),
                "keys": Out(machine.chips * 32),
            }
        )

    def elaborate(self, platform) -> Module:
        m = Module()
        machine = self.machine
        m.submodules.cells = cells = memory.Memory(
            shape=unsigned(machine.chips * 32), depth=2 * machine.lanes, init=[]
        )
        write = cells.write_port()
        old, shown = cells.read_port(domain="comb"), cells.read_port(domain="comb")
        heads = []
        for head, scores in enumerate(slices(self.scores, machine.slice_bits)):
            best = Mux(self.tag.first_of_lane, 0, old.data[32 * head : 32 * head + 32])
            for u, score in enumerate(slices(scores, 32)):
                key, larger = Signal(32, name=f"key{head}_{u}"), Signal(32, name=f"max{head}_{u}")
                m.d.comb += key.eq(Mux(self.tag.valid[u], order_key(score), 0))
                m.d.comb += larger.eq(Mux(key > best, key, best))
                best = larger
            heads.append(best)
        m.d.comb += [
            old.addr.eq(Cat(self.tag.buf, self.tag.lane)),
            write.addr.eq(Cat(self.tag.buf, self.tag.lane)),
            write.en.eq(self.en),
            write.data.eq(Cat(heads)),
            shown.addr.eq(Cat(self.buf, self.lane)),
            self.keys.eq(shown.data),
        ]
        return m


class Reduce(wiring.Component):
    """Takes the bursts of RDRB, writes score words, keeps the chunk maxima; owns the score memory.

    Members
    -------
    nhc_log2 : In(3)
    valid : In(1), info : In(burst_layout), data : In(C*NE*16)
        A burst in cycle t+RL, at least STEP cycles after the one before. Tree level i is
        registered at the end of t+RL+i*STEP, score word and maximum at the end of
        t+RL+(TL+1)*STEP.
    score_en : In(1), score_address : In(10), score_data : Out(C*NE*16)
        Read port: data in the next cycle, kept while en is low.
    max_buf, max_lane : In(1), In(3), keys : Out(C*32)
        Order keys of a chunk maximum, combinational.

    Ref: docs/pim.md section 6.
    """

    nhc_log2: Signal
    valid: Signal
    info: Signal
    data: Signal
    score_en: Signal
    score_address: Signal
    score_data: Signal
    max_buf: Signal
    max_lane: Signal
    keys: Signal

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        burst = machine.chips * machine.slice_bits
        super().__init__(
            {
                "nhc_log2": In(field_width("GEOM", "nhc_log2")),
                "valid": In(1),
                "info": In(burst_layout(machine)),
                "data": In(burst),
                "score_en": In(1),
                "score_address": In(field_width("SFM", "score")),
                "score_data": Out(burst),
                "max_buf": In(1),
                "max_lane": In(LANE_BITS),
                "keys": Out(machine.chips * 32),
            }
        )

    def elaborate(self, platform) -> Module:
        m = Module()
        machine, levels, step = self.machine, chip_bits(self.machine), self.machine.step
        # Bit d-1 is set d cycles after a burst; bursts may come at any distance from STEP on.
        age = Signal((levels + 1) * step)
        m.d.sync += age.eq(Cat(self.valid, age[:-1]))
        tag, data = self._capture(m)
        for level in range(1, levels + 1):
            en, pair = age[level * step - 1], self.nhc_log2 >= level
            if level == 1:
                m.submodules.level1 = unit = BankLevel(machine)
                m.d.comb += [unit.tag.eq(tag), unit.pair.eq(pair)]
            else:
                m.submodules[f"level{level}"] = unit = PairLevel(machine, level)
                m.d.comb += unit.pair.eq(~tag.context & pair)
            m.d.comb += [unit.en.eq(en), unit.i.eq(data)]
            tag_before, tag = tag, Signal(tag_layout(machine), name=f"tag{level}")
            with m.If(en):
                m.d.sync += tag.eq(tag_before)
            data = unit.o
        self._finish(m, age[-1], tag, data)
        return m

    def _capture(self, m: Module) -> tuple[Value, Signal]:
        info = self.info
        tag = Signal(tag_layout(self.machine), name="tag0")
        data = Signal.like(self.data, name="captured")
        with m.If(self.valid):
            m.d.sync += data.eq(self.data)
            m.d.sync += [
                field.eq(info[name])
                for name, field in ((n, tag[n]) for n, _ in tag.shape() if n != "valid")
            ]
            m.d.sync += tag.valid.eq(valid_slots(self.machine, info.group, info.bank, info.valid))
        return tag, data

    def _finish(self, m: Module, en: Value, tag: Value, data: Signal) -> None:
        """Score word and maximum, in the last cycle of a burst."""
        depth = self.machine.config.pim.score_words
        m.submodules.scores = cells = memory.Memory(shape=unsigned(len(data)), depth=depth, init=[])
        write, read = cells.write_port(), cells.read_port()
        m.submodules.maximum = maximum = ChunkMaximum(self.machine)
        m.d.comb += [
            write.en.eq(en & (~tag.context | tag.last_bank)),
            write.addr.eq(tag.address),
            write.data.eq(data),
            read.en.eq(self.score_en),
            read.addr.eq(self.score_address),
            self.score_data.eq(read.data),
            maximum.en.eq(en & ~tag.context),
            maximum.tag.eq(tag),
            maximum.scores.eq(data),
            maximum.buf.eq(self.max_buf),
            maximum.lane.eq(self.max_lane),
            self.keys.eq(maximum.keys),
        ]
