"""Order of the output unit: records, table and results of every unit.

Ref: docs/npu.md section 5.
"""

from amaranth.hdl import Module, Mux, Signal, Value
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import exact_log2

from bankside.hw.npu.mac.job import output_job_layout
from bankside.hw.npu.ports import shared_write
from bankside.isa.npu_machine import WORD_BYTES, NpuMachine

__all__ = ["OutputWalk", "TABLE_WORDS", "result_layout"]

TABLE_WORDS = 8
_RECORDS_PER_WORD = 2


def result_layout(machine: NpuMachine) -> data.StructLayout:
    """A results of one position.

    position: in the block; channel: first one in the group, divided by A; count: results that
    exist, 1..A; word, offset: first byte of the output; last: of the operation.
    """
    word = shared_write(machine).members["address"].shape
    return data.StructLayout(
        {
            "position": 16,
            "channel": range(max(2, machine.lanes // machine.output_rate)),
            "count": range(machine.output_rate + 1),
            "word": word,
            "offset": range(WORD_BYTES),
            "last": 1,
        }
    )


class OutputWalk(wiring.Component):
    """Walks blocks, groups, positions and channels.

    Members
    -------
    job_valid : In(1), job : In(output_job_layout)
        The operation whose units come next.
    job_take : Out(1)
        Last cycle of its last unit.
    unit_ready : In(1)
        Accumulators of one more unit are complete from the next cycle on.
    unit_done : Out(1)
        Last cycle of a unit.
    record, table, result : Out(1)
        What this cycle does (one of them, or none): read of a word of records, of the table, of A
        accumulators.
    number : Out
        Of the record word in its group, of the table word.
    word : Out
        Address of that word.
    item : Out(result_layout)
        With `result`.

    Ref: docs/npu.md section 5.
    """

    def __init__(self, machine: NpuMachine) -> None:
        self.machine = machine
        word = shared_write(machine).members["address"].shape
        super().__init__(
            {
                "job_valid": In(1),
                "job": In(output_job_layout(machine)),
                "unit_ready": In(1),
                **dict.fromkeys(("job_take", "unit_done"), Out(1)),
                **dict.fromkeys(("record", "table", "result"), Out(1)),
                "number": Out(range(max(TABLE_WORDS, machine.lanes // _RECORDS_PER_WORD))),
                "word": Out(word),
                "item": Out(result_layout(machine)),
            }
        )

    def elaborate(self, platform) -> Module:
        m = Module()
        job, machine = self.job, self.machine
        ready, active, begun = Signal(2), Signal(), Signal()
        records, table_left, fresh = Signal(6), Signal(), Signal(init=1)
        group = Mux(job.row, machine.lanes, machine.channels)
        left, channel = Signal(16), Signal(16)
        now_left, channels = Signal(16), Signal(7)
        m.d.comb += [
            now_left.eq(Mux(fresh, job.ofm_c, left)),
            channels.eq(Mux(now_left > group, group, now_left)),
            active.eq(begun | (ready != 0)),
        ]
        m.d.sync += [
            ready.eq(ready + self.unit_ready - self.unit_done),
            begun.eq(active & ~self.unit_done),
        ]
        self._phases(m, active, begun, records, table_left, fresh, channels)
        last_group = now_left <= group
        self._results(m, channel, channels, last_group)
        with m.If(self.unit_done):
            m.d.sync += [
                fresh.eq(self.job_take),
                left.eq(Mux(last_group, job.ofm_c, now_left - group)),
                channel.eq(Mux(last_group, 0, channel + group)),
            ]
        with m.If(self.record):
            at = Mux(job.channel, channel[1:] + self.number, 0)
            m.d.comb += self.word.eq(job.scale + at)
        with m.Else():
            m.d.comb += self.word.eq(job.lut + self.number)
        return m

    def _phases(
        self,
        m: Module,
        active: Signal,
        begun: Signal,
        records: Signal,
        table_left: Signal,
        fresh: Signal,
        channels: Signal,
    ) -> None:
        """Records, then the table in the first unit of an operation, then results."""
        job, in_table, in_results = self.job, Signal(), Signal()
        number = Signal.like(self.number)
        wants_table = Mux(begun, table_left, fresh & job.lut_enable)
        last_number = Signal()
        m.d.comb += [
            records.eq(Mux(job.bypass, 0, Mux(job.channel, (channels + 1) >> 1, 1))),
            self.record.eq(active & ~in_table & ~in_results & (records != 0)),
            self.table.eq(active & ~in_results & ~self.record & wants_table),
            self.result.eq(active & ~self.record & ~self.table),
            self.number.eq(number),
            last_number.eq(number + 1 == Mux(self.table, TABLE_WORDS, records)),
        ]
        with m.If(self.record | self.table):
            m.d.sync += [
                number.eq(Mux(last_number, 0, number + 1)),
                table_left.eq(wants_table & ~(self.table & last_number)),
                in_table.eq(Mux(self.record, last_number, ~last_number)),
                in_results.eq(last_number & (self.table | ~wants_table)),
            ]
        with m.If(self.result):
            m.d.sync += in_results.eq(1)
        with m.If(self.unit_done):
            m.d.sync += [in_table.eq(0), in_results.eq(0)]

    def _results(self, m: Module, channel: Signal, channels: Signal, last_group: Value) -> None:
        """Positions of the block for every group; channels inside."""
        job, item, rate = self.job, self.item, self.machine.output_rate
        position, turn = Signal(16), Signal.like(item.channel)
        channel_end, block_end, final = Signal(), Signal(), Signal()
        done, rest = Signal(16), Signal(7)
        place = self._walk(m, channel_end, block_end, final, last_group)
        m.d.comb += [
            done.eq(turn << exact_log2(rate)),
            rest.eq(channels - done),
            channel_end.eq(self.result & (rest <= rate)),
            block_end.eq(channel_end & (final | (position + 1 == job.block))),
            self.unit_done.eq(block_end),
            self.job_take.eq(block_end & last_group & final),
            item.position.eq(position),
            item.channel.eq(turn),
            item.count.eq(Mux(channel_end, rest, rate)),
            item.last.eq(self.job_take),
        ]
        at = Signal(16)
        m.d.comb += [
            at.eq(channel + done),
            item.word.eq(place + Mux(job.ofm_bits, at[4:], at[5:])),
            item.offset.eq(Mux(job.ofm_bits, at[:4] << 1, at[:5])),
        ]
        with m.If(self.result):
            m.d.sync += turn.eq(Mux(channel_end, 0, turn + 1))
        with m.If(channel_end):
            m.d.sync += position.eq(Mux(block_end, 0, position + 1))

    def _walk(
        self,
        m: Module,
        channel_end: Signal,
        block_end: Signal,
        final: Signal,
        last_group: Value,
    ) -> Value:
        """Words of the positions, relative to the first one so that the next operation begins like
        this one. `final`: the position shown is the last one.
        """
        job = self.job
        word = shared_write(self.machine).members["address"].shape
        layout = data.StructLayout({"y": 16, "x": 16, "row": word, "word": word})
        start, now, after = (Signal(layout, name=n) for n in ("start", "now", "after"))
        column_end = Signal()
        m.d.comb += [
            column_end.eq(now.x + 1 == job.ofm_w),
            final.eq(column_end & (now.y + 1 == job.ofm_h)),
        ]
        with m.If(final):
            m.d.comb += after.eq(0)
        with m.Elif(column_end):
            row = now.row + job.ofm_sy
            m.d.comb += [after.y.eq(now.y + 1), after.row.eq(row), after.word.eq(row)]
        with m.Else():
            m.d.comb += [
                after.eq(now),
                after.x.eq(now.x + 1),
                after.word.eq(now.word + job.ofm_sx),
            ]
        with m.If(block_end):
            m.d.sync += now.eq(Mux(last_group, after.as_value(), start.as_value()))
            with m.If(last_group):
                m.d.sync += start.eq(after)
        with m.Elif(channel_end):
            m.d.sync += now.eq(after)
        return job.ofm + now.word
