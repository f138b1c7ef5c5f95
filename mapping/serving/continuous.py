"""Continuous batching: whole prompts as soon as there is room for them, else a token for everybody.

Ref: Orca (OSDI 2022); prompts first as in vLLM (SOSP 2023).
"""

from __future__ import annotations

from bankside.mapping.serving.state import Pass, State


class Continuous(State):
    """Prompts first; they hold up those who decode."""

    def _compose(self, plan: Pass) -> None:
        self._prompts(plan)
        if not plan.prefill_tokens:
            self._decode(plan)

    def _prompts(self, plan: Pass) -> None:
        room: int | None = None
        while (prompt := self._admit(plan, room)) is not None:
            plan.add_prompt(prompt.total - prompt.done, prompt.done)
            self._finish_prompt(plan, prompt)
            room = self.batching.token_budget - plan.prefill_tokens


class PromptsOnly(Continuous):
    """First machine of `disaggregated`: a request leaves with its first token."""

    def _compose(self, plan: Pass) -> None:
        self._prompts(plan)

    def _finish_prompt(self, plan: Pass, prompt) -> None:
        plan.first.append(prompt.request)
        self._leave(plan, prompt.request, prompt.total)


class DecodeOnly(State):
    """Second machine: requests arrive with their keys and values. Who gives way is swapped."""

    def _compose(self, plan: Pass) -> None:
        self._take(plan)
        self._decode(plan)

    def _take(self, plan: Pass) -> None:
        while self.waiting and self.under_way < self.batching.max_requests:
            request = self.waiting[0]
            got = self.got.get(request, 1)
            context = self.swapped.get(request, int(self.trace.inputs[request]))
            if not self._fits(request, context, decodes=True):
                return
            self.waiting.popleft()
            self.blocks.used += self.blocks.of(context)
            self._reserved += self.blocks.of(self._largest(request))
            if self.swapped.pop(request, None) is not None:
                plan.back_tokens += context
            self._come_back(plan, request, context, got)


STATE = Continuous
