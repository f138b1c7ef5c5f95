"""The MAC path as one engine: queue in, shared buffer and weight buffer at its sides.

Ref: docs/npu.md section 5.
"""

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import data, memory, wiring
from amaranth.lib.wiring import Out

from bankside.hw.lib.delay import DelayLine
from bankside.hw.lib.queue import Queue
from bankside.hw.lib.unit import Unit
from bankside.hw.npu.mac.average import COUNT_BITS
from bankside.hw.npu.mac.decoder import PackedFeed
from bankside.hw.npu.mac.feed import ActivationFeed
from bankside.hw.npu.mac.job import Setup, output_job_layout
from bankside.hw.npu.mac.lanes import LaneGroup, accumulator_index_bits
from bankside.hw.npu.mac.output_walk import OutputWalk
from bankside.hw.npu.mac.results import Results
from bankside.hw.npu.mac.steps import Steps
from bankside.hw.npu.mac.tiles import TileFeed
from bankside.hw.npu.ports import engine_members, weight_read
from bankside.isa.npu_machine import DEPTH, MAC_LATENCY, NpuMachine

__all__ = ["MacEngine"]

_UNDER_WAY = 4
"""Operations between start and completion: one in the steps, those of both accumulator buffers, one
whose results are in the pipeline."""


class MacEngine(wiring.Component):
    """CONV, DEPTHWISE, MATMUL, POOL.

    Members
    -------
    engine_members : as in `bankside.hw.npu.ports`
        An operation with `depend` starts when the steps of the one before are done, any other one
        when that is complete.
    weights : Out(weight_read)
    illegal_weights : Out(1)
        Fault 7: a packed tile leaves the weight buffer or has no header (pulse; narrow profile).
    in_step : Out(1)
        A step is under way.
    lacks_weights : Out(1)
        None is; the next one's tile is not there.
    lacks_output : Out(1)
        None is; accumulators are not free or only the output unit has work.
    in_setup : Out(1)
        Any other cycle between start and completion.

    Ref: docs/npu.md sections 1, 5 and 8.
    """

    def __init__(self, machine: NpuMachine) -> None:
        self.machine = machine
        status = ("illegal_weights", "in_step", "lacks_weights", "lacks_output", "in_setup")
        super().__init__(
            {
                **engine_members(machine),
                "weights": Out(weight_read(machine)),
                **dict.fromkeys(status, Out(1)),
            }
        )

    def elaborate(self, platform) -> Module:
        m = Module()
        machine = self.machine
        m.submodules.setup = setup = Setup(machine)
        m.submodules.steps = steps = Steps(machine)
        m.submodules.feed = feed = ActivationFeed(machine)
        m.submodules.tiles = tiles = TileFeed(machine) if machine.wide else PackedFeed(machine)
        m.submodules.walk = walk = OutputWalk(machine)
        m.submodules.results = results = Results(machine)
        self._start(m, setup, steps, results)
        for part in (steps, tiles):
            m.d.comb += [
                part.job.eq(setup.job),
                part.geometry.eq(setup.geometry),
                part.load.eq(setup.load),
            ]
        m.d.comb += [
            tiles.step_end.eq(steps.tile_end),
            steps.tile_ready.eq(tiles.ready),
            steps.unit_done.eq(walk.unit_done),
            feed.work_valid.eq(steps.work_valid),
            feed.work.eq(steps.work),
            feed.word.eq(self.read0.data),
        ]
        wiring.connect(m, steps.read, wiring.flipped(self.read0))
        wiring.connect(m, tiles.weights, wiring.flipped(self.weights))
        if machine.wide:
            wiring.connect(m, tiles.rows, wiring.flipped(self.read1))
        else:
            m.d.comb += self.illegal_weights.eq(tiles.illegal)
        self._output(m, setup, steps, walk, results)
        self._lanes(m, feed, tiles, results)
        self._counts(m, feed, results)
        return m

    def _start(self, m: Module, setup: Setup, steps: Steps, results: Results) -> None:
        """Which operation may start, and what the counters see."""
        under_way, stepped = Signal(range(_UNDER_WAY + 1)), Signal()
        overlaps = self.operation.payload.depend & stepped & (under_way != _UNDER_WAY)
        m.d.comb += [
            self.idle.eq(under_way == 0),
            self.operation.ready.eq(self.idle | overlaps),
            self.started.eq(self.operation.valid & self.operation.ready),
            self.steps_done.eq(steps.end),
            self.complete.eq(results.complete),
            setup.start.eq(self.started),
            setup.operation.eq(self.operation.payload),
            self.in_step.eq(steps.active),
            self.lacks_weights.eq(steps.lacks_tile),
            self.lacks_output.eq(
                ~self.in_step
                & ~self.lacks_weights
                & (steps.pending | (stepped & ~self.started))
                & ~self.idle
            ),
            self.in_setup.eq(setup.busy | self.started),
        ]
        m.d.sync += under_way.eq(under_way + self.started - self.complete)
        with m.If(self.started):
            m.d.sync += stepped.eq(0)
        with m.Elif(steps.end):
            m.d.sync += stepped.eq(1)

    def _output(
        self, m: Module, setup: Setup, steps: Steps, walk: OutputWalk, results: Results
    ) -> None:
        machine = self.machine
        m.submodules.jobs = jobs = Queue(output_job_layout(machine), _UNDER_WAY)
        # Six cycles from the last step to the first one of the output unit.
        m.submodules.settle = settle = DelayLine(1, MAC_LATENCY)
        m.d.comb += [
            jobs.i.valid.eq(self.started),
            jobs.i.payload.eq(setup.output),
            jobs.o.ready.eq(walk.job_take),
            settle.i_valid.eq(steps.unit_end),
            walk.unit_ready.eq(settle.o_valid),
            walk.job_valid.eq(jobs.o.valid),
            walk.job.eq(jobs.o.payload),
            results.job.eq(jobs.o.payload),
            self.read2.en.eq(walk.record | walk.table),
            self.read2.address.eq(walk.word),
            results.word.eq(self.read2.data),
        ]
        for name in ("record", "table", "result", "unit_done", "number", "item"):
            m.d.comb += getattr(results, name).eq(getattr(walk, name))
        wiring.connect(m, results.write, wiring.flipped(self.write0))

    def _lanes(self, m: Module, feed: ActivationFeed, tiles, results: Results) -> None:
        machine = self.machine
        rate = machine.output_rate
        per_row = machine.channels // rate
        shared = ("load", "slot", "part", "single", "pool", "multiply", "accumulate")
        name = f"bankside_npu_lanes_{machine.config.npu.profile}_{machine.macs}"
        for group in range(machine.lanes // rate):
            u, q = divmod(group, per_row)
            lanes = Unit(LaneGroup(machine), name)
            m.submodules[f"lanes{group}"] = lanes
            own = slice(group * rate, (group + 1) * rate)
            m.d.comb += [
                *(getattr(lanes, n).eq(getattr(feed, n)) for n in shared),
                lanes.first.eq(feed.first),
                lanes.maximum.eq(feed.maximum),
                lanes.address.eq(feed.address),
                lanes.x.eq(feed.x[u]),
                lanes.w_en.eq(tiles.w_en[own]),
                lanes.w_slot.eq(tiles.w_slot),
                lanes.read.eq(results.read[group]),
                lanes.read_address.eq(results.address),
                results.sums[group].eq(lanes.data),
            ]
            for i in range(rate):
                m.d.comb += lanes.lane[i].eq(self._place(feed, q * rate + i))
            self._weights(m, feed, tiles, lanes, group)

    def _weights(self, m: Module, feed: ActivationFeed, tiles, lanes: Unit, group: int) -> None:
        """Tiles of one group of lanes."""
        rate = self.machine.output_rate
        for i in range(rate):
            n = group * rate + i
            u, lane = divmod(n, self.machine.channels)
            if self.machine.wide:
                m.d.comb += [
                    lanes.w_data[i].eq(tiles.w_data[u % len(tiles.w_data)][lane]),
                    lanes.w_first[i].eq(tiles.w_first[n]),
                    lanes.s_data[i].eq(tiles.s_data[n]),
                ]
            else:
                m.d.comb += lanes.w_data[i].eq(tiles.w_data[n])
        if self.machine.wide:
            own = slice(group * rate, (group + 1) * rate)
            m.d.comb += [lanes.s_en.eq(tiles.s_en[own]), lanes.w_alone.eq(tiles.w_alone)]
            m.d.comb += [lanes.w4.eq(feed.w4), lanes.zero2.eq(feed.zero2)]
        else:
            m.d.comb += lanes.w_part.eq(tiles.w_part)

    def _place(self, feed: ActivationFeed, lane: int):
        """One-hot place of a lane's own channel among the 8 on its way (DEPTHWISE, POOL)."""
        if self.machine.channels == DEPTH:
            return 1 << lane
        # Groups of 4 channels lie in both halves.
        return Mux(feed.offset[2], 1 << lane + DEPTH // 2, 1 << lane)

    def _counts(self, m: Module, feed: ActivationFeed, results: Results) -> None:
        """POOL average: inputs that exist, for every position of both buffers."""
        machine = self.machine
        layout = data.ArrayLayout(COUNT_BITS, machine.positions)
        depth = 2 << accumulator_index_bits(machine)
        m.submodules.counts = cells = memory.Memory(shape=layout, depth=depth, init=[])
        write, old, out = cells.write_port(), cells.read_port(domain="comb"), cells.read_port()
        m.d.comb += [
            write.en.eq(feed.accumulate & feed.averages),
            write.addr.eq(feed.address),
            old.addr.eq(feed.address),
            out.en.eq(results.result),
            out.addr.eq(results.address),
            results.counts.eq(out.data),
        ]
        for u in range(machine.positions):
            base = Mux(feed.first, 0, old.data[u])
            m.d.comb += write.data[u].eq(base + feed.counts[u])
