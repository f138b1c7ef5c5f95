"""What a server holds between forward passes; batching strategies compose the next pass from it.

A strategy is a subclass of `State` with `_compose`, in a file of its own, and a line in
`STRATEGIES`. Nothing here depends on how long a pass takes, but for which requests have arrived.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, Self

from pydantic import Field

from bankside.mapping.serving.pool import Blocks, Decoders
from bankside.mapping.serving.trace import Trace
from bankside.registry import Lazy, Registry
from bankside.schema import Section

if TYPE_CHECKING:
    from bankside.mapping.policy.common import AnyPolicy

Preemption = Literal["recompute", "swap", "none"]


class Batching(Section):
    """How passes are composed.

    Attributes:
        strategy: `continuous`, `chunked`, `adaptive`, `layered`, or `disaggregated`.
        token_budget: tokens of a pass at most (chunked), at least where there are prompts
            (adaptive), prompt tokens of one at most (others).
        tbt_s: seconds that prompts may stretch a pass to (adaptive).
        max_requests: requests that are under way at most.
        block_tokens: tokens of a block of key/value memory.
        preemption: a request that gives way is computed again (`recompute`) or moved to host memory
            and back (`swap`); `none`: requests start only when prompt and answer fit.
        groups: layer groups of the strategy `layered`.
        prefix_cache_tokens: keys and values of shared prefixes that are kept, 0: none.
    """

    strategy: str = "chunked"
    token_budget: int = Field(default=512, ge=1)
    tbt_s: float = Field(default=0.1, gt=0)
    max_requests: int = Field(default=256, ge=1)
    block_tokens: int = Field(default=16, ge=1, le=4096)
    preemption: Preemption = "recompute"
    groups: int = Field(default=4, ge=1, le=256)
    prefix_cache_tokens: int = Field(default=0, ge=0)


@dataclass
class Pass:
    """One forward pass.

    Attributes
    ----------
    prefill_tokens to decode_longest: as in `Batch`. fraction: share of the layers that the prompt
    passes through. out_tokens, back_tokens: keys and values that move to the host, and from it.
    pulled: requests that have arrived by its start. first: requests whose first (or next) token
    comes from a prompt. done: requests that are complete after it. gave_way: requests preempted at
    its start. back, back_later: requests that decode again from this pass, or the next one, on.
    waiting, used: queue and blocks after it was composed.
    """

    prefill_tokens: int = 0
    prefill_requests: int = 0
    prefill_pairs: int = 0
    prefill_context: int = 0
    decode_requests: int = 0
    decode_context: int = 0
    decode_longest: int = 0
    fraction: float = 1.0
    out_tokens: int = 0
    back_tokens: int = 0
    pulled: int = 0
    first: list[int] = field(default_factory=list)
    done: list[int] = field(default_factory=list)
    gave_way: list[int] = field(default_factory=list)
    back: list[int] = field(default_factory=list)
    back_later: list[int] = field(default_factory=list)
    waiting: int = 0
    used: int = 0

    @property
    def work(self) -> tuple[float, ...]:
        """All that its duration depends on."""
        return (
            self.prefill_tokens, self.prefill_requests, self.prefill_pairs, self.prefill_context,
            self.decode_requests, self.decode_context, self.decode_longest, self.fraction,
            self.out_tokens, self.back_tokens,
        )  # fmt: skip

    @property
    def moved_tokens(self) -> int:
        """In both directions."""
        return self.out_tokens + self.back_tokens

    def add_prompt(self, tokens: int, past: int) -> None:
        """Prompt tokens of one request after `past` done before."""
        self.prefill_tokens += tokens
        self.prefill_requests += 1
        self.prefill_pairs += tokens * past + tokens * (tokens + 1) // 2
        self.prefill_context += past + tokens


@dataclass
class Prompt:
    """A prompt under way: request, tokens done, all tokens."""

    request: int
    done: int
    total: int

    def copy(self) -> Prompt:
        return Prompt(self.request, self.done, self.total)


class State:
    """Requests waiting, with prompts under way, decoding."""

    def __init__(
        self, trace: Trace, batching: Batching, kv_tokens: int, policy: AnyPolicy | None = None
    ) -> None:
        """policy: what computes the passes, for strategies that ask it."""
        self.trace, self.batching = trace, batching
        self.blocks = Blocks(kv_tokens, batching.block_tokens)
        self.decoders = Decoders(batching.block_tokens)
        self.waiting: deque[int] = deque()
        self.prompts: list[Prompt] = []
        self.pulled = 0
        # Tokens that a request has got; of those that gave way and were swapped, their contexts.
        self.got: dict[int, int] = {}
        self.swapped: dict[int, int] = {}
        self.cached: dict[int, None] = {}
        self.rejected: list[int] = []
        # Blocks promised to those under way (`none`); what the pass that is composed sets free.
        self._reserved = self._leaving = self._given_back = 0

    def copy(self) -> Self:
        """A state that can go on by itself."""
        other = object.__new__(type(self))
        other.__dict__.update(self.__dict__)
        other.blocks, other.decoders = self.blocks.copy(), self.decoders.copy()
        other.waiting, other.prompts = self.waiting.copy(), [p.copy() for p in self.prompts]
        for name in ("got", "swapped", "cached"):
            setattr(other, name, dict(getattr(self, name)))
        other.rejected = list(self.rejected)
        return other

    # --- the next pass --------------------------------------------------------------------------
    def next(self, now: float) -> Pass | None:
        """Compose the pass that starts at `now`; None when there is nothing to do."""
        self._pull(now)
        plan = Pass()
        self._compose(plan)
        plan.pulled, plan.waiting, plan.used = self.pulled, len(self.waiting), self.blocks.used
        # What a pass reads stays until it is over.
        self.blocks.used -= self._leaving
        self._reserved -= self._given_back
        self._leaving = self._given_back = 0
        return plan if plan.prefill_tokens or plan.decode_requests or plan.moved_tokens else None

    def _compose(self, plan: Pass) -> None:
        raise NotImplementedError

    def _pull(self, now: float) -> None:
        arrival = self.trace.arrival_s
        while self.pulled < len(arrival) and arrival[self.pulled] <= now:
            request = self.pulled
            self.pulled += 1
            # What never fits is turned away at once; it would hold up all others for ever.
            if self.blocks.of(self._largest(request)) > self.blocks.total:
                self.rejected.append(request)
            else:
                self.waiting.append(request)

    def _largest(self, request: int) -> int:
        """Tokens in memory when the last one is computed."""
        return int(self.trace.inputs[request] + self.trace.outputs[request]) - 1

    # --- decoding -------------------------------------------------------------------------------
    def _decode(self, plan: Pass) -> None:
        """One token for everybody who decodes; whoever finds no block gives way."""
        decoders = self.decoders
        while decoders.count and decoders.growing() > self.blocks.free:
            self._give_way(plan)
        if not decoders.count:
            return
        self.blocks.used += decoders.growing()
        plan.decode_requests = decoders.count
        plan.decode_context = decoders.context + decoders.count
        plan.decode_longest = decoders.longest + 1
        for request in decoders.advance():
            self._leave(plan, request, decoders.tokens(request))
            decoders.remove(request)

    def _leave(self, plan: Pass, request: int, context: int) -> None:
        plan.done.append(request)
        self._leaving += self.blocks.of(context)
        self._given_back += self.blocks.of(self._largest(request))
        self.got.pop(request, None)

    def _give_way(self, plan: Pass) -> None:
        request = self.decoders.latest()
        context, left = self.decoders.tokens(request), self.decoders.left(request)
        self.got[request] = int(self.trace.outputs[request]) - left
        self.blocks.used -= self.blocks.of(context)
        self._reserved -= self.blocks.of(self._largest(request))
        self.decoders.remove(request)
        if self.batching.preemption == "swap":
            self.swapped[request] = context
            plan.out_tokens += context
        self.waiting.appendleft(request)
        plan.gave_way.append(request)

    # --- prompts --------------------------------------------------------------------------------
    @property
    def under_way(self) -> int:
        return self.decoders.count + len(self.prompts)

    def _admit(self, plan: Pass, room: int | None = None) -> Prompt | None:
        """The next waiting request, with memory for its prompt; None when there is no room, or its
        prompt is longer than `room`.

        One that was swapped out comes back without a prompt, and the one after it is looked at.
        """
        if plan.gave_way:
            return None
        while self.waiting and self.under_way < self.batching.max_requests:
            request = self.waiting[0]
            got, context = self.got.get(request, 0), self.swapped.get(request)
            total = int(self.trace.inputs[request]) + got if context is None else context
            if context is None and room is not None and total > room:
                return None
            if not self._fits(request, total, decodes=context is not None):
                return None
            self.waiting.popleft()
            self.blocks.used += self.blocks.of(total)
            self._reserved += self.blocks.of(self._largest(request))
            if context is None:
                return Prompt(request, self._shared(request), total)
            del self.swapped[request]
            plan.back_tokens += context
            self._come_back(plan, request, context, got)
        return None

    def _come_back(self, plan: Pass, request: int, context: int, got: int) -> None:
        self.decoders.add(request, context, int(self.trace.outputs[request]) - got)
        (plan.back_later if plan.decode_requests else plan.back).append(request)

    def _fits(self, request: int, total: int, *, decodes: bool) -> bool:
        """Whether there is memory for its `total` tokens; `decodes`: it needs no prompt first."""
        if self.batching.preemption == "none":
            return self._reserved + self.blocks.of(self._largest(request)) <= self.blocks.total
        # Those that decode should not have to give way in the very next pass.
        spare = self.decoders.count // self.batching.block_tokens + 1 if self.under_way else 0
        if decodes:
            # It may decode in this very pass: nobody must give way in it, so it counts exactly.
            grows = self.decoders.growing() + (total % self.batching.block_tokens == 0)
            spare = max(spare, grows)
        return self.blocks.of(total) + spare <= self.blocks.free

    def _shared(self, request: int) -> int:
        """Prompt tokens whose keys and values are kept from another request; at least one is left
        to compute.
        """
        limit, trace = self.batching.prefix_cache_tokens, self.trace
        if not limit or not trace.prefixes:
            return 0
        blocks, found = trace.prefixes[request], 0
        while found < len(blocks) and blocks[found] in self.cached:
            found += 1
        for block in blocks:
            self.cached.pop(block, None)
            self.cached[block] = None
        while len(self.cached) * trace.prefix_tokens > limit:
            self.cached.pop(next(iter(self.cached)))
        return min(found * trace.prefix_tokens, int(trace.inputs[request]) - 1)

    def _finish_prompt(self, plan: Pass, prompt: Prompt) -> None:
        """Its pass gives the next token; the request decodes on, or is complete."""
        request = prompt.request
        plan.first.append(request)
        left = int(self.trace.outputs[request]) - self.got.get(request, 0) - 1
        if left:
            self.decoders.add(request, prompt.total, left)
        else:
            self._leave(plan, request, prompt.total)

    def _finished(self) -> Iterator[Prompt]:
        """Those of `prompts` that are done, removed."""
        done = [p for p in self.prompts if p.done >= p.total]
        self.prompts = [p for p in self.prompts if p.done < p.total]
        yield from done


#: Name -> subclass of `State`; to add a strategy, a file and a line here.
STRATEGIES: Registry[type[State]] = Registry("batching strategy")
for _name in ("continuous", "chunked", "adaptive", "layered"):
    STRATEGIES.add(_name, Lazy(f"bankside.mapping.serving.{_name}:STATE"))
# Its first machine; `experiment` puts the second one behind it.
STRATEGIES.add("disaggregated", Lazy("bankside.mapping.serving.continuous:PromptsOnly"))
