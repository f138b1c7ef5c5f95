"""Programs of the npu that must be refused, and why; legal ones that look suspicious."""

import re
from collections.abc import Callable, Iterable

import numpy as np
import pytest

from bankside.config import HardwareConfig
from bankside.errors import ProgramError
from bankside.isa.machines import verify_program
from bankside.isa.npu_machine import NpuMachine
from bankside.isa.npu_uses import Use
from bankside.isa.npu_verify import Buffers, verify, verify_chain
from bankside.isa.npu_weights import PACKED, RAW8, WeightLayout
from bankside.isa.program import Builder, Program

BEATS = 128


def machine(profile: str = "u55", **keys: int) -> NpuMachine:
    """64 MACs, 256 words of the shared buffer in 4 banks of 64."""
    npu = {"macs": 64, "shared_words": 256, "banks": 4, "weight_bytes": 2048, **keys}
    lines = "".join(f"  {key}: {value}\n" for key, value in npu.items())
    text = f"name: test\nengine: npu\nnpu:\n  profile: {profile}\n{lines}"
    return NpuMachine.of(HardwareConfig.parse(text))


U55, LLM = machine(), machine("llm")


class Bench:
    """A program on 1 KiB of main memory: input 2 x 2 x 32 to word 0, records to word 64, weights of
    8 outputs; then a convolution 1 x 1 to word 128, whose 4 words are stored.
    """

    def __init__(self, mc: NpuMachine = U55) -> None:
        self.mc, self.b = mc, Builder("npu", mc.burst_elements)
        self.memory = np.zeros(BEATS * 16, np.uint8)
        form = RAW8 if mc.wide else PACKED
        layout = WeightLayout(form, 8, mc.weight_port_bytes, 8, (1, 1), 32)
        rng = np.random.default_rng(1)
        self.tiles = layout.encode(rng.integers(-9, 10, (8, 1, 1, 32)).astype(np.int8))
        self.tiles += bytes(-len(self.tiles) % 128)
        self.memory[1024 : 1024 + len(self.tiles)] = np.frombuffer(self.tiles, np.uint8)
        self.regions = ((0, 1024), (1024, 1024))
        self.outputs: dict[str, tuple[int, int]] = {}

    def set(self, **registers: int) -> "Bench":
        for name, value in registers.items():
            self.b.SET(reg=name, value=value & 0xFFFFFFFF)
        return self

    def load(self, direction: str = "to_shared", **registers: int) -> "Bench":
        self.set(**{"region": 0, "offset": 0, "rows": 1, "row_bytes": 128, "buf": 0, **registers})
        self.b.DMA(direction=direction)
        return self

    def weights(self, **registers: int) -> "Bench":
        return self.load("to_weights", **{"region": 1, "row_bytes": len(self.tiles), **registers})

    def wait(self, kind: str, outstanding: int = 0) -> "Bench":
        self.b.emit(kind, outstanding=outstanding)
        return self

    def conv(self, **registers: int) -> "Bench":
        self.set(**{
            "ifm": 0, "ifm_sy": 2, "ifm_sx": 1, "ifm_h": 2, "ifm_w": 2, "ifm_c": 32, "ofm": 128,
            "ofm_sy": 2, "ofm_sx": 1, "ofm_h": 2, "ofm_w": 2, "ofm_c": 8, "kernel_h": 1,
            "kernel_w": 1, "stride_y": 1, "stride_x": 1, "dilation_y": 1, "dilation_x": 1,
            "block": 4, "scale": 64, "scale_mode": 1, "ofm_min": -128, "ofm_max": 127,
            "weight_format": int(self.mc.wide), **registers,
        })  # fmt: skip
        self.b.CONV()
        return self

    def everything(self) -> "Bench":
        """What `conv` reads."""
        return self.load().load(buf=64 * 32).weights()

    def program(self, stop: bool = True) -> Program:
        if stop:
            self.b.STOP()
        memory = self.memory.view("<u2").reshape(-1, self.mc.burst_elements)
        return Program("npu", tuple(self.b.words), memory, self.outputs, self.regions)


def refused(bench: Bench, message: str) -> None:
    with pytest.raises(ProgramError, match=message):
        verify(bench.program(), bench.mc)


def legal(mc: NpuMachine = U55) -> Bench:
    bench = Bench(mc).everything().wait("DMA_WAIT").conv().wait("KERNEL_WAIT")
    return bench.load("to_memory", buf=128 * 32, offset=512)


@pytest.mark.parametrize("mc", [U55, LLM])
def test_a_legal_program(mc: NpuMachine) -> None:
    verify(legal(mc).program(), mc)
    verify_program(legal(mc).program(), mc)


# --- order of transfers and operations ----------------------------------------------------------


def test_operation_that_reads_what_a_transfer_brings() -> None:
    refused(
        Bench().everything().conv(),
        r"\(CONV\): reads byte 0 of the shared buffer \(ifm\), which command \d+ \(DMA\) writes "
        r"and no wait orders them; put DMA_WAIT with outstanding 2 or less",
    )
    # Weights come last: that transfer may still be under way.
    refused(
        Bench().everything().wait("DMA_WAIT", 1).conv(),
        r"uses byte 0 of the weight buffer, which .* put DMA_WAIT with outstanding 0",
    )
    refused(
        Bench().load().weights().load(buf=64 * 32).wait("DMA_WAIT", 1).conv(),
        r"reads byte 2048 of the shared buffer \(scale\)",
    )


def test_transfer_that_meets_an_operation_under_way() -> None:
    begun = Bench().everything().wait("DMA_WAIT").conv()
    refused(begun.load(), r"\(DMA\): writes byte 0 of .*, which command \d+ \(CONV\) reads and no "
                          r"wait orders them; put KERNEL_WAIT with outstanding 0")  # fmt: skip
    begun = Bench().everything().wait("DMA_WAIT").conv()
    refused(begun.load("to_memory", buf=4096), r"reads byte 4096 .*, which .*\(CONV\) writes")
    begun = Bench().everything().wait("DMA_WAIT").conv()
    refused(begun.load(buf=4096 + 32 * 4), r"uses bank 2 of the shared buffer, which .*\(CONV\)")
    begun = Bench().everything().wait("DMA_WAIT").conv()
    refused(begun.weights(), r"uses byte 0 of the weight buffer, which .*\(CONV\) uses")


def test_waits_cover_only_what_is_old_enough() -> None:
    two = Bench().everything().wait("DMA_WAIT").conv().conv(ofm=192)
    two.wait("KERNEL_WAIT", 1).load("to_memory", buf=4096, offset=512)
    refused(two.wait("DMA_WAIT").load("to_memory", buf=192 * 32, offset=512),
            r"reads byte 6144 .* KERNEL_WAIT with outstanding 0")  # fmt: skip
    two = Bench().everything().wait("DMA_WAIT").conv().conv(ofm=192)
    verify(two.wait("KERNEL_WAIT", 1).load("to_memory", buf=4096, offset=512).program(), U55)


def test_a_bank_of_its_own_needs_no_wait() -> None:
    begun = Bench().everything().wait("DMA_WAIT").conv()
    verify(begun.load(buf=192 * 32).program(), U55)
    verify(
        Bench().everything().wait("DMA_WAIT").load(buf=192 * 32).conv().program(), U55
    )  # fmt: skip


# --- what nothing has written -------------------------------------------------------------------


def test_reads_of_bytes_never_written() -> None:
    parts: Iterable[tuple[Callable[[Bench], object], str]] = (
        (lambda b: b.load(buf=2048).weights(), r"byte 0 of the shared buffer \(ifm\)"),
        (lambda b: b.load().weights(), r"byte 2048 of the shared buffer \(scale\)"),
        (lambda b: b.load().load(buf=2048), r"weight 0|width|byte 0 of the weight buffer"),
        (lambda b: b.load(row_bytes=96).load(buf=2048).weights(), r"byte 96 .*\(ifm\)"),
    )
    for prepare, message in parts:
        bench = Bench()
        prepare(bench)
        refused(bench.wait("DMA_WAIT").conv(), message)


def test_only_bytes_that_are_used_count() -> None:
    """31 channels, windows that leave out a row."""
    bench = Bench().load(row_bytes=120).load(buf=2048).weights().wait("DMA_WAIT")
    verify(bench.conv(ifm_c=24).program(), U55)
    bench = Bench().load(row_bytes=64).load(buf=2048).weights().wait("DMA_WAIT")
    verify(bench.conv(ofm_h=1, stride_y=2).program(), U55)
    bench = Bench().load(row_bytes=64).load(buf=2048).weights().wait("DMA_WAIT")
    refused(bench.conv(ofm_h=2), r"byte 64 of the shared buffer \(ifm\)")


def test_results_are_written_by_their_bytes() -> None:
    bench = Bench().everything().wait("DMA_WAIT").conv()
    bench.set(ifm=128, ofm=192, ofm_c=9, ifm2=128, ifm2_sy=2, ifm2_sx=1).b.ELEMENTWISE(op="add")
    refused(bench, r"\(ELEMENTWISE\): reads byte 4104 of the shared buffer \(ifm\)")


def test_rows_nobody_wrote_are_not_stored() -> None:
    refused(Bench().load("to_memory", buf=4096), r"reads byte 4096 .*\(buf\), which nothing has")
    # Channels that do not exist are stored with those that do.
    verify(legal().program(), U55)


def test_memory_beyond_the_image() -> None:
    bench = Bench()
    bench.regions = ((0, 1 << 20), (1024, 1024))
    refused(bench.load(offset=4096), r"uses byte 4223 of main memory; the program gives 2048")


# --- weights ------------------------------------------------------------------------------------


def test_weight_streams() -> None:
    short = Bench().load().load(buf=2048).weights(row_bytes=len(Bench().tiles) - 128)
    refused(short.wait("DMA_WAIT").conv(), r"\(CONV\).*(never|nothing has) ?written")
    wrong = Bench().everything().wait("DMA_WAIT")
    refused(wrong.conv(weights=2), r"\(CONV\), tile 0: header .* correct `weights`")
    more = Bench().everything().wait("DMA_WAIT")
    refused(
        more.conv(ofm_c=320, scale_mode=0), r"weight buffer \(weights\), which nothing has written"
    )


def test_lengths_of_streams_that_the_program_does_not_tell() -> None:
    """Tiles that the program itself computes cannot be followed, but have been written."""
    bench = legal().wait("DMA_WAIT").weights(region=0, offset=512, row_bytes=128)
    verify(bench.wait("DMA_WAIT").conv(ofm=192).program(), U55)


def test_raw_tiles_have_a_length(mc: NpuMachine = LLM) -> None:
    bench = Bench(mc).everything().wait("DMA_WAIT")
    verify(bench.conv(ofm_c=8).program(), mc)
    bench = Bench(mc).everything().wait("DMA_WAIT")
    refused(bench.conv(ofm_c=9), r"reads byte 256 of the weight buffer \(weights\)")


# --- depend -------------------------------------------------------------------------------------


def chained(depend: int, **registers: int) -> Bench:
    bench = Bench().everything().load(buf=192 * 32).wait("DMA_WAIT").conv()
    return bench.conv(**{"ifm": 128, "ifm_c": 8, "ofm": 160, "depend": depend, **registers})


def test_operations_that_start_before_results_are_written() -> None:
    verify(chained(0).program(), U55)
    refused(chained(1), r"\(CONV\): starts before command \d+ \(CONV\) has written byte 4096 .*, "
                        r"which it reads \(ifm\); SET depend to 0")  # fmt: skip
    verify(chained(1, ifm=0, ifm_c=32).program(), U55)


def test_results_of_the_operation_but_one_before() -> None:
    bench = chained(1, ifm=0, ifm_c=32)
    refused(bench.conv(ifm=128, ifm_c=8, ofm=200), r"has written byte 4096")
    bench = chained(1, ifm=0, ifm_c=32).wait("KERNEL_WAIT", 1)
    verify(bench.conv(ifm=128, ifm_c=8, ofm=200).program(), U55)
    bench = chained(0, ifm=0, ifm_c=32)
    verify(bench.conv(ifm=128, ifm_c=8, ofm=200, depend=1).program(), U55)


def test_depend_of_the_vector_unit_means_nothing() -> None:
    bench = Bench().everything().wait("DMA_WAIT").conv().set(depend=1, ifm=128, ofm=192)
    bench.set(ifm2=128, ifm2_sy=2, ifm2_sx=1).b.ELEMENTWISE(op="add")
    verify(bench.program(), U55)


# --- single commands and the frame --------------------------------------------------------------


def test_what_the_machine_refuses() -> None:
    cases = (
        (Bench().load(region=3), r"region 3, which has 0.*fault 3"),
        (Bench().load(offset=1000), r"bytes 1000..1127 of region 0.*fault 3"),
        (Bench().load(buf=4), r"buf is 4; expected a multiple of 8 .fault 4"),
        (Bench().load(buf=8128), r"bytes 8128..8255 of a buffer of 8192.*fault 7"),
        (Bench().everything().wait("DMA_WAIT").conv(ofm=2), r"move one .fault 6"),
        (Bench().everything().wait("DMA_WAIT").conv(block=99), r"block is 99; expected 1..64"),
        (Bench().everything().wait("DMA_WAIT").conv(weight_mode=1), r"row mode; profile u55"),
    )
    for bench, message in cases:
        refused(bench, message)


def test_frame() -> None:
    with pytest.raises(ProgramError, match="runs past its end; end it with STOP"):
        verify(legal().program(stop=False), U55)
    bench = legal()
    bench.regions = tuple([(0, 64)] * 9)
    refused(bench, "9 regions; the machine has 8; join some")
    for name, region, limit in (("base", (1 << 32, 8), "ffffffff"), ("size", (0, -1), "1ffffffff")):
        bench.regions = ((0, 64), region)
        refused(bench, rf"region 1: its {name} is .*; the register takes 0\.\.0x{limit}: correct")
    bench = legal()
    bench.regions = ((0, 1024), (0, 1 << 30))
    refused(bench, "region 1: bytes 0..1073741823 of main memory, which has 16777216")
    bench = legal()
    bench.outputs = {"y": (250, 10)}
    refused(bench, r"output 'y': beats 250..259; the program's memory has 0..255")
    with pytest.raises(ProgramError, match=r"memory has the shape \[256, 4\]; test has up to"):
        verify(legal().program(), LLM)
    bench = legal()
    bench.b.words.insert(3, 0xEE << 56)
    refused(bench, r"command 3.*fault 1")
    with pytest.raises(ProgramError, match="is for the engine 'npu'"):
        verify_program(legal().program(), _Other())


class _Other:
    engine = "array"
    config = HardwareConfig.load("array_4x4")


# --- several programs ---------------------------------------------------------------------------


def test_buffers_live_on() -> None:
    first = Bench().everything()
    second = Bench().conv()
    verify_chain([first.program(), second.program()], U55)
    with pytest.raises(ProgramError, match=r"program 0: .*nothing has written"):
        verify_chain([second.program(), first.program()], U55)
    buffers = Buffers(U55)
    verify(first.program(), U55, buffers)
    assert buffers.shared[:128].all() and not buffers.shared[128:2048].any()


# --- uses ---------------------------------------------------------------------------------------


def test_uses_join_and_meet() -> None:
    use = Use.of("a", np.array([64, 0, 32, 200]), 32)
    assert use.first.tolist() == [0, 200] and use.stop.tolist() == [96, 232]
    other = Use.of("b", np.array([96, 140, 231]), 8)
    assert use.meeting(other) == 231 and other.meeting(use) == 231
    assert use.meeting(Use.of("c", np.array([96, 232]), 8)) is None
    assert use.banks(64) == {0, 1, 3}
    where, mask = use.mask()
    assert where == slice(0, 232) and mask.sum() == 128 and not mask[96:200].any()


def test_uses_against_sets_of_bytes() -> None:
    rng = np.random.default_rng(3)
    for _ in range(300):
        uses, sets = [], []
        for _ in range(2):
            starts, size = rng.integers(0, 90, rng.integers(1, 6)), int(rng.integers(1, 12))
            uses.append(Use.of("x", starts, size))
            sets.append({int(s) + i for s in starts for i in range(size)})
        both = sets[0] & sets[1]
        assert uses[0].meeting(uses[1]) == (min(both) if both else None)
        assert uses[0].banks(7) == {byte // 7 for byte in sets[0]}
        where, mask = uses[0].mask()
        assert set(np.flatnonzero(mask) + where.start) == sets[0]


def test_messages_tell_the_command() -> None:
    bench = Bench().everything()
    position = len(bench.conv().b.words) - 1
    with pytest.raises(ProgramError) as caught:
        verify(bench.program(), U55)
    assert re.match(rf"command {position} \(CONV\): ", str(caught.value))
