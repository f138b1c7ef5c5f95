"""What injections into a block gave, and what that is in FIT.

Ref: docs/faults.md (classes); ISO 26262-5 annex B (safe, single-point, residual, multi-point
faults), read in secondary sources. FIT: failures per 1e9 hours.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from bankside.errors import ConfigError
from bankside.fault_injection.classes import CLASSES, FAILURES
from bankside.fault_injection.rates import Mode, RawRate, RawRates
from bankside.fault_injection.statistics import check_level, looks_level, split_level
from bankside.fault_injection.strata import Bound, Strata
from bankside.registry import nearest
from bankside.schema import Section

__all__ = ["BUCKETS", "SILENT", "BlockFit", "BlockResult", "Reading", "StratumResult",
           "level_of_each"]  # fmt: skip

#: What a fault is to the standard. Ref: ISO 26262-5 annex B.
BUCKETS = ("safe", "single_point", "residual", "detected", "perceived", "latent")
#: Mechanisms that lower a rate but notice nothing: what is left is a single-point fault.
SILENT = ("none", "hardened")


class Reading(Section):
    """How outcome classes are read where the standard leaves it to the system around.

    Attributes:
        latent: state differs at the end of the run, output right: `latent` counts against LFM,
            `safe` needs the argument that nobody reads that state again.
        timing_only: right output at another time: `dangerous` where a deadline hangs on it.
        hang: no output and no alarm: `perceived` only with a watchdog outside.
    """

    latent: Literal["latent", "safe"] = "latent"
    timing_only: Literal["safe", "dangerous"] = "safe"
    hang: Literal["dangerous", "perceived"] = "dangerous"

    def bucket(self, outcome: str, mechanism: str) -> str:
        """One of `BUCKETS` for an outcome class in a block with a mechanism."""
        dangerous = "single_point" if mechanism in SILENT else "residual"
        choice = {
            "masked": "safe",
            "latent": self.latent,
            "SDC": "dangerous",
            "detected-corrected": "detected",
            "detected-uncorrected": "detected",
            "hang": self.hang,
            "timing-only": self.timing_only,
        }[outcome]
        return dangerous if choice == "dangerous" else choice


@dataclass(frozen=True)
class StratumResult:
    """Outcomes of the injections into one stratum of a block.

    possible: number of possible faults. counts: by class of `CLASSES`. exhaustive: all were tried.
    """

    possible: float
    counts: Mapping[str, int]
    exhaustive: bool = False


@dataclass(frozen=True)
class BlockResult:
    """Outcomes of one block: sites of one kind, one mode of faults, one mechanism.

    Attributes:
        block: instance path.
        kind: of site, docs/faults.md.
        bits: that can be hit.
        strata: at least one.
        mechanism: that protects it; "none".
        mode: of the faults that were injected.
        duty: share of the time in which the block does what was simulated, 0..1.
        rate_factor: of hardened cells, given by the user, 0..1.
        area: gate equivalents, if known.
    """

    block: str
    kind: str
    bits: int
    strata: tuple[StratumResult, ...]
    mechanism: str = "none"
    mode: Mode = "transient"
    duty: float = 1.0
    rate_factor: float = 1.0
    area: float | None = None

    def __post_init__(self) -> None:
        if self.bits < 1 or not self.strata:
            raise ConfigError(
                f"{self.block}: {self.bits} bits, {len(self.strata)} strata: expected at least one "
                "of each; leave empty blocks out"
            )
        for name in ("duty", "rate_factor"):
            if not 0 < getattr(self, name) <= 1:
                raise ConfigError(
                    f"{self.block}: {name} {getattr(self, name)!r}: expected above 0, at most 1"
                )
        for outcome in {name for stratum in self.strata for name in stratum.counts}:
            if outcome not in CLASSES:
                raise ConfigError(
                    f"{self.block}: unknown class {outcome!r}"
                    f"{nearest(outcome, map(str, CLASSES))}; classes: {', '.join(CLASSES)}"
                )

    @cached_property
    def counts(self) -> dict[str, int]:
        """Injections by class, all strata together."""
        return {c: sum(s.counts.get(c, 0) for s in self.strata) for c in CLASSES}

    @property
    def injections(self) -> int:
        """Of all strata."""
        return sum(self.counts.values())

    @property
    def sampled(self) -> int:
        """Strata that were not tried exhaustively."""
        return sum(not s.exhaustive for s in self.strata)

    def share(self, classes: Sequence[str], level_each: float) -> Bound:
        """Share of all possible faults that end in `classes`; strata bounded by `level_each`."""
        hits = [sum(s.counts.get(c, 0) for c in classes) for s in self.strata]
        strata = Strata.of(
            [s.possible for s in self.strata],
            hits,
            [sum(s.counts.values()) for s in self.strata],
            [s.exhaustive for s in self.strata],
        )
        return strata.bound(level_each)


# --- FIT --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class BlockFit:
    """FIT of a block by bucket.

    Attributes:
        result: what it is from.
        rate: raw, of the user.
        total: raw rate x bits x duty x rate factor, in FIT.
        shares: of `total` by bucket. The bounds of dangerous and latent faults hold for all blocks
            together (see `level_of_each`), those of the others each alone.
        dangerous: share of single-point and residual faults.
        avf: share of faults that end in SDC or hang.
    """

    result: BlockResult
    rate: RawRate
    total: Bound
    shares: dict[str, Bound]
    dangerous: Bound
    avf: Bound

    @classmethod
    def of(
        cls, result: BlockResult, rates: RawRates, reading: Reading, level_each: float
    ) -> BlockFit:
        """Propagate counts and the raw rate of a block; bounds of `level_each` per stratum."""
        rate = rates.of(result.mode, result.kind, result.block)
        by_bucket: dict[str, list[str]] = {bucket: [] for bucket in BUCKETS}
        for outcome in CLASSES:
            by_bucket[reading.bucket(outcome, result.mechanism)].append(outcome)
        shares = {b: result.share(classes, level_each) for b, classes in by_bucket.items()}
        bad = by_bucket["single_point"] + by_bucket["residual"]
        return cls(
            result,
            rate,
            rate.per_bit * (result.bits * result.duty * result.rate_factor),
            shares,
            result.share(bad, level_each),
            result.share(FAILURES, level_each),
        )

    def fit(self, bucket: str) -> Bound:
        """FIT of a bucket: raw interval times interval of the share."""
        share = self.shares[bucket]
        return Bound(
            self.total.estimate * share.estimate,
            self.total.low * share.low,
            self.total.high * share.high,
        )

    @property
    def coverage(self) -> float | None:
        """Measured diagnostic coverage: detected of detected and dangerous; None without either."""
        found = self.shares["detected"].estimate + self.shares["perceived"].estimate
        both = found + self.dangerous.estimate
        return found / both if both else None


def level_of_each(results: Sequence[BlockResult], level: float, looks: int = 1) -> float:
    """Level of each one-sided bound so that all of them hold together with `level`.

    Sidak over the sampled strata (independent samples), Bonferroni over the planned looks and over
    both shares of a stratum that the metrics use (dangerous, latent: the same sample).
    """
    check_level(level)
    strata = max(1, sum(result.sampled for result in results))
    return split_level(split_level(looks_level(level, looks), strata, "sidak"), 2, "bonferroni")
