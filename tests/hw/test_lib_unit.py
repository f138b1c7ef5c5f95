# amaranth: UnusedElaboratable=no
"""Units: one body in the export, the component itself in Amaranth's simulator."""

import re
from dataclasses import dataclass

import pytest
from amaranth.hdl import ClockDomain, Module, Signal
from amaranth.lib import data, memory, stream, wiring
from amaranth.lib.wiring import In, Out

from bankside.errors import ConfigError
from bankside.hw.lib.fingerprint import fingerprint
from bankside.hw.lib.testing import simulate
from bankside.hw.lib.unit import ExportPlatform, Unit, flat_ports


class Adder(wiring.Component):
    """`y` is `a` + `step`, one cycle later."""

    elaborated = 0

    def __init__(self, step: object = 1) -> None:
        self.step = step
        super().__init__({"a": In(8), "y": Out(8)})

    def elaborate(self, platform) -> Module:
        type(self).elaborated += 1
        m = Module()
        m.d.sync += self.y.eq(self.a + int(self.step))
        return m


class Pair(wiring.Component):
    """Two adders in a row; a unit made of units."""

    def __init__(self, steps=(1, 1), names=("bankside_adder", "bankside_adder")) -> None:
        self.steps, self.names = steps, names
        super().__init__({"a": In(8), "y": Out(8)})

    def elaborate(self, platform) -> Module:
        m = Module()
        m.submodules.first = first = Unit(Adder(self.steps[0]), self.names[0])
        m.submodules.second = second = Unit(Adder(self.steps[1]), self.names[1])
        m.d.comb += [first.a.eq(self.a), second.a.eq(first.y), self.y.eq(second.y)]
        return m


class Quad(wiring.Component):
    """Two pairs in a row."""

    def __init__(self) -> None:
        super().__init__({"a": In(8), "y": Out(8)})

    def elaborate(self, platform) -> Module:
        m = Module()
        m.submodules.left = left = Unit(Pair(), "bankside_pair")
        m.submodules.right = right = Unit(Pair(), "bankside_pair")
        m.d.comb += [left.a.eq(self.a), right.a.eq(left.y), self.y.eq(right.y)]
        return m


def modules(rtlil: str) -> list[str]:
    return re.findall(r"^module \\(\S+)$", rtlil, re.MULTILINE)


def test_simulates_as_the_component():
    dut = Quad()

    async def bench(ctx):
        ctx.set(dut.a, 10)
        for _ in range(4):
            await ctx.tick()
        assert ctx.get(dut.y) == 14

    simulate(dut, bench)


def test_each_body_is_elaborated_once():
    Adder.elaborated = 0
    text = ExportPlatform().convert(Quad(), "bankside_quad")
    assert modules(text) == ["bankside_quad", "bankside_pair", "bankside_adder"]
    assert Adder.elaborated == 1
    assert len(re.findall(r"^  cell \\bankside_adder ", text, re.MULTILINE)) == 2
    assert len(re.findall(r"attribute \\top 1", text)) == 1


def test_two_bodies_of_one_name_are_refused():
    with pytest.raises(ConfigError, match="two different units share the name 'bankside_adder'"):
        ExportPlatform().convert(Pair(steps=(1, 2)), "bankside_top")


def test_two_bodies_of_two_names():
    pair = Pair(steps=(1, 2), names=("bankside_one", "bankside_two"))
    text = ExportPlatform().convert(pair, "bankside_top")
    assert modules(text) == ["bankside_top", "bankside_one", "bankside_two"]


class Opaque:
    """Says nothing about itself."""

    __slots__ = ()

    def __int__(self) -> int:
        return 1


def test_what_cannot_be_compared_needs_a_key():
    with pytest.raises(ConfigError, match="cannot tell two .*Opaque objects apart.*key="):
        _ = Unit(Adder(Opaque()), "bankside_adder").key
    assert Unit(Adder(Opaque()), "bankside_adder", key="step 1").key == "step 1"


@dataclass(frozen=True)
class Config:
    words: tuple[int, ...]
    names: frozenset[str] = frozenset({"a", "b", "c"})


@pytest.mark.parametrize(
    "one,two",
    [
        (1, 2),
        (1, True),
        ("1", 1),
        (Config((1, 2)), Config((1, 3))),
        ({"a": 1}, {"a": 2}),
        ([1], (1,)),
        (data.StructLayout({"a": 3}), data.StructLayout({"a": 4})),
        (Adder(1), Adder(2)),
        (Signal(3, init=1), Signal(3, init=2)),
    ],
)
def test_fingerprints_differ(one, two):
    assert fingerprint(Adder(one)) != fingerprint(Adder(two))


def make_function(value):
    def function():
        return value

    return function


def test_fingerprint_sees_what_a_function_holds():
    assert fingerprint(Adder(make_function(1))) == fingerprint(Adder(make_function(1)))
    assert fingerprint(Adder(make_function(1))) != fingerprint(Adder(make_function(2)))


def test_fingerprint_of_equal_parameters_is_equal():
    assert fingerprint(Adder(Config((1, 2)))) == fingerprint(Adder(Config((1, 2))))


def test_fingerprint_tells_types_apart():
    class Other(Adder):
        pass

    assert fingerprint(Other()) != fingerprint(Adder())


class Ports(wiring.Component):
    def __init__(self) -> None:
        super().__init__(
            {"s": Out(stream.Signature(data.StructLayout({"x": 3, "y": 4}))), "v": In(2).array(2)}
        )

    def elaborate(self, platform) -> Module:
        m = Module()
        m.d.comb += self.s.payload.x.eq(self.v[0] + self.v[1])
        return m


def test_flat_ports():
    ports = {name: (len(value), io) for name, (value, io) in flat_ports(Ports()).items()}
    assert ports == {
        "s__payload": (7, "o"), "s__valid": (1, "o"), "s__ready": (1, "i"),
        "v__0": (2, "i"), "v__1": (2, "i"),
    }  # fmt: skip


def test_every_module_has_clock_and_reset_first():
    text = ExportPlatform().convert(Ports(), "bankside_ports")
    assert re.search(r"wire width 1 input \d+ +\\clk", text)
    assert re.search(r"wire width 1 input \d+ +\\rst", text)


@pytest.mark.parametrize("name", ["bank", "bankside_", "bankside_Bank", "bankside_a b", "x"])
def test_names_are_checked(name):
    with pytest.raises(ConfigError, match="cannot name an exported module"):
        Unit(Adder(), name)


def test_a_unit_wraps_a_component():
    with pytest.raises(ConfigError, match="needs a wiring.Component"):
        Unit(Module(), "bankside_module")


class OwnDomain(Adder):
    def __init__(self, name: str, define: bool) -> None:
        self.domain, self.define = name, define
        super().__init__()

    def elaborate(self, platform) -> Module:
        m = Module()
        if self.define:
            m.domains += ClockDomain(self.domain)
        m.d[self.domain] += self.y.eq(self.a)
        return m


def test_one_clock_domain():
    with pytest.raises(ConfigError, match="uses the clock domain 'fast'"):
        ExportPlatform().convert(OwnDomain("fast", False), "bankside_fast")
    with pytest.raises(ConfigError, match="defines the domain 'sync'"):
        ExportPlatform().convert(OwnDomain("sync", True), "bankside_own")


def test_top_and_unit_need_different_names():
    class Top(Pair):
        pass

    with pytest.raises(ConfigError, match="the name 'bankside_adder'"):
        ExportPlatform().convert(Top(), "bankside_adder")


class WithMemory(wiring.Component):
    def __init__(self, init: tuple[int, ...]) -> None:
        self.memory = memory.Memory(shape=8, depth=4, init=init)
        super().__init__({"a": In(2), "y": Out(8)})

    def elaborate(self, platform) -> Module:
        m = Module()
        m.submodules.memory = self.memory
        read = self.memory.read_port()
        m.d.comb += [read.addr.eq(self.a), self.y.eq(read.data)]
        return m


def test_fingerprint_sees_the_contents_of_a_memory():
    assert fingerprint(WithMemory((1, 2))) == fingerprint(WithMemory((1, 2)))
    assert fingerprint(WithMemory((1, 2))) != fingerprint(WithMemory((1, 3)))
