"""Stall reasons of the `pim` engine: what a DRAM command or a constraint counts as.

Ref: docs/pim.md section 7.
"""

from __future__ import annotations

from bankside.isa.dram.table import DramStandard
from bankside.sim.timing.decode import BUFFER, HOST, RANK

STALLS = (
    "mac", "activate", "row", "refresh", "transfer", "command_bus",
    "wait_rank", "wait_buffer", "wait_host", "control",
)  # fmt: skip
MAC, ACTIVATE, ROW, REFRESH, TRANSFER, COMMAND_BUS = range(6)
WAIT_RANK, WAIT_BUFFER, WAIT_HOST, CONTROL = range(6, 10)
#: Engines that the array may wait for, in the order of the tests.
WAITS = ((RANK, WAIT_RANK), (BUFFER, WAIT_BUFFER), (HOST, WAIT_HOST))
_TAG_STALL = {
    "cmd": COMMAND_BUS, "ccd": TRANSFER, "turn": TRANSFER, "wr": ROW, "rtp": ROW, "ras": ROW,
    "rp": ROW, "rcd": ROW, "rrd": ACTIVATE, "faw": ACTIVATE, "rfc": REFRESH,
}  # fmt: skip
_ISSUE_STALL = {
    "MAC": MAC, "ACT": ACTIVATE, "ACT4": ACTIVATE, "ACTA": ACTIVATE,
    "PRE": ROW, "PREA": ROW, "REF": REFRESH,
}  # fmt: skip


def issue_reasons(std: DramStandard) -> list[int]:
    """By command code: the reason of the cycle in which the array issues it."""
    return [_ISSUE_STALL.get(c.name, TRANSFER) for c in std.commands]


def wait_reasons(std: DramStandard) -> list[list[int]]:
    """By command code and stall tag: the reason of a cycle in which the array's candidate waits."""
    reasons = []
    for command in std.commands:
        row = [_TAG_STALL[tag] for tag in std.stall_tags]
        if command.name == "MAC":
            row[std.stall_tags.index("ccd")] = MAC
        # A refresh that is the candidate counts as refresh, whatever holds it back.
        reasons.append([REFRESH] * len(row) if command.name == "REF" else row)
    return reasons
