"""Amaranth layouts of command words, from the specification."""

from amaranth.lib import data

from bankside.isa.spec import Command, Spec


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
