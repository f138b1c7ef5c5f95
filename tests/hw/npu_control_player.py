"""Control of the `npu` engine with memory and engines around it that are played.

`play(machine, program)` runs a program on `Control` in Amaranth's simulator; the engines' side of
every transfer and operation (its cycles from the start on) is taken from the timing model, the
control's side (when it may start at all) is checked against it.
"""

from collections import deque

from amaranth.hdl import Shape

from bankside.hw.lib.testing import simulate
from bankside.hw.npu.control.control import Control
from bankside.hw.npu.operation import MAC_OPERATIONS, VECTOR_OPERATIONS, opcode
from bankside.isa.npu_commands import commands
from bankside.isa.npu_machine import NpuMachine
from bankside.isa.program import Program

MACS = [opcode(name) for name in MAC_OPERATIONS]
VECTORS = [opcode(name) for name in VECTOR_OPERATIONS]


class Words:
    """Memory behind m1, docs/npu.md section 7. bad: words that come with an error response.
    stall: cycles for which an address is not taken.
    """

    def __init__(self, dut, machine, words, base=0, bad=(), stall=0):
        self.dut, self.words, self.base, self.bad, self.stall = dut, words, base, bad, stall
        self.memory = machine.config.memory
        self.x = self.memory.seed ^ 0x9E3779B9 or self.memory.seed
        self.left = stall
        self.free, self.beats = 0, deque()
        self.asked = []

    def before(self, ctx, cycle):
        """Inputs of this cycle."""
        axi = self.dut.axi
        ctx.set(axi.arready, self.left == 0)
        here = bool(self.beats) and self.beats[0][0] == cycle
        ctx.set(axi.rvalid, here)
        if here:
            _, word, last = self.beats.popleft()
            ctx.set(axi.rdata, self.words[word])
            ctx.set(axi.rresp, 2 if word in self.bad else 0)
            ctx.set(axi.rlast, last)
            assert ctx.get(axi.rready)

    def after(self, ctx, cycle):
        """What the machine does in this cycle."""
        axi = self.dut.axi
        if not ctx.get(axi.arvalid):
            assert self.left == self.stall, "an offered address was withdrawn"
            return
        if self.left:
            self.left -= 1
            return
        self.left = self.stall
        address, beats = ctx.get(axi.araddr), ctx.get(axi.arlen) + 1
        assert (address % 4096) + 8 * beats <= 4096 and ctx.get(axi.arsize) == 3
        first, rest = divmod(address - self.base, 8)
        assert not rest and not self.beats, "one burst at a time"
        self.asked.append((cycle, first, beats))
        for shift, mask in ((13, 1), (-17, 0), (5, 1)):
            moved = self.x << shift if mask else self.x >> -shift
            self.x ^= moved & 0xFFFFFFFF
        memory = self.memory
        late = self.x % (memory.jitter_cycles + 1)
        at = max(cycle + memory.read_latency_cycles + late, self.free)
        for i in range(beats):
            self.beats.append((at + i * memory.beat_cycles, first + i, i == beats - 1))
        self.free = at + beats * memory.beat_cycles


class Transfers:
    """The DMA engine: one transfer at a time; macros of the timing model in order."""

    def __init__(self, dut, macros, expected):
        self.dut, self.macros, self.expected = dut, macros, expected
        self.index, self.complete = 0, -1

    def before(self, ctx, cycle):
        last = self.index < len(self.macros) and cycle == self.macros[self.index]["last"]
        complete = any(cycle == macro["complete"] - 1 for macro in self.macros)
        ctx.set(self.dut.dma.ready, last)
        ctx.set(self.dut.dma_complete, complete)

    def after(self, ctx, cycle):
        port, valid = self.dut.dma, ctx.get(self.dut.dma.valid)
        if self.index == len(self.macros):
            assert not valid, f"cycle {cycle}: a transfer too many"
            return
        macro = self.macros[self.index]
        before = self.macros[self.index - 1]["complete"] if self.index else -1
        if cycle >= macro["load"]:
            assert valid, f"cycle {cycle}: transfer {self.index} should have begun"
            found = {name: ctx.get(port.payload[name]) for name in self.expected[self.index]}
            assert found == self.expected[self.index]
        elif cycle > before:
            assert not valid, f"cycle {cycle}: transfer {self.index} begins too early"
        self.index += cycle == macro["last"]


class Operations:
    """Both kernel engines. spans: (start, end of the last step, complete, opcode, operation)."""

    def __init__(self, dut, spans):
        self.dut, self.spans, self.index = dut, spans, 0

    def before(self, ctx, cycle):
        dut, started = self.dut, self.spans[: self.index]
        busy = [s for s in started if s[0] < cycle < s[2]]
        macs, vectors = ([s for s in busy if s[3] in codes] for codes in (MACS, VECTORS))
        ctx.set(dut.mac_idle, not macs)
        ctx.set(dut.vector_idle, not vectors)
        ctx.set(dut.mac_complete, any(s[2] - 1 == cycle for s in macs))
        ctx.set(dut.vector_complete, any(s[2] - 1 == cycle for s in vectors))
        ctx.set(dut.kind, 1 << VECTORS.index(vectors[0][3]) if vectors else 0)
        young = macs[-1] if macs else None
        ctx.set(dut.in_step, bool(young) and young[0] + 4 <= cycle < young[1])
        starts = self.index < len(self.spans) and self.spans[self.index][0] == cycle
        ctx.set(dut.lacks_output, bool(young) and young[1] <= cycle and not starts)
        # As the engines do it: may depend on what is shown.
        stepped = bool(young) and young[1] <= cycle
        depend = ctx.get(dut.mac.payload.depend)
        ctx.set(dut.mac.ready, not macs or (stepped and depend))
        ctx.set(dut.vector.ready, not vectors)

    def after(self, ctx, cycle):
        dut = self.dut
        if self.index < len(self.spans) and self.spans[self.index][0] == cycle:
            start, _, _, code, expected = self.spans[self.index]
            port = dut.mac if code in MACS else dut.vector
            assert ctx.get(port.valid) and ctx.get(port.ready), f"cycle {cycle}: start of {code:#x}"
            found = {name: ctx.get(port.payload[name]) for name in expected}
            assert found == expected
            self.index += 1
            return
        for port in (dut.mac, dut.vector):
            assert not (ctx.get(port.valid) and ctx.get(port.ready)), f"cycle {cycle}: a start"


def masked(shape, value):
    """`value` as a field of that shape shows it."""
    value &= (1 << shape.width) - 1
    return value - (value >> shape.width - 1 << shape.width) if shape.signed else value


class Player:
    """One program. After `simulate(dut, player.bench)`: cycles, counts, interrupts."""

    def __init__(self, machine: NpuMachine, program: Program, traced, **memory) -> None:
        self.machine, self.program, self.traced = machine, program, traced
        self.dut, self.base = Control(machine), 0x1000 - 128
        self.memory, self.interrupts = memory, []
        self.counts, self.cycles, self.position = [], 0, 0

    def parts(self):
        listed = list(commands(self.program, self.machine))
        names = self.traced.macros.dtype.names
        macros = [dict(zip(names, m.tolist(), strict=True)) for m in self.traced.macros]
        transfers = [m for m in macros if m["engine"] == 0]
        expected = [self.transfer(c) for c in listed if c.name == "DMA"]
        started = sorted((m for m in macros if m["engine"] == 1), key=lambda m: m["load"])
        kernel = [c for c in listed if c.name in (*MAC_OPERATIONS, *VECTOR_OPERATIONS)]
        spans = [
            (m["load"], m["last"], m["complete"], m["opcode"], self.operation(c))
            for m, c in zip(started, kernel, strict=True)
        ]
        words = Words(self.dut, self.machine, self.program.words, self.base, **self.memory)
        return words, Transfers(self.dut, transfers, expected), Operations(self.dut, spans)

    def transfer(self, command):
        reg, layout = command.reg, self.dut.dma.payload.shape()
        base, _ = self.program.regions[reg["region"]]
        copied = ("rows", "row_bytes", "row_step", "buf", "buf_step")
        expected = {name: reg[name] for name in copied}
        expected |= {"address": base + reg["offset"], "position": command.pc, **command.fields}
        return {n: masked(_shape(layout, n), v) for n, v in expected.items()}

    def operation(self, command):
        layout = self.dut.mac.payload.shape()
        names = [name for name, _ in layout if name not in ("opcode", "mode")]
        found = {name: masked(_shape(layout, name), command.reg[name]) for name in names}
        return found | {"opcode": opcode(command.name), "mode": command.op}

    async def start(self, ctx):
        dut = self.dut
        ctx.set(dut.mac_idle, 1)
        ctx.set(dut.vector_idle, 1)
        ctx.set(dut.qbase, self.base)
        ctx.set(dut.qsize, len(self.program.words))
        for i, (base, size) in enumerate(self.program.regions):
            ctx.set(dut.regions[i].base, base)
            ctx.set(dut.regions[i].size, size)
        ctx.set(dut.start, 1)
        await ctx.tick()
        ctx.set(dut.start, 0)

    async def bench(self, ctx):
        dut, parts = self.dut, self.parts()
        await self.start(ctx)
        cycle, done = 0, False
        while not done:
            assert ctx.get(dut.running) and ctx.get(dut.cycle) == cycle and not ctx.get(dut.halted)
            for part in parts:
                part.before(ctx, cycle)
            for part in parts:
                part.after(ctx, cycle)
            if ctx.get(dut.interrupt):
                self.interrupts.append((cycle, ctx.get(dut.interrupt_code)))
            done = ctx.get(dut.done)
            await ctx.tick()
            cycle += 1
        self.cycles, self.position = ctx.get(dut.cycle), ctx.get(dut.position)
        self.counts = [ctx.get(count) for count in dut.counts]
        assert not ctx.get(dut.running) and not ctx.get(dut.halted) and cycle == self.cycles


def _shape(layout, name):
    return Shape.cast(layout[name].shape)


def play(machine: NpuMachine, program: Program, traced, **memory) -> Player:
    """Run `program`; `traced`: its result of the timing model with trace."""
    player = Player(machine, program, traced, **memory)
    simulate(player.dut, player.bench, limit=traced.cycles + 200 + 4 * len(program.words))
    return player
