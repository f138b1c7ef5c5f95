"""Amaranth layouts of command words, and which words are legal, from the specification."""

from amaranth.hdl import Cat, Value
from amaranth.lib import data

from bankside.isa.spec import Command, Field, Spec


def word_layout(spec: Spec, command: Command) -> data.FlexibleLayout:
    """Layout of one command's word: every operand and `opcode` at its bits."""
    fields = {f.name: data.Field(f.width, f.lsb) for f in command.fields}
    fields["opcode"] = data.Field(spec.opcode.width, spec.opcode.lsb)
    return data.FlexibleLayout(spec.word_bits, fields)


def view(spec: Spec, name: str, word) -> data.View:
    """Signal `word` seen as the command `name`."""
    return data.View(word_layout(spec, spec.commands[name]), word)


def opcodes(spec: Spec, engine: str) -> list[int]:
    """Opcodes of the commands that `engine` executes."""
    return [c.opcode for c in spec.commands.values() if c.engine == engine]


def legal(spec: Spec, command: Command, word: Value) -> Value:
    """1 if every operand of `command` in `word` is legal and no other bit is set.

    The same rules as `isa.spec.Spec.decode`; the opcode is not looked at.
    """
    operands, used, checks = view(spec, command.name, word), spec.opcode.mask, []
    for field in command.fields:
        used |= field.mask
        checks += _field_legal(field, Value.cast(operands[field.name]))
    reserved = [word[bit] for bit in range(spec.word_bits) if not used >> bit & 1]
    return Cat(*checks).all() & ~Cat(*reserved).any()


def _field_legal(field: Field, value: Value) -> list[Value]:
    """Conditions under which `value` is legal for the operand `field`; none if always."""
    if field.values:
        codes = [number for _, number in field.values]
        return [] if len(codes) == 1 << field.width else [value.matches(*codes)]
    checks = []
    if field.minimum > 0:
        checks.append(value >= field.minimum)
    if field.maximum < (1 << field.width) - 1:
        checks.append(value <= field.maximum)
    return checks
