"""Legality of `pim` programs, before they run.

`verify` walks the program once and refuses, naming the first bad command: operands that the machine does not have, rows and
banks used in the wrong state, tokens that never come or overflow, host data that runs out, and **hazards**: two engines that
touch the same words of a shared space, one of them writing, without an order between them.

Order comes from tokens. Command A of engine e is known to be finished by engine f from the n-th token of e to f on, if A was
dispatched no later than the n-th command of e that signals f. Completions of one engine may overtake each other (a CLOSE
completes before an earlier MAC), so a token vouches only for accesses that end within the shortest completion latency of the
n-th and all later signallers. Ref: docs/pim.md sections 4 and 6.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field

from bankside.errors import ProgramError
from bankside.isa.expr import evaluate
from bankside.isa.machine import Machine
from bankside.isa.program import Program, Step, walk
from bankside.isa.spec import Spec, load_spec

_ENGINES = 4


def _access_end(machine: Machine, command: str, space: str, complete: int) -> int:
    """Cycles from the last action of `command` to the end of its access to `space`; reads may end before the completion."""
    early = (command == "MAC" and space in ("shared", "scale")) or (command in ("RDRBS", "RDRBC") and space == "result")
    return machine.mac_period if early else complete


@dataclass(frozen=True)
class Touch:
    """An access of one executed command: words [first, stop) of a space, which cycles after the last action it ends."""

    engine: int
    index: int
    pc: int
    name: str
    space: str
    first: int
    stop: int
    write: bool
    end: int


@dataclass
class _Knowledge:
    """What one engine knows of another: latency threshold -> number of the other's commands that are past it."""

    past: dict[int, int] = field(default_factory=dict)

    def learn(self, threshold: int, count: int) -> None:
        if self.past.get(threshold, -1) < count:
            self.past[threshold] = count

    def merge(self, other: _Knowledge) -> None:
        for threshold, count in other.past.items():
            self.learn(threshold, count)

    def covers(self, touch: Touch) -> bool:
        return any(t >= touch.end and count > touch.index for t, count in self.past.items())

    def started(self) -> int:
        """Commands of the other engine that have surely been loaded."""
        return max(self.past.values(), default=0)


class _UnitState:
    """Mode registers and counters of the bank units as the array engine's commands leave them."""

    def __init__(self) -> None:
        self.known = False
        self.values: dict[str, int] = {}
        self.position = 0

    def configure(self, step: Step) -> None:
        self.known, self.position = True, 0
        self.values = {name: step.instruction.fields[name] for name in ("mode", "kbuf", "rescale", "sb", "rb", "cpt")}

    def names(self, count: int) -> dict[str, int]:
        """Names for the access expressions of a MAC of `count` columns."""
        cpt, position = self.values["cpt"], self.position
        slot, column = divmod(position, cpt)
        last_slot = (position + count - 1) // cpt
        whole = last_slot > slot
        return {
            **{f"pu_{key}": value for key, value in self.values.items()}, "cpt": cpt,
            "pu_slot": slot, "pu_slots": last_slot - slot + 1, "pu_col": 0 if whole else column,
            "pu_span": cpt if whole else count, "pu_rescale": int(self.values["rescale"] and slot == 0),
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

    # --- operands ------------------------------------------------------------------------------------------------------------
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
                    f"command {step.pc} ({command.name}): uses words {first}..{first + length - 1} of {access.space}, which has "
                    f"{size}; move or shorten the access"
                )
            if length:
                end = _access_end(self.machine, command.name, access.space, self.delay[command.name])
                found.append(Touch(engine, 0, step.pc, command.name, access.space, first, first + length,
                                   access.write, end))
        return found

    def operands(self, step: Step) -> None:
        """Machine limits of one command. Raises ProgramError."""
        ins, mc, where = step.instruction, self.machine, f"command {step.pc} ({step.instruction.name})"
        limits = {"bank": mc.banks, "lane": mc.lanes, "cpt": mc.columns + 1}
        for name, limit in limits.items():
            if ins.fields.get(name, 0) >= limit:
                raise ProgramError(f"{where}: {name}={ins.fields[name]}; {mc.config.name} has {name} 0..{limit - 1}")
        if ins.name == "OPEN" and step.row >= mc.rows:
            raise ProgramError(f"{where}: row {step.row}; {mc.config.name} has rows 0..{mc.rows - 1}")
        if "col" in ins.fields and ins.col + ins.count > mc.columns:
            raise ProgramError(f"{where}: columns {ins.col}..{ins.col + ins.count - 1}; a row has 0..{mc.columns - 1}")
        command = self.spec.commands[ins.name]
        if command.engine != "control":
            own = 1 << self.spec.engines.index(command.engine)
            if (ins.wait | ins.signal) & own:
                raise ProgramError(f"{where}: wait or signal names its own engine {command.engine}; commands of one engine run in order")
        self._geometry(step, where)

    def _geometry(self, step: Step, where: str) -> None:
        ins, mc, geometry = step.instruction, self.machine, step.geometry
        heads = mc.chips >> geometry.nhc_log2
        if ins.name == "GEOM" and (heads < 1 or geometry.lanes > mc.lanes or geometry.cpt > mc.columns):
            raise ProgramError(
                f"{where}: N_hc={1 << geometry.nhc_log2}, cpt={geometry.cpt}, lanes={geometry.lanes}; {mc.config.name} allows "
                f"N_hc up to {mc.chips}, cpt up to {mc.columns}, lanes up to {mc.lanes}"
            )
        if ins.name in ("HWR", "HRD") and ins.layout == self.spec.enums["layout"]["head"]:
            if geometry.cpt % heads or ins.count % geometry.cpt:
                raise ProgramError(
                    f"{where}: layout head needs cpt ({geometry.cpt}) to be a multiple of {heads} heads and count ({ins.count}) a "
                    f"multiple of cpt"
                )
        acc = self.spec.enums["pu_mode"]["acc"]
        base = ins.fields.get("sb", 0)
        if base % mc.subbanks and (ins.name == "WRSBP" or (ins.name == "WRR" and ins.mode == acc)):
            raise ProgramError(f"{where}: sb={base} holds probabilities; use a multiple of {mc.subbanks}")
        if ins.name in ("RDRBS", "SFM") and ins.valid > ins.groups * mc.slots_per_burst * mc.banks:
            raise ProgramError(
                f"{where}: valid={ins.valid}, but {ins.groups} groups hold {ins.groups * mc.slots_per_burst * mc.banks} tokens"
            )

    # --- array state ---------------------------------------------------------------------------------------------------------
    def array(self, step: Step) -> None:
        """Row and mode state of the array commands. Raises ProgramError."""
        ins, where = step.instruction, f"command {step.pc} ({step.instruction.name})"
        if ins.name == "OPEN":
            for bank in [ins.bank] if ins.mode == 0 else range(self.machine.banks):
                if bank in self.open_rows:
                    raise ProgramError(f"{where}: bank {bank} has row {self.open_rows[bank]} open; CLOSE it first")
                self.open_rows[bank] = step.row
        elif ins.name == "CLOSE":
            for bank in list(self.open_rows) if ins.mode else [ins.bank]:
                self.open_rows.pop(bank, None)
        elif ins.name == "REF" and self.open_rows:
            raise ProgramError(f"{where}: bank {min(self.open_rows)} is open; CLOSE all banks before a refresh")
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
        """SFM may only use scores whose maximum was tracked, NORM only denominators that exist. Raises ProgramError."""
        ins, where = step.instruction, f"command {step.pc} ({step.instruction.name})"
        if ins.name == "GEOM":
            self.maxima, self.softmax_lanes = {}, 0
        elif ins.name in ("RDRBS", "RDRBC"):
            written = next(t for t in touches if t.space == "score")
            self.maxima = {
                buf: chunk for buf, chunk in self.maxima.items()
                if chunk[0] >= written.stop or chunk[0] + chunk[3] * chunk[1] * self.machine.banks <= written.first
            }
            if ins.name == "RDRBS":
                self.maxima[ins.buf] = (ins.score, ins.groups, ins.valid, step.geometry.lanes)
        elif ins.name == "SFM":
            if self.maxima.get(ins.buf) != (ins.score, ins.groups, ins.valid, step.geometry.lanes):
                raise ProgramError(
                    f"{where}: maximum set {ins.buf} does not belong to these scores; use the score, groups, valid and buf of the "
                    f"RDRBS that read them"
                )
            self.softmax_lanes = step.geometry.lanes
        elif ins.name == "NORM" and self.softmax_lanes < step.geometry.lanes:
            raise ProgramError(f"{where}: no SFM since the last GEOM, so there is no denominator; SFM first")

    def after(self, step: Step) -> None:
        """Counters of the bank units after a MAC."""
        if step.instruction.name == "MAC":
            self.unit.position += step.instruction.count

    def command(self, step: Step) -> list[Touch]:
        """All checks of one command that need no order between engines; its accesses to shared words."""
        self.operands(step)
        engine = self.spec.commands[step.instruction.name].engine
        if engine == "array":
            self.array(step)
        touches = self.accesses(step) if engine != "control" else []
        self.softmax(step, touches)
        self.after(step)
        return touches


class _Order:
    """Executes the engines' queues in an order that the tokens allow and follows what each engine knows of the others."""

    def __init__(self, checker: Checker, segments: list[list[tuple[Step, list[Touch]]]]) -> None:
        self.checker = checker
        self.segments = segments

    def check(self) -> None:
        tokens = [[0] * _ENGINES for _ in range(_ENGINES)]
        for segment in self.segments:
            self._segment(segment, tokens)

    def _segment(self, segment: list[tuple[Step, list[Touch]]], tokens: list[list[int]]) -> None:
        """Commands between two barriers. Everything before the segment is finished."""
        run = _Segment(self.checker, segment, tokens)
        while any([run.advance(own) for own in range(_ENGINES)]):
            pass
        run.require_empty()


class _Segment:
    """State of the walk through one segment.

    `leftover` tokens were given before the segment, by commands that are finished; the n-th token after them comes from the
    n-th signaller of the segment.
    """

    def __init__(self, checker: Checker, segment: list[tuple[Step, list[Touch]]], tokens: list[list[int]]) -> None:
        spec = checker.spec
        self.checker, self.tokens, self.leftover = checker, tokens, [row.copy() for row in tokens]
        self.queues: list[deque[tuple[Step, list[Touch], int]]] = [deque() for _ in range(_ENGINES)]
        signallers: dict[tuple[int, int], list[tuple[int, int]]] = {}
        for step, touches in segment:
            engine = spec.engines.index(spec.commands[step.instruction.name].engine)
            number = len(self.queues[engine])
            self.queues[engine].append((step, touches, number))
            for other in _engines(step.instruction.signal):
                signallers.setdefault((engine, other), []).append((number, checker.delay[step.instruction.name]))
        self.thresholds = {pair: _suffix_minimum(given) for pair, given in signallers.items()}
        self.knowledge = [[_Knowledge() for _ in range(_ENGINES)] for _ in range(_ENGINES)]
        self.given: dict[tuple[int, int], list[list[_Knowledge]]] = {}
        self.popped = [[0] * _ENGINES for _ in range(_ENGINES)]
        self.pops_by: list[list[tuple[int, ...]]] = [[] for _ in range(_ENGINES)]
        self.recent: dict[str, list[tuple[Touch, int]]] = {}

    def advance(self, own: int) -> bool:
        """Execute commands of one engine as far as its tokens allow; True when there were any."""
        progress, queue = False, self.queues[own]
        while queue and all(self.tokens[other][own] for other in _engines(queue[0][0].instruction.wait)):
            step, touches, number = queue.popleft()
            progress = True
            for other in _engines(step.instruction.wait):
                self._take(own, other)
            self.pops_by[own].append(tuple(self.popped[own]))
            self._hazards(step, touches, number, own, self.knowledge[own], self.recent)
            for other in _engines(step.instruction.signal):
                self._give(step, own, other)
        return progress

    def _take(self, own: int, other: int) -> None:
        self.tokens[other][own] -= 1
        self.popped[own][other] += 1
        nth = self.popped[own][other] - self.leftover[other][own]
        if nth < 1:
            return
        count, threshold = self.thresholds[other, own][nth - 1]
        self.knowledge[own][other].learn(threshold, count + 1)
        for third in range(_ENGINES):
            self.knowledge[own][third].merge(self.given[other, own][nth - 1][third])

    def require_empty(self) -> None:
        stuck = [queue[0][0] for queue in self.queues if queue]
        if stuck:
            first = min(stuck, key=lambda s: s.pc)
            missing = [self.checker.spec.engines[o] for o in _engines(first.instruction.wait)]
            raise ProgramError(
                f"command {first.pc} ({first.instruction.name}): waits for a token from {' and '.join(missing)} that never comes; "
                f"add the missing signal before the next barrier"
            )

    def _give(self, step: Step, own: int, other: int) -> None:
        self.tokens[own][other] += 1
        given = self.given.setdefault((own, other), [])
        given.append([_Knowledge(dict(known.past)) for known in self.knowledge[own]])
        surely = self.knowledge[own][other].started()
        taken = self.pops_by[other][surely - 1][own] if surely else 0
        if self.leftover[own][other] + len(given) - taken > self.checker.spec.token_max:
            names = self.checker.spec.engines
            raise ProgramError(
                f"command {step.pc} ({step.instruction.name}): more than {self.checker.spec.token_max} tokens from {names[own]} to "
                f"{names[other]} may be outstanding; let {names[own]} wait for {names[other]} in between"
            )

    def _hazards(self, step: Step, touches: list[Touch], number: int, own: int, known: list[_Knowledge],
                 recent: dict[str, list[tuple[Touch, int]]]) -> None:
        for touch in touches:
            kept = []
            for earlier, earlier_number in recent.get(touch.space, []):
                overlap = earlier.first < touch.stop and touch.first < earlier.stop
                if not overlap or earlier.engine == own or not (earlier.write or touch.write):
                    kept.append((earlier, earlier_number))
                    continue
                numbered = Touch(earlier.engine, earlier_number, earlier.pc, earlier.name, earlier.space, earlier.first,
                                 earlier.stop, earlier.write, earlier.end)
                if not known[earlier.engine].covers(numbered):
                    names = self.checker.spec.engines
                    raise ProgramError(
                        f"command {step.pc} ({touch.name}) and command {earlier.pc} ({earlier.name}) use {touch.space} "
                        f"{max(touch.first, earlier.first)}.. without an order; let {names[earlier.engine]} signal {names[own]} "
                        f"after command {earlier.pc} and command {step.pc} wait for it"
                    )
                if not (touch.write and touch.first <= earlier.first and earlier.stop <= touch.stop):
                    kept.append((earlier, earlier_number))
            kept = [(e, n) for e, n in kept if not (e.engine == own and e.write <= touch.write and e.end <= touch.end
                                                    and touch.first <= e.first and e.stop <= touch.stop)]
            recent[touch.space] = [*kept, (touch, number)]


def _engines(mask: int) -> list[int]:
    return [engine for engine in range(_ENGINES) if mask >> engine & 1]


def _suffix_minimum(given: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """(number, latency) of signallers -> (number, shortest latency of this and all later ones)."""
    result, shortest = [], None
    for number, latency in reversed(given):
        shortest = latency if shortest is None else min(shortest, latency)
        result.append((number, shortest))
    return result[::-1]


def _segments(program: Program, checker: Checker) -> Iterator[list[tuple[Step, list[Touch]]]]:
    segment: list[tuple[Step, list[Touch]]] = []
    host_left = len(program.host_in)
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
                    f"command {step.pc} (HALT): bank {min(checker.open_rows)} has an open row; CLOSE it, programs start with all "
                    f"banks closed"
                )
            continue
        segment.append((step, touches))
        if name == "HWR":
            host_left -= step.instruction.count
            if host_left < 0:
                raise ProgramError(
                    f"command {step.pc} (HWR): needs {-host_left} more bursts than the {len(program.host_in)} that the host sends"
                )


def verify(program: Program, machine: Machine) -> None:
    """Raise ProgramError that names the first illegal command of `program` on `machine`."""
    if len(program.words) > machine.config.pim.program_words:
        raise ProgramError(
            f"the program has {len(program.words)} words; {machine.config.name} holds {machine.config.pim.program_words}; use LOOP "
            f"or raise pim.program_words"
        )
    checker = Checker(machine)
    _Order(checker, list(_segments(program, checker))).check()
