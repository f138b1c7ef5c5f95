"""Layered prefill: a prompt passes through a group of layers per pass, beside all who decode.

Each weight of an expert is then read once for the whole prompt, not once for every chunk of it.
Ref: layered prefill (arXiv 2510.08055).
"""

from __future__ import annotations

from bankside.mapping.serving.state import Pass, State


class Layered(State):
    """Prompts of one set finish together, after as many passes as there are groups."""

    phase = 0

    def _compose(self, plan: Pass) -> None:
        self._decode(plan)
        if not self.prompts:
            self._start(plan)
        if not self.prompts:
            return
        for prompt in self.prompts:
            plan.add_prompt(prompt.total - prompt.done, prompt.done)
        plan.fraction = 1 / self.batching.groups
        self.phase += 1
        if self.phase < self.batching.groups:
            return
        self.phase = 0
        finished, self.prompts = self.prompts, []
        for prompt in finished:
            self._finish_prompt(plan, prompt)

    def _start(self, plan: Pass) -> None:
        room: int | None = None
        tokens = 0
        while (prompt := self._admit(plan, room)) is not None:
            self.prompts.append(prompt)
            tokens += prompt.total - prompt.done
            room = self.batching.token_budget - tokens


STATE = Layered
