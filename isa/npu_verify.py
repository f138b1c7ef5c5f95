"""Legality of `npu` programs: the checks that the machine makes, and what it cannot check.

The machine stops with a fault where one command makes no sense (`npu_commands`). Beyond that a
program must order its two engines by waits, read only what has been written, and point `weights`
at streams of tiles. A transfer and an operation are ordered when a wait between them covers the
earlier one; transfers are in order among themselves, and so are operations, except that one with
`depend` 1 starts before the results of those before it are written. Ref: docs/npu.md sections 1, 3,
5 and 9.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bankside.errors import ProgramError
from bankside.isa.npu_commands import (
    BUS,
    MAC_OPERATIONS,
    OPERATIONS,
    TO_MEMORY,
    TO_WEIGHTS,
    Command,
    commands,
)
from bankside.isa.npu_machine import WORD_BYTES, NpuMachine
from bankside.isa.npu_registers import check_regions
from bankside.isa.npu_uses import (
    Use,
    memory_order,
    memory_use,
    shared_reads,
    shared_writes,
    weight_writes,
)
from bankside.isa.npu_weights import PACKED
from bankside.isa.program import Program

_UNKNOWN, _GIVEN = 1, 2


class Buffers:
    """What is known of both buffers; lives on between programs as they do.

    Attributes:
        shared: bool per byte: written.
        weights: content of the weight buffer, uint8.
        weight_state: per byte of it: 0 never written, 1 written with bytes that the program does
            not tell, 2 known.
    """

    def __init__(self, machine: NpuMachine) -> None:
        self.shared = np.zeros(machine.shared_words * WORD_BYTES, bool)
        self.weights = np.zeros(machine.config.npu.weight_bytes, np.uint8)
        self.weight_state = np.zeros(machine.config.npu.weight_bytes, np.uint8)


def verify(program: Program, machine: NpuMachine, buffers: Buffers | None = None) -> None:
    """Raise ProgramError that names the first illegal command of `program` on `machine`.

    buffers: what programs before have left there (brought up to date); None: nothing.
    """
    _check_memory(program, machine)
    checker = _Checker(program, machine, buffers or Buffers(machine))
    for command in commands(program, machine):
        command.check(program.regions)
        checker.take(command)


def verify_chain(programs: Sequence[Program], machine: NpuMachine) -> None:
    """`verify` of programs that run one after the other and leave data in the buffers."""
    buffers = Buffers(machine)
    for index, program in enumerate(programs):
        try:
            verify(program, machine, buffers)
        except ProgramError as error:
            raise ProgramError(f"program {index}: {error}") from None


def _check_memory(program: Program, machine: NpuMachine) -> None:
    n, size, name = machine.burst_elements, machine.config.memory.bytes, machine.config.name
    shape, rows = program.host_in.shape, size // machine.bus_bytes
    if len(shape) != 2 or shape[1] != n or shape[0] > rows:
        raise ProgramError(
            f"the program's memory has the shape {list(shape)}; {name} has up to {rows} beats of "
            f"{n} elements"
        )
    check_regions(program.regions)
    for index, (base, length) in enumerate(program.regions):
        if base + length > size:
            raise ProgramError(
                f"region {index}: bytes {base}..{base + length - 1} of main memory, which has "
                f"{size}; move it or raise memory.bytes"
            )
    for output, (first, count) in program.outputs.items():
        if first < 0 or count < 1 or first + count > shape[0]:
            raise ProgramError(
                f"output {output!r}: beats {first}..{first + count - 1}; the program's memory has "
                f"0..{shape[0] - 1}"
            )


@dataclass(frozen=True, eq=False)
class _Issued:
    """A dispatched command and what it uses: of the shared buffer, of the weight buffer."""

    command: Command
    reads: Sequence[Use]
    writes: Sequence[Use]
    weights: Sequence[Use]
    banks: frozenset[int]


class _Checker:
    def __init__(self, program: Program, machine: NpuMachine, buffers: Buffers) -> None:
        self.machine, self.buffers, self.regions = machine, buffers, program.regions
        self.memory = np.ascontiguousarray(program.host_in, "<u2").reshape(-1).view(np.uint8)
        self.known = np.ones(len(self.memory), bool)  # not yet overwritten by a transfer
        self.bank_bytes = machine.shared_words // machine.config.npu.banks * WORD_BYTES
        self.transfers: list[_Issued] = []
        self.operations: list[_Issued] = []
        # So many of each are complete when the next command is dispatched.
        self.transfers_over = self.operations_over = 0
        self.writing_from = 0  # the first operation that may not have written everything yet

    def take(self, command: Command) -> None:
        """The next command; ProgramError when it is not legal here."""
        if command.name == "DMA_WAIT":
            over = len(self.transfers) - command.fields["outstanding"]
            self.transfers_over = max(self.transfers_over, over)
        elif command.name == "KERNEL_WAIT":
            over = len(self.operations) - command.fields["outstanding"]
            self.operations_over = max(self.operations_over, over)
        elif command.name == "DMA":
            self._transfer(command)
        elif command.name in OPERATIONS:
            self._operation(command)

    def _issued(self, command: Command, weights: Sequence[Use]) -> _Issued:
        reads, writes = shared_reads(command), shared_writes(command)
        banks = frozenset().union(*(use.banks(self.bank_bytes) for use in (*reads, *writes)))
        return _Issued(command, reads, writes, weights, banks)

    # --- transfers ------------------------------------------------------------------------------
    def _transfer(self, command: Command) -> None:
        base = self.regions[command.reg["region"]][0]
        memory, direction = memory_use(command, base), command.fields["direction"]
        if memory.stop[-1] > self.machine.config.memory.bytes:
            raise command.fault(BUS, "reaches beyond main memory; raise memory.bytes")
        if memory.stop[-1] > len(self.memory):
            raise _refuse(
                command, f"uses byte {memory.stop[-1] - 1} of main memory; the program gives "
                f"{len(self.memory)} (host_in); extend it or correct offset",
            )  # fmt: skip
        issued = self._issued(command, weight_writes(command))
        for other in self.operations[self.operations_over :]:
            self._separate(issued, other)
        if direction == TO_MEMORY:
            self._require_something(command, issued.reads[0])
            _, mask = memory.mask()
            self.known[memory.first[0] : memory.stop[-1]][mask] = False
        elif direction == TO_WEIGHTS:
            self._bring_weights(command, base)
        self._define(issued.writes)
        self.transfers.append(issued)

    def _require_something(self, command: Command, use: Use) -> None:
        """Padding may be stored, but not a whole row of what nobody wrote."""
        reg = command.reg
        for row in range(reg["rows"]):
            first = reg["buf"] + row * reg["buf_step"]
            if not self.buffers.shared[first : first + reg["row_bytes"]].any():
                raise _unwritten(command, use.what, first, "shared")

    def _bring_weights(self, command: Command, base: int) -> None:
        pairs, size = memory_order(command, base)
        for source, target in pairs:
            part = slice(source, source + size)
            into = slice(target, target + size)
            self.buffers.weights[into] = self.memory[part]
            self.buffers.weight_state[into] = np.where(self.known[part], _GIVEN, _UNKNOWN)

    # --- operations -----------------------------------------------------------------------------
    def _operation(self, command: Command) -> None:
        issued = self._issued(command, self._weights(command))
        for other in self.transfers[self.transfers_over :]:
            self._separate(issued, other)
        for use in issued.weights:
            self._require(command, use, self.buffers.weight_state > 0, "weight")
        for use in issued.reads:
            self._require(command, use, self.buffers.shared, "shared")
        self._check_depend(issued)
        self._define(issued.writes)
        self.operations.append(issued)

    def _check_depend(self, issued: _Issued) -> None:
        """An operation that starts early must not read what those before still write."""
        command, before = issued.command, self.operations[-1:]
        if not (
            command.name in MAC_OPERATIONS and command.reg["depend"]
            and before and before[0].command.name in MAC_OPERATIONS
        ):  # fmt: skip
            self.writing_from = len(self.operations)
            return
        for other in self.operations[max(self.writing_from, self.operations_over) :]:
            at = _meeting(issued.reads, other.writes)
            if at is not None:
                use, byte = at
                raise _refuse(
                    command,
                    f"starts before {other.command.where} has written byte {byte} of the shared "
                    f"buffer, which it reads ({use}); SET depend to 0",
                )

    def _weights(self, command: Command) -> list[Use]:
        """Bytes of the weight buffer that an operation reads."""
        if command.name not in ("CONV", "DEPTHWISE"):
            return []
        layout, port = command.weights, self.machine.weight_port_bytes
        first = command.reg["weights"] * port
        size = layout.groups * layout.steps * layout.fixed_bytes
        if layout.format == PACKED:
            # What a program does not tell has no length either.
            state = self.buffers.weight_state[first:]
            unknown = np.flatnonzero(state == _UNKNOWN)
            size = port if unknown.size else self._packed_size(command, first)
        return [Use("weights", np.array([first]), np.array([first + size]))]

    def _packed_size(self, command: Command, first: int) -> int:
        try:
            words = command.weights.tile_words(self.buffers.weights[first:], command.where)
        except ProgramError as error:
            written = self.buffers.weight_state[first:] > 0
            held = len(written) if written.all() else int(np.argmin(written))
            raise ProgramError(
                f"{error}; from byte {first} of the weight buffer on {held} bytes are written: "
                f"correct `weights`, or load the whole layer"
            ) from None
        return sum(words) * self.machine.weight_port_bytes

    # --- order and content ----------------------------------------------------------------------
    def _separate(self, issued: _Issued, other: _Issued) -> None:
        """Refuse a transfer and an operation, one of which is under way, that meet."""
        checks = (
            ("reads", issued.reads, other.writes, "writes"),
            ("writes", issued.writes, other.reads, "reads"),
            ("writes", issued.writes, other.writes, "writes"),
        )
        for verb, mine, theirs, does in checks:
            at = _meeting(mine, theirs)
            if at is not None:
                what = f"{verb} byte {at[1]} of the shared buffer ({at[0]}), which"
                raise self._unordered(issued, other, f"{what} {other.command.where} {does}")
        at = _meeting(issued.weights, other.weights)
        if at is not None:
            what = f"uses byte {at[1]} of the weight buffer, which {other.command.where} uses"
            raise self._unordered(issued, other, what)
        for bank in sorted(issued.banks & other.banks):
            what = f"uses bank {bank} of the shared buffer, which {other.command.where} uses"
            raise self._unordered(issued, other, what)

    def _unordered(self, issued: _Issued, other: _Issued, what: str) -> ProgramError:
        transfer = other.command.name == "DMA"
        after = self.transfers if transfer else self.operations
        left = len(after) - 1 - after.index(other)
        wait = "DMA_WAIT" if transfer else "KERNEL_WAIT"
        return _refuse(
            issued.command,
            f"{what} and no wait orders them; put {wait} with outstanding {left} or less in "
            f"between",
        )

    def _require(self, command: Command, use: Use, written: NDArray[np.bool_], buffer: str) -> None:
        where, mask = use.mask()
        lacking = mask & ~written[where]
        if lacking.any():
            raise _unwritten(command, use.what, where.start + int(lacking.argmax()), buffer)

    def _define(self, uses: Iterable[Use]) -> None:
        for use in uses:
            where, mask = use.mask()
            self.buffers.shared[where] |= mask


def _meeting(mine: Sequence[Use], theirs: Sequence[Use]) -> tuple[str, int] | None:
    for use in mine:
        for other in theirs:
            byte = use.meeting(other)
            if byte is not None:
                return use.what, byte
    return None


def _refuse(command: Command, message: str) -> ProgramError:
    return ProgramError(f"{command.where}: {message}")


def _unwritten(command: Command, what: str, byte: int, buffer: str) -> ProgramError:
    return _refuse(
        command,
        f"reads byte {byte} of the {buffer} buffer ({what}), which nothing has written before; "
        f"load it first or correct {what}",
    )
