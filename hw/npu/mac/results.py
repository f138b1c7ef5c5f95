"""From accumulators to bytes of the output: bias, scale, average, clamp, table, write.

Ref: docs/npu.md sections 2 and 5.
"""

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value, signed
from amaranth.lib import data, memory, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import exact_log2

from bankside.hw.arith.requantise import Mbqm, Rounding
from bankside.hw.npu.mac.average import COUNT_BITS, Average
from bankside.hw.npu.mac.job import output_job_layout
from bankside.hw.npu.mac.lanes import accumulator_index_bits
from bankside.hw.npu.mac.output_walk import TABLE_WORDS, result_layout
from bankside.hw.npu.ports import shared_write
from bankside.isa.npu_machine import OUTPUT_LATENCY, WORD_BYTES, NpuMachine

__all__ = ["Results"]

_RECORD = data.StructLayout({"bias": signed(32), "mult": signed(32), "shift": signed(8)})
_RECORD_BITS = 128
_CLAMP, _TABLE, _WRITE = 6, 7, OUTPUT_LATENCY
"""Stages: cycles after the read of the accumulators."""


def _tag_layout(machine: NpuMachine) -> data.StructLayout:
    """What accompanies A results through all stages."""
    item = {name: field.shape for name, field in result_layout(machine)}
    job = {name: field.shape for name, field in output_job_layout(machine)}
    names = ("ofm_zero", "ofm_min", "ofm_max", "ofm_bits", "lut_enable")
    return data.StructLayout(
        {
            **{name: item[name] for name in ("count", "word", "offset", "last")},
            **{name: job[name] for name in names},
            "average": 1,
            "bank": 1,
        }
    )


def _pick_layout(machine: NpuMachine) -> data.StructLayout:
    """What is needed in the cycle after the read only."""
    return data.StructLayout(
        {
            "group": range(max(2, machine.lanes // machine.output_rate)),
            "row": range(max(2, machine.positions)),
            "channel": result_layout(machine)["channel"].shape,
            "rounding": Rounding,
            **dict.fromkeys(("per_channel", "bypass"), 1),
        }
    )


class Results(wiring.Component):
    """A pipeline of 8 stages; one result group per cycle.

    Members
    -------
    job : In(output_job_layout)
    record, table, result : In(1), number : In, item : In(result_layout)
        From `OutputWalk`. The word of a record or table is on `word` in the next cycle.
    unit_done : In(1)
    word : In(256)
        Data of port read2.
    read : Out(groups), address : Out
        Lane group that is read in this cycle, and which of its accumulators.
    sums : In(groups of A of signed(32)), counts : In(U of 16)
        What was read in the cycle before.
    write : Out(shared_write)
        8 cycles after `result`.
    complete : Out(1)
        With the last write of an operation.
    """

    def __init__(self, machine: NpuMachine) -> None:
        self.machine = machine
        job, item = output_job_layout(machine), result_layout(machine)
        groups = machine.lanes // machine.output_rate
        sums = data.ArrayLayout(signed(32), machine.output_rate)
        super().__init__(
            {
                "job": In(job),
                **dict.fromkeys(("record", "table", "result", "unit_done"), In(1)),
                "number": In(range(max(TABLE_WORDS, machine.lanes // 2))),
                "item": In(item),
                "word": In(8 * WORD_BYTES),
                "read": Out(groups),
                "address": Out(accumulator_index_bits(machine) + 1),
                "sums": In(data.ArrayLayout(sums, groups)),
                "counts": In(data.ArrayLayout(COUNT_BITS, machine.positions)),
                "write": Out(shared_write(machine)),
                "complete": Out(1),
            }
        )

    def elaborate(self, platform) -> Module:
        m = Module()
        pick, bank = self._read(m), Signal()
        valid = Signal(OUTPUT_LATENCY)
        m.d.sync += valid.eq(Cat(self.result, valid)[:OUTPUT_LATENCY])
        tags = self._tags(m, valid, bank)
        records = self._records(m, pick)
        tables = self._table(m, bank)
        values = []
        for i in range(self.machine.output_rate):
            scaled = self._scale(m, i, valid, tags, pick, records[i])
            clamped = self._clamp(m, i, valid, tags[_CLAMP], scaled)
            values.append(self._look_up(m, i, valid, tags[_TABLE], clamped, tables[i]))
        self._write(m, valid, tags[_WRITE], values)
        return m

    def _read(self, m: Module) -> data.View:
        """Address the accumulators; `pick` is valid one cycle later."""
        machine, item, job = self.machine, self.item, self.job
        pick, held = (Signal(_pick_layout(machine), name=n) for n in ("pick", "held_pick"))
        buffer, low = Signal(), exact_log2(machine.positions)
        per_row = machine.channels // machine.output_rate
        m.d.sync += buffer.eq(buffer ^ self.unit_done)
        index = Mux(job.row, item.position, item.position[low:])
        row = Mux(job.row, 0, item.position[:low]) if low else Const(0, 1)
        m.d.comb += [
            pick.row.eq(row),
            pick.group.eq(row * per_row + item.channel),
            pick.channel.eq(item.channel),
            pick.rounding.eq(job.rounding),
            pick.per_channel.eq(job.channel),
            pick.bypass.eq(job.bypass),
            self.address.eq(Cat(index[: accumulator_index_bits(machine)], buffer)),
            self.read.eq(self.result << pick.group),
        ]
        with m.If(self.result):
            m.d.sync += held.eq(pick)
        return held

    def _tags(self, m: Module, valid: Signal, bank: Signal) -> list[data.View]:
        """Tag of stage i (0: this cycle)."""
        tag = Signal(_tag_layout(self.machine))
        item, job = self.item, self.job
        with m.If(self.table & (self.number == 0)):
            m.d.sync += bank.eq(~bank)
        m.d.comb += [
            *(tag[n].eq(item[n]) for n in ("count", "word", "offset", "last")),
            *(tag[n].eq(job[n]) for n in ("ofm_min", "ofm_max", "ofm_bits", "lut_enable")),
            tag.ofm_zero.eq(Mux(job.bypass, 0, job.ofm_zero)),
            tag.average.eq(job.average),
            tag.bank.eq(bank),
        ]
        tags, there = [tag], self.result
        for stage in range(1, OUTPUT_LATENCY + 1):
            after = Signal(_tag_layout(self.machine), name=f"tag{stage}", reset_less=True)
            with m.If(there):
                m.d.sync += after.eq(tags[-1])
            tags.append(after)
            there = valid[stage - 1]
        return tags

    def _records(self, m: Module, pick: data.View) -> list[data.View]:
        """Records of the unit, two per word; those of the A channels in stage 1."""
        machine, rate = self.machine, self.machine.output_rate
        depth = max(2, machine.lanes // 2)
        cells = memory.Memory(shape=2 * _RECORD.size, depth=depth, init=[])
        m.submodules.records = cells
        write, arrived, number = cells.write_port(), Signal(), Signal.like(self.number)
        m.d.sync += arrived.eq(self.record)
        with m.If(self.record):
            m.d.sync += number.eq(self.number)
        halves = [self.word.word_select(h, _RECORD_BITS)[: _RECORD.size] for h in range(2)]
        m.d.comb += [
            write.en.eq(arrived),
            write.addr.eq(number),
            write.data.eq(Cat(halves)),
        ]
        records = []
        for i in range(0, rate, 2):
            read = cells.read_port(domain="comb")
            channel = (pick.channel << exact_log2(rate)) + i
            first = ~pick.per_channel
            m.d.comb += read.addr.eq(Mux(first, 0, channel >> 1))
            for half in range(min(2, rate)):
                record = Signal(_RECORD, name=f"record{i + half}")
                odd = ~first & (channel[0] if rate == 1 else half)
                m.d.comb += record.eq(read.data.word_select(odd, _RECORD.size))
                records.append(record)
        return records

    def _scale(
        self, m: Module, i: int, valid: Signal, tags: list, pick: data.View, record: data.View
    ) -> Value:
        """Stages 1 to 5: bias, then scale or average; the accumulator itself without a record."""
        mbqm = m.submodules[f"mbqm{i}"] = Mbqm()
        average = m.submodules[f"average{i}"] = Average()
        biased = Signal(signed(32), name=f"biased{i}", reset_less=True)
        mult = Signal(signed(32), name=f"mult{i}", reset_less=True)
        shift = Signal(signed(8), name=f"shift{i}", reset_less=True)
        rounding = Signal(Rounding, name=f"rounding{i}", reset_less=True)
        count = Signal(COUNT_BITS, name=f"count{i}", reset_less=True)
        total = self.sums[pick.group][i]
        with m.If(valid[0]):
            m.d.sync += [
                biased.eq(total + Mux(pick.bypass, 0, record.bias)),
                # 2^30 * 2^(1 - 31) = 1
                mult.eq(Mux(pick.bypass, 1 << 30, record.mult)),
                shift.eq(Mux(pick.bypass, 1, record.shift)),
                rounding.eq(Mux(pick.bypass, Rounding.TRUNC.value, Value.cast(pick.rounding))),
                count.eq(self.counts[pick.row]),
            ]
        averages = tags[2].average
        m.d.comb += [
            mbqm.i_valid.eq(valid[1] & ~averages),
            mbqm.x.eq(biased),
            mbqm.mult.eq(mult),
            mbqm.shift.eq(shift),
            mbqm.rounding.eq(rounding),
            average.i_valid.eq(valid[1] & averages),
            average.total.eq(biased),
            average.count.eq(count),
        ]
        return Mux(tags[_CLAMP].average, average.y, mbqm.y)

    @staticmethod
    def _clamp(m: Module, i: int, valid: Signal, tag: data.View, value: Value) -> Signal:
        """Zero point (wraps), then the lower limit, then the upper one."""
        moved, low = Signal(signed(32), name=f"moved{i}"), Signal(signed(32), name=f"low{i}")
        clamped = Signal(signed(16), name=f"clamped{i}", reset_less=True)
        m.d.comb += [
            moved.eq(value + tag.ofm_zero),
            low.eq(Mux(moved < tag.ofm_min, tag.ofm_min, moved)),
        ]
        with m.If(valid[_CLAMP - 1]):
            m.d.sync += clamped.eq(Mux(low > tag.ofm_max, tag.ofm_max, low))
        return clamped

    def _table(self, m: Module, bank: Signal) -> list[memory.ReadPort]:
        """The table of this operation and that of the one before, which may still be in use."""
        m.submodules.table = cells = memory.Memory(
            shape=8 * WORD_BYTES, depth=2 * TABLE_WORDS, init=[]
        )
        write, arrived, number = cells.write_port(), Signal(), Signal(3)
        m.d.sync += arrived.eq(self.table)
        with m.If(self.table):
            m.d.sync += number.eq(self.number)
        m.d.comb += [
            write.en.eq(arrived),
            write.addr.eq(Cat(number, bank)),
            write.data.eq(self.word),
        ]
        return [cells.read_port(domain="comb") for _ in range(self.machine.output_rate)]

    @staticmethod
    def _look_up(
        m: Module, i: int, valid: Signal, tag: data.View, value: Signal, table: memory.ReadPort
    ) -> Signal:
        result = Signal(16, name=f"result{i}", reset_less=True)
        index = Signal(8, name=f"index{i}")
        m.d.comb += [
            index.eq(value + 128),
            table.addr.eq(Cat(index[5:], tag.bank)),
        ]
        with m.If(valid[_TABLE - 1]):
            found = table.data.word_select(index[:5], 8)
            m.d.sync += result.eq(Mux(tag.lut_enable, found, value))
        return result

    def _write(self, m: Module, valid: Signal, tag: data.View, values: list[Signal]) -> None:
        """The results at every place of the word where they could lie; the mask chooses."""
        rate = self.machine.output_rate
        narrow, wide = Cat(value[:8] for value in values), Cat(values)
        exist = Signal(2 * rate)
        with m.Switch(tag.count):
            for count in range(rate + 1):
                with m.Case(count):
                    ones = Mux(tag.ofm_bits, (1 << 2 * count) - 1, (1 << count) - 1)
                    m.d.comb += exist.eq(ones)
        there = valid[_WRITE - 1]
        m.d.comb += [
            self.write.en.eq(there),
            self.write.address.eq(tag.word),
            self.write.data.eq(
                Mux(
                    tag.ofm_bits,
                    wide.replicate(WORD_BYTES // 2 // rate),
                    narrow.replicate(WORD_BYTES // rate),
                )
            ),
            self.write.mask.eq(exist << tag.offset),
            self.complete.eq(there & tag.last),
        ]
