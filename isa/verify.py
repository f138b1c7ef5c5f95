"""Legality of `pim` programs, before they run.

`verify` walks the program once and refuses, naming the first bad command: operands that the machine
does not have, rows and banks used in the wrong state, scores without maximum, host data that runs
out, tokens that never come or overflow, and hazards: two engines that touch the same words of a
shared space, one of them writing, without an order between them (`isa/hazards.py`).
Ref: docs/pim.md sections 4 and 6.
"""

from __future__ import annotations

from collections.abc import Iterator

from bankside.errors import ProgramError
from bankside.isa.expr import evaluate
from bankside.isa.hazards import Dispatched, Touch, check_order
from bankside.isa.machine import Machine
from bankside.isa.program import Program, Step, walk
from bankside.isa.spec import Spec, load_spec


def _access_end(machine: Machine, command: str, space: str) -> int:
    """Cycles from the last action of `command` to the end of its access to `space`."""
    # Reads may end before the completion.
    early = {"MAC": ("shared", "scale"), "RDRBS": ("result",), "RDRBC": ("result",)}
    if space in early.get(command, ()):
        return machine.mac_period
    return machine.completions[command]


class _UnitState:
    """Mode registers and counters of the bank units as the array engine's commands leave them."""

    def __init__(self) -> None:
        self.known = False
        self.values: dict[str, int] = {}
        self.position = 0

    def configure(self, step: Step) -> None:
        self.known, self.position = True, 0
        names = ("mode", "kbuf", "rescale", "sb", "rb", "cpt")
        self.values = {name: step.instruction.fields[name] for name in names}

    def names(self, count: int) -> dict[str, int]:
        """Names for the access expressions of a MAC of `count` columns."""
        cpt, position = self.values["cpt"], self.position
        slot, column = divmod(position, cpt)
        last_slot = (position + count - 1) // cpt
        whole = last_slot > slot
        return {
            **{f"pu_{key}": value for key, value in self.values.items()},
            "cpt": cpt,
            "pu_slot": slot,
            "pu_slots": last_slot - slot + 1,
            "pu_col": 0 if whole else column,
            "pu_span": cpt if whole else count,
            "pu_rescale": int(self.values["rescale"] and slot == 0),
        }


class Checker:
    """Walks commands one by one; also used to build random legal programs."""

    def __init__(self, machine: Machine, program: Program | None = None) -> None:
        self.machine = machine
        self.spec: Spec = load_spec("pim")
        self.delay = machine.completions
        self.unit = _UnitState()
        self.open_rows: dict[int, int] = {}
        # Chunk maximum set -> (score, groups, valid, lanes) of the read-out that it belongs to.
        self.maxima: dict[int, tuple[int, int, int, int]] = {}
        self.softmax_lanes = 0

    # --- operands ---------------------------------------------------------------------------------
    def accesses(self, step: Step) -> list[Touch]:
        """Shared words that the command touches. Raises ProgramError when they do not exist."""
        command = self.spec.commands[step.instruction.name]
        engine = self.spec.engines.index(command.engine)
        names = {**self.machine.sizes, **step.instruction.fields, "lanes": step.geometry.lanes}
        if command.name == "MAC":
            names |= self.unit.names(step.instruction.count)
        found = []
        for access in command.accesses:
            first, length = evaluate(access.first, names), evaluate(access.length, names)
            size = evaluate(str(self.spec.spaces[access.space]["size"]), self.machine.sizes)
            if length and not 0 <= first <= first + length <= size:
                raise ProgramError(
                    f"command {step.pc} ({command.name}): uses words {first}..{first + length - 1} "
                    f"of {access.space}, which has {size}; move or shorten the access"
                )
            if length:
                end = _access_end(self.machine, command.name, access.space)
                found.append(
                    Touch(
                        engine,
                        step.pc,
                        command.name,
                        access.space,
                        first,
                        first + length,
                        access.write,
                        end,
                    )
                )
        return found

    def operands(self, step: Step) -> None:
        """Machine limits of one command. Raises ProgramError."""
        ins, mc, where = (
            step.instruction,
            self.machine,
            f"command {step.pc} ({step.instruction.name})",
        )
        limits = {"bank": mc.banks, "lane": mc.lanes, "cpt": mc.columns + 1}
        for name, limit in limits.items():
            if ins.fields.get(name, 0) >= limit:
                raise ProgramError(
                    f"{where}: {name}={ins.fields[name]}; {mc.config.name} has {name} "
                    f"0..{limit - 1}"
                )
        if ins.name == "OPEN" and step.row >= mc.rows:
            raise ProgramError(
                f"{where}: row {step.row}; {mc.config.name} has rows 0..{mc.rows - 1}"
            )
        if "col" in ins.fields and ins.col + ins.count > mc.columns:
            raise ProgramError(
                f"{where}: columns {ins.col}..{ins.col + ins.count - 1}; a row has "
                f"0..{mc.columns - 1}"
            )
        command = self.spec.commands[ins.name]
        if command.engine != "control":
            own = 1 << self.spec.engines.index(command.engine)
            if (ins.wait | ins.signal) & own:
                raise ProgramError(
                    f"{where}: wait or signal names its own engine {command.engine}; commands of "
                    f"one engine run in order, leave it out"
                )
        self._geometry(step, where)

    def _geometry(self, step: Step, where: str) -> None:
        ins, mc, geometry = step.instruction, self.machine, step.geometry
        heads = mc.chips >> geometry.nhc_log2
        if ins.name == "GEOM" and (heads < 1 or geometry.lanes > mc.lanes):
            raise ProgramError(
                f"{where}: N_hc={1 << geometry.nhc_log2}, lanes={geometry.lanes}; "
                f"{mc.config.name} allows N_hc up to {mc.chips} and up to {mc.lanes} lanes"
            )
        if ins.name in ("HWR", "HRD") and ins.layout == self.spec.enums["layout"]["head"]:
            if geometry.cpt % heads or ins.count % geometry.cpt:
                raise ProgramError(
                    f"{where}: layout head needs cpt ({geometry.cpt}) to be a multiple of {heads} "
                    f"heads and count ({ins.count}) a multiple of cpt"
                )
        acc = self.spec.enums["pu_mode"]["acc"]
        base = ins.fields.get("sb", 0)
        if base % mc.subbanks and (ins.name == "WRSBP" or (ins.name == "WRR" and ins.mode == acc)):
            raise ProgramError(
                f"{where}: sb={base} holds probabilities; use a multiple of {mc.subbanks}"
            )
        held = ins.fields.get("groups", 0) * mc.slots_per_burst * mc.banks
        if ins.name in ("RDRBS", "SFM") and ins.valid > held:
            raise ProgramError(
                f"{where}: valid={ins.valid}, but {ins.groups} groups hold {held} tokens"
            )

    # --- array state ------------------------------------------------------------------------------
    def array(self, step: Step) -> None:
        """Row and mode state of the array commands. Raises ProgramError."""
        ins, where = step.instruction, f"command {step.pc} ({step.instruction.name})"
        if ins.name == "OPEN":
            for bank in [ins.bank] if ins.mode == 0 else range(self.machine.banks):
                if bank in self.open_rows:
                    raise ProgramError(
                        f"{where}: bank {bank} has row {self.open_rows[bank]} open; CLOSE it first"
                    )
                self.open_rows[bank] = step.row
        elif ins.name == "CLOSE":
            for bank in list(self.open_rows) if ins.mode else [ins.bank]:
                self.open_rows.pop(bank, None)
        elif ins.name == "REF" and self.open_rows:
            raise ProgramError(
                f"{where}: bank {min(self.open_rows)} is open; CLOSE all banks before a refresh"
            )
        elif ins.name == "WRR":
            self.unit.configure(step)
        elif ins.name == "MAC":
            if len(self.open_rows) < self.machine.banks:
                raise ProgramError(f"{where}: not all banks have an open row; OPEN them first")
            if not self.unit.known:
                raise ProgramError(f"{where}: the bank units have no mode; WRR first")
        elif ins.name in ("WR", "RD", "LDSB") and ins.bank not in self.open_rows:
            raise ProgramError(f"{where}: bank {ins.bank} has no open row; OPEN one first")

    def softmax(self, step: Step, touches: list[Touch]) -> None:
        """SFM needs scores whose maximum was tracked, NORM denominators. Raises ProgramError."""
        ins, where = step.instruction, f"command {step.pc} ({step.instruction.name})"
        if ins.name == "GEOM":
            self.maxima, self.softmax_lanes = {}, 0
        elif ins.name in ("RDRBS", "RDRBC"):
            written = next(t for t in touches if t.space == "score")
            self.maxima = {
                buf: (first, groups, valid, lanes)
                for buf, (first, groups, valid, lanes) in self.maxima.items()
                if first >= written.stop
                or first + lanes * groups * self.machine.banks <= written.first
            }
            if ins.name == "RDRBS":
                self.maxima[ins.buf] = (ins.score, ins.groups, ins.valid, step.geometry.lanes)
        elif ins.name == "SFM":
            if self.maxima.get(ins.buf) != (ins.score, ins.groups, ins.valid, step.geometry.lanes):
                raise ProgramError(
                    f"{where}: maximum set {ins.buf} does not belong to these scores; use the "
                    f"score, groups, valid and buf of the RDRBS that read them"
                )
            self.softmax_lanes = step.geometry.lanes
        elif ins.name == "NORM" and self.softmax_lanes < step.geometry.lanes:
            raise ProgramError(
                f"{where}: no SFM since the last GEOM, so there is no denominator; SFM first"
            )

    def after(self, step: Step) -> None:
        """Counters of the bank units after a MAC."""
        if step.instruction.name == "MAC":
            self.unit.position += step.instruction.count

    def command(self, step: Step) -> list[Touch]:
        """All checks of one command by itself; its accesses to shared words."""
        self.operands(step)
        engine = self.spec.commands[step.instruction.name].engine
        if engine == "array":
            self.array(step)
        touches = self.accesses(step) if engine != "control" else []
        self.softmax(step, touches)
        self.after(step)
        return touches


def _segments(program: Program, checker: Checker) -> Iterator[list[Dispatched]]:
    """Dispatched commands between two barriers, each checked by itself."""
    segment: list[Dispatched] = []
    host_left, received = len(program.host_in), 0
    for step in walk(program):
        name = step.instruction.name
        engine = checker.spec.commands[name].engine
        touches = checker.command(step)
        if engine == "control":
            if name in ("BARRIER", "GEOM", "HALT"):
                yield segment
                segment = []
            if name == "HALT" and checker.open_rows:
                raise ProgramError(
                    f"command {step.pc} (HALT): bank {min(checker.open_rows)} has an open row; "
                    f"CLOSE it, programs start with all banks closed"
                )
            if name == "HALT":
                _check_host(program, step.pc, host_left, received)
            continue
        segment.append((step, touches))
        received += step.instruction.count if name == "HRD" else 0
        if name == "HWR":
            host_left -= step.instruction.count
            if host_left < 0:
                raise ProgramError(
                    f"command {step.pc} (HWR): needs {-host_left} more bursts than the "
                    f"{len(program.host_in)} that the host sends"
                )


def _check_host(program: Program, pc: int, unused: int, received: int) -> None:
    """What the host sends is taken, what it receives has names."""
    if unused:
        raise ProgramError(
            f"command {pc} (HALT): {unused} of the {len(program.host_in)} bursts that the host "
            f"sends are never taken; add a HWR"
        )
    named = 0
    for first, count in sorted(program.outputs.values()):
        if first != named or count < 1:
            raise ProgramError(
                f"outputs: burst {min(first, named)} has no name or several; name every received "
                f"burst once"
            )
        named += count
    if named != received:
        raise ProgramError(
            f"command {pc} (HALT): the host receives {received} bursts, but the outputs name "
            f"{named}; correct them"
        )


def verify(program: Program, machine: Machine) -> None:
    """Raise ProgramError that names the first illegal command of `program` on `machine`."""
    if len(program.words) > machine.config.pim.program_words:
        raise ProgramError(
            f"the program has {len(program.words)} words; {machine.config.name} holds "
            f"{machine.config.pim.program_words}; use LOOP or raise pim.program_words"
        )
    checker = Checker(machine)
    check_order(checker.spec, checker.delay, list(_segments(program, checker)))
