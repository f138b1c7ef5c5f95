"""The rank unit: everything between the host port, the chips' data bus and the controller."""

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from bankside.hw.pim.rank_unit.host import HostEngine
from bankside.hw.pim.rank_unit.normalise import NormaliseUnit
from bankside.hw.pim.rank_unit.permute import chip_bits
from bankside.hw.pim.rank_unit.ports import (
    burst_layout,
    field_width,
    geometry_layout,
    host_layout,
    rank_layout,
)
from bankside.hw.pim.rank_unit.probability import ProbabilityMemory
from bankside.hw.pim.rank_unit.reduce import Reduce
from bankside.hw.pim.rank_unit.softmax import Softmax
from bankside.hw.pim.rank_unit.staging import OutputStaging, Staging
from bankside.isa.machine import Machine


class RankUnit(wiring.Component):
    """Rank unit of one rank, driven by the controller.

    A *burst* is C slices of NE*16 bits as one vector; chip k has bits [k*NE*16, (k+1)*NE*16).
    Every input is sampled in the cycle named; outputs marked "register" change only at a clock
    edge. No port needs an operand to stay after its cycle.

    Members
    -------
    geometry : In(geometry_layout)
        Geometry registers; constant while anything here is busy or a burst is under way.

    host_start : In(1), host_command : In(host_layout)
        High for one cycle, the load cycle x of HWR or HRD; only while `host_busy` is low.
    host_busy : Out(1), register
        High in cycles x+1 .. x+N, N = count*STEP (more when the host makes it wait).
    host_done : Out(1)
        High in cycle x+N, the last busy cycle: the command completes in this cycle.
    host_in : In(stream of a burst)
        HWR takes burst i in the last cycle of its STEP: `ready` is high only there, and that
        cycle repeats until `valid`. The staging holds it from the next cycle.
    host_out : Out(stream of a burst)
        HRD offers burst i in the last cycle of its STEP, which repeats until `ready`.

    rank_start : In(1), rank_command : In(rank_layout)
        High for one cycle, the load cycle x of SFM or NORM; only while `rank_busy` is low.
    rank_busy : Out(1), register
        High in x+1 .. x+N; SFM: N = lanes*(groups*B + 5)*STEP, NORM: lanes*(2*count + 29)*STEP.
    rank_done : Out(1)
        High in cycle x+N.

    stage_en : In(1), stage_address : In(12), stage_data : Out(burst)
        Read port of the input staging: en and address in cycle x give the data in cycle x+1,
        where it stays until the cycle after the next en. For WR and WRSBQ at t: en in t+WL-1.

    read_data : In(burst)
        The chips' burst, in cycle t+RL of its RD or RDRB.
    read_out : In(1), read_out_address : In(12)
        The burst of this cycle belongs to RD: it goes to this address of the output staging.
    read_valid : In(1), read_info : In(burst_layout)
        The burst of this cycle belongs to RDRB; at least STEP cycles after the one before.
        The score word is in the memory, and the maximum up to date, from cycle
        t+RL+(TL+1)*STEP + 1.

    prob_en : In(1), prob_address : In(10), prob_data : Out(burst)
        Read port of the probability memory: en and address in cycle x, data in cycle x+1 (kept
        as `stage_data`), already expanded: chip k has the NE elements of head k div N_hc. For a
        header word that is the head's k in the low 8 bits of every chip's slice. For WRSBP at t:
        en in t+WL-1.

    Raises
    ------
    ConfigError
        The rank has one chip: there is nothing to reduce or to re-layout.

    Ref: docs/pim.md sections 2 to 6.
    """

    geometry: Signal
    host_start: Signal
    host_command: Signal
    host_busy: Signal
    host_done: Signal
    host_in: stream.Interface
    host_out: stream.Interface
    rank_start: Signal
    rank_command: Signal
    rank_busy: Signal
    rank_done: Signal
    stage_en: Signal
    stage_address: Signal
    stage_data: Signal
    read_data: Signal
    read_out: Signal
    read_out_address: Signal
    read_valid: Signal
    read_info: Signal
    prob_en: Signal
    prob_address: Signal
    prob_data: Signal

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        chip_bits(machine)  # refuses a number of chips that the tree and the skew cannot serve
        burst = machine.chips * machine.slice_bits
        staging = field_width("WR", "stage")
        super().__init__(
            {
                "geometry": In(geometry_layout(machine)),
                "host_start": In(1),
                "host_command": In(host_layout(machine)),
                "host_busy": Out(1),
                "host_done": Out(1),
                "host_in": In(stream.Signature(burst)),
                "host_out": Out(stream.Signature(burst)),
                "rank_start": In(1),
                "rank_command": In(rank_layout(machine)),
                "rank_busy": Out(1),
                "rank_done": Out(1),
                "stage_en": In(1),
                "stage_address": In(staging),
                "stage_data": Out(burst),
                "read_data": In(burst),
                "read_out": In(1),
                "read_out_address": In(staging),
                "read_valid": In(1),
                "read_info": In(burst_layout(machine)),
                "prob_en": In(1),
                "prob_address": In(field_width("WRSBP", "prob")),
                "prob_data": Out(burst),
            }
        )

    def elaborate(self, platform) -> Module:
        m = Module()
        machine = self.machine
        m.submodules.host = host = HostEngine(machine)
        m.submodules.stage_in = stage_in = Staging(machine)
        m.submodules.stage_out = stage_out = OutputStaging(machine)
        m.submodules.reduce = reduce = Reduce(machine)
        m.submodules.softmax = softmax = Softmax(machine)
        m.submodules.normalise = normalise = NormaliseUnit(machine)
        m.submodules.probability = probability = ProbabilityMemory(machine)
        for unit in (host, stage_in, stage_out, softmax, normalise):
            m.d.comb += unit.geometry.eq(self.geometry)
        for unit in (reduce, probability):
            m.d.comb += unit.nhc_log2.eq(self.geometry.nhc_log2)
        self._host(m, host, stage_in, stage_out)
        self._bus(m, stage_in, stage_out, normalise, reduce, probability)
        self._rank(m, reduce, softmax, normalise, probability)
        return m

    def _host(self, m: Module, host, stage_in, stage_out) -> None:
        wiring.connect(m, wiring.flipped(self.host_in), host.host_in)
        wiring.connect(m, host.host_out, wiring.flipped(self.host_out))
        m.d.comb += [
            host.start.eq(self.host_start),
            host.command.eq(self.host_command),
            self.host_busy.eq(host.busy),
            self.host_done.eq(host.done),
            stage_in.host_en.eq(host.write_en),
            stage_in.host_place.eq(host.place),
            stage_in.host_data.eq(host.write_data),
            stage_out.host_en.eq(host.read_en),
            stage_out.host_place.eq(host.place),
            host.read_data.eq(stage_out.host_data),
        ]

    def _bus(self, m: Module, stage_in, stage_out, normalise, reduce, probability) -> None:
        """Everything that goes to or comes from the chips."""
        # Tokens keep RD and NORM apart: only one of the two writes in a cycle.
        read = self.read_out
        m.d.comb += [
            stage_in.chip_en.eq(self.stage_en),
            stage_in.chip_address.eq(self.stage_address),
            self.stage_data.eq(stage_in.chip_data),
            stage_out.chip_en.eq(read | normalise.out_en),
            stage_out.chip_address.eq(Mux(read, self.read_out_address, normalise.out_address)),
            stage_out.chip_data.eq(Mux(read, self.read_data, normalise.out_data)),
            reduce.valid.eq(self.read_valid),
            reduce.info.eq(self.read_info),
            reduce.data.eq(self.read_data),
            probability.read_en.eq(self.prob_en),
            probability.read_address.eq(self.prob_address),
            self.prob_data.eq(probability.read_data),
        ]

    def _rank(self, m: Module, reduce, softmax, normalise, probability) -> None:
        """SFM and NORM: one of them at a time."""
        norm = normalise.busy
        m.d.comb += [
            softmax.start.eq(self.rank_start & ~self.rank_command.norm),
            normalise.start.eq(self.rank_start & self.rank_command.norm),
            softmax.command.eq(self.rank_command),
            normalise.command.eq(self.rank_command),
            self.rank_busy.eq(softmax.busy | norm),
            self.rank_done.eq(softmax.done | normalise.done),
            reduce.max_buf.eq(softmax.max_buf),
            reduce.max_lane.eq(softmax.max_lane),
            softmax.keys.eq(reduce.keys),
            reduce.score_en.eq(softmax.score_en | normalise.score_en),
            reduce.score_address.eq(Mux(norm, normalise.score_address, softmax.score_address)),
            softmax.score_data.eq(reduce.score_data),
            normalise.score_data.eq(reduce.score_data),
            softmax.norm_lane.eq(normalise.lane),
            normalise.denominators.eq(softmax.denominators),
            probability.write_en.eq(softmax.prob_en),
            probability.write_address.eq(softmax.prob_address),
            probability.header.eq(softmax.prob_header),
            probability.write_data.eq(softmax.prob_data),
        ]
