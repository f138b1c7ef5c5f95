"""Programs: command words, host data, named outputs; a builder; the walk that executes the front
end's commands.

A `Program` is position independent and holds no addresses of the host. Bursts are arrays of C*NE
16-bit elements.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from bankside.errors import ProgramError
from bankside.isa.spec import Instruction, Spec, load_spec

U16 = NDArray[np.uint16]


@dataclass(frozen=True)
class Program:
    """Command words, the bursts that the host sends (shape [n, C*NE], uint16) and names for the
    bursts it receives.

    `outputs` maps a name to (first burst, bursts). `regions`: (base, size) in bytes of the regions
    of main memory, of engines that have them (docs/npu.md section 10).
    """

    engine: str
    words: tuple[int, ...]
    host_in: U16
    outputs: dict[str, tuple[int, int]] = field(default_factory=dict)
    regions: tuple[tuple[int, int], ...] = ()

    @property
    def hash(self) -> str:
        """Content hash of words, host data and regions (hex)."""
        digest = hashlib.sha256(np.asarray(self.words, dtype="<u8").tobytes())
        digest.update(np.ascontiguousarray(self.host_in, dtype="<u2").tobytes())
        if self.regions:
            digest.update(b"regions" + np.asarray(self.regions, dtype="<u8").tobytes())
        return digest.hexdigest()[:16]

    @property
    def spec(self) -> Spec:
        return load_spec(self.engine)

    def instructions(self) -> list[Instruction]:
        """Decoded command words. Raises ProgramError that names the first illegal one."""
        spec, known, found = self.spec, {}, []
        for pc, word in enumerate(self.words):
            if word not in known:  # programs repeat themselves
                known[word] = spec.decode(word, f"command {pc}")
            found.append(known[word])
        return found


class Geometry(NamedTuple):
    """Geometry registers: log2 N_hc, columns per token, lanes (docs/pim.md section 1)."""

    nhc_log2: int = 0
    cpt: int = 1
    lanes: int = 1


class Step(NamedTuple):
    """One executed command: where it stands, the command, its row with the address register added,
    the geometry.
    """

    pc: int
    instruction: Instruction
    row: int
    geometry: Geometry


ADDRESS_MASK = (1 << 20) - 1


def walk(program: Program, limit: int = 50_000_000) -> Iterator[Step]:
    """Commands in the order in which the front end executes them, loops unrolled, HALT last.

    Raises ProgramError on a missing HALT, an unmatched ENDLOOP or loops nested too deeply.
    """
    code = program.instructions()
    depth = program.spec.loop_depth
    pc, stack, registers, geometry = 0, [], [0, 0, 0, 0], Geometry()
    for _ in range(limit):
        if pc >= len(code):
            raise ProgramError(f"command {pc}: the program runs past its end; end it with HALT")
        ins = code[pc]
        row = 0
        if ins.name == "OPEN":
            row = (ins.row + (registers[ins.areg] if ins.areg_en else 0)) & ADDRESS_MASK
        elif ins.name == "GEOM":
            geometry = Geometry(ins.nhc_log2, ins.cpt, ins.lanes)
        yield Step(pc, ins, row, geometry)
        if ins.name == "HALT":
            return
        pc += 1
        if ins.name == "SETA":
            registers[ins.areg] = ins.value
        elif ins.name == "ADDA":
            registers[ins.areg] = (registers[ins.areg] + ins.value) & ADDRESS_MASK
        elif ins.name == "LOOP":
            if len(stack) == depth:
                raise ProgramError(f"command {pc - 1}: LOOP nested deeper than {depth}")
            stack.append([pc, ins.count])
        elif ins.name == "ENDLOOP":
            if not stack:
                raise ProgramError(f"command {pc - 1}: ENDLOOP without LOOP")
            stack[-1][1] -= 1
            if stack[-1][1]:
                pc = stack[-1][0]
            else:
                stack.pop()
    raise ProgramError(f"more than {limit} executed commands; shorten the loops")


class Builder:
    """Collects command words and host data: `b.MAC(col=0, count=4, signal=B.BUFFER)`.

    Every command of the specification is a method; engine masks are given by name with
    `wait="rank"` or a tuple of names.
    """

    def __init__(self, engine: str, burst_elements: int) -> None:
        self.spec = load_spec(engine)
        self.words: list[int] = []
        self.host_in: list[U16] = []
        self.outputs: dict[str, tuple[int, int]] = {}
        self._burst_elements = burst_elements
        self._received = 0

    def emit(self, name: str, **operands: int | str | tuple[str, ...]) -> int:
        """Append a command; returns its position."""
        for key in ("wait", "signal"):
            if isinstance(operands.get(key), tuple):
                operands[key] = ",".join(operands[key])
        self.words.append(
            self.spec.encode(name, where=f"command {len(self.words)} {name}", **operands)
        )  # type: ignore[arg-type]
        return len(self.words) - 1

    def __getattr__(self, name: str):
        if name.isupper() and name in self.__dict__["spec"].commands:
            return lambda **operands: self.emit(name, **operands)
        raise AttributeError(name)

    def send(self, data: U16, **operands: int | str) -> int:
        """HWR of `data` ([n, C*NE] or flat); the bursts are queued for the host port."""
        bursts = np.ascontiguousarray(data, dtype=np.uint16).reshape(-1, self._burst_elements)
        self.host_in.append(bursts)
        return self.emit("HWR", count=len(bursts), **operands)

    def receive(self, name: str, count: int, **operands: int | str) -> int:
        """HRD of `count` bursts that the caller finds under `name` in the result."""
        self.outputs[name] = (self._received, count)
        self._received += count
        return self.emit("HRD", count=count, **operands)

    def build(self) -> Program:
        """The program, with HALT appended when it is missing."""
        if not self.words or self.spec.decode(self.words[-1]).name != "HALT":
            self.emit("HALT")
        data = (
            np.concatenate(self.host_in)
            if self.host_in
            else np.zeros((0, self._burst_elements), np.uint16)
        )
        return Program(self.spec.engine, tuple(self.words), data, dict(self.outputs))
