"""Controller side of the timing rules: one down-counter per place in which commands are blocked."""

from collections import defaultdict
from functools import reduce

from amaranth.hdl import Array, Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import bits_for

from bankside.hw.dram.ports import PortWidths, instance_of
from bankside.isa.dram.standard import Constraint, DramStandard

__all__ = ["IssueTimers", "issue_signature", "query_signature"]

# A timer is {count, stall code} with the count on top: the larger of two words is the later expiry,
# and the larger code among equal ones.
_CODE_BITS = 4


def issue_signature(std: DramStandard) -> wiring.Signature:
    """A command that takes effect in this cycle (`bank` is the flat index)."""
    width = PortWidths.of(std)
    return wiring.Signature(
        {"valid": Out(1), "command": Out(width.command), "bank": Out(width.bank)}
    )


def query_signature(std: DramStandard) -> wiring.Signature:
    """ "May `command` be issued now?" The answer is combinational."""
    width = PortWidths.of(std)
    return wiring.Signature(
        {
            "command": Out(width.command),
            "bank": Out(width.bank),
            "legal": In(1),
            "stall": In(_CODE_BITS),
        }
    )


class IssueTimers(wiring.Component):
    """Timing rules of `std` for the side that issues commands.

    Ports: `issue` (valid, command, bank) records the command of this cycle; each `query[i]` takes
    command and bank and gives `legal` (no timing row blocks it in this cycle) and `stall` (the
    stall code of the row that expires last, 0 when legal). An issue counts from the next cycle on.
    State rules (open and closed banks) are the controller's own business.
    """

    issue: wiring.PureInterface
    query: list[wiring.PureInterface]

    def __init__(self, std: DramStandard, queries: int = 2):
        self.std = std
        self.queries = queries
        super().__init__(
            {
                "issue": In(issue_signature(std)),
                "query": In(query_signature(std)).array(queries),
            }
        )

    def elaborate(self, platform) -> Module:
        m = Module()
        sources = self._sources()
        built: dict[tuple, list[Value]] = {}
        for key in sorted({k for levels in sources.values() for k in levels.values()}):
            level, starts = key
            built[key] = [
                self._timer(m, level, instance, starts) for instance in range(self._count(level))
            ]
        windows = {
            row.index: [self._window(m, row, i) for i in range(self.std.instances(row.level))]
            for row in self.std.constraints
            if row.window > 1
        }
        for query in self.query:
            self._answer(m, query, sources, built, windows)
        return m

    def _count(self, level: str) -> int:
        if level == "slice":
            return self.std.geometry.banks_per_group
        return self.std.instances(level)

    def _sources(self) -> dict[str, dict[str, tuple]]:
        """For each command the timers it waits for: level -> (level, ((command, word)..)).

        A rank-wide command on either side of a row makes it act in the whole rank, a slice command
        in the slice; commands that wait for the same things share the timers.
        """
        found: dict[str, dict[str, dict[str, int]]] = {
            c.name: defaultdict(dict) for c in self.std.commands
        }
        for row in self.std.constraints:
            if row.window > 1:
                continue
            for before in row.preceding:
                for after in row.following:
                    starts = found[after][self._effective_level(row, before, after)]
                    word = max(row.latency - 1, 0) << _CODE_BITS | row.stall
                    starts[before] = max(starts.get(before, 0), word)
        return {
            after: {level: (level, tuple(sorted(s.items()))) for level, s in levels.items()}
            for after, levels in found.items()
        }

    def _effective_level(self, row: Constraint, before: str, after: str) -> str:
        scopes = (self.std.command(before).scope, self.std.command(after).scope)
        if "rank" in scopes or row.level == "rank":
            return "rank"
        if "slice" not in scopes:
            return row.level
        return "slice" if row.level == "bank" else "rank"

    def _hit(self, level: str, instance: int) -> Value:
        """The issued command touches `instance` of `level`."""
        if level == "rank" or self._count(level) == 1:
            return Const(1)
        return instance_of(self.std, level, self.issue.bank) == instance

    def _timer(self, m: Module, level: str, instance: int, starts: tuple) -> Value:
        """One timer word: counts down, and jumps up when a command in `starts` is issued here."""
        width = bits_for(max(word for _, word in starts))
        name = f"timer_{level}{instance}"
        timer, less, load = (Signal(width, name=f"{name}{s}") for s in ("", "_less", "_load"))
        m.d.comb += less.eq(_decrement(timer))
        with m.If(self.issue.valid & self._hit(level, instance)):
            with m.Switch(self.issue.command):
                for before, word in starts:
                    with m.Case(self.std.code(before)):
                        m.d.comb += load.eq(word)
        m.d.sync += timer.eq(Mux(load > less, load, less))
        return timer

    def _window(self, m: Module, row: Constraint, instance: int) -> Value:
        """As many counters as the window is deep, pushed along by every preceding command.

        The last one holds what the window-th last command still has to wait.
        """
        width = bits_for(row.latency - 1)
        name = f"window{row.index}_{instance}"
        counts = [Signal(width, name=f"{name}_{i}") for i in range(row.window)]
        preceding = [self.issue.command == self.std.code(p) for p in row.preceding]
        push = self.issue.valid & self._hit(row.level, instance) & Cat(preceding).any()
        less = [Mux(c == 0, 0, c - 1) for c in counts]
        for count, kept, pushed in zip(counts, less, [Const(row.latency - 1), *less], strict=False):
            m.d.sync += count.eq(Mux(push, pushed, kept))
        return Cat(Const(row.stall, _CODE_BITS), counts[-1])

    def _answer(self, m: Module, query, sources: dict, built: dict, windows: dict) -> None:
        """Selects the timers of the asked command, then the latest of them."""
        longest = max(len(t) for timers in built.values() for t in timers)
        levels = ("rank", "bankgroup", "slice", "bank", "window")
        # One input per level keeps a single comparator tree for all commands.
        chosen = {v: Signal(longest, name=f"chosen_{v}") for v in levels}
        with m.Switch(query.command):
            for command in self.std.commands:
                with m.Case(command.code):
                    for level, key in sources[command.name].items():
                        m.d.comb += chosen[level].eq(self._select(built[key], level, query.bank))
                    for row in self.std.constraints:
                        if row.window > 1 and command.name in row.following:
                            timers = windows[row.index]
                            m.d.comb += chosen["window"].eq(
                                self._select(timers, row.level, query.bank)
                            )
        latest = reduce(lambda a, b: Mux(a > b, a, b), chosen.values())
        word = Signal(longest)
        m.d.comb += [
            word.eq(latest),
            query.legal.eq(word[_CODE_BITS:] == 0),
            query.stall.eq(Mux(query.legal, 0, word[:_CODE_BITS])),
        ]

    def _select(self, timers: list[Value], level: str, bank: Value) -> Value:
        if len(timers) == 1:
            return timers[0]
        return Array(timers)[instance_of(self.std, level, bank)]


def _decrement(word: Value) -> Value:
    """The timer one cycle later; a word that reaches zero loses its code too."""
    one = 1 << _CODE_BITS
    return Mux(word[_CODE_BITS:] <= 1, 0, word - one)
