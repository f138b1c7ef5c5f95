"""The `pim` engine written down a second time, one cycle after another, to check the timing model
against.

Nothing here is clever on purpose: every cycle looks at the registered state of the machine and
applies the sentences of docs/pim.md sections 4, 5 and 7 to it. DRAM rows are evaluated from the
list of all issued commands.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from bankside.isa.machine import Machine
from bankside.isa.program import Geometry, Program

ARRAY, BUFFER, RANK, HOST = range(4)
CONTROL = ("HALT", "BARRIER", "LOOP", "ENDLOOP", "SETA", "ADDA", "GEOM")
COMMAND_REASON = {
    "MAC": "mac", "ACT": "activate", "ACT4": "activate", "ACTA": "activate", "PRE": "row",
    "PREA": "row", "WR": "transfer", "RD": "transfer", "LDSB": "transfer", "WRR": "transfer",
}  # fmt: skip
TAG_REASON = {
    "cmd": "command_bus", "turn": "transfer", "wr": "row", "rtp": "row", "ras": "row", "rp": "row",
    "rcd": "row", "rrd": "activate", "faw": "activate", "rfc": "refresh",
}  # fmt: skip


class Dram:
    """All commands issued so far and what the constraint table says of the next one."""

    def __init__(self, machine: Machine):
        self.std = machine.std
        self.times: dict[tuple[str, str, int], list[int]] = {}
        self.open: set[int] = set()
        self.issued = 0
        self._cache: dict[tuple[str, int], tuple[int, int, str]] = {}

    def issue(self, name: str, bank: int, cycle: int) -> None:
        for level in ("rank", "bankgroup", "bank"):
            for instance in self.std.touched_instances(name, bank, level):
                self.times.setdefault((name, level, instance), []).append(cycle)
        touched = set(self.std.touched(name, bank))
        if name in ("ACT", "ACT4", "ACTA"):
            self.open |= touched
        elif name in ("PRE", "PREA"):
            self.open -= touched
        self.issued += 1

    def expiry(self, name: str, bank: int) -> tuple[int, str]:
        """Expiry cycle and stall tag of the row that expires last, among equals the larger tag
        code.
        """
        known = self._cache.get((name, bank))
        if known is None or known[0] != self.issued:
            known = self._cache[name, bank] = (self.issued, *self._expiry(name, bank))
        return known[1], known[2]

    def _expiry(self, name: str, bank: int) -> tuple[int, str]:
        worst = (0, 0)
        for row in self.std.constraints:
            if name not in row.following:
                continue
            for instance in self.std.touched_instances(name, bank, row.level):
                times: list[int] = []
                for before in row.preceding:
                    times += self.times.get((before, row.level, instance), [])[-row.window :]
                times.sort()
                if len(times) >= row.window:
                    worst = max(worst, (times[-row.window] + row.latency, row.stall))
        return worst[0], self.std.stall_tags[worst[1]]


@dataclass
class Macro:
    """A dispatched command: its DRAM commands (array, buffer) or its busy cycles (rank, host)."""

    name: str
    opcode: int
    wait: tuple[int, ...]
    signal: tuple[int, ...]
    commands: deque = field(default_factory=deque)
    busy: int = 0
    after: int = 0
    started: bool = False
    load: int = 0


def expand(machine: Machine, ins, row: int, geometry: Geometry) -> Macro:
    """The macro-command of an instruction (docs/pim.md section 5, and the completion table of
    section 4).
    """
    wait = tuple(e for e in range(4) if ins.wait >> e & 1)
    signal = tuple(e for e in range(4) if ins.signal >> e & 1)
    macro = Macro(ins.name, machine_opcode(ins.name), wait, signal)
    lanes, m, put = geometry.lanes, machine, macro.commands.append
    groups_slots = getattr(ins, "groups", 0) if "groups" in ins.fields else 0
    if ins.name == "OPEN":
        if ins.mode == 0:
            put(("ACT", ins.bank, row, 0))
        elif ins.mode == 1:
            for n in range(m.banks):
                put(("ACT", m.visit(n), row, 0))
        elif ins.mode == 2:
            for i in range(m.banks_per_group):
                put(("ACT4", i, row, 0))
        else:
            put(("ACTA", 0, row, 0))
    elif ins.name == "CLOSE":
        put(("PRE", ins.bank, 0, 0) if ins.mode == 0 else ("PREA", 0, 0, 0))
    elif ins.name in ("REF", "WRR"):
        put((ins.name, 0, 0, 0))
    elif ins.name == "MAC":
        for i in range(ins.count):
            put(("MAC", 0, 0, ins.col + i))
        macro.after = 3 * m.mac_period
    elif ins.name in ("WR", "RD", "LDSB"):
        for i in range(ins.count):
            put((ins.name, ins.bank, 0, ins.col + i))
        macro.after = {"WR": m.write_latency, "RD": m.read_latency, "LDSB": m.mac_period + 1}[
            ins.name
        ]
    elif ins.name == "WRSBQ":
        for _lane in range(lanes):
            for j in range(ins.count):
                put(("WRSB", 0, 0, ins.sb + j))
        macro.after = m.write_latency
    elif ins.name == "WRSBP":
        for _lane in range(lanes):
            put(("WRSB", 0, 0, 0))
            for s in range(groups_slots * m.slots_per_burst):
                for q in range(m.subbanks):
                    put(("WRSB", 0, 0, ins.sb + s * m.subbanks + q))
        macro.after = m.write_latency
    elif ins.name == "RDRBS":
        for _lane in range(lanes):
            for g in range(ins.groups):
                for n in range(m.banks):
                    put(("RDRB", m.visit(n), 0, 2 * (ins.rb + g // 2) + g % 2))
        macro.after = m.read_latency + (m.tree_levels + 1) * m.step
    elif ins.name == "RDRBC":
        for _lane in range(lanes):
            for w in range(ins.count):
                for half in range(2):
                    for n in range(m.banks):
                        put(("RDRB", m.visit(n), 0, 2 * (ins.rb + w) + half))
        macro.after = m.read_latency + (m.tree_levels + 1) * m.step
    elif ins.name == "SFM":
        macro.busy = lanes * (ins.groups * m.banks + 5) * m.step
    elif ins.name == "NORM":
        macro.busy = lanes * (2 * ins.count + 29) * m.step
    else:
        macro.busy = ins.count * m.step
    return macro


def machine_opcode(name: str) -> int:
    from bankside.isa.spec import load_spec

    return load_spec("pim").commands[name].opcode


class Reference:
    """Runs one program; afterwards `cycles`, `counters`, `commands` and `macros` hold what
    happened.
    """

    def __init__(self, machine: Machine, program: Program):
        self.m, self.code = machine, program.instructions()
        self.dram = Dram(machine)
        self.queues: list[deque[Macro]] = [deque() for _ in range(4)]
        self.current: list[Macro | None] = [None] * 4
        self.tokens = [[0] * 4 for _ in range(4)]  # [from][to]
        self.pending: list[
            tuple[int, int, Macro, int]
        ] = []  # completion cycle, engine, macro, last
        self.pc, self.stack, self.registers = 0, [], [0, 0, 0, 0]
        self.geometry = Geometry()
        self.refreshed = 0
        self.commands: list[tuple[int, int, int, int, int]] = []
        self.macros: list[tuple[int, int, int, int, int]] = []
        self.counters = dict.fromkeys(program.spec.stalls, 0)
        engines = program.spec.engines
        self.engine_of = {
            n: engines.index(c.engine)
            for n, c in program.spec.commands.items()
            if c.engine != "control"
        }
        self.cycles: int | None = None

    def run(self, limit: int = 2_000_000) -> Reference:
        for cycle in range(limit):
            if self.step(cycle):
                self.cycles = cycle + 1
                self.macros.sort(key=lambda r: (r[2], r[0]))
                return self
        raise AssertionError(f"no HALT in {limit} cycles")

    def step(self, cycle: int) -> bool:
        """One cycle. Everything is decided from the registered state before anything changes."""
        counts = [len(q) for q in self.queues]
        idle = not any(counts) and not any(self.current) and not self.pending
        loading = [e for e in range(4) if self.current[e] is None and counts[e] and self.ready(e)]
        array, buffer = self.candidate(cycle), self.next_of(BUFFER)
        array_free = array is not None and self.dram.expiry(array[0], array[1])[0] <= cycle
        buffer_free = buffer is not None and self.dram.expiry(buffer[0], buffer[1])[0] <= cycle
        if array is not None and array[0] == "REF":
            buffer_free = False
        self.counters[self.reason(cycle, array, array_free, buffer_free, counts)] += 1
        halted, pushed = self.front_end(counts, idle)

        if buffer_free:
            self.issue(BUFFER, buffer, cycle)
        elif array_free:
            self.issue(ARRAY, array, cycle)
        for engine in (RANK, HOST):
            macro = self.current[engine]
            if macro:
                macro.busy -= 1
                if macro.busy == 0:
                    self.finish(engine, cycle)
        for engine in loading:
            macro = self.current[engine] = self.queues[engine].popleft()
            macro.load = cycle
            for source in macro.wait:
                self.tokens[source][engine] -= 1
        for entry in [p for p in self.pending if p[0] == cycle]:
            self.pending.remove(entry)
            _, engine, macro, last = entry
            for target in macro.signal:
                self.tokens[engine][target] += 1
                assert self.tokens[engine][target] <= 15
            self.macros.append((engine, macro.opcode, macro.load, last, cycle))
        if pushed:
            self.queues[pushed[0]].append(pushed[1])
        return halted

    def ready(self, engine: int) -> bool:
        return all(self.tokens[f][engine] for f in self.queues[engine][0].wait)

    def next_of(self, engine: int):
        macro = self.current[engine]
        return macro.commands[0] if macro else None

    def candidate(self, cycle: int):
        """The array's candidate command: the macro's next one, or a refresh that is due before an
        activation.
        """
        macro = self.current[ARRAY]
        if macro is None:
            return None
        pending = cycle // self.m.refresh_interval - self.refreshed if self.m.refresh else 0
        if macro.name == "OPEN" and not macro.started and pending > 0 and not self.dram.open:
            return ("REF", 0, 0, 0)
        return macro.commands[0]

    def issue(self, engine: int, command: tuple, cycle: int) -> None:
        name, bank, row, col = command
        self.dram.issue(name, bank, cycle)
        self.commands.append((cycle, self.m.std.code(name), bank, row, col))
        macro = self.current[engine]
        if name == "REF" and macro.name == "OPEN":
            self.refreshed += 1
            return
        macro.started = True
        macro.commands.popleft()
        if not macro.commands:
            self.finish(engine, cycle)

    def finish(self, engine: int, last: int) -> None:
        macro = self.current[engine]
        self.current[engine] = None
        self.pending.append((last + macro.after, engine, macro, last))

    def front_end(self, counts: list[int], idle: bool):
        """Executes at most one command; returns (halted, what to push)."""
        ins = self.code[self.pc]
        if ins.name not in CONTROL:
            engine = self.engine_of[ins.name]
            if counts[engine] == self.m.config.pim.queue_depth:
                return False, None
            row = 0
            if ins.name == "OPEN":
                row = (ins.row + (self.registers[ins.areg] if ins.areg_en else 0)) % 2**20
            self.pc += 1
            return False, (engine, expand(self.m, ins, row, self.geometry))
        if ins.name in ("HALT", "BARRIER", "GEOM") and not idle:
            return False, None
        if ins.name == "HALT":
            return True, None
        if ins.name == "GEOM":
            self.geometry = Geometry(ins.nhc_log2, ins.cpt, ins.lanes)
        elif ins.name == "SETA":
            self.registers[ins.areg] = ins.value
        elif ins.name == "ADDA":
            self.registers[ins.areg] = (self.registers[ins.areg] + ins.value) % 2**20
        elif ins.name == "LOOP":
            self.stack.append([self.pc, ins.count])
        elif ins.name == "ENDLOOP":
            self.stack[-1][1] -= 1
            if self.stack[-1][1]:
                self.pc = self.stack[-1][0]
            else:
                self.stack.pop()
        self.pc += 1
        return False, None

    def reason(
        self, cycle: int, array, array_free: bool, buffer_free: bool, counts: list[int]
    ) -> str:
        if array is not None:
            name = array[0]
            if name == "REF":
                return "refresh"
            if array_free:
                return "command_bus" if buffer_free else COMMAND_REASON[name]
            tag = self.dram.expiry(name, array[1])[1]
            if tag == "ccd":
                return "mac" if name == "MAC" else "transfer"
            return TAG_REASON[tag]
        if counts[ARRAY]:
            for source, reason in (
                (RANK, "wait_rank"),
                (BUFFER, "wait_buffer"),
                (HOST, "wait_host"),
            ):
                if source in self.queues[ARRAY][0].wait and not self.tokens[source][ARRAY]:
                    return reason
            return "control"
        for source, reason in ((RANK, "wait_rank"), (BUFFER, "wait_buffer"), (HOST, "wait_host")):
            if counts[source] or self.current[source] or any(p[1] == source for p in self.pending):
                return reason
        return "control"
