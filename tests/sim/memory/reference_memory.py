"""Plain controllers that visit every clock and ask the Python rules of the standard each time.

Written from docs/memory_controller.md, for comparison with the compiled ones: no clock is skipped,
nothing is remembered that could be asked again.
"""

from dataclasses import dataclass

from bankside.isa.dram.rules import RankRules


@dataclass(eq=False)
class Item:
    """One request on its way."""

    index: int
    rank: int
    bank: int
    row: int
    column: int
    write: bool
    stamp: int = 0

    @property
    def place(self):
        return self.rank, self.bank

    @property
    def burst(self):
        return self.rank, self.bank, self.row, self.column


class Plain:
    """What both controllers share: the bus, the answers, the record of commands."""

    def __init__(self, memory, requests, *, other_rank, max_outstanding=None):
        self.policy, self.std = memory.policy, memory.standard
        self.rules = [RankRules(self.std) for _ in range(memory.ranks)]
        self.other_rank, self.limit = other_rank, max_outstanding
        names = ("rank", "bank", "row", "column")
        self.items = [
            Item(i, *(int(r[name]) for name in names), bool(r["write"]))
            for i, r in enumerate(requests.records)
        ]
        self.arrivals = [int(r["arrival"]) for r in requests.records]
        self.accepted, self.finished = {}, {}
        self.trace, self.returned, self.last = [], {}, {}
        self.bus_free = 0
        self.uses = {}
        self.next = 0

    def run(self):
        clock = 0
        while self.next < len(self.items) or self.busy():
            clock += 1
            self.tick(clock)
        return self

    # --- the memory -------------------------------------------------------------------------------

    def open_row(self, item):
        return self.rules[item.rank].open_rows[item.bank]

    def needed(self, item):
        row = self.open_row(item)
        if row is None:
            return "ACT"
        return ("WR" if item.write else "RD") if row == item.row else "PRE"

    def legal(self, name, rank, bank, clock):
        if clock < self.bus_free or self.rules[rank].earliest(name, bank, clock)[0] > clock:
            return False
        return all(
            clock >= at + self.other_rank.get((before, name), 0)
            for (other, before), at in self.last.items()
            if other != rank
        )

    def issue(self, name, rank, bank, row, column, clock):
        assert self.rules[rank].check(name, bank, clock) is None
        self.rules[rank].issue(name, bank, row, clock)
        self.last[rank, name] = clock
        self.bus_free = clock + self.std.command(name).cycles
        self.trace.append((clock, name, rank, bank, row, column))
        if name in ("ACT", "PRE"):
            self.uses[rank, bank] = 0
        elif name in ("RD", "WR"):
            self.uses[rank, bank] += 1

    def serve(self, item, clock):
        """Issues what the request needs; True when it was its access."""
        name = self.needed(item)
        self.issue(name, *item.burst[:2], item.row, item.column, clock)
        if name not in ("RD", "WR"):
            return False
        p = self.std.params
        self.finish(item, clock + p["nBL"] + p["nCWL" if item.write else "nCL"], not item.write)
        return True

    def finish(self, item, clock, answered=True):
        self.finished[item.index] = clock
        if answered:
            self.returned[item.index] = clock

    # --- the host ---------------------------------------------------------------------------------

    def offer(self, clock, until):
        """Offers the next request; answers of clocks up to `until` have reached the host."""
        if self.next == len(self.items) or self.arrivals[self.next] > clock:
            return
        known = sum(at <= until for at in self.returned.values())
        if self.limit and self.next - known >= self.limit:
            return
        item = self.items[self.next]
        item.stamp = clock
        if self.take(item):
            self.accepted[item.index] = clock
            self.next += 1


class PlainShared(Plain):
    """One read and one write queue (or one for both, in order), refresh of all banks."""

    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        self.reads, self.writes, self.active, self.due = [], [], [], []
        self.writing = False

    def busy(self):
        return self.reads or self.active or (self.writes and self.policy.rest == "drained")

    def take(self, item):
        fifo = self.policy.order == "fifo"
        if not fifo and any(w.burst == item.burst for w in self.writes):
            reads = [end for i, end in self.finished.items() if not self.items[i].write]
            self.finish(item, item.stamp if item.write else max([item.stamp + 1, *reads]))
            return True
        queue = self.writes if item.write and not fifo else self.reads
        if len(queue) >= (
            self.policy.write_queue if queue is self.writes else self.policy.read_queue
        ):
            return False
        queue.append(item)
        return True

    def tick(self, clock):
        interval = self.std.params["nREFI"]
        if self.policy.refresh != "none" and clock % interval == 0:
            self.due += range(len(self.rules))
        if not self.schedule(self.active, clock) and not self.refresh(clock) and not self.due:
            self.queue(clock)
        self.offer(clock, clock)

    def refresh(self, clock):
        if not self.due:
            return False
        rank = self.due[0]
        closed = all(row is None for row in self.rules[rank].open_rows)
        name = "REF" if closed else "PREA"
        if not closed and any(item.rank == rank for item in self.active):
            return False
        if not self.legal(name, rank, 0, clock):
            return False
        self.issue(name, rank, 0, 0, 0, clock)
        if name == "REF":
            self.due.pop(0)
        return True

    def queue(self, clock):
        if self.policy.order == "fifo":
            if self.reads:
                head = self.reads[0]
                if self.legal(self.needed(head), *head.place, clock) and self.serve(head, clock):
                    self.reads.pop(0)
                    self.returned.setdefault(head.index, clock)
            return
        p = self.policy
        if not self.writing:
            many = len(self.writes) > p.write_high * p.write_queue or (
                len(self.writes) == p.write_queue
            )
            self.writing = many or not self.reads
        elif len(self.writes) < max(p.write_low * p.write_queue, 1) and self.reads:
            self.writing = False
        self.schedule(self.writes if self.writing else self.reads, clock)

    def may_close(self, item, queue):
        if any(other.place == item.place for other in self.active):
            return False
        hits = [o for o in queue if o.place == item.place and o.row == self.open_row(item)]
        if self.policy.close_row == "ready":
            return True
        if self.policy.close_row == "no_older_hit":
            return not any(o.stamp < item.stamp for o in hits)
        return not hits or self.uses[item.place] >= self.policy.row_cap

    def schedule(self, queue, clock):
        ready = [
            item
            for item in queue
            if (self.needed(item) != "PRE" or self.may_close(item, queue))
            and self.legal(self.needed(item), *item.place, clock)
        ]
        if not ready:
            return False
        item = min(ready, key=lambda i: i.stamp)
        name = self.needed(item)
        done = self.serve(item, clock)
        if name == "ACT":
            queue.remove(item)
            self.active.append(item)
        elif done:
            queue.remove(item)
            self.returned.setdefault(item.index, clock)
        return True


class PlainPerBank(Plain):
    """Transaction queues in front of one command queue per bank, staggered refresh."""

    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        self.reads, self.writes, self.due = [], [], []
        banks = self.std.banks
        self.queues = [[] for _ in range(len(self.rules) * banks)]
        self.turn, self.draining, self.next_rank = 0, 0, 0
        self.twins = {}

    def queue_of(self, item):
        return self.queues[item.rank * self.std.banks + item.bank]

    def busy(self):
        queued = [item for queue in self.queues for item in queue]
        if self.reads or any(not item.write for item in queued):
            return True
        return self.policy.rest == "drained" and (self.writes or queued)

    def take(self, item):
        p = self.policy
        queue = self.writes if item.write else self.reads
        if len(queue) >= (p.write_queue if item.write else p.read_queue):
            return False
        waiting = [o for o in self.queue_of(item) + self.writes if o.write]
        if any(o.burst == item.burst for o in waiting):
            self.finish(item, item.stamp + 1)
            return True
        if item.write:
            self.returned[item.index] = item.stamp + 1
        elif p.merge_reads:
            for other in self.queue_of(item) + self.reads:
                if not other.write and other.burst == item.burst:
                    self.twins.setdefault(other.index, []).append(item)
                    return True
        queue.append(item)
        return True

    def tick(self, clock):
        self.offer(clock, clock - 1)
        interval = self.std.params["nREFI"] // len(self.rules)
        if self.policy.refresh != "none" and clock % interval == 0:
            self.due.append(self.next_rank)
            self.next_rank = (self.next_rank + 1) % len(self.rules)
        if not self.refresh(clock):
            self.round(clock)
        self.transfer()

    def refresh(self, clock):
        if not self.due:
            return False
        rank = self.due[0]
        banks = [b for b, row in enumerate(self.rules[rank].open_rows) if row is not None]
        if not banks and self.legal("REF", rank, 0, clock):
            self.issue("REF", rank, 0, 0, 0, clock)
            self.due.pop(0)
            return True
        for bank in banks:
            if self.legal("PRE", rank, bank, clock):
                self.issue("PRE", rank, bank, 0, 0, clock)
                return True
        return False

    def round(self, clock):
        for _ in self.queues:
            self.turn = (self.turn + 1) % len(self.queues)
            if self.due and self.turn // self.std.banks == self.due[0]:
                continue
            queue = self.queues[self.turn]
            for place, item in enumerate(queue):
                name = self.needed(item)
                if not self.legal(name, *item.place, clock) or not self.allowed(name, place, queue):
                    continue
                if self.serve(item, clock):
                    queue.remove(item)
                    for twin in self.twins.pop(item.index, []):
                        self.finish(twin, self.finished[item.index])
                return

    def allowed(self, name, place, queue):
        item, before = queue[place], queue[:place]
        if name == "WR":
            return not any(not o.write and o.burst == item.burst for o in before)
        if name != "PRE":
            return True
        if before:
            return False
        hit = any(o.row == self.open_row(item) for o in queue)
        if self.policy.close_row == "ready" or not hit:
            return True
        return self.uses[item.place] >= self.policy.row_cap

    def transfer(self):
        p, queued = self.policy, any(self.queues)
        fresh = self.draining == 0
        if fresh:
            full = len(self.writes) >= p.write_queue
            some = len(self.writes) > p.write_low * p.write_queue and not queued
            rest = p.rest == "drained" and self.next == len(self.items) and not self.reads
            if full or some or rest:
                self.draining = len(self.writes)
        source = self.writes if self.draining else self.reads
        for item in source:
            if len(self.queue_of(item)) >= p.bank_queue:
                continue
            if item.write:
                blocks = [o for o in self.queue_of(item) + self.reads if not o.write]
                blocks = [o for o in blocks if o.burst == item.burst]
                if blocks:
                    self.draining = 0
                    if fresh and blocks[0] in self.reads:
                        self.move(self.reads)
                    return
                self.draining -= 1
            source.remove(item)
            self.queue_of(item).append(item)
            return

    def move(self, source):
        for item in source:
            if len(self.queue_of(item)) < self.policy.bank_queue:
                source.remove(item)
                self.queue_of(item).append(item)
                return


def plain(memory, requests, **options):
    """The plain counterpart of `Memory.run` for one channel, run to the end."""
    kind = PlainPerBank if memory.policy.queues == "per_bank" else PlainShared
    return kind(memory, requests, **options).run()
