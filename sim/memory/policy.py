"""What a controller decides, as named options, and the sets of options that have a name.

Published simulators disagree on many of these; `dramsim3` and `ramulator2` are the choices of those
two, so that their results can be compared with ours. Ref: docs/memory_controller.md.
"""

from __future__ import annotations

import math
from typing import Literal, Self

from pydantic import Field, model_validator

from bankside.registry import Registry
from bankside.schema import Section, key_problem, validate
from bankside.strict_yaml import parse_yaml

__all__ = ["POLICIES", "Policy"]


class Policy(Section):
    """The decisions of one controller.

    Attributes:
        order: `fr_fcfs` serves the oldest request whose next command is legal, `fifo` strictly the
            oldest request (reads and writes in one queue of `read_queue` entries).
        queues: `shared` over all banks, or `per_bank`: transaction queues that feed one command
            queue per bank, served round robin.
        read_queue, write_queue, bank_queue: entries (`bank_queue` with `per_bank` only).
        close_row: when a request may close the row that another one could still use. `ready`:
            whenever the precharge is legal; `no_older_hit`: unless an older request hits the row
            (`shared` only); `row_cap`: unless a request hits it, or after `row_cap` accesses.
        row_cap: accesses to a row after which a conflict may close it.
        write_high, write_low: fractions of the write queue; with `shared` queues, writes are served
            above the high one (or when no read waits) until below the low one; with `per_bank`,
            writes are served when the queue is full, or above the low one when no command waits.
        merge_reads: reads of a burst that is being read already wait for that read (`per_bank`).
        refresh: `all_bank` closes a rank with one command and lets nothing else start meanwhile;
            `staggered` spreads the ranks over the interval, closes bank by bank, and serves the
            other ranks; `none` never refreshes.
        rank_switch: distance between bursts of different ranks: `bus` leaves `switch_cycles` idle
            cycles on the data bus in every case; `dramsim3` and `ramulator2` are their tables.
        switch_cycles: idle cycles of the data bus between two ranks.
        rest: what happens to writes that wait when the last read is done: `drained` or `left`.
        rd_to_wr: turnaround from read to write; cycles that are added to nCL + nBL - nCWL.
    """

    order: Literal["fr_fcfs", "fifo"] = "fr_fcfs"
    queues: Literal["shared", "per_bank"] = "shared"
    read_queue: int = Field(default=32, ge=1, le=4096)
    write_queue: int = Field(default=32, ge=1, le=4096)
    bank_queue: int = Field(default=8, ge=1, le=4096)
    close_row: Literal["ready", "no_older_hit", "row_cap"] = "no_older_hit"
    row_cap: int = Field(default=4, ge=1)
    write_high: float = Field(default=0.8, gt=0, le=1)
    write_low: float = Field(default=0.2, ge=0, lt=1)
    merge_reads: bool = False
    refresh: Literal["all_bank", "staggered", "none"] = "all_bank"
    rank_switch: Literal["bus", "dramsim3", "ramulator2"] = "bus"
    switch_cycles: int = Field(default=2, ge=0, le=16)
    rest: Literal["drained", "left"] = "drained"
    rd_to_wr: Literal[1, 2] = 2

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.write_low >= self.write_high:
            raise key_problem(
                "write_low", f"is {self.write_low}; expected less than write_high {self.write_high}"
            )
        per_bank = self.queues == "per_bank"
        if per_bank and (self.order == "fifo" or self.close_row == "no_older_hit"):
            raise key_problem(
                "queues", "is per_bank, which knows order fr_fcfs and close_row ready or row_cap; "
                "change these or use shared queues"
            )  # fmt: skip
        if per_bank != (self.refresh == "staggered") and self.refresh != "none":
            raise key_problem(
                "refresh", f"is {self.refresh}; expected all_bank or none with shared queues, "
                "staggered or none with per_bank"
            )  # fmt: skip
        if self.merge_reads and not per_bank:
            raise key_problem("merge_reads", "is true; expected false with shared queues")
        return self

    @property
    def high_count(self) -> int:
        """Waiting writes from which on they are served."""
        return min(math.floor(self.write_high * self.write_queue) + 1, self.write_queue)

    @property
    def low_count(self) -> int:
        """Waiting writes down to which they are served (`per_bank`: above which they may be)."""
        if self.queues == "per_bank":
            return math.floor(self.write_low * self.write_queue)
        return max(math.ceil(self.write_low * self.write_queue) - 1, 0)

    @classmethod
    def of(cls, name: str, changes: dict[str, object] | None = None) -> Policy:
        """The policy called `name` with some options changed; text is read as YAML reads it.

        Raises
        ------
        ConfigError: an unknown name or option, or options that contradict each other.
        """
        base = POLICIES.get(name).model_dump()
        lines = [f"{key}: {_written(value)}" for key, value in (changes or {}).items()]
        data, locations = parse_yaml("\n".join(lines) or "{}", f"policy {name}")
        return validate(cls, base | (data or {}), locations)


def _written(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


POLICIES: Registry[Policy] = Registry("memory policy")
POLICIES.add("fr_fcfs", Policy())
POLICIES.add("fifo", Policy(order="fifo"))
POLICIES.add("ramulator2", Policy(close_row="ready", rank_switch="ramulator2", rest="left"))
POLICIES.add("ramulator2_row_hit", Policy(rank_switch="ramulator2", rest="left"))
POLICIES.add(
    "dramsim3",
    Policy(
        queues="per_bank", close_row="row_cap", write_high=1.0, write_low=0.25, merge_reads=True,
        refresh="staggered", rank_switch="dramsim3", switch_cycles=1, rest="left", rd_to_wr=1,
    ),
)  # fmt: skip
