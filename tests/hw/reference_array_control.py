"""A small model of the control of the `array` engine: docs/array.md sections 3 to 5, one cycle
after the other.

It keeps iterations by the number of the pass in which they started and computes every address from
the tile number; the RTL shifts stages and steps pointers.
"""

from collections import Counter
from collections.abc import Iterable

from bankside.hw.array.words import LaneOp, PeOp, TopOp
from bankside.isa.spec import load_spec

SPEC = load_spec("array")
LOAD, COMPUTE, STORE = range(3)
OPS = {code: name for name, code in SPEC.enums["block_op"].items()}
REGISTERS = {code: name for name, code in SPEC.enums["register"].items()}
MACS = {"qk", "lm", "exp", "sld", "slnv"}


class Outside:
    """What the load and store engine do: fixed cycles at which they give tokens to the compute
    engine, try to take its tokens, take commands from their queues and are busy.
    """

    def __init__(
        self,
        gives: Iterable[tuple[int, int]] = (),
        takes: Iterable[tuple[int, int]] = (),
        busy: Iterable[int] = (),
        pops: Iterable[tuple[int, int]] = (),
    ) -> None:
        self.gives, self.takes = Counter(gives), set(takes)  # (cycle, engine)
        self.busy, self.pops = set(busy), set(pops)


# --- words ----------------------------------------------------------------------------------------


def fetch(machine, base, j):
    n = machine.bus_elements
    return {"read": int(j % n == 0), "address": base + j // n, "element": j % n}


def pe_word(machine, op, j, it):
    """Word of a PE block as {part: {field: value}}; fields that are not named are 0."""
    tag = {"tag": it["tag"]}
    mask = {name: it[name] for name in ("limit", "position", "window", "causal", "group")}
    lane = {**tag, "begin": j == 0, "first": it["first"], "set": it["set"]}
    back = {"element": it["s"] * machine.bus_elements + j}
    row = machine.rows
    if op == "qk":
        return {"pe": {"op": PeOp.QK, "first": j == 0, **tag}, "row": fetch(machine, it["k"], j),
                "top": {"op": TopOp.QUERY, **tag, **fetch(machine, it["q"], j)}}  # fmt: skip
    if op == "lm":
        return {"pe": {"op": PeOp.LM, **tag}, "top": {"op": TopOp.BOUNDS, **tag, **mask},
                "lane": {"op": LaneOp.MAX, **lane}}  # fmt: skip
    if op == "exp" and j == 0:
        return {"pe": {"op": PeOp.SUB, **tag}, "top": {"op": TopOp.MAXIMUM, **tag}}
    if op == "exp":
        return {"pe": {"op": PeOp.EXP, "first": j == 1, "last": j == 6, **tag},
                "top": {"op": TopOp.COEFFICIENT, "coefficient": j, **tag}}  # fmt: skip
    if op == "sld":
        return {"pe": {"op": PeOp.SUM, **tag}, "row": {"one": 1},
                "lane": {"op": LaneOp.DENOMINATOR, **lane}}  # fmt: skip
    if op == "slnv":
        return {"pe": {"op": PeOp.SUM, **tag}, "row": fetch(machine, it["v"], j),
                "lane": {"op": LaneOp.ACCUMULATE, "index": j, **lane}}  # fmt: skip
    if op == "drain":
        return {"pe": {"op": PeOp.DRAIN, "select": j, **tag},
                "top": {"op": TopOp.UNMASKED, "row": j, **tag, **mask},
                "lane": {"op": LaneOp.SCORE, "end": j == row - 1, "chunk": it["tile"],
                         **lane, **back}}  # fmt: skip
    if op in ("passx", "passd"):
        top, bottom = {"passx": (TopOp.SCORE, LaneOp.EXP), "passd": (TopOp.NUMBER, LaneOp.DIVIDE)}[
            op
        ]
        return {"top": {"op": top, **tag, **fetch(machine, it["s"], j)},
                "lane": {"op": bottom, **lane, **back}}  # fmt: skip
    assert op == "fill"
    word = {"pe": {"op": PeOp.FILL, "select": j, **tag},
            "top": {"op": TopOp.FILL, **tag, **fetch(machine, it["s"], j)}}  # fmt: skip
    return word | ({"lane": {"op": LaneOp.STEP, "chunk": it["tile"], **lane}} if j == 0 else {})


def lane_word(machine, op, j, it):
    """Lane part of a word of a lane block."""
    lane = {"tag": it["tag"], "begin": j == 0, "first": it["first"], "set": it["set"]}
    if op == "av":
        back = {"element": it["out"] * machine.bus_elements + j, "index": j}
        return {"op": LaneOp.RESULT, **lane, **back}
    return {"op": {"rcp": LaneOp.RECIPROCAL, "one": LaneOp.ONE}[op], **lane}


# --- the model ------------------------------------------------------------------------------------


class Model:
    """Steps a program cycle by cycle; `log` has one entry per cycle."""

    def __init__(self, machine, program, outside):
        self.machine, self.code, self.outside = machine, program.instructions(), outside
        self.pc, self.registers = 0, dict.fromkeys(REGISTERS.values(), 0)
        self.queues = {"load": [], "compute": [], "store": []}
        self.tokens, self.blocks, self.ii = Counter(), {}, None
        self.run, self.next_tile, self.started = None, 0, 0
        self.passes, self.slot, self.iterations = 0, None, []
        self.last_pass = -machine.settle - 1
        self.events, self.log, self.counters = [], [], Counter()
        self.macros = {"decision": [], "done": [], "complete": []}

    def iteration(self, stage):
        """The iteration that started `stage` passes ago, if it is under way."""
        return next((i for i in self.iterations if self.passes - i["pass"] == stage), None)

    def context(self, run, tile):
        r, first = run, run["first_key"] + tile * self.machine.rows
        ring = (r["kv_phase"] + tile) % r["kv_ring"] * r["kv_step"]
        return {
            **{name: r[name] for name in ("q", "out", "set", "window", "causal", "group")},
            "tag": self.started % self.machine.tags, "tile": tile,
            "k": r["k"] + ring, "v": r["v"] + ring,
            "s": r["s"] + tile % r["s_ring"] * r["s_step"],
            "limit": r["keys"] - 1 - first, "position": r["position"] - first,
            "first": int(r["first"] and tile == 0),
            "last": int(r["last"] and tile == r["tiles"] - 1),
            "final": tile == r["tiles"] - 1, "run": r,
        }  # fmt: skip

    def words(self):
        """Word of this slot, what it counts for, and (done, free) blocks that end in it."""
        word, reason, ends = {}, "slot", []
        for index, block in sorted(self.blocks.items(), reverse=True):
            j = self.slot - block.start
            if not 0 <= j < block.length:
                continue
            it, op = self.iteration(block.stage), OPS[block.op]
            reason = "bubble" if reason == "slot" else reason
            if it and j == block.length - 1:
                ends.append((block, it))
            if it and index >= 8 and it["last"]:
                word["lane"], reason = lane_word(self.machine, op, j, it), "lane"
            elif it and index < 8:
                word = word | pe_word(self.machine, op, j, it)
                reason = "mac" if op in MACS else "move"
        return word, reason, ends

    def need(self, run, fresh):
        """Tokens that the next tile of `run` needs."""
        need = Counter()
        if fresh:
            need.update(e for e in range(3) if run["wait"] >> e & 1)
        if run["each"]:
            need[LOAD] += 1
        return need

    def decide(self, cycle):
        """Start an iteration if rule 1 or 2 says so; returns what is missing."""
        fresh = self.run is None
        if fresh and not self.queues["compute"]:
            return False, None
        run = self.queues["compute"][0] if fresh else self.run
        need = self.need(run, fresh)
        missing = {e for e, n in need.items() if self.tokens[e, COMPUTE] < n}
        if missing:
            return False, missing
        for engine, n in need.items():
            self.tokens[engine, COMPUTE] -= n
        tile = 0 if fresh else self.next_tile
        self.new = self.context(run, tile)
        self.started += 1
        self.run, self.next_tile = (run, tile + 1) if tile + 1 < run["tiles"] else (None, 0)
        if fresh:
            self.queues["compute"].pop(0)
            self.macros["decision"].append(cycle)
        return True, None

    def idle_reason(self, cycle, started, missing, busy):
        if started:
            return "control"
        if missing is not None:
            return (
                "wait_load" if LOAD in missing else "wait_store" if STORE in missing else "control"
            )
        if cycle - self.last_pass <= self.machine.settle:
            return "settle"
        return "store" if busy["store"] else "load" if busy["load"] else "control"

    def front(self, idle, busy, lengths):
        """One command; returns whether it was HALT."""
        ins = self.code[self.pc]
        engine = SPEC.commands[ins.name].engine
        if ins.name in ("KERNEL", "BLOCK") and not idle:
            return False
        if ins.name in ("BARRIER", "HALT") and (not idle or busy["load"] or busy["store"]):
            return False
        if engine != "control":
            if lengths[engine] >= self.machine.config.array.queue_depth:
                return False
            self.queues[engine].append({**self.registers, **ins.fields})
        if ins.name == "SET":
            self.registers[REGISTERS[ins.reg]] = ins.value
        if ins.name == "KERNEL":
            self.blocks, self.ii, self.started = {}, ins.ii, 0
        if ins.name == "BLOCK":
            self.blocks[ins.index] = ins
        self.pc += 1
        return ins.name == "HALT"

    def happen(self, cycle):
        """Tokens that are given in this cycle."""
        given = Counter()
        for when, kind, value in [e for e in self.events if e[0] == cycle]:
            if kind == "free":
                given[COMPUTE, LOAD] += 1
            else:
                self.macros["complete"].append(when)
                given.update((COMPUTE, e) for e in range(3) if value >> e & 1)
        for engine in (LOAD, STORE):
            given[engine, COMPUTE] += self.outside.gives[cycle, engine]
            taken = (cycle, engine) in self.outside.takes and self.tokens[COMPUTE, engine] > 0
            given[COMPUTE, engine] -= taken
        return given

    def step(self, cycle):
        """One cycle; False after HALT."""
        lengths = {engine: len(queue) for engine, queue in self.queues.items()}
        present = [self.tokens[COMPUTE, engine] > 0 for engine in (LOAD, STORE)]
        busy = {name: lengths[name] > 0 or cycle in self.outside.busy for name in ("load", "store")}
        running, quiet = self.slot is not None, cycle - self.last_pass > self.machine.settle
        idle = not running and self.run is None and not lengths["compute"] and quiet
        given, word, tile = self.happen(cycle), {}, None
        if running:
            it = self.iteration(0)
            tile = (it is not None, it["tile"] if it else 0) if self.slot == 0 else None
            word, reason, ends = self.words()
            self.last_pass = cycle
            self.in_pass(cycle, ends)
        else:
            started, missing = self.decide(cycle)
            reason = self.idle_reason(cycle, started, missing, busy)
            self.begin(started)
        self.counters[reason] += 1
        for engine, queue in (("load", LOAD), ("store", STORE)):
            if (cycle, queue) in self.outside.pops and lengths[engine]:
                self.queues[engine].pop(0)
        halted = self.front(idle, busy, lengths)
        self.tokens.update(given)
        self.log.append((word, tile, present))
        return not halted

    def in_pass(self, cycle, ends):
        early = False
        for block, it in ends:
            if block.free and it["run"]["free"]:
                self.events.append((cycle + self.machine.rows + 2, "free", None))
            if block.done:
                young = any(self.passes - i["pass"] < block.stage for i in self.iterations)
                early = not young and self.slot != self.ii - 1
                if it["final"]:
                    self.macros["done"].append(cycle)
                    when = cycle + self.machine.settle
                    self.events.append((when, "complete", it["run"]["signal"]))
        if early:
            self.slot, self.iterations = None, []
            return
        self.slot += 1
        if self.slot == self.ii:
            highest = max(b.stage for b in self.blocks.values())
            left = [i for i in self.iterations if self.passes - i["pass"] < highest]
            started, _ = self.decide(cycle)
            self.iterations = left
            self.begin(started)

    def begin(self, started):
        """The next pass, if an iteration starts or is still under way."""
        self.passes += 1
        if started:
            self.iterations.append({**self.new, "pass": self.passes})
        self.slot = 0 if self.iterations else None

    def finish(self, limit: int = 20_000) -> "Model":
        """Run to HALT."""
        for cycle in range(limit):
            if not self.step(cycle):
                return self
        raise AssertionError(f"no HALT in {limit} cycles; command {self.pc} waits")
