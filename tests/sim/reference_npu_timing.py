"""The timing of the `npu` engine once more, cycle after cycle: slow and plain, written from
docs/npu.md sections 3 to 8 and sharing nothing with the timing model.

`Reference(machine, program).run()` steps registers: everything that a unit does in a cycle is
decided from what was there at the start of the cycle, what it brings about is there from the next
cycle on.
"""

from bankside.isa.spec import load_spec

SPEC = load_spec("npu")
REGISTER = {code: name for name, code in SPEC.enums["register"].items()}
MACS = {"CONV", "DEPTHWISE", "MATMUL", "POOL"}
U = {32: 1, 64: 1, 128: 2, 256: 4}
L = {32: 4, 64: 8, 128: 8, 256: 8}
A = {32: 1, 64: 1, 128: 2, 256: 4}
V = {32: 1, 64: 2, 128: 4, 256: 8}
DMA, KERNEL = 0, 1


def up(a, b):
    return -(-a // b)


class ReadPort:
    """Bursts of one port, in order; `beat(cycle)` says whose beat comes in a cycle."""

    def __init__(self, memory, seed):
        self.m, self.x = memory, seed
        self.bursts, self.last = [], -(10**9)

    def random(self):
        self.x ^= (self.x << 13) % 2**32
        self.x ^= self.x >> 17
        self.x ^= (self.x << 5) % 2**32
        return self.x % (self.m.jitter_cycles + 1)

    def accept(self, cycle, beats, tag=None):
        self.bursts.append([cycle + self.m.read_latency_cycles + self.random(), beats, tag])

    def beat(self, cycle):
        """(tag, last beat of its burst), or None."""
        if not self.bursts or cycle < max(self.bursts[0][0], self.last + self.m.beat_cycles):
            return None
        self.last = cycle
        burst = self.bursts[0]
        burst[1] -= 1
        if not burst[1]:
            self.bursts.pop(0)
        return burst[2], not burst[1]


class Reference:
    """All registers of the machine that have to do with time; `weights`: bytes of that buffer."""

    fifo_words, burst_words = 64, 16
    setup, mac_latency, output_latency, vector_latency = 4, 6, 8, 8
    first_record, table = 1, 8

    def __init__(self, machine, program, weights=None):
        self.macs, self.port = machine.macs, machine.weight_port_bytes
        self.bus, self.depth = machine.bus_bytes, machine.config.npu.queue_depth
        self.memory, self.regions = machine.config.memory, program.regions
        self.outstanding = self.memory.outstanding
        self.image = program.host_in.astype("<u2").tobytes()
        self.weights = bytearray(machine.config.npu.weight_bytes) if weights is None else weights
        self.code, self.pc, self.running, self.measuring = program.instructions(), 0, True, True
        self.registers = dict.fromkeys(REGISTER.values(), 0)
        self.counters, self.macros = dict.fromkeys(SPEC.stalls, 0), []
        seed = self.memory.seed
        # command fetch: words asked for, words received
        self.m1, self.asked, self.received = ReadPort(self.memory, seed ^ 0x9E3779B9 or seed), 0, 0
        # DMA
        self.m0 = ReadPort(self.memory, seed)
        self.transfers, self.transfer, self.dma_free = [], None, -1
        self.outstanding_transfers, self.write_beat = 0, -(10**9)
        # kernel engine
        self.queue, self.started, self.outstanding_operations = [], [], 0
        self.units_before = 0  # of the operations that have started
        self.a_end, self.results = {}, []

    # --- one cycle ---

    def run(self, limit=3_000_000):
        for cycle in range(limit):
            self.c = cycle
            self.transfers_there = self.outstanding_transfers
            self.operations_there = self.outstanding_operations
            self.level = [len(self.transfers), len(self.queue)]
            self.available = self.received - self.pc
            later = [self.kernel(), self.dma(), self.fetch(), self.control()]
            for changes in later:
                for change in changes:
                    change()
            if not self.running:
                return cycle + 1
        raise TimeoutError(f"no STOP within {limit} cycles, at command {self.pc}")

    def count(self, reason):
        if self.measuring:
            self.counters[reason] += 1

    # --- fetch and control ---

    def fetch(self):
        changes = []
        if self.m1.beat(self.c) is not None:
            changes.append(lambda: setattr(self, "received", self.received + 1))
        room = self.fifo_words - self.available
        left = len(self.code) - self.asked
        if self.asked == self.received and left and room >= self.burst_words:
            words = min(self.burst_words, left)
            self.m1.accept(self.c, words)
            changes.append(lambda: setattr(self, "asked", self.asked + words))
        return changes

    def control(self):
        ins = self.code[self.pc] if self.available else None
        wait = self.waits(ins)
        if not self.busy:
            command = ins is not None and (ins.name in ("DMA_WAIT", "STOP") or wait == "queue")
            if command and self.transfers_there:
                self.count("dma")
            elif ins is None:
                self.count("fetch")
            else:
                self.count("control")
        if ins is None or wait:
            return []
        self.pc += 1
        return [lambda: self.execute(ins)]

    def waits(self, ins):
        if ins is None:
            return "word"
        if ins.name == "STOP":
            return self.transfers_there or self.operations_there
        if ins.name == "DMA_WAIT":
            return self.transfers_there > ins.outstanding
        if ins.name == "KERNEL_WAIT":
            return self.operations_there > ins.outstanding
        if ins.name in ("SET", "IRQ", "PMU"):
            return None
        return "queue" if self.level[DMA if ins.name == "DMA" else KERNEL] >= self.depth else None

    def execute(self, ins):
        command = {"name": ins.name, "opcode": SPEC.commands[ins.name].opcode,
                   **self.registers, **ins.fields}  # fmt: skip
        if ins.name == "STOP":
            self.running = False
        elif ins.name == "SET":
            self.registers[REGISTER[ins.reg]] = ins.value
        elif ins.name == "PMU":
            self.measuring = bool(ins.enable)
        elif ins.name == "DMA":
            self.transfers.append(command)
            self.outstanding_transfers += 1
        elif ins.name not in ("IRQ", "DMA_WAIT", "KERNEL_WAIT"):
            self.queue.append(command)
            self.outstanding_operations += 1

    # --- DMA ---

    def bursts_of(self, command):
        base, _ = self.regions[command["region"]]
        page, found = min(4096, 256 * self.bus), []
        for row in range(command["rows"]):
            at = base + command["offset"] + row * command["row_step"]
            left = command["row_bytes"] // self.bus
            while left:
                beats = min(left, (page - at % page) // self.bus)
                found.append(beats)
                at, left = at + beats * self.bus, left - beats
        return found

    def move(self, command):
        """Bytes into the weight buffer."""
        base, _ = self.regions[command["region"]]
        for row in range(command["rows"]):
            at = base + command["offset"] + row * command["row_step"]
            to = command["buf"] + row * command["buf_step"]
            piece = self.image[at : at + command["row_bytes"]].ljust(command["row_bytes"], b"\0")
            self.weights[to : to + len(piece)] = piece

    def dma(self):
        changes = self.transfer_begins()
        if self.transfer is None:
            return changes
        return changes + (self.writes() if self.transfer["direction"] == 2 else self.reads())

    def transfer_begins(self):
        if self.transfer is None and self.transfers and self.c > self.dma_free:
            self.transfer = command = self.transfers[0]
            command["bursts"], command["first"] = self.bursts_of(command), self.c
            self.waiting = []  # bursts whose last beat or response is to come
            self.beats = 0  # of the write burst under way
            if command["direction"] == 1:
                self.move(command)
        return []

    def reads(self):
        command, changes = self.transfer, []
        there = len(self.waiting)
        beat = self.m0.beat(self.c)
        if beat is not None and beat[1]:
            changes.append(lambda: self.waiting.pop(0))
            if not command["bursts"] and there == 1:
                changes.append(self.transfer_ends)
        if command["bursts"] and there < self.outstanding:
            self.m0.accept(self.c, command["bursts"].pop(0))
            changes.append(lambda: self.waiting.append(None))
            if not command["bursts"]:
                command["last"] = self.c
                changes.append(lambda: self.transfers.pop(0))
        return changes

    def writes(self):
        command, changes = self.transfer, []
        there = len(self.waiting)
        if self.waiting and self.waiting[0] == self.c:
            changes.append(lambda: self.waiting.pop(0))
            if not command["bursts"] and there == 1 and not self.beats:
                changes.append(self.transfer_ends)
        if self.beats:
            if self.c >= self.write_beat + self.memory.beat_cycles:
                self.write_beat = self.c
                changes.append(self.written)
        elif command["bursts"] and there < self.outstanding:
            beats = command["bursts"].pop(0)
            changes.append(lambda: setattr(self, "beats", beats))
        return changes

    def written(self):
        self.beats -= 1
        if not self.beats:
            self.waiting.append(self.c + self.memory.write_latency_cycles)
            if not self.transfer["bursts"]:
                self.transfer["last"] = self.c
                self.transfers.pop(0)

    def transfer_ends(self):
        command, complete = self.transfer, self.c + 1
        self.macros.append((DMA, command["opcode"], command["first"], command["last"], complete))
        self.transfer, self.dma_free = None, complete
        self.outstanding_transfers -= 1

    # --- kernel engine ---

    def kernel(self):
        """`started`: operations that are not complete, oldest first."""
        changes = self.operation_starts()
        self.busy = bool(self.started)
        self.count_kernel()
        for operation in self.started:
            if operation["name"] not in MACS:
                if self.c == operation["complete"] - 1:
                    changes.append(lambda o=operation: self.completed(o))
            elif operation is self.started[-1] and self.c >= operation["t0"]:
                self.weight_unit(operation)
                self.mac_unit(operation)
        self.output_unit(changes)
        return changes

    def operation_starts(self):
        if not self.queue or not self.may_start(self.queue[0]):
            return []
        operation = self.queue[0]
        operation.update(start=self.c, t0=self.c + self.setup)
        if operation["name"] in MACS:
            self.prepare(operation)
        else:
            work = operation["t0"] + self.work(operation)
            operation.update(end=work, complete=work + self.vector_latency)
        self.started.append(operation)
        return [lambda: self.queue.pop(0)]

    def may_start(self, operation):
        if not self.started:
            return True
        before = self.started[-1]
        both = operation["name"] in MACS and before["name"] in MACS
        return both and operation["depend"] and before.get("end", self.c + 1) <= self.c

    def completed(self, operation):
        self.started.remove(operation)
        self.outstanding_operations -= 1
        row = (KERNEL, operation["opcode"], operation["start"], operation["end"], self.c + 1)
        self.macros.append(row)

    def count_kernel(self):
        if not self.started:
            return
        young = self.started[-1]
        if young["name"] not in MACS:
            self.count(young["name"].lower())
        elif self.c < young["t0"]:
            self.count("setup")
        elif "end" in young and young["end"] <= self.c:
            self.count("output")
        elif self.step_under_way(young) or self.step_can_start(young):
            self.count("mac")
        else:
            self.count("output" if self.tile_there(young) else "weights")

    def work(self, o):
        positions, channels = o["ofm_h"] * o["ofm_w"], o["ofm_c"]
        if o["name"] == "COPY":
            return o["n0"] * o["n1"] * o["n2"]
        if o["name"] == "ELEMENTWISE":
            return positions * up(channels, V[self.macs]) + 8 * (o["op"] == 3)
        if o["name"] == "SOFTMAX":
            return 32 + positions * (up(channels, V[self.macs]) + 2 * channels + 40)
        return positions * (3 * channels + 110 if o["mode"] else 2 * channels + 60)

    # --- MAC operations ---

    def tile_bytes(self, at, weights):
        """Bytes of the packed tile at `at`."""
        width, _, mask = self.weights[at : at + 3]
        codes, begin = weights, at + 8
        if mask & 1:
            size = 8 * up(weights, 64)
            bits = int.from_bytes(self.weights[begin : begin + size], "little")
            codes, begin = (bits % 2**weights).bit_count(), begin + size
        return begin + 8 * up(codes * width, 64) - at

    def prepare(self, o):
        """Steps in order: dicts of unit, words, decode, cycles, last (of its unit), results."""
        row = o["weight_mode"]
        u, g = (1, U[self.macs] * L[self.macs]) if row else (U[self.macs], L[self.macs])
        positions, o["steps"], unit = o["ofm_h"] * o["ofm_w"], [], self.units_before
        for block in range(0, positions, o["block"]):
            n = min(o["block"], positions - block)
            at = o["weights"] * self.port
            for group in range(0, o["ofm_c"], g):
                exist = min(g, o["ofm_c"] - group)
                shapes = self.unit_steps(o, u)
                for index, cycles in enumerate(shapes):
                    words, decode, at = self.tile(o, g, at)
                    o["steps"].append({"unit": unit, "words": words, "decode": decode,
                                       "cycles": up(n, u) * cycles,
                                       "last": index == len(shapes) - 1})  # fmt: skip
                o["steps"][-1]["results"] = self.results_of(o, n, exist, not (block or group))
                unit += 1
        self.units_before = unit
        o.update(f_end={}, r_end={}, m_end={}, r=[0, 0], d=[0, 0], f=[0, 0], j=0, left=0)

    def unit_steps(self, o, u):
        window = o["kernel_h"] * o["kernel_w"]
        if o["name"] in ("DEPTHWISE", "POOL"):
            return [u] * window
        icb = [max(u, up(min(32, o["ifm_c"] - i), 8)) for i in range(0, o["ifm_c"], 32)]
        return icb * window if o["name"] == "CONV" else icb

    def tile(self, o, g, at):
        """Words, cycles of the decoder, byte of the next tile."""
        if o["name"] in ("MATMUL", "POOL"):
            return (g if o["name"] == "MATMUL" else 0), 0, at
        t = g if o["name"] == "DEPTHWISE" else 32 * g
        if o["weight_format"] == 0:
            size = self.tile_bytes(at, t)
            return size // self.port, max(t // 8, 1), at + size
        words = up(t if o["weight_format"] == 1 else 17 * g, self.port)
        return words, 0, at + words * self.port

    def results_of(self, o, positions, channels, first):
        record = {0: self.first_record, 1: up(channels, 2), 2: 0}[o["scale_mode"]]
        if o["name"] == "POOL":
            record = 0
        table = self.table if o["lut_enable"] and first else 0
        return record + table + positions * up(channels, A[self.macs])

    def before(self, ends, j):
        """Something that has ended, or need not: the tile or step j, with a cycle in between."""
        return j < 0 or (j in ends and ends[j] + 1 <= self.c)

    def unit_works(self, state, count, cycles, begin):
        """A serial unit, [tiles done, cycles left]: one cycle of it; True: a tile is done."""
        if not state[1]:
            if state[0] == count or not begin(state[0]):
                return False
            state[1] = cycles(state[0])
        state[1] -= 1
        if state[1]:
            return False
        state[0] += 1
        return True

    def weight_unit(self, o):
        if o["name"] == "POOL":
            return
        steps, count = o["steps"], len(o["steps"])
        words, m_end = lambda j: steps[j]["words"], o["m_end"]
        if not steps[0]["decode"]:
            if self.unit_works(o["f"], count, words, lambda j: self.before(m_end, j - 2)):
                o["f_end"][o["f"][0] - 1] = self.c + 1
            return
        f_end, r_end = o["f_end"], o["r_end"]
        if self.unit_works(o["r"], count, words, lambda j: self.before(f_end, j - 2)):
            r_end[o["r"][0] - 1] = self.c + 1
        decode = lambda j: steps[j]["decode"]  # noqa: E731
        ready = lambda j: self.before(r_end, j) and self.before(m_end, j - 2)  # noqa: E731
        if self.unit_works(o["d"], count, decode, ready):
            f_end[o["d"][0] - 1] = self.c + 1

    def step_under_way(self, o):
        return o["left"] > 0

    def tile_there(self, o):
        return o["name"] == "POOL" or self.before(o["f_end"], o["j"])

    def step_can_start(self, o):
        return self.tile_there(o) and self.accumulators_free(o)

    def accumulators_free(self, o):
        step = o["steps"][o["j"]]
        first = o["j"] == 0 or o["steps"][o["j"] - 1]["last"]
        old = step["unit"] - 2
        return not first or old < 0 or (old in self.a_end and self.a_end[old] + 1 <= self.c)

    def mac_unit(self, o):
        if o["j"] == len(o["steps"]):
            return
        step = o["steps"][o["j"]]
        if not o["left"]:
            if not self.step_can_start(o):
                return
            o["left"] = step["cycles"]
        o["left"] -= 1
        if o["left"]:
            return
        o["m_end"][o["j"]] = self.c + 1
        o["j"] += 1
        final = o["j"] == len(o["steps"])
        if step["last"]:
            due = self.c + 1 + self.mac_latency
            self.results.append([step["unit"], due, step["results"], o if final else None])
        if final:
            o["end"] = self.c + 1

    def output_unit(self, changes):
        """`results`: units whose steps are done, [unit, A_start at the earliest, cycles, last]."""
        for operation in self.started:
            if operation.get("complete") == self.c + 1 and operation["name"] in MACS:
                changes.append(lambda o=operation: self.completed(o))
        if not self.results or self.c < self.results[0][1]:
            return
        head = self.results[0]
        head[2] -= 1
        if not head[2]:
            self.a_end[head[0]] = self.c + 1
            if head[3] is not None:
                head[3]["complete"] = self.c + 1 + self.output_latency
            self.results.pop(0)


def facts(machine, program, kind=Reference, weights=None):
    """Cycles, counters and macro-commands of the machine stepped cycle by cycle."""
    stepped = kind(machine, program, weights)
    cycles = stepped.run()
    macros = sorted(stepped.macros, key=lambda m: (m[2], m[0]))
    return cycles, stepped.counters, macros
