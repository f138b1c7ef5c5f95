"""Device side of the timing rules: refuses an illegal command in the cycle in which it comes.

Verification grade: it keeps the absolute time of the past commands and compares it with every row
of the table, so it shares nothing with the down-counters of the controller.
"""

from functools import reduce
from operator import or_

from amaranth.hdl import Array, Cat, Const, Module, Signal, Value
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from bankside.hw.dram.ports import PortWidths, instance_of
from bankside.isa.dram.standard import (
    MAX_REFRESH_INTERVALS,
    Command,
    DramStandard,
    State,
)

__all__ = ["TimingChecker"]

# At 1.6 GHz it wraps after two days of simulated time, far beyond any simulation.
_TIME_BITS = 48


class TimingChecker(wiring.Component):
    """State and timing rules of one rank, seen from the device.

    A command is presented with `valid`, `command` (code of the table), `bank` (flat index) and
    `row` (activations only). In the same cycle `accept` says that it is legal, or `violation` gives
    the lowest code of a violated rule: 1..15 `State`, 16 + i row i of the table. Only an accepted
    command changes the state. `open_mask` has one bit per bank, `open_row` the row of each bank
    (its last one when closed).

    With `refresh_required`, commands other than a precharge or a refresh are refused when more
    than nine refresh intervals passed since the last refresh (or reset).
    """

    valid: Signal
    command: Signal
    bank: Signal
    row: Signal
    accept: Signal
    violation: Signal
    open_mask: Signal
    open_row: data.View

    def __init__(self, std: DramStandard, *, refresh_required: bool = False):
        self.std = std
        self.refresh_required = refresh_required
        width = PortWidths.of(std)
        super().__init__(
            {
                "valid": In(1),
                "command": In(width.command),
                "bank": In(width.bank),
                "row": In(width.row),
                "accept": Out(1),
                "violation": Out(width.violation),
                "open_mask": Out(std.banks),
                "open_row": Out(data.ArrayLayout(width.row, std.banks)),
            }
        )

    def elaborate(self, platform) -> Module:
        m = Module()
        now = Signal(_TIME_BITS)
        m.d.sync += now.eq(now + 1)
        is_command = Signal(len(self.std.commands))
        m.d.comb += is_command.eq(
            Cat(self.valid & (self.command == c.code) for c in self.std.commands)
        )
        touched = self._touched(m, is_command)
        codes = self._state_rules(m, is_command, touched, now)
        codes += self._row_rules(m, is_command, touched, now)
        self._verdict(m, codes)
        self._open_rows(m, is_command, touched)
        return m

    def _touched(self, m: Module, is_command: Signal) -> Signal:
        """One bit per bank: the presented command touches it."""
        touched = Signal(self.std.banks)
        scope = {s: self._any_of(is_command, "scope", s) for s in ("slice", "rank")}
        for index, bit in enumerate(touched):
            same_slice = Const(1)
            if self.std.geometry.banks_per_group > 1:
                slice_index = index % self.std.geometry.banks_per_group
                same_slice = instance_of(self.std, "slice", self.bank) == slice_index
            m.d.comb += bit.eq(scope["rank"] | (scope["slice"] & same_slice) | (self.bank == index))
        return touched

    def _any_of(self, is_command: Signal, field: str, value: str) -> Value:
        """The presented command has `value` in `field` of its description."""
        return self._one_of(
            is_command, [c for c in self.std.commands if getattr(c, field) == value]
        )

    @staticmethod
    def _one_of(is_command: Signal, commands: list[Command]) -> Value:
        return reduce(or_, (is_command[c.code] for c in commands), Const(0, 1))

    def _state_rules(
        self, m: Module, is_command: Signal, touched: Signal, now: Signal
    ) -> list[tuple[Value, int]]:
        """(violated, code) of every rule about open and closed banks, lowest code first."""
        wrong = {
            "open": (touched & ~self.open_mask).any(),
            "closed": (touched & self.open_mask).any(),
        }
        rules = {State.BAD_COMMAND: self.valid & ~is_command.any()}
        for command in self.std.commands:
            if command.needs in wrong:
                violated = is_command[command.code] & wrong[command.needs]
                rules[command.state_code] = rules.get(command.state_code, Const(0)) | violated
        if self.refresh_required:
            rules[State.REFRESH_OVERDUE] = self._overdue(m, is_command, now)
        return [(rules[code], int(code)) for code in sorted(rules)]

    def _overdue(self, m: Module, is_command: Signal, now: Signal) -> Value:
        refreshed = Signal(_TIME_BITS)
        with m.If(self.accept & is_command[self.std.code("REF")]):
            m.d.sync += refreshed.eq(now)
        exempt = [
            c
            for c in self.std.commands
            if c.name == "REF" or (c.effect == "close" and c.needs == "any")
        ]
        limit = MAX_REFRESH_INTERVALS * self.std.params["nREFI"]
        return self.valid & ~self._one_of(is_command, exempt) & (now - refreshed > limit)

    def _row_rules(
        self, m: Module, is_command: Signal, touched: Signal, now: Signal
    ) -> list[tuple[Value, int]]:
        """(violated, code) of every row of the table.

        A bank command looks at the history of its own instance. For a command that touches many
        instances the newest of them decides, so there are histories per slice and rank as well.
        """
        histories: dict[tuple, tuple[Value, Value]] = {}
        rules = []
        for row in self.std.constraints:
            violated = []
            for scope in ("bank", "slice", "rank"):
                following = [c for f in row.following if (c := self.std.command(f)).scope == scope]
                if following:
                    key = (_view(row.level, scope), row.preceding, row.window)
                    if key not in histories:
                        record = self.accept & self._one_of(
                            is_command, [self.std.command(p) for p in row.preceding]
                        )
                        histories[key] = self._history(m, len(histories), key, record, touched, now)
                    known, time = histories[key]
                    early = known & (now < time + row.latency)
                    violated.append(early & self._one_of(is_command, following))
            rules.append((reduce(or_, violated), row.code))
        return rules

    def _history(
        self, m: Module, index: int, key: tuple, record: Value, touched: Signal, now: Signal
    ) -> tuple[Value, Value]:
        """ "Ever" and time of the window-th last recorded command in the addressed instance."""
        level, _, window = key
        known, oldest = [], []
        for instance in range(self._instances(level)):
            name = f"history{index}_{level}{instance}"
            # Newest first.
            times = [Signal(_TIME_BITS, name=f"{name}_time{i}") for i in range(window)]
            ever = Signal(window, name=f"{name}_ever")
            hit = Cat(touched[b] for b in range(self.std.banks) if self._is_in(level, instance, b))
            with m.If(record & hit.any()):
                m.d.sync += ever.eq(Cat(1, ever))
                for time, newer in zip(times, [now, *times], strict=False):
                    m.d.sync += time.eq(newer)
            known.append(ever[-1])
            oldest.append(times[-1])
        if len(known) == 1:
            return known[0], oldest[0]
        # Signals, because every use of an array element would become a multiplexer of its own.
        chosen_known = Signal(name=f"history{index}_known")
        chosen_time = Signal(_TIME_BITS, name=f"history{index}_time")
        instance = instance_of(self.std, level, self.bank)
        m.d.comb += [
            chosen_known.eq(Array(known)[instance]),
            chosen_time.eq(Array(oldest)[instance]),
        ]
        return chosen_known, chosen_time

    def _instances(self, level: str) -> int:
        if level == "slice":
            return self.std.geometry.banks_per_group
        return self.std.instances(level)

    def _is_in(self, level: str, instance: int, bank: int) -> bool:
        if level == "slice":
            return bank % self.std.geometry.banks_per_group == instance
        return self.std.instance(level, bank) == instance

    def _verdict(self, m: Module, codes: list[tuple[Value, int]]) -> None:
        """The first violated rule in the order of the codes."""
        violated = Signal(len(codes))
        m.d.comb += [
            violated.eq(Cat(v for v, _ in codes)),
            self.accept.eq(self.valid & ~violated.any()),
        ]
        with m.If(self.valid):
            for index, (_, code) in reversed(list(enumerate(codes))):
                with m.If(violated[index]):
                    m.d.comb += self.violation.eq(code)

    def _open_rows(self, m: Module, is_command: Signal, touched: Signal) -> None:
        opens = self._any_of(is_command, "effect", "open")
        closes = self._any_of(is_command, "effect", "close")
        for index in range(self.std.banks):
            with m.If(self.accept & touched[index]):
                with m.If(opens):
                    m.d.sync += [self.open_mask[index].eq(1), self.open_row[index].eq(self.row)]
                with m.Elif(closes):
                    m.d.sync += self.open_mask[index].eq(0)


def _view(level: str, scope: str) -> str:
    """Where a command of `scope` looks for the past of a row at `level`."""
    if scope == "bank" or level == "rank":
        return level
    return "slice" if scope == "slice" and level == "bank" else "rank"
