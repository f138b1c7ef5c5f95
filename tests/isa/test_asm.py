"""Assembler text and program files: exact round trips, and the message of every mistake."""

import dataclasses
import io
import itertools
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bankside.config import HardwareConfig
from bankside.errors import ProgramError
from bankside.isa.asm import assemble, assemble_with_lines, command_text, disassemble
from bankside.isa.machine import Machine
from bankside.isa.program import Builder, Program
from bankside.isa.program_file import load_program, program_bytes, save_program
from bankside.isa.spec import load_spec
from bankside.sim.random_programs import random_programs

PIM = load_spec("pim")
TINY = Machine.of(HardwareConfig.load("pim_tiny_ddr4"))


def same(a: Program, b: Program) -> bool:
    return (a.engine, a.words, a.outputs, a.regions, a.host_in.shape) == (
        b.engine, b.words, b.outputs, b.regions, b.host_in.shape
    ) and np.array_equal(a.host_in, b.host_in)  # fmt: skip


def sample() -> Program:
    b = Builder("pim", 8)
    b.send(np.arange(16, dtype=np.uint16) * 1000, stage=4, layout="bit", signal=("array", "buffer"))
    b.LOOP(count=3)
    b.LOOP(count=2)
    b.MAC(col=0, count=32, wait="buffer", signal=("buffer", "rank"))
    b.ENDLOOP()
    b.ENDLOOP()
    b.receive("out.k-1", 2, out=0)
    return b.build()


SAMPLE = """\
.engine pim
.burst 8
.output out.k-1 0 2

HWR stage=4 count=2 layout=bit signal=array,buffer
LOOP count=3
  LOOP count=2
    MAC col=0 count=32 wait=buffer signal=buffer,rank
  ENDLOOP
ENDLOOP
HRD out=0 count=2 layout=raw
HALT

.host
0000 03e8 07d0 0bb8 0fa0 1388 1770 1b58
1f40 2328 2710 2af8 2ee0 32c8 36b0 3a98
.end
"""


def test_text_of_a_program():
    assert disassemble(sample()) == SAMPLE
    assert same(assemble(SAMPLE), sample())


def test_free_form_text():
    """Comments, spaces, operands in any order or left out, numbers in any base, any indentation."""
    text = """
    # a comment
    .engine   pim        # and another
    .host
      0 1 2 3   # half a burst
      4 5 6 7
    .end
    .burst 8
\tMAC count=0x20 signal=rank,buffer wait=buffer
    MAC col=0 count=32 wait=2 signal=6
    HWR layout=2
    HALT
    """
    program, lines = assemble_with_lines(text)
    assert program.words[0] == program.words[1]
    assert program.instructions()[2].count == 1
    assert program.host_in.tolist() == [[0, 1, 2, 3, 4, 5, 6, 7]]
    assert lines == (9, 10, 11, 12)
    canonical = disassemble(program)
    assert disassemble(assemble(canonical)) == canonical


@pytest.mark.parametrize("preset", ["pim_tiny_ddr4", "pim_tiny_ddr5"])
def test_round_trip_of_random_programs(preset):
    machine = Machine.of(HardwareConfig.load(preset))
    for program in itertools.islice(random_programs(np.random.default_rng(5), machine), 25):
        text = disassemble(program)
        again = assemble(text)
        assert same(again, program)
        assert disassemble(again) == text


@settings(max_examples=200)
@given(st.lists(st.integers(0, 2**64 - 1), max_size=6), st.integers(1, 20), st.integers(0, 3))
def test_round_trip_of_any_words(words, burst, bursts):
    """Also of words that no command set knows."""
    data = np.arange(burst * bursts, dtype=np.uint16).reshape(bursts, burst)
    program = Program("pim", tuple(words), data, {"a": (0, 1)} if words else {})
    assert same(assemble(disassemble(program)), program)


@given(st.data())
def test_round_trip_of_every_command(data):
    command = data.draw(st.sampled_from(list(PIM.commands.values())))
    operands = {f.name: data.draw(st.integers(f.minimum, f.maximum)) for f in command.fields}
    word = PIM.encode(command.name, **operands)
    text = command_text(PIM, word)
    assert text.startswith(command.name)
    assert assemble(f".engine pim\n.burst 1\n{text}").words == (word,)


def test_illegal_words_say_why():
    assert command_text(PIM, 0) == (
        ".word 0x0000000000000000  # word: 0x0000000000000000 has the illegal opcode 0x00; "
        "expected one of the pim set"
    )


def test_host_data_in_a_file(tmp_path):
    program = sample()
    (tmp_path / "p.asm").write_text(disassemble(program, host_file="data.npy"))
    np.save(tmp_path / "data.npy", program.host_in)
    assert "03e8" not in (tmp_path / "p.asm").read_text()
    assert same(load_program(tmp_path / "p.asm"), program)


HEAD = ".engine pim\n.burst 2\n"
MISTAKES = {
    "no engine": ("HALT", ("p.asm:1: a command before the directive .engine; begin with "
                          "`.engine pim`")),
    "empty": ("", "p.asm:1: a command before the directive .engine; begin with `.engine pim`"),
    "unknown engine": (".engine pin", ("p.asm:1: no command set for engine 'pin'; known: array, "
                                       "npu, pim")),
    "second engine": (HEAD + ".engine pim", ("p.asm:3: a second .engine; a program has one command "
                                            "set")),
    "engine without name": (".engine", "p.asm:1: 0 arguments; write `.engine NAME`"),
    "no burst": (".engine pim\nHALT", ("p.asm:2: no .burst; give the FP16 elements of a host burst "
                                      "(C*NE)")),
    "second burst": (HEAD + ".burst 3", "p.asm:3: a second .burst; give it once"),
    "burst zero": (".burst 0", "p.asm:1: .burst is 0; expected the FP16 elements of a host burst"),
    "burst a name": (".burst x", "p.asm:1: .burst is 'x'; expected a number such as 12 or 0x0c"),
    "unknown directive": (".section x", ("p.asm:1: unknown directive '.section'; known: .engine, "
                                        ".burst, .output, .region, .word, .host, .end")),
    "region short": (HEAD + ".region 0", "p.asm:3: 1 arguments; write `.region BASE SIZE`"),
    "region number": (HEAD + ".region 0 x", ("p.asm:3: .region is 'x'; expected a number such as "
                                            "12 or 0x0c")),
    "unknown command": (HEAD + "MAK col=0", ("p.asm:3: MAK: unknown command 'MAK'; did you mean "
                                            "MAC?")),
    "unknown operand": (HEAD + "MAC row=0", ("p.asm:3: MAC: unknown operand 'row'; operands of "
                                            "MAC: col, count, wait, signal")),
    "operand twice": (HEAD + "MAC col=0 col=1", ("p.asm:3: operand 'col' is given twice; give it "
                                                "once")),
    "spaces": (HEAD + "MAC col = 1", "p.asm:3: operand 'col'; expected name=value without spaces"),
    "no value": (HEAD + "MAC col=", "p.asm:3: operand 'col='; expected name=value without spaces"),
    "bad number": (HEAD + "MAC col=12q", ("p.asm:3: col is '12q'; expected a number such as 12 or "
                                         "0x0c")),
    "negative": (HEAD + "MAC col=-1", "p.asm:3: MAC: col='-1' is not known; expected a number"),
    "range": (HEAD + "\n\nMAC col=512", ("p.asm:5: MAC: col=512 is out of range; expected 0..511 "
                                        "(first column)")),
    "bad name": (HEAD + "WRR mode=sum", ("p.asm:3: WRR: mode='sum' is not known; expected tree, "
                                        "acc")),
    "output name": (HEAD + ".output 1 0 2", ("p.asm:3: output name '1'; expected letters, digits, "
                                            "_ . -")),
    "output twice": (HEAD + ".output a 0 2\n.output a 2 2", ("p.asm:4: output 'a' is declared "
                                                            "twice; choose another name")),
    "output short": (HEAD + ".output a 0", ("p.asm:3: 2 arguments; write `.output NAME FIRST "
                                           "COUNT`")),
    "word too large": (HEAD + ".word 0x10000000000000000", ("p.asm:3: .word 0x10000000000000000 "
                                                           "does not fit 64 bits")),
    "end alone": (HEAD + ".end", "p.asm:3: .end without .host"),
    "open host": (HEAD + ".host\n0 1\n", "p.asm:5: the host data does not end; add .end"),
    "two hosts": (HEAD + ".host\n.end\n.host\n.end", ("p.asm:5: a second .host; give all host data "
                                                     "in one place")),
    "odd host": (HEAD + ".host\n0 1 2\n.end", ("p.asm:5: host data of shape [3] does not divide "
                 "into bursts of 2 elements; add what is missing or correct .burst")),
    "host not hex": (HEAD + ".host\n0 1\nHALT", ("p.asm:5: host data 'HALT'; expected FP16 bits "
                     "as up to four hexadecimal digits, or .end after the last")),
    "host too long": (HEAD + ".host\n12345", ("p.asm:4: host data '12345'; expected FP16 bits as "
                      "up to four hexadecimal digits, or .end after the last")),
}  # fmt: skip


@pytest.mark.parametrize("case", MISTAKES)
def test_mistakes(case):
    text, message = MISTAKES[case]
    with pytest.raises(ProgramError) as error:
        assemble(text, "p.asm")
    assert str(error.value) == message


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot be read: No such file or directory"),
        (np.zeros((2, 3), np.uint16), "host data of shape [2, 3] does not divide into bursts of 2"),
        (np.zeros((2, 2), np.int16), "must hold uint16 [bursts, elements] (FP16 bits)"),
        (np.zeros(4, np.uint16), "must hold uint16 [bursts, elements] (FP16 bits)"),
        (b"no array", "is not a .npy file"),
        (np.array([{}], object), "is not a .npy file"),
    ],
)
def test_bad_host_files(tmp_path, content, message):
    path = tmp_path / "d.npy"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        np.save(path, content, allow_pickle=True)
    with pytest.raises(ProgramError) as error:
        assemble(HEAD + ".host d.npy", "p.asm", folder=tmp_path)
    assert str(error.value).startswith("p.asm:3: ") and message in str(error.value)


def test_output_names_without_text_form():
    program = Program("pim", (), np.zeros((0, 2), np.uint16), {"a b": (0, 1)})
    with pytest.raises(ProgramError, match="output name 'a b' has no text form"):
        disassemble(program)


# --- program files ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["p.npz", "p.asm"])
def test_files_round_trip(tmp_path, name):
    for program in (sample(), Program("pim", (), np.zeros((0, 3), np.uint16))):
        path = save_program(tmp_path / "new" / name, program)
        assert same(load_program(path), program)
        assert [p.name for p in path.parent.iterdir()] == [name]


REGIONS = ((0, 4096), (1 << 31, 1 << 20))


@pytest.mark.parametrize("name", ["p.npz", "p.asm"])
def test_regions_round_trip(tmp_path, name):
    program = dataclasses.replace(sample_npu(), regions=REGIONS)
    path = save_program(tmp_path / name, program)
    assert same(load_program(path), program) and load_program(path).regions == REGIONS


def sample_npu() -> Program:
    words = (load_spec("npu").encode("STOP"),)
    return Program("npu", words, np.arange(8, dtype=np.uint16).reshape(2, 4), {"y": (1, 1)})


def test_regions_in_the_text_and_the_hash():
    program = dataclasses.replace(sample_npu(), regions=REGIONS)
    assert ".region 0 4096\n.region 2147483648 1048576\n" in disassemble(program)
    other = dataclasses.replace(program, regions=((0, 4096), (1 << 31, 1 << 19)))
    assert len({sample_npu().hash, program.hash, other.hash}) == 3


def test_programs_without_regions_keep_hash_and_bytes():
    """What was written before regions existed."""
    assert sample().hash == "982a5fd1c2361f34"
    with np.load(io.BytesIO(program_bytes(sample()))) as file:
        expected = ["words", "host_in", "engine", "output_names", "output_ranges"]
        assert file.files == expected


def test_equal_programs_give_equal_files():
    assert program_bytes(sample()) == program_bytes(sample())


def test_damaged_archives_are_refused(tmp_path):
    """Cut anywhere, or with any byte changed: refused, or still the same program."""
    good, path = program_bytes(sample()), tmp_path / "p.npz"
    rng = np.random.default_rng(3)
    damaged = [good[: int(n)] for n in rng.integers(0, len(good), 60)]
    for position in rng.integers(0, len(good), 300):
        changed = bytearray(good)
        changed[position] ^= int(rng.integers(1, 256))
        damaged.append(bytes(changed))
    refused = 0
    for data in damaged:
        path.write_bytes(data)
        try:
            assert same(load_program(path), sample())
        except ProgramError as error:
            refused += 1
            assert str(error).startswith(str(path))
    assert refused > 200


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"words": np.zeros(1, np.uint64)}, ("holds words; expected words, host_in, engine, "
         "output_names, output_ranges; write it with `bankside asm`")),
        ({"words": np.zeros(1, np.int32)}, ("words is int32 with 1 dimensions; expected uint64 "
         "with 1; write it with `bankside asm`")),
        ({"host_in": np.zeros(4, np.uint16)}, ("host_in is uint16 with 1 dimensions; expected "
         "uint16 with 2; write it with `bankside asm`")),
        ({"output_ranges": np.zeros((3, 2), np.int64)}, ("names and ranges of the outputs differ; "
         "write it anew")),
        ({"regions": np.zeros((1, 3), np.int64)}, ("regions are not pairs of base and size; write "
         "it anew")),
        ({"regions": np.full((1, 2), -1)}, ("regions are not pairs of base and size; write it "
         "anew")),
        ({"regions": np.zeros(2, np.int64)}, ("regions is int64 with 1 dimensions; expected int64 "
         "with 2; write it with `bankside asm`")),
        ({"engine": np.array("npx")}, "no command set for engine npx; known: array, npu, pim"),
    ],
)  # fmt: skip
def test_wrong_arrays(tmp_path, arrays, message):
    path = tmp_path / "p.npz"
    path.write_bytes(program_bytes(sample()))
    with np.load(path) as file:
        content = {name: file[name] for name in file.files} if len(arrays) else {}
    content = arrays if message.startswith("holds") else content | arrays
    np.savez(path, **content)
    with pytest.raises(ProgramError) as error:
        load_program(path)
    assert str(error.value) == f"{path}: {message}"


def test_unreadable_files(tmp_path):
    with pytest.raises(ProgramError, match="no.npz: cannot be read: No such file"):
        load_program(tmp_path / "no.npz")
    with pytest.raises(ProgramError, match="no.asm: cannot be read: No such file"):
        load_program(tmp_path / "no.asm")
    (tmp_path / "p.bin").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ProgramError, match="p.bin: is not text; expected assembler text"):
        load_program(tmp_path / "p.bin")


# --- command line -------------------------------------------------------------------------------


def test_command_line_round_trip(run_cli, tmp_path):
    (tmp_path / "p.asm").write_text(SAMPLE)
    done = run_cli("asm", tmp_path / "p.asm", "--out", tmp_path, "--json")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["commands"] == 8 and result["checked"] is None
    assert [int(word, 16) for word in result["words"]] == list(sample().words)
    done = run_cli("disasm", tmp_path / "p.npz")
    assert (done.returncode, done.stdout) == (0, SAMPLE)


def test_command_line_check_names_the_line(run_cli, tmp_path):
    (tmp_path / "p.asm").write_text(SAMPLE)
    done = run_cli("disasm", tmp_path / "p.asm", "--check", "pim_tiny_ddr4", "--json")
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.strip() == (
        f"bankside: error: {tmp_path}/p.asm:8: command 3 (MAC): not all banks have an open row; "
        f"OPEN them first"
    )
