"""The timing of the `array` engine once more, cycle after cycle: slow and plain, written from
docs/array.md sections 3 to 5 and sharing nothing with the timing model.

`Reference(machine, program).run()` steps registers: everything that a unit does in a cycle is
decided from what was there at the start of the cycle.
"""

from collections import Counter

from bankside.isa.spec import load_spec

SPEC = load_spec("array")
LOAD, COMPUTE, STORE = range(3)
MAC_OPS = {SPEC.enums["block_op"][n] for n in ("qk", "lm", "exp", "sld", "slnv")}
REGISTER = {code: name for name, code in SPEC.enums["register"].items()}


class Reference:
    """All registers of the machine that have to do with time."""

    def __init__(self, machine, program):
        self.m, memory = machine, machine.config.memory
        self.read_latency, self.write_latency = (
            memory.read_latency_cycles, memory.write_latency_cycles,
        )  # fmt: skip
        self.beat, self.outstanding = memory.beat_cycles, memory.outstanding
        self.settle, self.free_latency = machine.settle, machine.free_latency
        self.code, self.pc, self.running = program.instructions(), 0, True
        self.registers = dict.fromkeys(REGISTER.values(), 0)
        self.queues = [[], [], []]
        self.tokens = Counter()
        self.given = []  # (cycle, source, target): can be taken from the next cycle on
        self.counters = dict.fromkeys(SPEC.stalls, 0)
        self.passes, self.macros = [], []
        # load engine and read channel
        self.reads = []  # bursts under way: [accepted, beats left, command, last of step]
        self.read_beat = -(10**9)
        self.load_bursts = None
        # store engine and write channel
        self.write = None  # [beats left, command, last of all, address cycle]
        self.write_beat = -(10**9)
        self.responses = []  # [cycle, command or None]
        self.store_bursts = None
        # sequencer
        self.ii, self.blocks = 1, {}
        self.run_now, self.slot, self.pipe = None, None, []
        self.last_pass = -(10**9)

    # --- one cycle ---

    def run(self, limit=2_000_000):
        for cycle in range(limit):
            self.c = cycle
            self.arrived()
            self.idle = [self.load_idle(), self.compute_idle(), self.store_idle()]
            self.level = [len(queue) for queue in self.queues]
            later = [self.sequencer(), self.load_engine(), self.store_engine(), self.front_end()]
            for changes in later:
                for change in changes:
                    change()
            if not self.running:
                return cycle + 1
        raise TimeoutError(f"no HALT within {limit} cycles, at command {self.pc}")

    def arrived(self):
        for entry in [e for e in self.given if e[0] < self.c]:
            self.given.remove(entry)
            self.tokens[entry[1:]] += 1

    def give(self, cycle, source, mask):
        self.given += [(cycle, source, target) for target in range(3) if mask >> target & 1]

    def there(self, target, mask, extra_load=0):
        """Engines that lack to give `target` a token."""
        need = {source: mask >> source & 1 for source in range(3)}
        need[LOAD] += extra_load
        return [s for s in range(3) if need[s] > self.tokens[s, target]]

    def take(self, target, mask, extra_load=0):
        for source in range(3):
            self.tokens[source, target] -= mask >> source & 1
        self.tokens[LOAD, target] -= extra_load

    # --- front end ---

    def compute_idle(self):
        calm = self.slot is None and self.run_now is None and not self.queues[COMPUTE]
        return calm and self.c - self.last_pass > self.settle

    def load_idle(self):
        return not self.queues[LOAD] and not self.reads

    def store_idle(self):
        return not self.queues[STORE] and not self.responses and self.write is None

    def front_end(self):
        ins = self.code[self.pc]
        engine = SPEC.commands[ins.name].engine
        if ins.name in ("HALT", "BARRIER") and not all(self.idle):
            return []
        if ins.name in ("KERNEL", "BLOCK") and not self.idle[COMPUTE]:
            return []
        if engine != "control":
            queue = SPEC.engines.index(engine)
            if self.level[queue] == self.m.config.array.queue_depth:
                return []
            entry = {"opcode": SPEC.commands[ins.name].opcode, **self.registers, **ins.fields}
            self.pc += 1
            return [lambda: self.queues[queue].append(entry)]
        self.pc += 1
        return [lambda: self.control(ins)]

    def control(self, ins):
        if ins.name == "HALT":
            self.running = False
        elif ins.name == "SET":
            self.registers[REGISTER[ins.reg]] = ins.value
        elif ins.name == "KERNEL":
            self.ii, self.blocks = ins.ii, {}
        elif ins.name == "BLOCK":
            self.blocks[ins.index] = ins

    # --- memory port ---

    def bursts_of(self, command):
        """(beats, first of a step, last of a step, last of all), one burst after the other."""
        bus, found = self.m.config.array.bus_bytes, []
        page = min(4096, 256 * bus)
        for i in range(command["outer"]):
            step = []
            for j in range(command["inner"]):
                at = command["mem"] + i * command["outer_bytes"] + j * command["inner_bytes"]
                left = command["beats"]
                while left:
                    beats = min(left, (page - at % page) // bus)
                    step.append(beats)
                    at, left = at + beats * bus, left - beats
            for k, beats in enumerate(step):
                last = k == len(step) - 1
                found.append((beats, k == 0, last, last and i == command["outer"] - 1))
        return found

    def load_engine(self):
        return self.read_beats() + self.read_addresses()

    def read_beats(self):
        if not self.reads:
            return []
        accepted, _, command, last_of_step, last_of_all = self.reads[0]
        if self.c < max(accepted + self.read_latency, self.read_beat + self.beat):
            return []
        self.read_beat = self.c
        return [lambda: self.read_taken(command, last_of_step, last_of_all)]

    def read_addresses(self):
        queue = self.queues[LOAD]
        if not queue or len(self.reads) >= self.outstanding:
            return []
        command = queue[0]
        if self.load_bursts is None:
            self.load_bursts = self.bursts_of(command)
            command["begun"] = None
        beats, first, last, final = self.load_bursts[0]
        if first and (command["each"] or command["begun"] is None):
            if self.there(LOAD, command["wait"]):
                return []
            self.take(LOAD, command["wait"])
        if command["begun"] is None:
            command["begun"] = self.c
        self.load_bursts.pop(0)
        burst = [self.c, beats, command, last, final]
        changes = [lambda: self.reads.append(burst)]
        if final:
            command["last"] = self.c
            self.load_bursts = None
            changes.append(lambda: queue.pop(0))
        return changes

    def read_taken(self, command, last_of_step, last_of_all):
        burst = self.reads[0]
        burst[1] -= 1
        if burst[1]:
            return
        self.reads.pop(0)
        if last_of_all or (last_of_step and command["each"]):
            self.give(self.c, LOAD, command["signal"])
        if last_of_all:
            self.macros.append((LOAD, command["opcode"], command["begun"], command["last"], self.c))

    def store_engine(self):
        changes = []
        for entry in [e for e in self.responses if e[0] == self.c]:
            changes.append(lambda entry=entry: self.responded(entry))
        if self.write is not None:
            if self.c >= self.write_beat + self.beat:
                self.write_beat = self.c
                changes.append(self.written)
            return changes
        queue = self.queues[STORE]
        if not queue or len(self.responses) >= self.outstanding:
            return changes
        command = queue[0]
        if self.store_bursts is None:
            if self.there(STORE, command["wait"]):
                return changes
            self.take(STORE, command["wait"])
            self.store_bursts = self.bursts_of(command)
            command["begun"] = self.c
        beats, _, _, final = self.store_bursts.pop(0)
        if final:
            self.store_bursts = None
            changes.append(lambda: queue.pop(0))
        write = [beats, command, final]
        changes.append(lambda: setattr(self, "write", write))
        return changes

    def written(self):
        self.write[0] -= 1
        if not self.write[0]:
            _, command, final = self.write
            if final:
                command["last"] = self.c
            self.responses.append((self.c + self.write_latency, command if final else None))
            self.write = None

    def responded(self, entry):
        self.responses.remove(entry)
        command = entry[1]
        if command is not None:
            self.give(self.c, STORE, command["signal"])
            last = command["last"]
            self.macros.append((STORE, command["opcode"], command["begun"], last, self.c))

    # --- sequencer ---

    def sequencer(self):
        if self.slot is None:
            return self.no_pass()
        self.counters[self.word()] += 1
        self.last_pass = self.c
        ended = self.marks()
        if self.slot == self.ii - 1:
            self.next_pass([None, *self.pipe[:-1]])
        elif ended:
            self.slot, self.pipe = None, []
        else:
            self.slot += 1
        return []

    def covering(self):
        return [b for b in self.blocks.values() if b.start <= self.slot < b.start + b.length]

    def word(self):
        covering, words = self.covering(), []
        for block in covering:
            iteration = self.pipe[block.stage]
            if iteration is not None and (block.index < 8 or iteration["final"]):
                words.append(block)
        if not covering:
            return "slot"
        if not words:
            return "bubble"
        pe = [b for b in words if b.index < 8]
        if not pe:
            return "lane"
        return "mac" if pe[0].op in MAC_OPS else "move"

    def marks(self):
        """Free and done in this slot; tells whether the pass ends with it."""
        ended = False
        for block in self.covering():
            iteration = self.pipe[block.stage]
            if self.slot != block.start + block.length - 1 or iteration is None:
                continue
            run = iteration["run"]
            if block.free and run["free"]:
                self.give(self.c + self.free_latency, COMPUTE, 1 << LOAD)
            if block.done:
                if iteration["tile"] == run["tiles"] - 1:
                    end = self.c + self.settle
                    self.macros.append((COMPUTE, run["opcode"], run["begun"], self.c, end))
                    self.give(end, COMPUTE, run["signal"])
                ended = ended or all(i is None for i in self.pipe[: block.stage])
        return ended

    def next_pass(self, pipe):
        """Boundary: the iterations of the next pass, apart from a new one."""
        new = self.decide()
        if new is None and all(i is None for i in pipe):
            self.slot, self.pipe = None, []
            return False
        self.slot, self.pipe = 0, [new, *pipe[1:]]
        tile = 0 if new is None else new["tile"]
        self.passes.append((self.c + 1, int(new is not None), tile))
        return True

    def decide(self):
        run = self.run_now
        if run is None:
            if not self.queues[COMPUTE] or self.lacking():
                return None
            run = self.queues[COMPUTE].pop(0)
            self.take(COMPUTE, run["wait"], run["each"])
            run["begun"], run["next"] = self.c, 0
        else:
            if self.lacking():
                return None
            self.take(COMPUTE, 0, run["each"])
        tile = run["next"]
        run["next"] += 1
        self.run_now = run if run["next"] < run["tiles"] else None
        final = bool(run["last"]) and tile == run["tiles"] - 1
        return {"run": run, "tile": tile, "final": final}

    def lacking(self):
        run, wait = self.run_now, 0
        if run is None:
            run = self.queues[COMPUTE][0]
            wait = run["wait"]
        return self.there(COMPUTE, wait, run["each"])

    def no_pass(self):
        if self.run_now is None and not self.queues[COMPUTE]:
            self.counters[self.without_run()] += 1
            return []
        lacking = self.lacking()
        stages = 1 + max(b.stage for b in self.blocks.values())
        self.next_pass([None] * stages)
        reason = {LOAD: "wait_load", STORE: "wait_store"}.get(lacking[0] if lacking else None)
        # A token of the store engine counts before one of the compute engine.
        if lacking and lacking[0] == COMPUTE and STORE in lacking:
            reason = "wait_store"
        self.counters[reason or "control"] += 1
        return []

    def without_run(self):
        if self.c - self.last_pass <= self.settle:
            return "settle"
        if not self.idle[STORE]:
            return "store"
        return "control" if self.idle[LOAD] else "load"
