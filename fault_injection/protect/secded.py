"""SEC-DED on memories: single errors of a granule are corrected, double ones detected.

Hsiao code: each data bit takes part in an odd number (3 or more) of check bits, no two in the same
ones. One wrong bit gives an odd syndrome, two an even one. Errors in three or more bits of a
granule may be taken for one.

Ref: M. Y. Hsiao, IBM Journal 14 (1970) 395, A class of optimal minimum odd-weight-column SEC-DED
codes.
"""

from __future__ import annotations

import functools
import itertools
from typing import Annotated

from pydantic import Field

from bankside.fault_injection.protect.coded import Code, add_check_memory
from bankside.fault_injection.protect.mechanism import Mechanism, Target
from bankside.fault_injection.protect.netlist import Bit
from bankside.schema import Section

__all__ = ["SECDED", "SecdedOptions", "check_bits", "columns"]


class SecdedOptions(Section):
    """bits: at most so many data bits share their check bits."""

    bits: Annotated[int, Field(ge=1, le=1024)] = 64


def check_bits(data_bits: int) -> int:
    """Check bits of a word: 8 bits take 5, 16 take 6, 32 take 7, 64 take 8."""
    count = 3
    while (1 << (count - 1)) - count < data_bits:
        count += 1
    return count


@functools.cache
def columns(data_bits: int) -> tuple[int, ...]:
    """Syndrome of a wrong data bit, for each; chosen so that rows are about equally long."""
    count = check_bits(data_bits)
    found: list[int] = []
    load = [0] * count
    for weight in range(3, count + 1, 2):
        free = list(itertools.combinations(range(count), weight))
        while free and len(found) < data_bits:
            best = min(free, key=lambda rows: (sum(load[r] for r in rows), rows))
            free.remove(best)
            found.append(sum(1 << r for r in best))
            for row in best:
                load[row] += 1
    return tuple(found)


@functools.cache
def _sets(data_bits: int) -> list[list[int]]:
    codes = columns(data_bits)
    return [
        [i for i, c in enumerate(codes) if c >> row & 1] for row in range(check_bits(data_bits))
    ]


def _check(target: Target, data: list[Bit], check: list[Bit]) -> list[Bit]:
    module = target.module
    syndrome = [
        module.odd([*(data[i] for i in chosen), bit])
        for chosen, bit in zip(_sets(len(data)), check, strict=True)
    ]
    flips = [_matches(target, syndrome, code) for code in columns(len(data))]
    wrong_check = [_matches(target, syndrome, 1 << row) for row in range(len(check))]
    corrected = module.any([*flips, *wrong_check])
    target.alarm("corrected", corrected)
    failed, right = [module.any(syndrome)], module.invert([corrected])
    target.alarm("detected", module.both(failed, right)[0])
    return flips


def _matches(target: Target, syndrome: list[Bit], code: int) -> Bit:
    constant: list[Bit] = [str(code >> row & 1) for row in range(len(syndrome))]
    return target.module.equal(syndrome, constant)


def apply(target: Target) -> None:
    """Add the check memory of one memory."""
    code = Code("check", _sets, _check, corrects=True)
    add_check_memory(target, code, target.options.bits)


SECDED = Mechanism(("memories",), apply, SecdedOptions, ("corrected", "detected"))
