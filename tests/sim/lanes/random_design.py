"""Random components: every operator of Amaranth on words of random widths, registers, memories."""

import numpy as np
from amaranth.hdl import Cat, Module, Mux, Shape, Signal, signed, unsigned
from amaranth.lib import wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out


class RandomDesign(wiring.Component):
    """`size` values, each computed from earlier ones; some are registers with enables."""

    def __init__(self, seed: int, size: int = 60, widest: int = 70) -> None:
        self.seed, self.size, self.widest = seed, size, widest
        rng = np.random.default_rng(seed)
        self.widths = [
            int(rng.choice([1, 1, 2, 5, 8, 16, 31, 32, 33, 40, 63, 64, 65, widest]))
            for _ in range(6)
        ]
        ports = {f"in{i}": In(w) for i, w in enumerate(self.widths)}
        outs = {f"o{i}": Out(widest) for i in range(len(self.widths) + size + 5)}
        super().__init__({**ports, "address": In(4), "enable": In(1), **outs})

    def elaborate(self, platform: object) -> Module:
        m, rng = Module(), np.random.default_rng(self.seed + 1)
        values = [getattr(self, f"in{i}") for i in range(len(self.widths))]
        for number in range(self.size):
            made = self._value(m, rng, values, number)
            if rng.random() < 0.3:
                init = int(rng.integers(2))
                init = -init if made.shape().signed else init
                kept = Signal(made.shape(), name=f"r{number}", init=init)
                if rng.random() < 0.6:
                    with m.If(self._pick(rng, values).any()):
                        m.d.sync += kept.eq(made)
                else:
                    m.d.sync += kept.eq(made)
                made = kept
            values.append(made)
        self._memory(m, rng, values)
        self._switch(m, rng, values)
        for number, value in enumerate(values):
            m.d.comb += getattr(self, f"o{number}").eq(value)
        return m

    def _pick(self, rng, values):
        # Late values more often: deep logic.
        return values[int(len(values) * rng.random() ** 0.6)]

    def _value(self, m: Module, rng, values, number: int) -> Signal:
        a, b, c = (self._pick(rng, values) for _ in range(3))
        if rng.random() < 0.3:
            a = a.as_signed()
        if rng.random() < 0.3:
            b = b.as_signed()
        small = b.as_unsigned()[: int(rng.integers(1, 8))]
        width = min(len(a), self.widest)
        plain, widest = a.as_unsigned(), self.widest
        choices = (
            lambda: a + b, lambda: a - b, lambda: (a * b)[:widest], lambda: a & b,
            lambda: a | b, lambda: a ^ b, lambda: ~a, lambda: -a, lambda: a == b, lambda: a != b,
            lambda: a < b, lambda: a <= b, lambda: a > b, lambda: a >= b, lambda: a.any(),
            lambda: a.all(), lambda: a.xor(), lambda: a.bool(), lambda: ~a.bool(),
            lambda: (a << small[:6])[:widest], lambda: a >> small, lambda: Mux(c.any(), a, b),
            lambda: Mux(c[0], a, b), lambda: Cat(a, b)[:widest],
            lambda: plain.replicate(2)[:widest],
            lambda: plain.bit_select(small, max(1, width // 2)),
            lambda: plain.word_select(small[:3], 8),
            lambda: plain[int(rng.integers(0, width)) :] if width > 1 else a,
            lambda: abs(a.as_signed()), lambda: Mux(c[0], plain, 0), lambda: a == 5,
        )  # fmt: skip
        expression = choices[int(rng.integers(len(choices)))]()
        shape = expression.shape() if hasattr(expression, "shape") else Shape.cast(unsigned(1))
        if shape.width == 0:
            expression, shape = a, a.shape()
        if shape.width > self.widest:
            shape = signed(self.widest) if shape.signed else unsigned(self.widest)
        made = Signal(shape, name=f"v{number}")
        m.d.comb += made.eq(expression)
        return made

    def _memory(self, m: Module, rng, values) -> None:
        for index, width in enumerate((1, 9, 40)):
            depth = int(rng.integers(5, 17))
            m.submodules[f"memory{index}"] = memory = Memory(
                shape=width, depth=depth, init=[1, 0, 1]
            )
            granularity = 8 if width == 40 else None
            write = memory.write_port(granularity=granularity)
            read = memory.read_port() if index != 1 else memory.read_port(domain="comb")
            m.d.comb += [
                write.addr.eq(self.address), read.addr.eq(self.address ^ (index and self.enable)),
                write.data.eq(self._pick(rng, values)), write.en.eq(self._pick(rng, values)),
            ]  # fmt: skip
            if index != 1:
                m.d.comb += read.en.eq(self.enable)
            values.append(read.data)

    def _switch(self, m: Module, rng, values) -> None:
        out = Signal(33, name="switched")
        held = Signal(33, name="held")
        with m.Switch(self.address):
            for case in range(0, 14, 2):
                with m.Case(case, case + 1) if case % 4 else m.Case(case):
                    m.d.comb += out.eq(self._pick(rng, values))
                    if case % 3:
                        m.d.sync += held.eq(self._pick(rng, values) + 1)
            with m.Default():
                m.d.comb += out.eq(7)
        values += [out, held]
