"""The loops over output channels and steps that weight unit and MAC unit both walk."""

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from bankside.hw.npu.mac.job import step_job_layout
from bankside.isa.npu_machine import WORD_BYTES, NpuMachine

__all__ = ["StepNest"]


class StepNest(wiring.Component):
    """Order of the steps: block, group, ky, kx, input channels.

    Members
    -------
    job : In(step_job_layout)
    load : In(1)
        The next cycle shows the first step.
    advance : In(1)
        The next cycle shows the next one.
    last_block : In(1)
        The step shown belongs to the last block.
    pending : Out(1)
        A step is shown.
    first : Out(1)
        The first of its unit.
    last_channels, last_column, last_row : Out(1)
        No more input channels for this tap; no more taps in the row of the window; no more rows.
    last : Out(1), block_last : Out(1), end : Out(1)
        The last of its unit, of its block, of the operation.
    channels : Out(16)
        Input channels from this step's first on.
    channel_word : Out(11)
        32 input channels each before.
    outputs, output : Out(16)
        Output channels from the first one of the group on; that one.

    Ref: docs/npu.md section 3.
    """

    def __init__(self, machine: NpuMachine) -> None:
        self.machine = machine
        flags = ("pending", "first", "last_channels", "last_column", "last_row")
        super().__init__(
            {
                "job": In(step_job_layout(machine)),
                **dict.fromkeys(("load", "advance", "last_block"), In(1)),
                **dict.fromkeys((*flags, "last", "block_last", "end"), Out(1)),
                **dict.fromkeys(("channels", "outputs", "output"), Out(16)),
                "channel_word": Out(11),
            }
        )

    def elaborate(self, platform) -> Module:
        m = Module()
        job, machine = self.job, self.machine
        row, column = Signal(8), Signal(8)
        group = Signal(range(machine.lanes + 1))
        m.d.comb += [
            group.eq(Mux(job.row, machine.lanes, machine.channels)),
            self.last_channels.eq(job.single | (self.channels <= WORD_BYTES)),
            self.last_column.eq(column + 1 == job.kernel_w),
            self.last_row.eq(row + 1 == job.kernel_h),
            self.last.eq(self.last_channels & self.last_column & self.last_row),
            self.block_last.eq(self.last & (self.outputs <= group)),
            self.end.eq(self.block_last & self.last_block),
        ]
        with m.If(self.advance):
            m.d.sync += [
                self.first.eq(self.last),
                self.channels.eq(self.channels - WORD_BYTES),
                self.channel_word.eq(self.channel_word + 1),
            ]
            with m.If(self.last_channels):
                m.d.sync += [
                    self.channels.eq(job.ifm_c),
                    self.channel_word.eq(0),
                    column.eq(Mux(self.last_column, 0, column + 1)),
                ]
                with m.If(self.last_column):
                    m.d.sync += row.eq(Mux(self.last_row, 0, row + 1))
            with m.If(self.last):
                m.d.sync += [
                    self.outputs.eq(Mux(self.block_last, job.ofm_c, self.outputs - group)),
                    self.output.eq(Mux(self.block_last, 0, self.output + group)),
                ]
            with m.If(self.end):
                m.d.sync += self.pending.eq(0)
        with m.If(self.load):
            m.d.sync += [
                *(signal.eq(1) for signal in (self.pending, self.first)),
                *(signal.eq(0) for signal in (row, column, self.channel_word, self.output)),
                self.channels.eq(job.ifm_c),
                self.outputs.eq(job.ofm_c),
            ]
        return m
