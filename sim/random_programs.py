"""Random legal programs of the `pim` engine, for agreement runs.

Two kinds: attention kernels of random shape (the code that real models use), and free command
sequences that reach corners no
kernel uses. Every program passes `verify`. A seed gives the same programs on every machine.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from bankside.errors import ConfigError, ProgramError
from bankside.isa.machine import Machine
from bankside.isa.program import Builder, Geometry, Program, Step
from bankside.isa.spec import Instruction
from bankside.isa.verify import Checker, Touch, verify
from bankside.mapping.lower_pim import KvLayout, PimKernels, Shape

U16 = NDArray[np.uint16]
Rng = np.random.Generator


def random_fp16(rng: Rng, shape: tuple[int, ...]) -> U16:
    """FP16 bit patterns: normal numbers, any bits, subnormals, equal values, one dominant value or
    large negatives.
    """
    kind = rng.integers(6)
    values = rng.standard_normal(shape)
    if kind == 1:
        return rng.integers(0, 1 << 16, shape, dtype=np.uint16)
    if kind == 2:
        return rng.integers(0, 1 << 10, shape, dtype=np.uint16) | (
            rng.integers(0, 2, shape, dtype=np.uint16) << np.uint16(15)
        )
    if kind == 3:
        values = np.full(shape, rng.standard_normal())
    if kind == 4:
        values = np.where(rng.random(shape) < 0.05, 300.0, values)
    if kind == 5:
        values = -np.abs(values) * 1000
    return values.astype(np.float16).view(np.uint16)


def attention_programs(rng: Rng, machine: Machine) -> list[Program]:
    """Store a random context, then attend to it with one more token: the programs of one decode
    step.
    """
    while True:
        try:
            return _decode_step(rng, machine, _random_kernels(rng, machine))
        except ConfigError:
            continue  # the machine or its program memory cannot hold it; draw again


def _decode_step(rng: Rng, machine: Machine, kernels: PimKernels) -> list[Program]:
    shape = kernels.layout.shape
    tokens = (
        shape.max_tokens if shape.max_tokens > 1024 else int(rng.integers(1, shape.max_tokens + 1))
    )
    layer = int(rng.integers(shape.layers))
    stored = int(rng.integers(0, min(tokens, 12)))
    kv = (shape.kv_heads, shape.head_dim)
    programs = (
        kernels.append(layer, 0, random_fp16(rng, (stored, *kv)), random_fp16(rng, (stored, *kv)))
        if stored
        else []
    )
    q = random_fp16(rng, (shape.query_heads, shape.head_dim))
    return programs + kernels.decode(layer, tokens, q, random_fp16(rng, kv), random_fp16(rng, kv))


def _random_kernels(rng: Rng, machine: Machine) -> PimKernels:
    """Kernels for a random shape. Raises ConfigError when the machine cannot hold it."""
    nhc = 1 << int(rng.integers(0, machine.chips.bit_length()))
    group = int(rng.choice([1, 2, 4, 8]))
    kv_heads = int(rng.integers(1, 2 * machine.chips // nhc + 1))
    head_dim = int(rng.choice([8, 16, 32, 64, 128])) + int(rng.integers(0, 2)) * int(
        rng.integers(0, 8)
    )
    # One in eight is long enough to meet a refresh, more are long enough for loops.
    kind = rng.random()
    if kind < 0.3:
        tokens = int(rng.integers(2000, 6000)) if kind < 0.125 else int(rng.integers(300, 1200))
    else:
        tokens = int(2 ** rng.uniform(0, 10))
    shape = Shape(int(rng.integers(1, 3)), kv_heads, kv_heads * group, head_dim, tokens)
    slots = int(rng.choice([1, 2, 4, 8, 16, 32]))
    open_mode = str(rng.choice(["staggered", "group", "all"]))
    return PimKernels(KvLayout.of(machine, shape, nhc, slots), open_mode=open_mode)


class _FreeSequence:
    """Builds one free command sequence; conflicts between engines get a token or a barrier."""

    #: Commands whose completion may vouch for an earlier access (row commands complete before the
    #: MACs in front of them).
    _VOUCHERS = (
        "MAC",
        "WR",
        "RD",
        "LDSB",
        "WRSBQ",
        "WRSBP",
        "RDRBS",
        "RDRBC",
        "SFM",
        "NORM",
        "HWR",
        "HRD",
    )

    def __init__(self, rng: Rng, machine: Machine) -> None:
        self.rng, self.machine = rng, machine
        self.b = Builder("pim", machine.burst_elements)
        self.spec = self.b.spec
        self.checker = Checker(machine)
        self.geometry = Geometry()
        self.touched: list[list[tuple[int, Touch]]] = [[], [], [], []]
        self.known = [[-1] * 4 for _ in range(4)]
        self.latest: list[int | None] = [None] * 4
        self.signalled: dict[tuple[int, int], int] = {}

    def _int(self, low: int, high: int) -> int:
        """Uniform in low..high inclusive."""
        return int(self.rng.integers(low, high + 1))

    def build(self, length: int) -> Program:
        self._set_geometry()
        while len(self.b.words) < length:
            if self.rng.random() < 0.03:
                self._loop(self.spec.loop_depth)
            else:
                self._any()
        self._emit("CLOSE", mode=1)
        for _ in range(3):
            self._emit(
                "HRD", out=self._int(0, self.machine.sizes["staging_words"] - 9), count=8, layout=0
            )
        return self.b.build()

    # --- emission with order ----------------------------------------------------------------------
    # ---------------------------
    def _emit(self, name: str, **operands: int) -> bool:
        """Append the command when it is legal here. Returns whether it was."""
        command = self.spec.commands[name]
        fields = {f.name: operands.get(f.name, f.minimum) for f in command.fields}
        step = Step(
            len(self.b.words), Instruction(name, fields), fields.get("row", 0), self.geometry
        )
        try:
            touches = self.checker.command(step)
        except ProgramError:
            return False
        if command.engine == "control":
            self.b.emit(name, **operands)
            return True
        engine = self.spec.engines.index(command.engine)
        wait = 0
        for other in range(4):
            if other != engine and self._conflict(touches, engine, other):
                wait |= self._order(engine, other) << other
        position = self.b.emit(name, wait=wait, **operands)
        if name == "HWR":
            self.b.host_in.append(
                random_fp16(self.rng, (operands["count"], self.machine.burst_elements))
            )
        if name == "HRD":
            self.b.outputs[f"out{position}"] = (
                sum(n for _, n in self.b.outputs.values()),
                operands["count"],
            )
        self.touched[engine] += [(position, touch) for touch in touches]
        if name in self._VOUCHERS:
            self.latest[engine] = position
        return True

    def _conflict(self, touches: list[Touch], engine: int, other: int) -> bool:
        return any(
            position > self.known[engine][other]
            and t.space == touch.space
            and (t.write or touch.write)
            and t.first < touch.stop
            and touch.first < t.stop
            for touch in touches
            for position, t in self.touched[other]
        )

    def _order(self, engine: int, other: int) -> int:
        """Order the next command of `engine` after everything of `other`: 1 with a token, 0 with a
        barrier.
        """
        target = self.latest[other]
        newest = max((position for position, _ in self.touched[other]), default=-1)
        if (
            target is None
            or target < newest
            or target <= self.signalled.get((other, engine), -1)
            or self.rng.random() < 0.2
        ):
            self._barrier()
            return 0
        bit = self.spec.commands["MAC"].field_map["signal"].lsb + engine
        self.b.words[target] |= 1 << bit
        self.signalled[other, engine] = target
        self.known[engine][other] = target
        return 1

    def _barrier(self) -> None:
        self.b.emit("BARRIER")
        self.touched = [[], [], [], []]
        self.latest = [None] * 4

    def _any(self) -> None:
        kinds = ["array", "array", "array", "buffer", "buffer", "rank", "host", "host", "control"]
        getattr(self, f"_{self.rng.choice(kinds)}")()

    def _loop(self, depth: int) -> None:
        """A loop whose iterations start alike: idle, all banks closed, rows from a register.

        Whether later iterations are legal, too, is left to `verify`.
        """
        self._emit("CLOSE", mode=1)
        self._barrier()
        count, areg = self._int(1, 4), self._int(0, 3)
        sent, received = len(self.b.host_in), list(self.b.outputs)
        self._emit("LOOP", count=count)
        self._emit("OPEN", mode=self._int(1, 3), areg_en=1, areg=areg)
        self._emit("WRR", mode=self._int(0, 1), cpt=self._int(1, 4))
        for _ in range(self._int(1, 10)):
            self._any()
        if depth > 1 and self.rng.random() < 0.3:
            self._loop(depth - 1)
        self._emit("CLOSE", mode=1)
        self._barrier()
        self._emit("ADDA", areg=areg, value=1)
        self._emit("ENDLOOP")
        bursts = [len(data) for data in self.b.host_in[sent:]]
        counts = [n for name, (_, n) in self.b.outputs.items() if name not in received]
        for iteration in range(1, count):
            shapes = ((n, self.machine.burst_elements) for n in bursts)
            self.b.host_in += [random_fp16(self.rng, shape) for shape in shapes]
            for number, n in enumerate(counts):
                first = sum(size for _, size in self.b.outputs.values())
                name = f"loop{len(self.b.words)}.{iteration}.{number}"
                self.b.outputs[name] = (first, n)

    # --- one random command per engine
    # ---------------------------------------------------------------------------------------
    def _set_geometry(self) -> None:
        rng, mc = self.rng, self.machine
        nhc_log2 = self._int(0, mc.chips.bit_length() - 1)
        heads = mc.chips >> nhc_log2
        cpt = heads * self._int(1, max(1, min(4, mc.columns // heads)))
        self.geometry = Geometry(nhc_log2, cpt, int(rng.integers(1, mc.lanes + 1)))
        self._barrier()
        self._emit("GEOM", **self.geometry._asdict())

    def _control(self) -> None:
        if self.rng.random() < 0.3:
            self._set_geometry()
        elif self.rng.random() < 0.5:
            self._barrier()

    def _array(self) -> None:
        kind = self.rng.choice(["rows", "columns", "mac", "ref"], p=[0.3, 0.3, 0.35, 0.05])
        mc, bank = self.machine, self._int(0, self.machine.banks - 1)
        if kind == "rows":
            if self.checker.open_rows and self.rng.random() < 0.6:
                self._emit("CLOSE", mode=self._int(0, 1), bank=bank)
            else:
                self._emit("OPEN", mode=self._int(0, 3), bank=bank, row=self._int(0, mc.rows - 1))
        elif kind == "ref":
            self._emit("CLOSE", mode=1)
            self._emit("REF")
        elif kind == "mac":
            self._mac()
        else:
            count = self._int(1, min(6, mc.columns))
            name = str(self.rng.choice(["WR", "RD", "LDSB"]))
            operands = {"bank": bank, "col": self._int(0, mc.columns - count), "count": count}
            if not self.checker.open_rows:
                self._emit("OPEN", mode=self._int(0, 3), bank=bank, row=self._int(0, mc.rows - 1))
            if name == "LDSB":
                operands |= {
                    "sb": self._int(0, mc.shared_words - count),
                    "lane": self._int(0, mc.lanes - 1),
                }
            else:
                operands["stage" if name == "WR" else "out"] = self._int(
                    0, mc.sizes["staging_words"] - count
                )
            self._emit(name, **operands)

    def _mac(self) -> None:
        mc = self.machine
        if len(self.checker.open_rows) < mc.banks:
            self._emit("CLOSE", mode=1)
            self._emit("OPEN", mode=self._int(1, 3), row=self._int(0, mc.rows - 1))
        if not self.checker.unit.known or self.rng.random() < 0.7:
            cpt = self._int(1, min(8, mc.columns))
            # Low words leave room for what the following MACs reach.
            self._emit(
                "WRR",
                mode=self._int(0, 1),
                kbuf=self._int(0, 1),
                rescale=self._int(0, 1),
                sb=mc.subbanks * self._int(0, 4),
                rb=self._int(0, 8),
                cpt=cpt,
            )
        count = self._int(1, min(24, mc.columns))
        self._emit("MAC", col=self._int(0, mc.columns - count), count=count)

    def _buffer(self) -> None:
        mc, size = self.machine, self.machine.sizes
        kind = str(self.rng.choice(["WRSBQ", "WRSBP", "RDRBS", "RDRBC"]))
        groups = self._int(1, 3)
        if kind == "WRSBQ":
            count = self._int(1, 8)
            self._emit(
                kind,
                stage=self._int(0, size["staging_words"] - 8 * mc.lanes),
                sb=self._int(0, mc.shared_words - count),
                count=count,
            )
        elif kind == "WRSBP":
            words = groups * mc.slots_per_burst * mc.subbanks
            self._emit(
                kind,
                prob=self._int(0, max(0, size["probability_words"] - mc.lanes * (1 + words))),
                sb=mc.subbanks * self._int(0, max(0, (mc.shared_words - words) // mc.subbanks)),
                kbuf=self._int(0, 1),
                groups=groups,
            )
        elif kind == "RDRBS":
            self._emit(
                kind,
                rb=self._int(0, size["result_buffer_words"] - 3),
                score=self._int(0, max(0, size["score_words"] - mc.lanes * groups * mc.banks)),
                groups=groups,
                buf=self._int(0, 1),
                valid=self._int(1, groups * mc.slots_per_burst * mc.banks),
            )
        else:
            count = self._int(1, 3)
            self._emit(
                kind,
                rb=self._int(0, size["result_buffer_words"] - count),
                score=self._int(0, size["score_words"] - 2 * count * mc.lanes),
                count=count,
            )

    def _rank(self) -> None:
        mc, size = self.machine, self.machine.sizes
        if self.checker.maxima and self.rng.random() < 0.7:
            buf = int(self.rng.choice(list(self.checker.maxima)))
            score, groups, valid, _ = self.checker.maxima[buf]
            block = mc.lanes * (1 + groups * mc.slots_per_burst * mc.subbanks)
            self._emit(
                "SFM",
                score=score,
                groups=groups,
                valid=valid,
                buf=buf,
                first=self._int(0, 1),
                prob=self._int(0, max(0, size["probability_words"] - block)),
            )
        else:
            count = self._int(1, 3)
            self._emit(
                "NORM",
                score=self._int(0, size["score_words"] - 2 * count * mc.lanes),
                out=self._int(0, size["staging_words"] - count * mc.lanes),
                count=count,
            )

    def _host(self) -> None:
        size, layout = self.machine.sizes["staging_words"], self._int(0, 2)
        count = self.geometry.cpt * self._int(1, 2) if layout == 2 else self._int(1, 8)
        name, field = ("HWR", "stage") if self.rng.random() < 0.6 else ("HRD", "out")
        self._emit(name, **{field: self._int(0, max(0, size - count))}, count=count, layout=layout)


def free_program(rng: Rng, machine: Machine) -> Program:
    """One free command sequence of 20 to 60 commands."""
    while True:
        program = _FreeSequence(rng, machine).build(int(rng.integers(20, 60)))
        try:
            verify(program, machine)
        except ProgramError:
            # A token that was added to an early command can weaken an order that was there before;
            # draw again.
            continue
        return program


def random_programs(rng: Rng, machine: Machine) -> Iterator[Program]:
    """An endless stream of legal programs, to be run one after the other on one machine."""
    while True:
        if rng.random() < 0.5:
            programs = attention_programs(rng, machine)
        else:
            programs = [free_program(rng, machine)]
        for program in programs:
            verify(program, machine)
            yield program
