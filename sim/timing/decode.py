"""Commands of a `pim` program as the timing model needs them: what they issue, how long they are
busy, when they complete.

Ref: docs/pim.md section 4 (completion) and section 5 (DRAM commands of each macro-command).
"""

from __future__ import annotations

from dataclasses import dataclass

from bankside.isa.machine import Machine
from bankside.isa.program import Program
from bankside.isa.spec import Instruction

ARRAY, BUFFER, RANK, HOST = range(4)


@dataclass(frozen=True, eq=False, slots=True)
class Op:
    """One dispatched command under one number of lanes.

    index: unique in the program. code: DRAM command it issues `count` times, at instances[i %
    len(instances)] (array, buffer). busy: cycles (rank, host). after: cycles from the last action
    to completion.
    """

    index: int
    name: str
    engine: int
    opcode: int
    waits: tuple[int, ...]
    signals: tuple[int, ...]
    code: int = -1
    instances: tuple[int, ...] = (0,)
    count: int = 0
    after: int = 0
    busy: int = 0


class Decoder:
    """Decodes each command of a program once per number of lanes."""

    def __init__(
        self, machine: Machine, program: Program, code: list[Instruction] | None = None
    ) -> None:
        self.machine, self.spec = machine, program.spec
        self.code = program.instructions() if code is None else code
        self.ops: list[Op] = []
        self._known: dict[tuple[int, int], Op] = {}
        self._places: list[tuple[int, int]] = []

    def op(self, pc: int, lanes: int) -> Op:
        """The dispatched command at `pc`."""
        key = (pc, lanes)
        if key not in self._known:
            self._known[key] = self._decode(self.code[pc], lanes)
            self.ops.append(self._known[key])
            self._places.append(key)
        return self._known[key]

    def _decode(self, ins: Instruction, lanes: int) -> Op:
        command = self.spec.commands[ins.name]
        engine = self.spec.engines.index(command.engine)
        shape = (self._array, self._buffer, self._rank, self._host)[engine](ins, lanes)
        if "dram" in shape:
            shape["code"] = self.machine.std.code(shape.pop("dram"))
        return Op(
            len(self.ops), ins.name, engine, command.opcode,
            tuple(e for e in range(4) if ins.wait >> e & 1),
            tuple(e for e in range(4) if ins.signal >> e & 1),
            **shape,
        )  # fmt: skip

    def _array(self, ins: Instruction, lanes: int) -> dict:
        m = self.machine
        if ins.name == "OPEN":
            name = ("ACT", "ACT", "ACT4", "ACTA")[ins.mode]
            places = ((ins.bank,), m.visiting, tuple(range(m.banks_per_group)), (0,))[ins.mode]
            return {"dram": name, "instances": places, "count": len(places)}
        if ins.name == "CLOSE":
            return (
                {"dram": "PRE", "instances": (ins.bank,), "count": 1}
                if ins.mode == 0
                else {"dram": "PREA", "count": 1}
            )
        if ins.name in ("REF", "WRR"):
            return {"dram": ins.name, "count": 1}
        if ins.name == "MAC":
            return {"dram": "MAC", "count": ins.count, "after": 3 * m.mac_period}
        after = {"WR": m.write_latency, "RD": m.read_latency, "LDSB": m.mac_period + 1}[ins.name]
        return {"dram": ins.name, "instances": (ins.bank,), "count": ins.count, "after": after}

    def _buffer(self, ins: Instruction, lanes: int) -> dict:
        m = self.machine
        if ins.name == "WRSBQ":
            return {"dram": "WRSB", "count": lanes * ins.count, "after": m.write_latency}
        if ins.name == "WRSBP":
            words = 1 + ins.groups * m.slots_per_burst * m.subbanks
            return {"dram": "WRSB", "count": lanes * words, "after": m.write_latency}
        rounds = ins.groups if ins.name == "RDRBS" else 2 * ins.count
        after = m.read_latency + (m.tree_levels + 1) * m.step
        return {
            "dram": "RDRB",
            "instances": m.visiting,
            "count": lanes * rounds * m.banks,
            "after": after,
        }

    def _rank(self, ins: Instruction, lanes: int) -> dict:
        steps = ins.groups * self.machine.banks + 5 if ins.name == "SFM" else 2 * ins.count + 29
        return {"busy": lanes * steps * self.machine.step}

    def _host(self, ins: Instruction, lanes: int) -> dict:
        return {"busy": ins.count * self.machine.step}

    def columns_of(self, op: Op) -> list[int]:
        """Column operand of each DRAM command: column, shared-buffer word, or 2 * result word +
        half.
        """
        pc, lanes = self._places[op.index]
        ins, m = self.code[pc], self.machine
        if ins.name in ("MAC", "WR", "RD", "LDSB"):
            return [ins.col + i for i in range(ins.count)]
        if ins.name == "WRSBQ":
            return [ins.sb + j for j in range(ins.count)] * lanes
        if ins.name == "WRSBP":
            words = range(ins.groups * m.slots_per_burst * m.subbanks)
            return [0, *(ins.sb + w for w in words)] * lanes
        if ins.name in ("RDRBS", "RDRBC"):
            rounds = ins.groups if ins.name == "RDRBS" else 2 * ins.count
            return [2 * ins.rb + r for r in range(rounds) for _ in range(m.banks)] * lanes
        return [0] * op.count
