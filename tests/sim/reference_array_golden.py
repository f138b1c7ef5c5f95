"""The compute engine of the `array` machine, one number at a time.

A plain reading of docs/array.md sections 2 and 3 on Python integers: tile by tile, block by block,
word by word, PE by PE. Slow; it shares nothing with the golden model but the scalar arithmetic.
"""

from bankside.isa import numerics_array as fp
from bankside.isa.array_machine import ArrayMachine
from bankside.isa.array_schedule import FORMATS, Block, Schedule
from bankside.isa.numerics import fp32_add, fp32_scale_down, reciprocal


class ScalarArray:
    """row, column: lists of 16-bit patterns per bank; everything else as in docs/array.md."""

    def __init__(self, machine: ArrayMachine, row, column) -> None:
        self.machine = machine
        self.row, self.column = (
            [list(map(int, b)) for b in row],
            [list(map(int, b)) for b in column],
        )
        rows, columns, tags = machine.rows, machine.columns, machine.tags
        words, chunks = machine.config.array.lane_words, machine.config.array.chunk_words
        self.s = [[[0] * columns for _ in range(rows)] for _ in range(tags)]
        self.k, self.mtop, self.msnap = ([[0] * columns for _ in range(tags)] for _ in range(3))
        self.m, self.l, self.q, self.e = ([0] * columns for _ in range(4))
        self.acc = [[[0] * words for _ in range(columns)] for _ in range(2)]
        self.chunk = [[0] * columns for _ in range(chunks)]
        self.t = [0] * columns
        self.iteration = 0

    def kernel(self, schedule: Schedule) -> None:
        self.schedule, self.fmt = schedule, FORMATS.index(schedule.format)
        self.iteration = 0

    def run(self, registers: dict[str, int], *, tiles: int, first: int, last: int, set: int):
        self.reg, self.set = registers, set
        for self.tile in range(tiles):
            self.first = first and self.tile == 0
            self.last = last and self.tile == tiles - 1
            self.tag = self.iteration % self.machine.tags
            for block in sorted(self.schedule.blocks, key=self.schedule.begin):
                self.block(block)
            self.iteration += 1

    def block(self, block: Block) -> None:
        if block.on_lanes and not self.last:
            return
        for j in range(block.length):
            for c in range(self.machine.columns):
                getattr(self, block.op)(j, c)

    # --- helpers ------------------------------------------------------------------------------
    def masked(self, r: int, c: int) -> bool:
        reg, index = self.reg, self.reg["first_key"] + self.tile * self.machine.rows + r
        if index >= reg["keys"]:
            return True
        position = reg["position"] + (c // reg["group"] if reg["group"] else 0)
        if reg["causal"] and index > position:
            return True
        return bool(reg["window"]) and index <= position - reg["window"]

    def row_element(self, register: str, r: int, j: int) -> int:
        reg = self.reg
        at = (reg["kv_phase"] + self.tile) % reg["kv_ring"]
        word = reg[register] + at * reg["kv_step"]
        return fp.decode(self.row[r][word * self.machine.bus_elements + j], self.fmt)

    def score_at(self, j: int) -> int:
        word = self.reg["s"] + self.tile % self.reg["s_ring"] * self.reg["s_step"]
        return word * self.machine.bus_elements + j

    def pes(self, c: int) -> list[int]:
        return [self.s[self.tag][r][c] for r in range(self.machine.rows)]

    def psum(self, c: int, factors: list[int]) -> int:
        total = 0
        for s, factor in zip(self.pes(c), factors, strict=True):
            total = fp.fp32_mac(total, fp.to_tf32(s), factor)
        return total

    def new_maximum(self, c: int, x: int) -> int:
        old = fp.MARKER if self.first else self.m[c]
        new = fp.fp32_max(old, fp.ceil32(x))
        self.k[self.tag][c] = fp.step(new, old)
        self.m[c] = new
        return new

    # --- blocks -------------------------------------------------------------------------------
    def qk(self, j, c):
        n = self.machine.bus_elements
        query = fp.decode(self.column[c][self.reg["q"] * n + j], self.fmt)
        for r in range(self.machine.rows):
            old = self.s[self.tag][r][c] if j else 0
            self.s[self.tag][r][c] = fp.fp32_mac(old, self.row_element("k", r, j), query)

    def lm(self, _j, c):
        x = fp.MARKER
        for r in range(self.machine.rows):
            if self.masked(r, c):
                self.s[self.tag][r][c] = fp.MARKER
            x = fp.fp32_max(x, self.s[self.tag][r][c])
        self.mtop[self.tag][c] = fp.negate(self.new_maximum(c, x))

    def exp(self, j, c):
        if j:
            return
        for r in range(self.machine.rows):
            top = self.mtop[self.tag][c]
            x = fp32_add(self.s[self.tag][r][c], 0 if top == 0x7F800000 else top)
            p = 0 if self.masked(r, c) else fp.exp2(*fp.exp2_split(x))
            self.s[self.tag][r][c] = p

    def sld(self, _j, c):
        old = 0 if self.first else fp32_scale_down(self.l[c], self.k[self.tag][c])
        self.l[c] = fp32_add(old, self.psum(c, [fp.ONE] * self.machine.rows))

    def slnv(self, j, c):
        psum = self.psum(c, [self.row_element("v", r, j) for r in range(self.machine.rows)])
        acc, k = self.acc[self.set][c], self.k[self.tag][c]
        old = 0 if self.first else acc[j]
        if self.schedule.correct:
            acc[j] = fp32_add(old, fp32_scale_down(psum, k))
        else:
            acc[j] = fp32_add(fp32_scale_down(old, k), psum)

    def drain(self, j, c):
        psum = fp.MARKER if self.masked(j, c) else self.s[self.tag][j][c]
        self.column[c][self.score_at(j)] = fp.score16(psum, self.fmt)
        x = fp.ceil32(fp.decode_score(self.column[c][self.score_at(j)], self.fmt))
        if not self.schedule.chunked:
            old = fp.MARKER if self.first and j == 0 else self.m[c]
            self.m[c] = fp.fp32_max(old, x)
            return
        self.t[c] = fp.fp32_max(self.t[c], x) if j else x
        if j == self.machine.rows - 1:
            self.msnap[self.tag][c] = self.chunk[self.tile][c] = self.new_maximum(c, self.t[c])

    def passx(self, j, c):
        x = fp.decode_score(self.column[c][self.score_at(j)], self.fmt)
        chunked = self.schedule.chunked
        m = self.msnap[self.tag][c] if chunked else self.m[c]
        x = x if x == fp.MARKER else fp32_add(x, 0 if m == fp.MARKER else fp.negate(m))
        p = self.column[c][self.score_at(j)] = fp.lane_exp2(x, self.fmt)
        old = self.l[c]
        if j == 0 and self.first:
            old = 0
        elif j == 0 and chunked:
            old = fp32_scale_down(old, self.k[self.tag][c])
        self.l[c] = fp32_add(old, fp.decode(p, self.fmt))

    def passd(self, j, c):
        at = self.score_at(j)
        product = fp.mulq(fp.decode(self.column[c][at], self.fmt), self.q[c], self.e[c])
        self.column[c][at] = fp.round16(product, self.fmt)

    def fill(self, j, c):
        self.s[self.tag][j][c] = fp.decode(self.column[c][self.score_at(j)], self.fmt)
        if self.schedule.correct:
            self.k[self.tag][c] = fp.step(self.m[c], self.chunk[self.tile][c])
        elif not self.schedule.chunked:
            self.k[self.tag][c] = 0

    def rcp(self, _j, c):
        self.q[c], self.e[c] = reciprocal(fp.denominator(self.l[c]))

    def one(self, _j, c):
        self.q[c], self.e[c] = 1 << 25, 24

    def av(self, j, c):
        product = fp.mulq(self.acc[self.set][c][j], self.q[c], self.e[c])
        at = self.reg["out"] * self.machine.bus_elements + j
        self.column[c][at] = fp.round16(product, self.fmt)
