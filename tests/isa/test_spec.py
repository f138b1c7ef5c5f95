"""Command-set specifications: what is refused, and encoding and decoding of every command."""

import copy

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bankside.errors import ProgramError, SpecError
from bankside.isa import spec as spec_module
from bankside.isa.spec import load_spec, parse_spec, spec_names
from bankside.strict_yaml import load_yaml

PIM = load_spec("pim")
RAW = load_yaml(PIM.path)[0]


def parse(spoil):
    """The `pim` specification after `spoil(data)`."""
    data = copy.deepcopy(RAW)
    spoil(data)
    return parse_spec(data, PIM.path)


def at(*path, value):
    """A change of one entry."""

    def spoil(data):
        for key in path[:-1]:
            data = data[key]
        data[path[-1]] = value

    return spoil


def without(*path):
    """The removal of one entry."""

    def spoil(data):
        for key in path[:-1]:
            data = data[key]
        del data[path[-1]]

    return spoil


COL = ("commands", "MAC", "fields", "col")
REFUSED = {
    "overlap": (
        at(*COL, "width", value=10),
        "commands.MAC: field count overlaps another one at bit 9",
    ),
    "overlap with a common field": (
        at(*COL, value={"lsb": 48, "width": 3}),
        "commands.MAC: field signal overlaps another one at bit 50",
    ),
    "overlap with the opcode": (
        at(*COL, "lsb", value=55),
        "commands.MAC: field col overlaps another one at bit 55",
    ),
    "outside the word": (
        at(*COL, "lsb", value=60),
        "commands.MAC: field col lies outside the 64-bit word",
    ),
    "no bits": (
        at(*COL, value={"lsb": 0, "width": 0}),
        "commands.MAC: field col lies outside the 64-bit word",
    ),
    "negative position": (
        at(*COL, "lsb", value=-1),
        "commands.MAC: field col lies outside the 64-bit word",
    ),
    "duplicate opcode": (
        at("commands", "WR", "opcode", value=0x14),
        "commands.WR: opcode 0x14 is already used by MAC; choose another",
    ),
    "opcode zero": (
        at("commands", "WR", "opcode", value=0),
        "commands.WR: opcode 0 must be in 1..63 (0 is reserved)",
    ),
    "opcode too large": (
        at("commands", "WR", "opcode", value=64),
        "commands.WR: opcode 64 must be in 1..63 (0 is reserved)",
    ),
    "unknown enum": (
        at("commands", "CLOSE", "fields", "mode", "enum", value="close"),
        "commands.CLOSE.mode: unknown enum 'close'; known: open_mode, close_mode, pu_mode, layout",
    ),
    "unknown space": (
        at("commands", "WR", "reads", value=[["stage", "stage", "count"]]),
        (
            "commands.WR.reads: unknown space 'stage'; known: result, shared, scale, score, "
            "maximum, probability, stage_in, stage_out, stage_out_port"
        ),
    ),
    "access without length": (
        at("commands", "WR", "reads", value=[["stage_in", "stage"]]),
        "commands.WR.reads: ['stage_in', 'stage']; expected [space, first word, words]",
    ),
    "unknown engine": (
        at("commands", "WR", "engine", value="bank"),
        "commands.WR: unknown engine 'bank'; known: control, array, buffer, rank, host",
    ),
    "minimum above maximum": (
        at(*COL, "min", value=512),
        "commands.MAC.col: range 512..511 does not fit 9 bits",
    ),
    "maximum too large": (
        at(*COL, "max", value=512),
        "commands.MAC.col: range 0..512 does not fit 9 bits",
    ),
    "enum too large": (
        at("enums", "close_mode", "pair", value=2),
        "commands.CLOSE.mode: range 0..2 does not fit 1 bits",
    ),
    "not an integer": (
        at(*COL, "width", value="nine"),
        "commands.MAC.col: width is 'nine'; expected an integer",
    ),
    "unknown field key": (
        at(*COL, "bits", value=9),
        "commands.MAC.col: unknown key 'bits'; expected doc, enum, flags, lsb, max, min, width",
    ),
    "missing field key": (
        without(*COL, "lsb"),
        "commands.MAC.col: the key 'lsb' is missing; add it",
    ),
    "unknown command key": (
        at("commands", "MAC", "cycles", value=9),
        "commands.MAC: unknown key 'cycles'; expected doc, engine, fields, opcode, reads, writes",
    ),
    "not a command": (
        at("commands", "MAC", value=3),
        "commands.MAC: expected keys doc, engine, fields, opcode, reads, writes, found 3",
    ),
    "missing section": (
        without("stalls"),
        "pim.yaml: the key 'stalls' is missing; add it",
    ),
    "unknown section": (
        at("stall", value=[]),
        (
            "pim.yaml: unknown key 'stall'; expected commands, common, engine, engines, enums, "
            "loop_depth, opcode, spaces, stalls, token_max, version, word_bits"
        ),
    ),
    "own name of a common field": (
        at("commands", "MAC", "fields", "wait", value={"lsb": 30, "width": 1}),
        "commands.MAC: field wait is common to all commands; rename it",
    ),
    "too many flags": (
        at("common", "wait", "width", value=3),
        "common.wait: 4 flags do not fit 3 bits",
    ),
    "space without size": (
        without("spaces", "score", "size"),
        "spaces.score: the key 'size' is missing; add it",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused(case):
    spoil, message = REFUSED[case]
    with pytest.raises(SpecError) as error:
        parse(spoil)
    assert str(error.value) == message


def test_duplicate_command_in_the_file(tmp_path, monkeypatch):
    text = PIM.path.read_text() + '  HALT: {opcode: 0x3f, engine: control, doc: "again"}\n'
    (tmp_path / "twice.yaml").write_text(text)
    monkeypatch.setattr(spec_module, "_FOLDER", tmp_path)
    with pytest.raises(SpecError, match="'HALT'.*twice|twice.*'HALT'"):
        load_spec("twice")


def test_unknown_engine_lists_the_known_ones():
    with pytest.raises(SpecError, match=r"no command set for engine 'pin'; known: array, npu, pim"):
        load_spec("pin")
    assert "pim" in spec_names()


def test_holes_are_allowed_in_the_specification():
    """CLOSE leaves bit 1 free; test_reserved_bits shows that programs must keep it 0."""
    assert not sum(f.mask for f in PIM.commands["CLOSE"].fields) >> 1 & 1


# --- words --------------------------------------------------------------------------------------


def legal_values(field):
    """Strategy of the legal values of one operand."""
    if field.values:
        return st.sampled_from([value for _, value in field.values])
    return st.integers(field.minimum, field.maximum)


@st.composite
def instructions(draw):
    command = draw(st.sampled_from(list(PIM.commands.values())))
    return command.name, {f.name: draw(legal_values(f)) for f in command.fields}


@given(instructions())
def test_decode_inverts_encode(instruction):
    name, operands = instruction
    decoded = PIM.decode(PIM.encode(name, **operands))
    assert (decoded.name, dict(decoded.fields)) == (name, operands)


@given(st.integers(0, 2**64 - 1), st.sampled_from(list(PIM.by_opcode)))
def test_encode_inverts_decode(bits, opcode):
    """A word is either refused or is exactly what encoding its operands gives."""
    word = bits & ~PIM.opcode.mask | opcode << PIM.opcode.lsb
    try:
        decoded = PIM.decode(word)
    except ProgramError:
        return
    assert PIM.encode(decoded.name, **decoded.fields) == word


@pytest.mark.parametrize("name", PIM.commands)
def test_reserved_bits(name):
    """Every bit that no operand covers is refused, every other one is not reserved."""
    command = PIM.commands[name]
    word = PIM.encode(name)
    used = PIM.opcode.mask | sum(field.mask for field in command.fields)
    for bit in range(PIM.word_bits):
        if used >> bit & 1:
            continue
        with pytest.raises(ProgramError) as error:
            PIM.decode(word | 1 << bit, "command 7")
        assert str(error.value) == (
            f"command 7: {name} has reserved bits set ({1 << bit:#018x}); they must be 0"
        )


@pytest.mark.parametrize("name", PIM.commands)
def test_every_operand_is_range_checked(name):
    for field in PIM.commands[name].fields:
        for value in {-1, field.minimum - 1, field.maximum + 1, 1 << field.width}:
            with pytest.raises(ProgramError, match=f"^{name}: {field.name}={value} is out of"):
                PIM.encode(name, **{field.name: value})
        for value in (field.minimum, field.maximum):
            decoded = PIM.decode(PIM.encode(name, **{field.name: value}))
            assert decoded.fields[field.name] == value


def test_operands_below_their_minimum_are_refused_in_words():
    word = PIM.encode("MAC", col=3) & ~PIM.commands["MAC"].field_map["count"].mask
    with pytest.raises(ProgramError) as error:
        PIM.decode(word, "command 2")
    assert str(error.value) == (
        "command 2: MAC: count=0 is out of range; expected 1..511 (columns)"
    )


@pytest.mark.parametrize("opcode", sorted(set(range(64)) - set(PIM.by_opcode)))
def test_illegal_opcodes(opcode):
    with pytest.raises(ProgramError) as error:
        PIM.decode(opcode << 58, "command 0")
    assert str(error.value) == (
        f"command 0: {opcode << 58:#018x} has the illegal opcode {opcode:#04x}; expected one of "
        f"the pim set"
    )


@pytest.mark.parametrize("word", [-1, 1 << 64])
def test_words_of_the_wrong_size(word):
    with pytest.raises(ProgramError, match=f"^command 1: {word} is not a word of 64 bits$"):
        PIM.decode(word, "command 1")


def test_enumerations_may_have_gaps():
    spec = parse(at("enums", "layout", value={"raw": 0, "head": 2}))
    word = spec.encode("HWR", layout="head")
    assert spec.decode(word).layout == 2
    with pytest.raises(ProgramError) as error:
        spec.decode(word ^ 3 << 24, "command 4")
    assert str(error.value) == (
        "command 4: HWR: layout=1 has no meaning; expected raw (0), head (2)"
    )


@pytest.mark.parametrize(
    ("operands", "message"),
    [
        ({"mode": "both"}, "WRR: mode='both' is not known; expected tree, acc"),
        ({"rb": "three"}, "WRR: rb='three' is not known; expected a number"),
        ({"wait": "rank,bank"},
         "WRR: wait='rank,bank' is not known; expected array, buffer, rank, host"),
        ({"wait": "rank,rank"}, "WRR: wait='rank,rank' names one twice; name each once"),
        ({"lane": 1}, ("WRR: unknown operand 'lane'; operands of WRR: mode, kbuf, rescale, sb, rb, "
                      "cpt, wait, signal")),
    ],
)  # fmt: skip
def test_names_of_operands(operands, message):
    with pytest.raises(ProgramError) as error:
        PIM.encode("WRR", **operands)
    assert str(error.value) == message


def test_names_are_values():
    assert PIM.encode("WRR", mode="acc", wait="rank,host") == PIM.encode("WRR", mode=1, wait=12)
    assert PIM.encode("WRR", wait="none") == PIM.encode("WRR")
    for command in PIM.commands.values():
        for field in command.fields:
            for value in (field.minimum, field.maximum):
                text = field.format(value)
                assert field.parse(int(text) if text.isdigit() else text, "here") == value


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("MAK", "here: unknown command 'MAK'; did you mean MAC?"),
        ("mac", "here: unknown command 'mac'; did you mean MAC?"),
        ("QQQQQ", f"here: unknown command 'QQQQQ'; known: {', '.join(PIM.commands)}"),
    ],
)
def test_unknown_command(name, message):
    with pytest.raises(ProgramError) as error:
        PIM.encode(name, where="here")
    assert str(error.value) == message


def test_missing_attribute_of_an_instruction():
    with pytest.raises(AttributeError, match="^row$"):
        _ = PIM.decode(PIM.encode("HALT")).row
