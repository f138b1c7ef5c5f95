"""Builder, loops and address registers of programs."""

import numpy as np
import pytest

from bankside.errors import ProgramError
from bankside.isa.program import ADDRESS_MASK, Builder, Geometry, Program, walk

EMPTY = np.zeros((0, 8), np.uint16)


def builder() -> Builder:
    return Builder("pim", 8)


def executed(program: Program) -> list[int]:
    return [step.pc for step in walk(program)]


def refusal(program: Program, **arguments) -> str:
    with pytest.raises(ProgramError) as error:
        list(walk(program, **arguments))
    return str(error.value)


# --- builder ------------------------------------------------------------------------------------


def test_builder_collects_words_data_and_outputs():
    b = builder()
    first, second = np.arange(8, dtype=np.uint16), np.arange(16, dtype=np.uint16)
    assert b.send(first, stage=0) == 0
    assert b.send(second, stage=1, layout="bit", signal="array") == 1
    assert b.receive("k", 3, out=4, wait="rank") == 2
    assert b.receive("v", 2, out=7, wait=("array", "rank")) == 3
    program = b.build()
    names = [ins.name for ins in program.instructions()]
    assert names == ["HWR", "HWR", "HRD", "HRD", "HALT"]
    np.testing.assert_array_equal(program.host_in.reshape(-1), np.concatenate([first, second]))
    assert program.outputs == {"k": (0, 3), "v": (3, 2)}
    counts = [ins.fields.get("count") for ins in program.instructions()]
    assert counts == [1, 2, 3, 2, None]
    assert program.instructions()[3].wait == 0b0101


def test_builder_appends_halt_once():
    b = builder()
    b.HALT()
    assert len(b.build().words) == 1
    assert [ins.name for ins in builder().build().instructions()] == ["HALT"]


def test_builder_without_data_keeps_the_burst_width():
    assert builder().build().host_in.shape == (0, 8)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda b: b.MAC(col=512), ("command 1 MAC: col=512 is out of range; expected 0..511 "
                                   "(first column)")),
        (lambda b: b.MAC(wait="chip"), ("command 1 MAC: wait='chip' is not known; expected array, "
                                       "buffer, rank, host")),
        (lambda b: b.MAC(wait=("rank", "chip")), ("command 1 MAC: wait='rank,chip' is not known; "
                                                 "expected array, buffer, rank, host")),
        (lambda b: b.MAC(wait=16), ("command 1 MAC: wait=16 is out of range; expected 0..15 "
                                   "(engines whose token is taken before the command starts)")),
        (lambda b: b.emit("MAX"), "command 1 MAX: unknown command 'MAX'; did you mean MAC?"),
    ],
)  # fmt: skip
def test_builder_refuses(call, message):
    b = builder()
    b.BARRIER()
    with pytest.raises(ProgramError) as error:
        call(b)
    assert str(error.value) == message
    assert len(b.words) == 1


def test_builder_has_only_commands_as_methods():
    with pytest.raises(AttributeError, match="FOO"):
        builder().FOO()


def test_hash_covers_words_and_data():
    b = builder()
    b.send(np.arange(8, dtype=np.uint16), stage=0)
    program = b.build()
    other_word = Program("pim", program.words[1:], program.host_in)
    other_data = Program("pim", program.words, program.host_in + np.uint16(1))
    assert len({program.hash, other_word.hash, other_data.hash}) == 3
    assert program.hash == Program("pim", program.words, program.host_in.copy()).hash


def test_illegal_word_is_named():
    program = Program("pim", (b := builder()).build().words + (0,), EMPTY)
    with pytest.raises(ProgramError, match=r"^command 1: 0x0000000000000000 has the illegal"):
        program.instructions()
    assert b.words


# --- walk ---------------------------------------------------------------------------------------


def test_loops_repeat_and_nest():
    b = builder()
    b.LOOP(count=2)  # 0
    b.BARRIER()  # 1
    b.LOOP(count=3)  # 2
    b.REF()  # 3
    b.ENDLOOP()  # 4
    b.ENDLOOP()  # 5
    b.LOOP(count=1)  # 6
    b.ENDLOOP()  # 7
    body = [1, 2, 3, 4, 3, 4, 3, 4, 5]
    assert executed(b.build()) == [0, *body, *body, 6, 7, 8]


def test_nothing_runs_after_halt():
    b = builder()
    b.HALT()
    b.REF()
    assert executed(Program("pim", tuple(b.words), EMPTY)) == [0]


def test_address_registers_move_the_row_of_open():
    b = builder()
    b.SETA(areg=2, value=ADDRESS_MASK)
    b.ADDA(areg=1, value=5)
    b.ADDA(areg=2, value=4)  # wraps to 3
    b.OPEN(row=10, areg_en=1, areg=2)
    b.OPEN(row=10, areg_en=0, areg=2)
    b.OPEN(row=ADDRESS_MASK, areg_en=1, areg=1)
    assert [s.row for s in walk(b.build()) if s.instruction.name == "OPEN"] == [13, 10, 4]


def test_registers_change_from_iteration_to_iteration():
    b = builder()
    b.LOOP(count=3)
    b.OPEN(row=1, areg_en=1, areg=0)
    b.CLOSE()
    b.ADDA(areg=0, value=2)
    b.ENDLOOP()
    assert [s.row for s in walk(b.build()) if s.instruction.name == "OPEN"] == [1, 3, 5]


def test_geometry_holds_from_its_command_on():
    b = builder()
    b.REF()
    b.GEOM(nhc_log2=2, cpt=12, lanes=3)
    b.REF()
    assert [s.geometry for s in walk(b.build())] == [Geometry(), *[Geometry(2, 12, 3)] * 3]


def test_missing_halt():
    program = Program("pim", (builder().spec.encode("REF"),), EMPTY)
    assert refusal(program) == "command 1: the program runs past its end; end it with HALT"
    assert refusal(Program("pim", (), EMPTY)).startswith("command 0: the program runs past")


def test_endloop_without_loop():
    b = builder()
    b.LOOP(count=2)
    b.ENDLOOP()
    b.ENDLOOP()
    assert refusal(b.build()) == "command 2: ENDLOOP without LOOP"


def test_loops_too_deep():
    b = builder()
    for _ in range(3):
        b.LOOP(count=1)
    assert refusal(b.build()) == "command 2: LOOP nested deeper than 2"


def test_endless_programs_are_cut_off():
    b = builder()
    b.LOOP(count=1000)
    b.ENDLOOP()
    assert refusal(b.build(), limit=100) == "more than 100 executed commands; shorten the loops"


def test_halt_inside_a_loop_ends_the_program():
    b = builder()
    b.LOOP(count=2)
    b.HALT()
    assert executed(b.build()) == [0, 1]
