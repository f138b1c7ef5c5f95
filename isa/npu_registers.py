"""Host registers of the `npu` engine, once: the RTL's register file and the SystemRDL come from it.

Ref: docs/npu.md section 9.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from bankside.errors import ProgramError
from bankside.isa.npu_commands import REGIONS
from bankside.isa.spec import load_spec

REGISTER_BYTES = 8
READ, WRITE, READ_WRITE = "r", "w", "rw"
ADDRESS_BITS = 32
QUEUE_ALIGNMENT = 128
"""Bytes: a burst of commands from a multiple of them crosses no page."""


@dataclass(frozen=True)
class HostField:
    """Bits [lsb, lsb + width) of a register. pulse: writing 1 starts something, nothing is kept."""

    name: str
    lsb: int
    width: int
    doc: str
    pulse: bool = False


@dataclass(frozen=True)
class HostRegister:
    """A register of 64 bits at byte `address`. access: of the host, `r`, `w` or `rw`."""

    name: str
    address: int
    access: str
    doc: str
    fields: tuple[HostField, ...]


@dataclass(frozen=True)
class HostGroup:
    """`count` equal groups of registers (addresses relative to the group), `stride` bytes apart."""

    name: str
    address: int
    doc: str
    registers: tuple[HostRegister, ...]
    count: int = 1
    stride: int = 0


Entry = HostRegister | HostGroup


def _value(name: str, address: int, access: str, width: int, doc: str) -> HostRegister:
    """A register with one field, `value`."""
    return HostRegister(name, address, access, doc, (HostField("value", 0, width, doc),))


CONTROL = HostRegister(
    "control", 0x00, WRITE, "starts a stream of commands, clears what is over",
    (
        HostField("start", 0, 1, "execute the stream at qbase; refused while running or faulty",
                  pulse=True),
        HostField("clear", 1, 1, "clear the interrupt; unless a stream runs also done and a fault",
                  pulse=True),
    ),
)  # fmt: skip
STATUS = HostRegister(
    "status", 0x08, READ, "state of the machine",
    (
        HostField("running", 0, 1, "a stream is executed, or its last bursts are under way"),
        HostField("done", 1, 1, "the stream has ended with STOP"),
        HostField("fault", 2, 1, "a fault has stopped the machine"),
        HostField("interrupt", 3, 1, "an IRQ command was executed; also the interrupt line"),
        HostField("fault_code", 8, 8, "code of the fault, 0: none"),
        HostField("interrupt_code", 16, 16, "code of the last IRQ command"),
        HostField("position", 32, 32, "command that is executed or caused the fault"),
    ),
)  # fmt: skip
QBASE = _value("qbase", 0x10, READ_WRITE, ADDRESS_BITS,
               f"byte address of the stream, a multiple of {QUEUE_ALIGNMENT}")  # fmt: skip
QSIZE = _value("qsize", 0x18, READ_WRITE, 32, "words of the stream")
CYCLES = _value("cycles", 0x20, READ, 48, "cycles of the stream")
REGION = HostGroup(
    "region", 0x40, "regions of main memory that transfers name",
    (
        _value("base", 0, READ_WRITE, ADDRESS_BITS, "byte address, a multiple of the data port"),
        _value("size", REGISTER_BYTES, READ_WRITE, ADDRESS_BITS + 1, "bytes, 0: none"),
    ),
    count=REGIONS, stride=2 * REGISTER_BYTES,
)  # fmt: skip
COUNTERS = HostGroup(
    "counters", 0x100, "cycles that the PMU has counted, by reason",
    tuple(
        _value(name, REGISTER_BYTES * i, READ, 48, f"cycles of reason {name}")
        for i, name in enumerate(load_spec("npu").stalls)
    ),
)  # fmt: skip
TABLE: tuple[Entry, ...] = (CONTROL, STATUS, QBASE, QSIZE, CYCLES, REGION, COUNTERS)


def registers() -> Iterator[tuple[str, int, HostRegister]]:
    """(name, byte address, register) of every register; those of groups as `region3.base`."""
    for entry in TABLE:
        if isinstance(entry, HostRegister):
            yield entry.name, entry.address, entry
            continue
        for index in range(entry.count):
            group = f"{entry.name}{index if entry.count > 1 else ''}"
            for register in entry.registers:
                address = entry.address + index * entry.stride + register.address
                yield f"{group}.{register.name}", address, register


def check_regions(regions: Sequence[tuple[int, int]]) -> None:
    """Raise ProgramError unless the host registers take these (base, size) of a program."""
    if len(regions) > REGIONS:
        raise ProgramError(f"{len(regions)} regions; the machine has {REGIONS}; join some")
    for index, values in enumerate(regions):
        for register, value in zip(REGION.registers, values, strict=True):
            limit = (1 << register.fields[0].width) - 1
            if not 0 <= value <= limit:
                raise ProgramError(
                    f"region {index}: its {register.name} is {value:#x}; the register takes "
                    f"0..{limit:#x}: correct the program's regions"
                )


def addresses() -> dict[str, int]:
    """Byte address of every register by its name."""
    return {name: address for name, address, _ in registers()}
