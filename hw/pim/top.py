"""One DIMM-PIM rank: controller, rank unit and DRAM chips. Ref: docs/pim.md."""

from amaranth.hdl import Module, Mux, ResetInserter, ResetSignal, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import Out

from bankside.hw.lib.queue import Queue
from bankside.hw.lib.unit import Unit
from bankside.hw.pim.controller.controller import Controller
from bankside.hw.pim.rank import PimRank
from bankside.hw.pim.rank_unit.unit import RankUnit
from bankside.isa.machine import Machine

_INPUTS = ("program_en", "program_addr", "program_data", "start")
_STATUS = (
    "ready", "running", "done", "error", "pc", "cycle", "counts", "load", "loaded", "last",
)  # fmt: skip


class PimCore(wiring.Component):
    """Program and host streams in, host stream out; counters and traces beside them.

    Members
    -------
    program_en, program_addr, program_data, start, ready, running, done, error, pc, cycle :
        As in the controller. A program may be written and started while `ready`.
    host_in, host_out : streams of host bursts (C*NE 16-bit elements)
        `start` discards what is left of earlier bursts.
    violation : Out
        Code of the first illegal DRAM command that the device refused, 0 when there was none
        (sticky).
    unrefreshable : Out
        Rows stayed open too long for a refresh to come in time (sticky).
    counts : Out
        Cycles per stall reason, in the order of the command-set specification.
    trace_valid, trace_command : Out
        DRAM command of this cycle.
    load, loaded, last : Out, per engine
        The engine takes a command with this opcode; its last action is in this cycle.
    """

    host_in: stream.Interface
    host_out: stream.Interface

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._controller, self._unit, self._rank = (
            Controller(machine),
            RankUnit(machine),
            PimRank(machine),
        )
        controller, unit, rank = (
            part.signature.members for part in (self._controller, self._unit, self._rank)
        )
        super().__init__(
            {
                **{
                    name: controller[name]
                    for name in ("refresh", *_INPUTS, *_STATUS)
                },
                "host_in": unit["host_in"],
                "host_out": unit["host_out"],
                "violation": rank["violation"],
                "unrefreshable": rank["unrefreshable"],
                "trace_valid": Out(1),
                "trace_command": controller["command"],
            }
        )

    def elaborate(self, platform) -> Module:
        m = Module()
        m.submodules.controller = controller = self._controller
        m.submodules.unit = unit = self._unit
        m.submodules.rank = rank = self._rank
        self._connect_host(m, unit)
        m.d.sync += controller.refresh.eq(self.refresh)
        for name in _INPUTS:
            m.d.comb += getattr(controller, name).eq(getattr(self, name))
        for name in _STATUS:
            m.d.comb += getattr(self, name).eq(getattr(controller, name))
        self._connect_unit(m, controller, unit, rank)
        m.d.comb += [
            rank.valid.eq(controller.command_valid),
            rank.command.eq(controller.command),
            self.violation.eq(rank.violation),
            self.unrefreshable.eq(rank.unrefreshable),
            self.trace_valid.eq(controller.command_valid),
            self.trace_command.eq(controller.command),
            rank.wdata.eq(Mux(controller.write_probability, unit.prob_data, unit.stage_data)),
        ]
        return m

    def _connect_host(self, m: Module, unit: RankUnit) -> None:
        """Two bursts of queue each way, emptied by `start`.

        No input reaches the logic behind it within a cycle: a host may be slow, and a simulator
        need not follow the inputs through the whole rank.
        """
        for name, source, sink in (
            ("host_in_queue", wiring.flipped(self.host_in), unit.host_in),
            ("host_out_queue", unit.host_out, wiring.flipped(self.host_out)),
        ):
            queue = Queue(self.host_in.payload.shape(), 2)
            m.submodules[name] = ResetInserter(self.start)(queue)
            wiring.connect(m, source, queue.i)
            wiring.connect(m, queue.o, sink)

    @staticmethod
    def _connect_unit(m: Module, controller: Controller, unit: RankUnit, rank: PimRank) -> None:
        for name in (
            "geometry",
            "host_start",
            "host_command",
            "rank_start",
            "rank_command",
            "stage_en",
            "stage_address",
            "read_out",
            "read_out_address",
            "read_valid",
            "read_info",
            "prob_en",
            "prob_address",
        ):
            m.d.comb += getattr(unit, name).eq(getattr(controller, name))
        for name in ("host_busy", "host_done", "rank_busy", "rank_done"):
            m.d.comb += getattr(controller, name).eq(getattr(unit, name))
        m.d.comb += unit.read_data.eq(rank.rdata)


class PimTop(wiring.Component):
    """`PimCore` behind a registered reset; ports and their meaning are those of `PimCore`.

    The logic in front of every register depends on the reset. With the core's reset in a register,
    a simulator evaluates that logic once per cycle, not again whenever an input may have changed.
    """

    host_in: stream.Interface
    host_out: stream.Interface

    def __init__(self, machine: Machine) -> None:
        self._core = PimCore(machine)
        super().__init__(self._core.signature)

    def elaborate(self, platform) -> Module:
        m = Module()
        reset = Signal(reset_less=True, init=1)
        m.submodules.core = core = Unit(self._core, "bankside_pim_core", reset=reset)
        m.d.sync += reset.eq(ResetSignal("sync"))
        for name, member in self.signature.members.items():
            outer, inner = getattr(self, name), getattr(core, name)
            if member.is_signature:
                wiring.connect(m, inner, wiring.flipped(outer))
            elif member.flow == wiring.In:
                m.d.comb += inner.eq(outer)
            else:
                m.d.comb += outer.eq(inner)
        return m
