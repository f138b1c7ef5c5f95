"""Host engine: sequencing of HWR and HRD."""

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from bankside.hw.pim.rank_unit.permute import chip_bits
from bankside.hw.pim.rank_unit.ports import field_width, geometry_layout, host_layout
from bankside.hw.pim.rank_unit.staging import place_layout
from bankside.isa.machine import Machine
from bankside.isa.relayout import HEAD


class HostEngine(wiring.Component):
    """Moves `count` bursts between the host streams and the stagings, one per STEP cycles.

    Members
    -------
    geometry : In(geometry_layout)
    start, command : In(1), In(host_layout)
        Load cycle x; only while `busy` is low.
    busy, done : Out(1)
        Busy in x+1 .. x+count*STEP, done in the last of them.
    host_in, host_out : streams of bursts
        The last cycle of each STEP transfers one burst and repeats while the host is not there.
    place : Out(place_layout)
        Place of the burst under way.
    write_en, write_data : Out
        Write port of the input staging, in the last cycle of the STEP.
    read_en, read_data : Out(1), In
        Read port of the output staging: en in the last cycle but one, data in the last one.

    Ref: docs/pim.md sections 3 and 4.
    """

    geometry: Signal
    start: Signal
    command: Signal
    busy: Signal
    done: Signal
    host_in: stream.Interface
    host_out: stream.Interface
    place: Signal
    write_en: Signal
    write_data: Signal
    read_en: Signal
    read_data: Signal

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        burst = machine.chips * machine.slice_bits
        super().__init__(
            {
                "geometry": In(geometry_layout(machine)),
                "start": In(1),
                "command": In(host_layout(machine)),
                "busy": Out(1),
                "done": Out(1),
                "host_in": In(stream.Signature(burst)),
                "host_out": Out(stream.Signature(burst)),
                "place": Out(place_layout(machine)),
                "write_en": Out(1),
                "write_data": Out(burst),
                "read_en": Out(1),
                "read_data": In(burst),
            }
        )

    def elaborate(self, platform) -> Module:
        m = Module()
        step = self.machine.step
        phase = Signal(range(step))
        read = Signal()
        remaining = Signal.like(self.command.count)
        last, transfer = Signal(), Signal()
        m.d.comb += [
            last.eq(self.busy & (phase == step - 1)),
            self.host_in.ready.eq(last & ~read),
            self.host_out.valid.eq(last & read),
            transfer.eq(last & Mux(read, self.host_out.ready, self.host_in.valid)),
            self.done.eq(transfer & (remaining == 1)),
            self.write_en.eq(self.host_in.ready & self.host_in.valid),
            self.write_data.eq(self.host_in.payload),
            self.read_en.eq(self.busy & read & (phase == step - 2)),
            self.host_out.payload.eq(self.read_data),
        ]
        with m.If(self.busy & ~last):
            m.d.sync += phase.eq(phase + 1)
        with m.If(transfer):
            m.d.sync += [phase.eq(0), remaining.eq(remaining - 1), self.busy.eq(~self.done)]
        with m.If(self.start):
            m.d.sync += [
                self.busy.eq(1),
                phase.eq(0),
                read.eq(self.command.read),
                remaining.eq(self.command.count),
            ]
        self._walk(m, transfer)
        return m

    def _walk(self, m: Module, transfer: Signal) -> None:
        """Place of the next burst: within the head, then the next head, then the next lane."""
        bits, place = chip_bits(self.machine), self.place
        within = Signal(field_width("GEOM", "cpt"))
        lane_base = Signal.like(place.address)
        heads_log2, heads, per_head = Signal(3), Signal(bits + 1), Signal.like(within)
        m.d.comb += [
            heads_log2.eq(bits - self.geometry.nhc_log2),
            heads.eq(1 << heads_log2),
            per_head.eq(self.geometry.cpt >> heads_log2),
        ]
        with m.If(transfer):
            with m.If(place.layout != HEAD):
                m.d.sync += place.address.eq(place.address + 1)
            with m.Elif(within != per_head - 1):
                m.d.sync += [within.eq(within + 1), place.address.eq(place.address + heads)]
            with m.Elif(place.head != heads - 1):
                m.d.sync += [within.eq(0), place.head.eq(place.head + 1)]
                m.d.sync += place.address.eq(lane_base)
            with m.Else():
                next_lane = lane_base + self.geometry.cpt
                m.d.sync += [within.eq(0), place.head.eq(0)]
                m.d.sync += [lane_base.eq(next_lane), place.address.eq(next_lane)]
        with m.If(self.start):
            m.d.sync += [within.eq(0), lane_base.eq(self.command.address)]
            m.d.sync += [
                place.address.eq(self.command.address),
                place.head.eq(0),
                place.layout.eq(self.command.layout),
            ]
