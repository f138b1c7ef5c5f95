"""Program checks: one program per kind of refusal, and every token of the kernels is needed."""

import itertools

import numpy as np
import pytest

from bankside.config import HardwareConfig
from bankside.errors import ProgramError
from bankside.isa.machine import Machine
from bankside.isa.program import Builder, Program
from bankside.isa.verify import verify
from bankside.mapping.lower_pim import KvLayout, PimKernels, Shape
from bankside.sim.golden.pim import PimGolden
from bankside.sim.random_programs import random_fp16, random_programs

TINY4 = Machine.of(HardwareConfig.load("pim_tiny_ddr4"))
TINY5 = Machine.of(HardwareConfig.load("pim_tiny_ddr5"))
# More banks than FP16 elements in a slice: probabilities take several words per slot.
WIDE = Machine.of(
    HardwareConfig.parse(
        "{name: wide, engine: pim, dram: {standard: ddr4_3200, chips: 2, rows: 8, columns: 32}, "
        "pim: {query_lanes: 1}}"
    )
)
BURST = np.zeros(8, np.uint16)


def rows(b: Builder, row: int = 0) -> None:
    b.OPEN(mode="staggered", row=row)


def many_tokens(b: Builder) -> None:
    for _ in range(16):
        b.send(BURST, stage=0, signal="array")


# Commands -> message. `b` is a builder; HALT is appended.
REFUSED = {
    "shared words": (
        lambda b: (b.OPEN(bank=1), b.LDSB(bank=1, sb=319, count=2)),
        ("command 1 (LDSB): uses words 319..320 of shared, which has 320; move or shorten the "
        "access"),
    ),
    "words of all lanes": (
        lambda b: (b.GEOM(cpt=2, lanes=2), b.WRSBQ(stage=1000, sb=0, count=20)),
        ("command 1 (WRSBQ): uses words 1000..1039 of stage_in, which has 1024; move or shorten "
        "the access"),
    ),
    "words that a MAC reaches": (
        lambda b: (rows(b), b.WRR(mode="tree", rb=63, cpt=1), b.MAC(count=4), b.MAC(count=1)),
        "command 3 (MAC): uses words 64..64 of result, which has 64; move or shorten the access",
    ),
    "bank": (
        lambda b: b.OPEN(bank=4),
        "command 0 (OPEN): bank=4; pim_tiny_ddr4 has bank 0..3",
    ),
    "lane": (
        lambda b: (b.OPEN(bank=1), b.LDSB(bank=1, lane=2)),
        "command 1 (LDSB): lane=2; pim_tiny_ddr4 has lane 0..1",
    ),
    "columns per token": (
        lambda b: b.WRR(cpt=33),
        "command 0 (WRR): cpt=33; pim_tiny_ddr4 has cpt 0..32",
    ),
    "row": (lambda b: b.OPEN(row=8), "command 0 (OPEN): row 8; pim_tiny_ddr4 has rows 0..7"),
    "row from a register": (
        lambda b: (b.SETA(areg=3, value=7), b.OPEN(row=1, areg_en=1, areg=3)),
        "command 1 (OPEN): row 8; pim_tiny_ddr4 has rows 0..7",
    ),
    "columns": (
        lambda b: (b.OPEN(bank=0), b.RD(bank=0, col=30, count=3)),
        "command 1 (RD): columns 30..32; a row has 0..31",
    ),
    "waits for itself": (
        lambda b: b.WRR(wait="array"),
        ("command 0 (WRR): wait or signal names its own engine array; commands of one engine run "
        "in order, leave it out"),
    ),
    "signals itself": (
        lambda b: b.NORM(signal=("rank", "array")),
        ("command 0 (NORM): wait or signal names its own engine rank; commands of one engine run "
        "in order, leave it out"),
    ),
    "chips per head": (
        lambda b: b.GEOM(nhc_log2=2),
        "command 0 (GEOM): N_hc=4, lanes=1; pim_tiny_ddr4 allows N_hc up to 2 and up to 2 lanes",
    ),
    "lanes": (
        lambda b: b.GEOM(lanes=3),
        "command 0 (GEOM): N_hc=1, lanes=3; pim_tiny_ddr4 allows N_hc up to 2 and up to 2 lanes",
    ),
    "layout and columns": (
        lambda b: (b.GEOM(cpt=3), b.HWR(layout="head", count=3)),
        ("command 1 (HWR): layout head needs cpt (3) to be a multiple of 2 heads and count (3) a "
        "multiple of cpt"),
    ),
    "layout and count": (
        lambda b: (b.GEOM(cpt=2), b.HRD(layout="head", count=3)),
        ("command 1 (HRD): layout head needs cpt (2) to be a multiple of 2 heads and count (3) a "
        "multiple of cpt"),
    ),
    "tokens of a chunk": (
        lambda b: b.RDRBS(valid=9),
        "command 0 (RDRBS): valid=9, but 1 groups hold 8 tokens",
    ),
    "row already open": (
        lambda b: (b.OPEN(bank=2, row=3), rows(b)),
        "command 1 (OPEN): bank 2 has row 3 open; CLOSE it first",
    ),
    "refresh of open banks": (
        lambda b: (b.OPEN(bank=2, row=3), b.REF()),
        "command 1 (REF): bank 2 is open; CLOSE all banks before a refresh",
    ),
    "MAC with a closed bank": (
        lambda b: (rows(b), b.CLOSE(bank=1), b.WRR(cpt=1), b.MAC()),
        "command 3 (MAC): not all banks have an open row; OPEN them first",
    ),
    "MAC without mode": (
        lambda b: (rows(b), b.MAC()),
        "command 1 (MAC): the bank units have no mode; WRR first",
    ),
    "WR to a closed bank": (
        lambda b: b.WR(bank=2),
        "command 0 (WR): bank 2 has no open row; OPEN one first",
    ),
    "RD of a closed bank": (
        lambda b: (rows(b), b.CLOSE(mode="all"), b.RD(bank=2)),
        "command 2 (RD): bank 2 has no open row; OPEN one first",
    ),
    "LDSB of a closed bank": (
        lambda b: (b.OPEN(bank=2), b.LDSB(bank=3)),
        "command 1 (LDSB): bank 3 has no open row; OPEN one first",
    ),
    "softmax of nothing": (
        lambda b: b.SFM(),
        ("command 0 (SFM): maximum set 0 does not belong to these scores; use the score, groups, "
        "valid and buf of the RDRBS that read them"),
    ),
    "softmax of other scores": (
        lambda b: (b.RDRBS(score=8, valid=3, signal="rank"), b.SFM(score=8, wait="buffer")),
        ("command 1 (SFM): maximum set 0 does not belong to these scores; use the score, groups, "
        "valid and buf of the RDRBS that read them"),
    ),
    "softmax of overwritten scores": (
        lambda b: (b.RDRBS(score=8), b.RDRBC(score=6, count=2, signal="rank"),
                   b.SFM(score=8, wait="buffer")),
        ("command 2 (SFM): maximum set 0 does not belong to these scores; use the score, groups, "
        "valid and buf of the RDRBS that read them"),
    ),
    "softmax after a new geometry": (
        lambda b: (b.RDRBS(score=8), b.GEOM(), b.SFM(score=8)),
        ("command 2 (SFM): maximum set 0 does not belong to these scores; use the score, groups, "
        "valid and buf of the RDRBS that read them"),
    ),
    "normalisation without softmax": (
        lambda b: b.NORM(),
        "command 0 (NORM): no SFM since the last GEOM, so there is no denominator; SFM first",
    ),
    "token that nobody gives": (
        lambda b: (b.RDRBS(), b.WRR(wait=("buffer", "rank"))),
        ("command 1 (WRR): waits for a token from buffer and rank that never comes; add the "
        "missing signal before the next barrier"),
    ),
    "one token of two": (
        lambda b: (b.RDRBS(signal="array"), b.WRR(wait=("buffer", "rank"))),
        ("command 1 (WRR): waits for a token from rank that never comes; add the missing signal "
        "before the next barrier"),
    ),
    "token behind a barrier": (
        lambda b: (b.WRR(wait="buffer"), b.BARRIER(), b.RDRBS(signal="array")),
        ("command 0 (WRR): waits for a token from buffer that never comes; add the missing signal "
        "before the next barrier"),
    ),
    "deadlock": (
        lambda b: (b.WRR(wait="buffer", signal="buffer"), b.RDRBS(wait="array", signal="array")),
        ("command 0 (WRR): waits for a token from buffer that never comes; add the missing signal "
        "before the next barrier"),
    ),
    "too many tokens": (
        many_tokens,
        ("command 15 (HWR): more than 15 tokens from host to array may be outstanding; let host "
        "wait for array in between"),
    ),
    "read after write": (
        lambda b: (b.send(np.zeros(16, np.uint16), stage=4), b.WRSBQ(stage=5)),
        ("command 1 (WRSBQ) and command 0 (HWR) use stage_in 5.. without an order; let host signal "
        "buffer after command 0 and command 1 wait for it"),
    ),
    "write after read": (
        lambda b: (b.WRSBQ(stage=5, count=2), b.send(BURST, stage=6)),
        ("command 1 (HWR) and command 0 (WRSBQ) use stage_in 6.. without an order; let buffer "
        "signal host after command 0 and command 1 wait for it"),
    ),
    "write after write": (
        lambda b: (b.OPEN(bank=0), b.LDSB(bank=0, sb=3), b.WRSBQ(stage=5, sb=2, count=2),
                   b.CLOSE()),
        ("command 2 (WRSBQ) and command 1 (LDSB) use shared 3.. without an order; let array signal "
        "buffer after command 1 and command 2 wait for it"),
    ),
    "shared port": (
        lambda b: (b.RDRBS(signal="rank"), b.SFM(wait="buffer"), b.NORM(out=0), b.OPEN(bank=0),
                   b.RD(bank=0, out=100), b.CLOSE()),
        ("command 4 (RD) and command 2 (NORM) use stage_out_port 0.. without an order; let rank "
        "signal array after command 2 and command 4 wait for it"),
    ),
    "token of a command that overtakes": (
        lambda b: (rows(b), b.WRR(cpt=2), b.MAC(count=4), b.CLOSE(mode="all", signal="buffer"),
                   b.RDRBS(wait="array")),
        ("command 4 (RDRBS) and command 2 (MAC) use result 0.. without an order; let array signal "
        "buffer after command 2 and command 4 wait for it"),
    ),
    "token of an earlier round": (
        lambda b: (b.LOOP(count=2), b.send(BURST, stage=0, signal="buffer"), b.WRSBQ(wait="host"),
                   b.ENDLOOP(), b.host_in.append(BURST[None])),
        ("command 1 (HWR) and command 2 (WRSBQ) use stage_in 0.. without an order; let buffer "
        "signal host after command 2 and command 1 wait for it"),
    ),
    "open row at the end": (
        lambda b: b.OPEN(bank=3),
        "command 1 (HALT): bank 3 has an open row; CLOSE it, programs start with all banks closed",
    ),
    "host data too short": (
        lambda b: (b.send(np.zeros(16, np.uint16)), b.BARRIER(), b.HWR(count=2)),
        "command 2 (HWR): needs 2 more bursts than the 2 that the host sends",
    ),
    "host data too long": (
        lambda b: (b.host_in.append(np.zeros((3, 8), np.uint16)), b.HWR(count=2)),
        "command 1 (HALT): 1 of the 3 bursts that the host sends are never taken; add a HWR",
    ),
    "output without name": (
        lambda b: b.HRD(count=2),
        "command 1 (HALT): the host receives 2 bursts, but the outputs name 0; correct them",
    ),
    "output with two names": (
        lambda b: (b.receive("a", 2), b.outputs.update(b=(1, 1))),
        "outputs: burst 1 has no name or several; name every received burst once",
    ),
    "output with a gap": (
        lambda b: (b.receive("a", 2), b.outputs.update(a=(1, 1))),
        "outputs: burst 0 has no name or several; name every received burst once",
    ),
    "program too long": (
        lambda b: [b.WRR(cpt=1) for _ in range(1024)],
        ("the program has 1025 words; pim_tiny_ddr4 holds 1024; use LOOP or raise "
        "pim.program_words"),
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_refused(case):
    commands, message = REFUSED[case]
    b = Builder("pim", 8)
    commands(b)
    with pytest.raises(ProgramError) as error:
        verify(b.build(), TINY4)
    assert str(error.value) == message


@pytest.mark.parametrize(
    ("name", "operands"), [("WRR", {"mode": "acc"}), ("WRSBP", {}), ("WRR", {"mode": "tree"})]
)
def test_probabilities_start_at_a_whole_slot(name, operands):
    b = Builder("pim", 8)
    b.emit(name, sb=WIDE.subbanks, **operands)
    verify(b.build(), WIDE)
    b = Builder("pim", 8)
    b.emit(name, sb=WIDE.subbanks + 1, **operands)
    if operands.get("mode") == "tree":
        verify(b.build(), WIDE)
        return
    with pytest.raises(ProgramError) as error:
        verify(b.build(), WIDE)
    assert str(error.value) == (
        f"command 0 ({name}): sb=5 holds probabilities; use a multiple of 4"
    )


# What looks like a refusal above but has its order.
ACCEPTED = {
    "a token": lambda b: (b.send(BURST, stage=5, signal="buffer"), b.WRSBQ(stage=5, wait="host")),
    "a barrier": lambda b: (b.send(BURST, stage=5), b.BARRIER(), b.WRSBQ(stage=5)),
    "a new geometry": lambda b: (b.send(BURST, stage=5), b.GEOM(), b.WRSBQ(stage=5)),
    "a later token": lambda b: (b.send(BURST, stage=5), b.send(BURST, stage=0, signal="buffer"),
                                b.WRSBQ(stage=5, wait="host")),
    "a third engine": lambda b: (b.send(BURST, stage=5, signal="rank"), b.RDRBS(signal="rank"),
                                 b.SFM(wait=("buffer", "host"), signal="buffer"),
                                 b.WRSBQ(stage=5, wait="rank")),
    "other words": lambda b: (b.send(BURST, stage=5), b.WRSBQ(stage=6)),
    "two readers": lambda b: (b.send(BURST, stage=5), b.BARRIER(), b.WRSBQ(stage=5), b.OPEN(bank=0),
                              b.WR(bank=0, stage=5), b.CLOSE()),
    "a token from before the barrier": lambda b: (b.RDRBS(signal="array"), b.BARRIER(),
                                                  b.WRR(wait="buffer")),
    "fifteen tokens": lambda b: [b.send(BURST, signal="array") for _ in range(15)],
}  # fmt: skip


@pytest.mark.parametrize("case", ACCEPTED)
def test_accepted(case):
    b = Builder("pim", 8)
    ACCEPTED[case](b)
    verify(b.build(), TINY4)


# --- mutations of whole kernels -----------------------------------------------------------------


def kernel(machine: Machine, tokens: int, slots: int) -> Program:
    """Append one token and attend to all, two KV heads of two queries each."""
    rng = np.random.default_rng(tokens)
    layout = KvLayout.of(machine, Shape(1, 2, 4, 8, tokens), None, slots)
    data = [random_fp16(rng, (heads, 8)) for heads in (4, 2, 2)]
    (program,) = PimKernels(layout).decode(0, tokens, *data)
    return program


def changed(program: Program, pc: int, word: int) -> Program:
    words = (*program.words[:pc], word, *program.words[pc + 1 :])
    return Program(program.engine, words, program.host_in, program.outputs)


def tokens_of(program: Program) -> list[tuple[int, str, int]]:
    """Every set bit of a mask: (command, wait or signal, engine)."""
    spec, found = program.spec, []
    for pc, ins in enumerate(program.instructions()):
        for mask in {"wait", "signal"} & set(spec.commands[ins.name].field_map):
            found += [(pc, mask, e) for e in range(4) if ins.fields[mask] >> e & 1]
    return found


def without_tokens(program: Program, *tokens: tuple[int, str, int]) -> Program:
    for pc, mask, engine in tokens:
        command = program.spec.commands[program.spec.decode(program.words[pc]).name]
        bit = 1 << command.field_map[mask].lsb + engine
        assert program.words[pc] & bit
        program = changed(program, pc, program.words[pc] ^ bit)
    return program


def refused(program: Program, machine: Machine) -> bool:
    try:
        verify(program, machine)
    except ProgramError:
        return True
    return False


class Shuffled(PimGolden):
    """The golden model with another order of the engines, as far as the tokens allow it."""

    def __init__(self, machine: Machine, seed: int) -> None:
        super().__init__(machine)
        self.rng = np.random.default_rng(seed)

    def _drain(self, engines) -> None:
        while ready := [e for e in range(4) if self._may(engines, e)]:
            # Mostly one engine as far ahead as it gets: that is where a missing order shows.
            own = int(self.rng.choice(ready))
            for _ in range(int(self.rng.integers(1, 12))):
                if self._may(engines, own):
                    self._execute(engines, own)

    def _may(self, engines, own: int) -> bool:
        return bool(engines.queues[own]) and self._ready(engines, own, engines.queues[own][0])


def outputs(model: PimGolden, program: Program) -> bytes:
    """Output bits, or nothing for a program that does not finish."""
    try:
        with np.errstate(all="ignore"):
            return model.run(program).outputs.tobytes()
    except ProgramError:
        return b""


KERNELS = [(TINY4, 1, 2), (TINY4, 9, 2), (TINY4, 20, 2), (TINY4, 70, 4), (TINY4, 150, 2),
           (TINY5, 20, 2), (TINY5, 100, 4)]  # fmt: skip


@pytest.mark.parametrize(("machine", "tokens", "slots"), KERNELS)
def test_every_single_token_is_needed(machine, tokens, slots):
    """Measured over these kernels: no token is redundant, each removal is refused."""
    program = kernel(machine, tokens, slots)
    verify(program, machine)
    found = tokens_of(program)
    assert len(found) >= 22
    redundant = [t for t in found if not refused(without_tokens(program, t), machine)]
    assert redundant == []


@pytest.mark.parametrize(("machine", "tokens", "slots"), KERNELS[:4])
def test_every_pair_of_tokens_is_needed(machine, tokens, slots):
    """A signal and a wait for it removed together leave no token over, but the order is gone."""
    program = kernel(machine, tokens, slots)
    spec, found = program.spec, tokens_of(program)
    engine = [spec.commands[ins.name].engine for ins in program.instructions()]
    pairs = redundant = 0
    for giver, taker in itertools.permutations(range(4), 2):
        signals = [t for t in found if t[1] == "signal" and t[2] == taker
                   and engine[t[0]] == spec.engines[giver]]  # fmt: skip
        waits = [t for t in found if t[1] == "wait" and t[2] == giver
                 and engine[t[0]] == spec.engines[taker]]  # fmt: skip
        for pair in zip(signals, waits, strict=False):
            pairs += 1
            redundant += not refused(without_tokens(program, *pair), machine)
    assert pairs >= 11 and redundant == 0


def test_refused_removals_change_the_bits():
    """Of the removals that still finish, most give other bits in some order of the engines."""
    program, machine = kernel(TINY4, 40, 2), TINY4
    good = outputs(PimGolden(machine), program)
    finished = noticed = 0
    for token in tokens_of(program):
        mutant = without_tokens(program, token)
        results = {outputs(Shuffled(machine, seed), mutant) for seed in range(6)}
        if results != {b""}:
            finished += 1
            noticed += results != {good}
    assert finished >= 25 and noticed >= 0.6 * finished


@pytest.mark.parametrize("machine", [TINY4, TINY5], ids=["ddr4", "ddr5"])
def test_accepted_programs_give_the_same_bits_in_every_order(machine):
    programs = list(itertools.islice(random_programs(np.random.default_rng(8), machine), 30))
    plain, shuffled = PimGolden(machine), [Shuffled(machine, seed) for seed in range(3)]
    for number, program in enumerate(programs):
        good = outputs(plain, program)
        assert all(outputs(model, program) == good for model in shuffled), f"program {number}"


def test_moved_addresses_are_refused():
    """Addresses of the kernel moved a little: refused, or every order gives the same bits."""
    program, machine = kernel(TINY4, 40, 2), TINY4
    counted = {"refused": 0, "accepted": 0}
    for pc, ins in enumerate(program.instructions()):
        command = program.spec.commands[ins.name]
        for name in {"stage", "sb", "rb", "score", "prob", "out", "buf", "kbuf"} & set(ins.fields):
            operand = command.field_map[name]
            for value in {ins.fields[name] ^ 1, ins.fields[name] + 4} - {ins.fields[name]}:
                if value > operand.maximum:
                    continue
                fields = {**ins.fields, name: value}
                mutant = changed(program, pc, program.spec.encode(ins.name, **fields))
                if refused(mutant, machine):
                    counted["refused"] += 1
                    continue
                counted["accepted"] += 1
                results = {outputs(Shuffled(machine, seed), mutant) for seed in range(3)}
                assert len(results) == 1, f"command {pc} ({ins.name}) {name}={value}"
    assert counted["refused"] >= 20 and counted["accepted"] >= 5
