"""Programs of the array that must be refused, and why; legal ones that look suspicious."""

import re

import numpy as np
import pytest

from bankside.config import HardwareConfig
from bankside.errors import ProgramError
from bankside.isa.array_machine import ArrayMachine
from bankside.isa.array_schedule import Block, Schedule
from bankside.isa.array_verify import verify
from bankside.isa.program import Builder, Program
from bankside.isa.spec import load_spec


def machine(**keys: int) -> ArrayMachine:
    array = {
        "rows": 4, "columns": 4, "bus_bytes": 8, "row_words": 32, "column_words": 32,
        "lane_words": 16, "chunk_words": 4, "program_words": 128,
    } | keys  # fmt: skip
    lines = "".join(f"  {key}: {value}\n" for key, value in array.items())
    return ArrayMachine.of(HardwareConfig.parse(f"name: test\nengine: array\narray:\n{lines}"))


QK = Schedule(12, (Block("qk", 0, 8), Block("drain", 8, 4))).marked()
FUSED = Schedule(
    64,
    (
        Block("qk", 0, 8), Block("lm", 8, 1), Block("exp", 19, 7), Block("sld", 26, 1),
        Block("slnv", 27, 8), Block("rcp", 35, 1), Block("av", 49, 8),
    ),
).marked()  # fmt: skip


class Bench:
    """Builds programs with the registers of a small kernel: 64 bus words of main memory."""

    REGISTERS = {
        "mem": 0, "outer": 1, "outer_bytes": 64, "inner": 4, "inner_bytes": 16, "beats": 2,
        "bank": 0, "bank_step": 0, "buf": 0, "buf_step": 2, "ring": 4, "ring_phase": 0, "q": 0,
        "k": 0, "v": 8, "kv_step": 2, "kv_ring": 4, "kv_phase": 0, "s": 8, "s_step": 1,
        "s_ring": 4, "out": 16, "group": 1, "keys": 16,
    }  # fmt: skip

    def __init__(self, **registers: int) -> None:
        self.b = Builder("array", 4)
        self.b.host_in.append(np.zeros((64, 4), np.uint16))
        self.set(**(self.REGISTERS | registers))

    def set(self, **registers: int) -> "Bench":
        for name, value in registers.items():
            self.b.SET(reg=name, value=value)
        return self

    def kernel(self, schedule: Schedule = QK) -> "Bench":
        schedule.emit(self.b)
        return self

    def load(self, side: str = "row", **operands) -> "Bench":
        self.b.LOAD(side=side, **operands)
        return self

    def run(self, tiles: int = 1, first: int = 1, last: int = 1, **operands) -> "Bench":
        self.b.RUN(tiles=tiles, first=first, last=last, **operands)
        return self

    def store(self, **operands) -> "Bench":
        self.b.STORE(**operands)
        return self

    def barrier(self) -> "Bench":
        self.b.BARRIER()
        return self

    def inputs(self) -> "Bench":
        """Queries, keys and values of four tiles, everything complete."""
        self.set(outer=1, buf=0, ring=1).load("column")
        self.set(outer=8, ring=8).load("row").barrier()
        return self.set(outer=1, ring=4)

    def build(self) -> Program:
        return self.b.build()


def legal(bench: Bench, **keys: int) -> None:
    verify(bench.build(), machine(**keys))


def refused(bench: Bench, message: str, **keys: int) -> None:
    with pytest.raises(ProgramError) as error:
        verify(bench.build(), machine(**keys))
    assert message in re.sub(r"command \d+", "command N", str(error.value))


# --- one command ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("registers", "message"),
    [
        ({"outer": 0}, "(LOAD): register outer is 0; SET it to at least 1"),
        ({"ring": 0}, "(LOAD): register ring is 0; SET it to at least 1"),
        ({"ring_phase": 4}, "register ring_phase is 4; expected 0..3, below ring"),
        ({"mem": 4}, "register mem is 4; expected a multiple of the bus word of 8 bytes"),
        ({"inner_bytes": 12}, "register inner_bytes is 12; expected a multiple"),
        (
            {"inner": 5},
            "uses banks 0..4; test has 0..3: correct bank, bank_step or inner",
        ),
        ({"bank_step": 1, "outer": 2}, "uses banks 0..4; test has 0..3"),
        (
            {"buf": 31},
            "uses bank words 31..32; test has 0..31: correct buf, buf_step, ring or beats",
        ),
        ({"outer": 4, "buf_step": 12}, "uses bank words 0..37; test has 0..31"),
        (
            {"mem": 8 * 60},
            (
                "uses bus words 60..67 of main memory; the program's memory has 0..63: correct "
                "mem, outer_bytes or inner_bytes, or make the memory larger"
            ),
        ),
    ],
)
def test_loads(registers: dict, message: str) -> None:
    refused(Bench(**registers).load(), message)


def test_own_token() -> None:
    refused(Bench().load(signal="load"), "(LOAD): wait or signal names its own engine load")
    refused(
        Bench().inputs().kernel().run(wait="compute"),
        "(RUN): wait or signal names its own engine compute",
    )


@pytest.mark.parametrize(
    ("registers", "message"),
    [
        ({"kv_ring": 0}, "(RUN): register kv_ring is 0; SET it to at least 1"),
        ({"kv_phase": 4}, "register kv_phase is 4; expected 0..3, below kv_ring"),
        ({"k": 31}, "qk reads row bank words 31..38; test has 0..31: correct k, kv_step or kv_r"),
        ({"kv_step": 16}, "qk reads row bank words 0..49"),
        ({"q": 31}, "qk uses column bank words 31..32; test has 0..31: correct q"),
        ({"s_ring": 0}, "register s_ring is 0"),
        ({"s": 30}, "scores use column bank words 30..33; test has 0..31: correct s, s_step or"),
        ({"group": 0}, "register group is 0"),
        ({"group": 1 << 16}, "register group is 65536; expected 1..65535"),
        ({"first_key": (1 << 23) - 15}, "register first_key leads to key 8388609; keys and pos"),
        ({"position": 1 << 23}, "register position leads to key 8388608"),
        ({"causal": 2}, "register causal is 2; expected 0 or 1"),
    ],
)
def test_runs(registers: dict, message: str) -> None:
    refused(Bench().inputs().set(**registers).kernel().run(4), message)


def test_results_out_of_range() -> None:
    refused(
        Bench(out=31).inputs().kernel(FUSED).run(),
        "av uses column bank words 31..32; test has 0..31: correct out",
    )


def test_maxima_of_tiles() -> None:
    chunked = Schedule(12, QK.blocks, chunked=True)
    legal(Bench().inputs().kernel(chunked).run(4))
    refused(
        Bench(s_ring=8).inputs().kernel(chunked).run(5),
        "5 tiles keep a maximum each; test keeps 4: use several RUNs or raise array.chunk_words",
    )


def test_free_needs_a_marked_block() -> None:
    blocks = tuple(Block(b.op, b.start, b.length, done=b.done) for b in QK.blocks)
    refused(
        Bench().inputs().kernel(Schedule(12, blocks)).run(free=1),
        "free without a block that is marked free; mark the last reader",
    )


def test_schedule_rules_name_the_run() -> None:
    early = Schedule(12, (Block("qk", 0, 8), Block("drain", 7, 4))).marked()
    refused(Bench().inputs().kernel(early).run(), "(RUN): schedule: qk (slots 0..7) and drain")
    refused(Bench().run(), "(RUN): there is no schedule; begin with KERNEL")
    bench = Bench()
    bench.b.BLOCK(index=0, op="qk", start=0, length=4)
    refused(bench, "(BLOCK): no KERNEL before it; add one")


def test_program_and_memory() -> None:
    refused(Bench().load(), "the program has 26 words; test holds 20", program_words=20)
    program = Bench().load().build()
    short = Program("array", program.words, np.zeros((64, 8), np.uint16))
    with pytest.raises(ProgramError, match=r"memory has the shape \[64, 8\]; test has up to"):
        verify(short, machine())
    named = Program("array", program.words, program.host_in, {"o": (60, 5)})
    with pytest.raises(ProgramError, match="output 'o': bus words 60..64; the program's memory"):
        verify(named, machine())
    endless = Program("array", program.words[:-1], program.host_in)
    with pytest.raises(ProgramError, match="the program runs past its end; end it with HALT"):
        verify(endless, machine())


# --- lanes ------------------------------------------------------------------------------------

PASSX = Schedule(40, (Block("passx", 0, 4), Block("rcp", 4, 1))).marked()
PASSD = Schedule(40, (Block("passd", 0, 4),)).marked()
FILL = Schedule(40, (Block("fill", 0, 4), Block("slnv", 4, 8))).marked()
CORRECT = Schedule(40, FILL.blocks, correct=True)
RESULT = Schedule(40, (Block("one", 0, 1), Block("av", 1, 8))).marked()


@pytest.mark.parametrize(
    ("kernel", "run", "message"),
    [
        (QK, {"first": 0}, "continues a maximum that no RUN has begun; set `first`"),
        (PASSX, {}, "passx has no maximum; let a RUN with drain come first"),
        (PASSD, {}, "passd has no reciprocal; let a RUN with `last` and rcp come first"),
        (FILL, {"first": 0}, "continues 8 numerators of set 0, which holds 0; set `first`"),
        (CORRECT, {}, "corrects 1 tiles, but maxima of 0 tiles were kept; let a chunked drain"),
        (RESULT, {}, "av reads 8 numerators of set 0, which holds 0; shorten it or let slnv come"),
    ],
)
def test_lanes_without_data(kernel: Schedule, run: dict, message: str) -> None:
    scores = Bench(buf=8).inputs().set(buf=8).load("column").barrier()
    refused(scores.kernel(kernel).run(**run), message)


def test_lanes_with_data() -> None:
    """The same in the order of the three-pass cascade."""
    bench = Bench().inputs().kernel(QK).run(2).kernel(PASSX).run(2)
    bench.kernel(PASSD).run(2).kernel(FILL).run(2).kernel(RESULT).run(1)
    legal(bench)


def test_denominator_for_rcp() -> None:
    lonely = Schedule(40, (Block("rcp", 0, 1), Block("av", 20, 8))).marked()
    refused(
        Bench().inputs().kernel(QK).run(2).kernel(FILL).run(2).kernel(lonely).run(),
        "rcp has no denominator; let sld or passx come first",
    )


def test_accumulator_sets_alternate() -> None:
    late = Schedule(
        20,
        (
            Block("qk", 0, 8), Block("lm", 8, 1), Block("exp", 13, 7, 1), Block("sld", 9, 1, 2),
            Block("slnv", 10, 3, 2), Block("rcp", 7, 1, 3), Block("av", 13, 3, 3),
        ),
    ).marked()  # fmt: skip
    keys = {"score_registers": 8, "divider_bits": 26}
    legal(Bench().inputs().kernel(late).run(2, set=0).run(2, set=1).run(2, set=0), **keys)
    refused(
        Bench().inputs().kernel(late).run(2, set=1).run(2, set=1),
        "begins in accumulator set 1 while the results of command N (RUN) are still read there; "
        "use set 0",
        **keys,
    )


# --- data -------------------------------------------------------------------------------------


def test_reads_before_writes() -> None:
    refused(
        Bench().kernel().run(),
        "(RUN): reads row bank 0 word 0, which nothing has written before; LOAD it first or "
        "correct k",
    )
    refused(
        Bench().set(outer=4).load("row").barrier().kernel().run(),
        "reads column bank 0 word 0, which nothing has written before; LOAD it first or correct q",
    )
    partly = Bench().set(inner=3).load("column").set(inner=4, outer=4).load("row").barrier()
    refused(partly.kernel().run(), "reads column bank 3 word 0")
    refused(
        Bench().inputs().kernel().run(2).barrier().set(buf=10, beats=1).store(),
        "(STORE): reads column bank 0 word 10, which nothing has written before",
    )


def test_scores_wait_for_their_writing() -> None:
    """`passx` of the same words, 12 slots after `drain` of the tile before has begun."""
    refused(
        Bench(s_ring=1).inputs().kernel(PASSX_AFTER_DRAIN).run(2),
        "tile 1 uses the scores' words 8.. 1 iterations after another tile; this schedule needs 2:",
    )
    legal(Bench(s_ring=2).inputs().kernel(PASSX_AFTER_DRAIN).run(8), chunk_words=8)


PASSX_AFTER_DRAIN = Schedule(
    16, (Block("qk", 0, 8), Block("drain", 8, 4), Block("passx", 12, 4, 1)), chunked=True
).marked()


def test_results_are_not_scores() -> None:
    banks = Schedule(
        80,
        (
            Block("qk", 0, 8), Block("drain", 8, 4), Block("passx", 23, 4), Block("fill", 38, 4),
            Block("slnv", 42, 8), Block("rcp", 27, 1), Block("av", 50, 8),
        ),
        chunked=True,
    ).marked()  # fmt: skip
    legal(Bench(out=12).inputs().kernel(banks).run(2, set=0).run(2, set=1))
    refused(
        Bench(out=12).inputs().kernel(banks).run(2, set=0).set(s=12).run(2, set=1),
        "s uses column words to which a RUN of the same schedule returns results; move `s` or",
    )


# --- order ------------------------------------------------------------------------------------


def stream(wait: str, free: int, each: int = 1, tiles: int = 8) -> Bench:
    """Keys through a ring of four tiles; QK frees them."""
    bench = Bench().set(ring=1).load("column").set(ring=4, outer=4).load(each=1, signal="compute")
    bench.set(outer=4, mem=0).load(each=1, wait=wait, signal="compute")
    return bench.kernel().set(s_ring=8, s=8).run(tiles, each=each, free=free)


def test_ring() -> None:
    legal(stream("compute", 1))
    refused(
        stream("compute", 0),
        "(LOAD): waits for a token of step 0 from compute that never comes while command",
    )
    refused(stream("none", 1), "uses row bank words 0.. without an order to command N of the loa")
    refused(
        stream("compute", 1, tiles=9),
        "(RUN): waits for a token of step 8 from load that never comes",
    )


def test_kernel_waits_for_a_run_that_waits() -> None:
    bench = Bench().inputs().kernel().run(wait="load").kernel().run()
    refused(bench, "(RUN): waits for a token from load that never comes while command N (KERNEL)")


def test_queue_is_full() -> None:
    """The RUN that would free the keys stands behind more loads than the queue holds."""
    bench = Bench().set(ring=1).load("column").set(ring=1, outer=1, kv_ring=1)
    bench.load(each=1, signal="compute").kernel()
    for _ in range(3):
        bench.load(each=1, wait="compute", signal="compute")
    bench.run(4, each=1, free=1)
    legal(bench, queue_depth=4)
    refused(bench, "waits for a token from compute that never comes while command N (LOAD) waits "
                   "for a place in the queue of 2", queue_depth=2)  # fmt: skip


def test_too_many_tokens() -> None:
    most = load_spec("array").token_max
    bench = Bench().set(outer=most + 1, outer_bytes=0, ring=1).load(each=1, signal="compute")
    refused(bench, f"(LOAD): more than {most} tokens from load to compute may be outstanding")
    bench = Bench().set(outer=most, outer_bytes=0, ring=1).load(each=1, signal="compute")
    legal(bench)


def test_a_run_and_the_store_of_its_results() -> None:
    def results(signal: str, wait: str) -> Bench:
        bench = Bench().inputs().kernel().run(2, signal=signal)
        return bench.set(mem=256, buf=8, beats=2).store(wait=wait)

    legal(results("store", "compute"))
    refused(results("none", "compute"), "(STORE): waits for a token from compute that never comes")
    refused(
        results("store", "none"),
        "(STORE): uses column bank words 8.. without an order to command N of the compute engine",
    )


def test_main_memory() -> None:
    """A LOAD of what a STORE writes needs its token."""

    def through_memory(signal: str, wait: str) -> Bench:
        bench = Bench().inputs().kernel().run(2).barrier()
        bench.set(mem=256, buf=8, beats=2).store(signal=signal)
        return bench.set(mem=256, buf=20).load("column", wait=wait)

    legal(through_memory("load", "store"))
    refused(
        through_memory("none", "none"),
        "(STORE): uses main memory words 32.. without an order to command N of the load engine",
    )


def test_other_columns_are_no_conflict() -> None:
    """Two engines in the same words of different banks, interleaved in main memory."""
    bench = Bench().inputs().kernel().run(1).barrier()
    bench.set(inner=2, mem=256, buf=8, beats=1).store()
    legal(bench.set(bank=2, mem=264, buf=8).load("column"))


def test_free_and_completion_do_not_mix() -> None:
    bench = stream("compute", 1, tiles=4)
    bench.run(4, each=1, free=1)
    legal(bench)
    mixed = Bench().set(ring=1).load("column").set(ring=8, outer=8).load(signal="compute")
    mixed.kernel().set(s_ring=8, kv_ring=8).run(4, wait="load", signal="load").run(4, free=1)
    refused(mixed, "gives `free` tokens while the token of command N (RUN) to the load engine may")


def test_wide_arrays_read_queries_late() -> None:
    """The token that frees a tile's keys comes before the last of 16 columns has read its query."""

    def replaced(columns: int) -> tuple[Bench, dict]:
        bench = Bench().set(inner=columns, ring=1).load("column").set(inner=4, ring=4)
        bench.load(each=1, signal="compute").kernel().run(1, each=1, free=1)
        bench.set(inner=columns, ring=1).load("column", wait="compute")
        return bench, {"columns": columns}

    bench, keys = replaced(5)
    legal(bench, **keys)
    bench, keys = replaced(16)
    refused(bench, "uses column bank words 0.. without an order to command", **keys)
