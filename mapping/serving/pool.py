"""Key/value memory in blocks, and the requests that decode.

All decoding requests advance together, so their contexts are kept as (context - steps so far),
which does not change: sums, the longest and new blocks cost nothing per request and step.
"""

from __future__ import annotations

import heapq

from bankside.errors import ConfigError


class Blocks:
    """Blocks of `size` tokens each, `total` of them."""

    def __init__(self, kv_tokens: int, size: int) -> None:
        self.size, self.total = size, kv_tokens // size
        self.used = 0

    def of(self, tokens: int) -> int:
        """Blocks that hold so many tokens."""
        return -(-tokens // self.size)

    @property
    def free(self) -> int:
        return self.total - self.used

    def copy(self) -> Blocks:
        other = Blocks.__new__(Blocks)
        other.size, other.total, other.used = self.size, self.total, self.used
        return other


class Decoders:
    """Requests that get a token in every decode step.

    Attributes
    ----------
    step: decode steps so far. count: requests. context: sum of their contexts, tokens in memory.
    """

    def __init__(self, block: int) -> None:
        self.block = block
        self.step = self.count = self._sum = 0
        # request -> (context at its start - steps then, step after which it has its last token)
        self._of: dict[int, tuple[int, int]] = {}
        self._ends: list[tuple[int, int]] = []
        self._longest: list[tuple[int, int]] = []
        self._latest: list[int] = []
        self._residues = [0] * block

    def copy(self) -> Decoders:
        other = Decoders.__new__(Decoders)
        other.__dict__.update(self.__dict__)
        other._of = dict(self._of)
        for name in ("_ends", "_longest", "_latest", "_residues"):
            setattr(other, name, list(getattr(self, name)))
        return other

    def __contains__(self, request: int) -> bool:
        return request in self._of

    @property
    def context(self) -> int:
        return self._sum + self.count * self.step

    @property
    def longest(self) -> int:
        """Longest context, 0 without requests."""
        while self._longest:
            negative, request = self._longest[0]
            if self._of.get(request, (None,))[0] == -negative:
                return self.step - negative
            heapq.heappop(self._longest)
        return 0

    def tokens(self, request: int) -> int:
        """Context of a request."""
        return self._of[request][0] + self.step

    def left(self, request: int) -> int:
        """Tokens that it still gets."""
        return self._of[request][1] - self.step

    def add(self, request: int, context: int, steps: int) -> None:
        """A request with `context` tokens in memory that gets `steps` tokens, at least one."""
        if steps < 1:
            raise ConfigError(f"request {request} has no token left to decode; report this")
        base, end = context - self.step, self.step + steps
        self._of[request] = base, end
        self.count, self._sum = self.count + 1, self._sum + base
        self._residues[base % self.block] += 1
        heapq.heappush(self._ends, (end, request))
        heapq.heappush(self._longest, (-base, request))
        # Numbers follow arrival: the latest one gives way first.
        heapq.heappush(self._latest, -request)

    def remove(self, request: int) -> None:
        base, _ = self._of.pop(request)
        self.count, self._sum = self.count - 1, self._sum - base
        self._residues[base % self.block] -= 1

    def growing(self) -> int:
        """Requests whose next token needs a new block."""
        return self._residues[-self.step % self.block]

    def latest(self) -> int:
        """The request that came last."""
        while -self._latest[0] not in self._of:
            heapq.heappop(self._latest)
        return -self._latest[0]

    def advance(self) -> list[int]:
        """One token each; returns those that are done, which are to be removed."""
        self.step += 1
        # One that left and came back may stand there twice with the same end.
        done: dict[int, None] = {}
        while self._ends and self._ends[0][0] <= self.step:
            end, request = heapq.heappop(self._ends)
            if self._of.get(request, (0, -1))[1] == end:
                done[request] = None
        return list(done)
