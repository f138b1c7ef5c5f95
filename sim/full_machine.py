"""The attention kernel of one rank, by the timing model, scaled to the machine of the L3 paper.

Assumptions (all of them are shown with the results):

* 64 ranks of DDR4-3200 in 4 ranksets; layer l of a request lies on rankset l mod 4, its KV heads
  are dealt to the rankset's 16 ranks in groups of C/N_hc heads. Every rank is busy: enough
  requests are in flight. How evenly one layer's groups divide over 16 ranks is given as `balance`.
* What a rank does for one group of heads is one program: append the newest key and value, then
  attend. Programs follow each other without overlap, for as long as several refresh intervals.
* A rank has 65,536 rows per bank (8 Gb chips), whose timing also decides the refresh.

Ref: arXiv 2504.17584; ISCA 2026, sections V to VII and table II (shapes, N_hc, peak bandwidth).
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np

from bankside.config import HardwareConfig
from bankside.errors import ConfigError
from bankside.isa.machine import Machine
from bankside.isa.program import Builder, Program
from bankside.mapping.lower_pim import KvLayout, PimKernels, Shape
from bankside.registry import Registry
from bankside.sim.timing.pim import PimTiming

RANKS, RANKSETS = 64, 4
ROWS = 65536
PRESET = "dimm_pim_ddr4"
#: The paper's figure for all bank units of the machine; ours is computed and must come out equal.
PAPER_PEAK_TBPS = 13.1
#: Kernels are repeated until at least this many refresh intervals have passed.
INTERVALS = 16


@dataclass(frozen=True)
class ModelShape:
    """Attention of a published model; nhc: chips per head that the paper uses for it."""

    title: str
    layers: int
    query_heads: int
    kv_heads: int
    head_dim: int
    nhc: int

    @property
    def group(self) -> int:
        """Query heads per KV head."""
        return self.query_heads // self.kv_heads

    @property
    def kind(self) -> str:
        return "MHA" if self.group == 1 else f"GQA-{self.group}"


MODELS: Registry[ModelShape] = Registry("model shape")
MODELS.add("opt_66b", ModelShape("OPT-66B", 64, 72, 72, 128, 8))
MODELS.add("qwen_72b", ModelShape("Qwen-72B", 80, 64, 8, 128, 1))
MODELS.add("gpt_175b", ModelShape("GPT-175B", 96, 96, 96, 128, 8))


@dataclass(frozen=True)
class Variant:
    """How rows are opened and whether refresh runs. faw: `multi_activate_faw` of the DRAM table."""

    title: str
    open_mode: str = "staggered"
    faw: str = "scaled"
    refresh: bool = True


VARIANTS: Registry[Variant] = Registry("variant")
VARIANTS.add("base", Variant("one ACT per bank, refresh on"))
VARIANTS.add("no_refresh", Variant("one ACT per bank, no refresh", refresh=False))
VARIANTS.add("group", Variant("4 banks per ACT, tFAW counts each bank", "group"))
VARIANTS.add("all", Variant("16 banks per ACT, tFAW counts each bank", "all"))
VARIANTS.add("group_waived", Variant("4 banks per ACT, tFAW waived", "group", "waived"))
VARIANTS.add("all_waived", Variant("16 banks per ACT, tFAW waived", "all", "waived"))
VARIANTS.add(
    "ideal", Variant("16 banks per ACT, tFAW waived, no refresh", "all", "waived", refresh=False)
)


@dataclass(frozen=True)
class Point:
    """One measured kernel, scaled to the machine.

    heads, groups: KV heads of one kernel, and kernels of one layer of a request.
    kernel_cycles: average of back-to-back kernels. kv_bytes: keys and values that one kernel reads.
    utilisation: kv_bytes against what the bank units could read in that time. stalls: shares of
    the cycles, summing to 1.
    """

    model: str
    title: str
    kind: str
    variant: str
    context: int
    nhc: int
    heads: int
    groups: int
    kernels: int
    kernel_cycles: float
    kv_bytes: int
    tbps: float
    peak_tbps: float
    utilisation: float
    balance: float
    stalls: dict[str, float]


@functools.cache
def machine(group: int, variant: Variant) -> Machine:
    """One rank, with as many query lanes as query heads share a KV head (at most 8)."""
    base = HardwareConfig.load(PRESET)
    dram = base.dram.model_copy(
        update={
            "rows": ROWS,
            "refresh": variant.refresh,
            "options": {**base.dram.options, "multi_activate_faw": variant.faw},
        }
    )
    pim = base.pim.model_copy(update={"query_lanes": min(8, group)})
    return Machine.of(base.model_copy(update={"dram": dram, "pim": pim, "name": "full_machine"}))


def peak_tbps(mc: Machine, ranks: int = RANKS) -> float:
    """What all bank units read when every one takes a slice per nCCD_L, TB/s."""
    per_access = mc.chips * mc.banks * mc.slice_bits // 8
    return ranks * per_access / (mc.mac_period * mc.std.tck_ps)


def kernel(mc: Machine, shape: ModelShape, context: int, variant: Variant) -> tuple[Program, int]:
    """Program of one rank for one group of heads, and the number of heads in it."""
    heads = min(mc.chips // shape.nhc, shape.kv_heads)
    part = Shape(1, heads, heads * shape.group, shape.head_dim, context)
    layout = KvLayout.of(mc, part, nhc=shape.nhc)
    new = np.zeros((heads, shape.head_dim), np.uint16)
    queries = np.zeros((heads * shape.group, shape.head_dim), np.uint16)
    programs = PimKernels(layout, open_mode=variant.open_mode).decode(
        0, context, queries, new, new
    )
    if len(programs) != 1:
        raise ConfigError(
            f"{shape.title}: {shape.group} query heads per KV head need {len(programs)} passes; "
            f"the study covers shapes with at most {mc.lanes}"
        )
    return programs[0], heads


def repeated(program: Program, count: int) -> Program:
    """`program` run `count` times in a row; its GEOM waits for an idle machine in front of each.

    Its outputs are called "o", those of all rounds in a row.
    """
    builder = Builder(program.engine, program.host_in.shape[1])
    builder.LOOP(count=count)
    builder.words += program.words[:-1]  # all but HALT
    builder.ENDLOOP()
    builder.HALT()
    received = sum(bursts for _, bursts in program.outputs.values())
    return replace(
        program,
        words=tuple(builder.words),
        host_in=np.tile(program.host_in, (count, 1)),
        outputs={"o": (0, count * received)},
    )


def measure(name: str, context: int, variant_name: str = "base") -> Point:
    """One point. Raises ConfigError for an unknown model or a context that does not fit."""
    shape, variant = MODELS.get(name), VARIANTS.get(variant_name)
    mc = machine(shape.group, variant)
    program, heads = kernel(mc, shape, context, variant)
    timing = _timing(shape.group, variant)
    single = timing.run(program).cycles or 1
    count = max(2, -(-INTERVALS * mc.refresh_interval // single))
    result = timing.run(repeated(program, count))
    cycles = (result.cycles or 1) / count
    kv_bytes = 2 * context * heads * shape.head_dim * 2
    tbps = RANKS * kv_bytes / (cycles * mc.std.tck_ps)
    total = sum(result.counters.values())
    return Point(
        model=name,
        title=shape.title,
        kind=shape.kind,
        variant=variant_name,
        context=context,
        nhc=shape.nhc,
        heads=heads,
        groups=-(-shape.kv_heads // heads),
        kernels=count,
        kernel_cycles=cycles,
        kv_bytes=kv_bytes,
        tbps=tbps,
        peak_tbps=peak_tbps(mc),
        utilisation=tbps / peak_tbps(mc),
        balance=balance(shape, heads),
        stalls={reason: value / total for reason, value in result.counters.items()},
    )


@functools.cache
def _timing(group: int, variant: Variant) -> PimTiming:
    return PimTiming(machine(group, variant))


def balance(shape: ModelShape, heads: int) -> float:
    """Mean load of a rankset's ranks over that of its busiest, for one layer of one request."""
    groups, ranks = -(-shape.kv_heads // heads), RANKS // RANKSETS
    return groups / (-(-groups // ranks) * ranks)


def study(
    models: Sequence[str], contexts: Sequence[int], variants: Iterable[str], variant_context: int
) -> Iterator[Point]:
    """All contexts of all models as they are, then the variants at one context."""
    for name in models:
        for context in contexts:
            yield measure(name, context)
    for variant in variants:
        for name in models:
            yield measure(name, variant_context, variant)


def summary(points: Iterable[Point]) -> dict[str, object]:
    """The study as plain data, with what it assumes."""
    rows = [asdict(point) for point in points]
    params = machine(1, VARIANTS.get("base")).std.params
    return {
        "ranks": RANKS,
        "ranksets": RANKSETS,
        "paper_peak_tbps": PAPER_PEAK_TBPS,
        "refresh_share": params["nRFC"] / params["nREFI"],
        "variants": {name: VARIANTS.get(name).title for name in VARIANTS},
        "assumptions": assumptions(),
        "points": rows,
    }


_ASSUMPTIONS = """
{ranks} ranks of DDR4-3200 x8 chips (8 Gb timing) in {sets} ranksets. Every rank is busy: enough
requests are in flight.

Layer l of a request lies on rankset l mod {sets}. Its KV heads are dealt, in groups of 8/N_hc
heads, to the {per_set} ranks of that rankset. "Balance" says how evenly one layer of one request
divides; other requests can fill the gaps.

A kernel appends the newest key and value and attends with all query heads of its KV heads. Kernels
of a rank follow each other without overlap.

Kernels repeat until at least {intervals} refresh intervals have passed, so that refresh has its
average share.

KV bytes are useful bytes: FP16 keys and values of real tokens. Transfers between host and rank take
their time on the rank's bus, but the host always has data ready.

N_hc (chips that share a head) is the paper's: 8 for MHA, 1 for GQA-8 with 8 query lanes.
"""


def assumptions() -> list[str]:
    """What the study takes for granted, one paragraph each."""
    text = _ASSUMPTIONS.format(
        ranks=RANKS, sets=RANKSETS, per_set=RANKS // RANKSETS, intervals=INTERVALS
    )
    return [" ".join(part.split()) for part in text.strip().split("\n\n")]
