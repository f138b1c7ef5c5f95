"""Chunked prefill: every pass has a token for all who decode, and prompt tokens up to the budget.

Ref: Sarathi-Serve (OSDI 2024).
"""

from __future__ import annotations

from bankside.mapping.serving.state import Pass, Prompt, State


class Chunked(State):
    """Decoding requests are never held up by a prompt."""

    def _compose(self, plan: Pass) -> None:
        self._decode(plan)
        budget = self._budget(plan)
        for prompt in self.prompts:
            budget -= self._chunk(plan, prompt, budget)
        while budget > 0 and (prompt := self._admit(plan)) is not None:
            self.prompts.append(prompt)
            budget -= self._chunk(plan, prompt, budget)
        for prompt in self._finished():
            self._finish_prompt(plan, prompt)

    def _budget(self, plan: Pass) -> int:
        """Prompt tokens of this pass at most."""
        return self.batching.token_budget - plan.decode_requests

    def _chunk(self, plan: Pass, prompt: Prompt, budget: int) -> int:
        tokens = min(budget, prompt.total - prompt.done)
        if tokens <= 0:
            return 0
        plan.add_prompt(tokens, prompt.done)
        prompt.done += tokens
        return tokens


STATE = Chunked
