"""The chunked, adaptive, continuous and layered strategies once more, request by request and pass
by pass, without heaps, sums or looking ahead; and policies with known prices.
"""

import math
from dataclasses import dataclass, field

import numpy as np

from bankside.mapping.workload.batch import Batch


@dataclass
class Cost:
    seconds: object
    energy_j: object = None


class Linear:
    """A pass takes a fixed time and so much per token, pair and key."""

    def __init__(self, fixed=0.01, token=1e-4, pair=1e-8, key=1e-7, longest=3e-7, energy=2.0):
        self.parts = fixed, token, pair, key, longest
        self.energy, self.calls, self.points = energy, 0, 0

    def step(self, batch: Batch) -> Cost:
        self.calls += 1
        self.points += int(np.prod(batch.shape))
        fixed, token, pair, key, longest = self.parts
        seconds = (
            fixed
            + token * (batch.prefill_tokens + batch.decode_requests)
            + pair * batch.prefill_pairs
            + key * (batch.decode_context + batch.prefill_context)
            + longest * batch.decode_longest
        )
        return Cost(seconds, self.energy * seconds if self.energy else None)

    def sides(self, batch: Batch):
        return None


class Overlapped(Linear):
    """Keys of those who decode are read beside everything else."""

    def __init__(self, beside=1e-5, **parts):
        super().__init__(**parts)
        self.beside = beside

    def step(self, batch: Batch) -> Cost:
        seconds = np.maximum(*self.sides(batch))
        return Cost(seconds, self.energy * seconds if self.energy else None)

    def sides(self, batch: Batch):
        return super().step(batch).seconds, self.beside * batch.decode_context


@dataclass
class One:
    number: int
    arrival: float
    prompt: int
    answer: int
    got: int = 0
    done_prompt: int = 0
    context: int = 0
    times: list = field(default_factory=list)

    @property
    def total(self) -> int:
        return self.prompt + self.got


def around(number, steps):
    """The size at or above a number, and the one before it."""
    if number == 0:
        return 0, 0
    power, before = 0, 0
    while math.ceil(2 ** (power / steps)) < number:
        before = math.ceil(2 ** (power / steps))
        power += 1
    return math.ceil(2 ** (power / steps)), before


def most(fits):
    """The largest power of two that fits, and as many 32nds of it more."""
    low = max((2**power for power in range(16) if fits(2**power)), default=0)
    step, chunk = max(low // 32, 1), low
    while low and chunk + step < min(2 * low, 2**15) and fits(chunk + step):
        chunk += step
    return chunk


class Plain:
    """Any strategy but `disaggregated`; who gives way is computed again."""

    def __init__(self, trace, batching, kv_tokens, policy):
        self.b, self.policy = batching, policy
        self.size, self.total = batching.block_tokens, kv_tokens // batching.block_tokens
        rows = zip(trace.arrival_s, trace.inputs, trace.outputs, strict=True)
        self.all = [One(i, float(a), int(p), int(o)) for i, (a, p, o) in enumerate(rows)]
        self.later = list(self.all)
        self.waiting, self.prompts, self.decoding, self.rejected = [], [], [], []
        self.now, self.phase, self.preemptions, self.peak = 0.0, 0, 0, 0
        self.known = {}

    def blocks(self, tokens):
        return -(-tokens // self.size)

    def used(self):
        held = [o.total for o in self.prompts] + [o.context for o in self.decoding]
        return sum(map(self.blocks, held)) + sum(map(self.blocks, self.leaving))

    def run(self):
        while self.later or self.waiting or self.prompts or self.decoding:
            self.leaving = []
            while self.later and self.later[0].arrival <= self.now:
                one = self.later.pop(0)
                fits = self.blocks(one.prompt + one.answer - 1) <= self.total
                (self.waiting if fits else self.rejected).append(one)
            work = getattr(self, self.b.strategy)()
            if work is None:
                self.now = max(self.now, self.later[0].arrival) if self.later else self.now
                continue
            self.peak = max(self.peak, self.used())
            prefills, decodes, fraction, tokens = work
            whole = float(self.policy.step(Batch.of(prefills, decodes)).seconds)
            if fraction < 1:
                alone = float(self.policy.step(Batch.of((), decodes)).seconds)
                whole = alone + (whole - alone) * fraction
            self.now += whole
            for one in tokens:
                one.times.append(self.now)
        return self

    # --- parts ----------------------------------------------------------------------------------
    def decode(self):
        """(contexts, who gets a token, whether somebody gave way)"""
        gave_way = False
        while self.decoding:
            need = sum(o.context % self.size == 0 for o in self.decoding)
            if need <= self.total - self.used():
                break
            one = max(self.decoding, key=lambda o: o.number)
            self.decoding.remove(one)
            one.context = one.done_prompt = 0
            self.waiting.insert(0, one)
            self.preemptions += 1
            gave_way = True
        for one in self.decoding:
            one.context, one.got = one.context + 1, one.got + 1
        contexts, got = [o.context for o in self.decoding], list(self.decoding)
        for one in got:
            if one.got == one.answer:
                self.decoding.remove(one)
                self.leaving.append(one.context)
        return contexts, got, gave_way

    def admit(self, room=None):
        if not self.waiting or len(self.prompts) + len(self.decoding) >= self.b.max_requests:
            return None
        one = self.waiting[0]
        under_way = self.prompts or self.decoding
        spare = len(self.decoding) // self.size + 1 if under_way else 0
        if room is not None and one.total > room:
            return None
        if self.blocks(one.total) + spare > self.total - self.used():
            return None
        self.prompts.append(self.waiting.pop(0))
        return one

    def finish(self, one):
        self.prompts.remove(one)
        total, one.got = one.total, one.got + 1
        if one.got == one.answer:
            self.leaving.append(total)
        else:
            one.context = total
            self.decoding.append(one)

    # --- strategies -----------------------------------------------------------------------------
    def chunked(self):
        return self.chunks(lambda contexts: self.b.token_budget - len(contexts))

    def adaptive(self):
        return self.chunks(self.room)

    def room(self, contexts):
        """Sizes are the whole numbers above powers of 2: to quarters (requests), eighths
        (contexts), halves (the longest, tokens behind).
        """
        if not self.prompts and not self.waiting:
            return 0
        behind = self.prompts[0].done_prompt if self.prompts else 0
        numbers = len(contexts), sum(contexts), max(contexts, default=0)
        above, below = zip(*map(around, numbers, (4, 8, 2)), strict=True)
        behind = around(behind, 2)[0]
        least = max(self.b.token_budget - len(contexts), self.b.block_tokens)
        key = above, below, behind
        if key not in self.known:
            self.known[key] = most(lambda chunk: self.step(above, chunk, behind) <= self.b.tbt_s)
            if (sides := self.policy.sides(self.batch(below, 0, behind))) is not None:
                hidden = most(lambda chunk: self.gpus(above, chunk, behind) <= sides[1])
                self.known[key] = max(self.known[key], hidden)
        return max(least, self.known[key])

    def batch(self, work, chunk, behind):
        return Batch(0, 0, 0, 0, *work) + Batch.prefill(1, chunk, behind)

    def step(self, work, chunk, behind):
        return float(self.policy.step(self.batch(work, chunk, behind)).seconds)

    def gpus(self, work, chunk, behind):
        return self.policy.sides(self.batch(work, chunk, behind))[0]

    def chunks(self, room):
        contexts, got, gave_way = self.decode()
        budget, prefills = room(contexts), []
        at = 0
        while budget > 0:
            if at == len(self.prompts) and (gave_way or self.admit() is None):
                break
            one = self.prompts[at]
            take = min(budget, one.total - one.done_prompt)
            prefills.append((take, one.done_prompt))
            one.done_prompt, budget, at = one.done_prompt + take, budget - take, at + 1
        done = [o for o in self.prompts if o.done_prompt == o.total]
        for one in done:
            self.finish(one)
        return (prefills, contexts, 1, got + done) if prefills or contexts else None

    def continuous(self):
        done, prefills, room = [], [], None
        while (one := self.admit(room)) is not None:
            prefills.append((one.total, 0))
            room = self.b.token_budget - sum(t for t, _ in prefills)
            self.finish(one)
            done.append(one)
        if prefills:
            return prefills, [], 1, done
        contexts, got, _ = self.decode()
        return ([], contexts, 1, got) if contexts else None

    def layered(self):
        contexts, got, gave_way = self.decode()
        if not self.prompts and not gave_way:
            room, tokens = None, 0
            while (one := self.admit(room)) is not None:
                tokens += one.total
                room = self.b.token_budget - tokens
        if not self.prompts:
            return ([], contexts, 1, got) if contexts else None
        prefills, done = [(o.total, 0) for o in self.prompts], []
        self.phase += 1
        if self.phase == self.b.groups:
            self.phase, done = 0, list(self.prompts)
            for one in done:
                self.finish(one)
        return prefills, contexts, 1 / self.b.groups, got + done
