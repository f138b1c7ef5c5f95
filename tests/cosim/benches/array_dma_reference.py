"""What LOAD and STORE must do, straight from docs/array.md section 4, and random commands.

A command is a dictionary of the fields of its layout; `wait` and `signal` are masks. Nothing here
comes from the RTL.
"""

from dataclasses import dataclass, field
from random import Random

from bankside.isa.array_machine import ArrayMachine


@dataclass
class Burst:
    """One burst: what it moves, which tokens it needs and gives, and when it happened."""

    command: int
    address: int
    beats: int
    bank: int
    word: int
    side: int
    take: int
    give: int
    first: bool
    last: bool
    accepted: int = -1
    beat_cycles: list[int] = field(default_factory=list)
    response: int = -1


def bursts_of(machine: ArrayMachine, commands: list[dict]) -> list[Burst]:
    """Bursts of all commands in order."""
    size = machine.bus_elements * 2
    block, bursts = min(4096, 256 * size), []
    for number, c in enumerate(commands):
        mine = []
        for i in range(c["outer"]):
            step = len(mine)
            word = c["buf"] + (c["ring_phase"] + i) % c["ring"] * c["buf_step"]
            for j in range(c["inner"]):
                address = c["mem"] + i * c["outer_bytes"] + j * c["inner_bytes"]
                bank, done = c["bank"] + i * c["bank_step"] + j, 0
                while done < c["beats"]:
                    at = address + done * size
                    beats = min(c["beats"] - done, (block - at % block) // size)
                    side = c.get("side", 1)
                    mine.append(
                        Burst(number, at, beats, bank, word + done, side, 0, 0, False, False)
                    )
                    done += beats
            if c.get("each"):
                mine[step].take, mine[-1].give = c["wait"], c["signal"]
        if not c.get("each"):
            mine[0].take, mine[-1].give = c["wait"], c["signal"]
        mine[0].first = mine[-1].last = True
        bursts += mine
    return bursts


class Tokens:
    """Tokens that others give: for each engine the cycles in which it does."""

    def __init__(self, given: list[list[int]]) -> None:
        self.given, self.taken = [sorted(cycles) for cycles in given], [0] * len(given)

    def earliest(self, mask: int) -> int:
        """First cycle in which a token of every engine of `mask` is there."""
        chosen = [e for e in range(len(self.given)) if mask >> e & 1]
        return max((self.given[e][self.taken[e]] + 1 for e in chosen), default=0)

    def take(self, mask: int) -> None:
        for e in range(len(self.given)):
            self.taken[e] += mask >> e & 1


def _free(machine: ArrayMachine, ends: list[int]) -> int:
    """First cycle in which fewer bursts than allowed are under way, given when each ended."""
    outstanding = machine.config.memory.outstanding
    return ends[-outstanding] + 1 if len(ends) >= outstanding else 0


def load_times(
    machine: ArrayMachine, bursts: list[Burst], arrivals: list[int], tokens: Tokens
) -> None:
    """Fill in the cycles of a load engine in front of the memory of section 4."""
    memory, now, ends = machine.config.memory, -1, []
    for burst in bursts:
        needed = tokens.earliest(burst.take)
        now = max(now + 1, arrivals[burst.command], needed, _free(machine, ends))
        tokens.take(burst.take)
        burst.accepted = now
        start = now + memory.read_latency_cycles
        if ends:
            start = max(start, ends[-1] + memory.beat_cycles)
        burst.beat_cycles = [start + k * memory.beat_cycles for k in range(burst.beats)]
        ends.append(burst.beat_cycles[-1])
        burst.response = ends[-1]


def store_times(
    machine: ArrayMachine, bursts: list[Burst], arrivals: list[int], tokens: Tokens
) -> None:
    """Fill in the cycles of a store engine in front of the memory of section 4."""
    memory, beat, ends = machine.config.memory, -(10**6), []
    for burst in bursts:
        needed = tokens.earliest(burst.take)
        now = max(beat + 1, arrivals[burst.command], needed, _free(machine, ends))
        tokens.take(burst.take)
        burst.accepted, burst.beat_cycles, free = now, [], now + 1
        for _ in range(burst.beats):
            beat = max(free, beat + memory.beat_cycles)
            burst.beat_cycles.append(beat)
            free = beat + 1
        burst.response = beat + memory.write_latency_cycles
        ends.append(burst.response)


def random_command(machine: ArrayMachine, random: Random, *, load: bool) -> dict:
    """A legal LOAD or STORE within memory, banks and words; some rows cross a block."""
    array, size = machine.config.array, machine.bus_elements * 2
    side = random.randrange(2) if load else 1
    banks, words = (
        (machine.columns, array.column_words) if side else (machine.rows, array.row_words)
    )
    outer, beats = random.randint(1, 4), random.choice((1, 2, 3, 5, random.randint(1, 24)))
    ring = random.randint(1, outer + 1)
    buf_step = random.randint(0, (words - beats) // ring)
    inner = random.randint(1, banks)
    bank_step = random.randint(0, (banks - inner) // outer)
    inner_bytes = size * (beats + random.choice((0, 0, 3)))
    outer_bytes = size * random.choice((0, beats, 5 * beats + 1))
    reach = outer * outer_bytes + inner * inner_bytes + beats * size
    command = {
        "wait": random.choice((0, 0, 2, 4, 6)),
        "signal": random.choice((0, 2, 4, 6)),
        # Near the border of a block in half of the cases.
        "mem": size * random.randint(0, 40) + random.choice((0, 4096 - 20 * size)),
        "outer": outer,
        "outer_bytes": outer_bytes,
        "inner": inner,
        "inner_bytes": inner_bytes,
        "beats": beats,
        "bank": random.randint(0, banks - inner - (outer - 1) * bank_step),
        "bank_step": bank_step,
        "buf": random.randint(0, words - beats - (ring - 1) * buf_step),
        "buf_step": buf_step,
        "ring": ring,
        "ring_phase": random.randrange(ring),
    }
    assert command["mem"] + reach <= machine.config.memory.bytes
    return command | ({"side": side, "each": random.randrange(2)} if load else {})


def with_start(command: dict) -> dict:
    """As the front end hands it on: with where outer step 0 stands in the ring."""
    return command | {"ring_start": command["ring_phase"] * command["buf_step"]}
