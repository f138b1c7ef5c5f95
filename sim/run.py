"""`bankside run`: a language model generates text, its decode attention runs on the `pim` engine,
attention over the prompt on the `array` engine where the description says so. Descriptions that
name a machine of the `npu` engine are those of `npu_run`.

The description is one strict YAML file; the result is plain data, written as files that appear all
at once or not at all.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

from bankside.cache import build_root, file_hash
from bankside.config import HardwareConfig, PimHardware
from bankside.config_array import ArrayHardware
from bankside.errors import BanksideError, ConfigError
from bankside.isa.array_machine import ArrayMachine
from bankside.isa.machine import Machine
from bankside.isa.machines import AnyMachine
from bankside.mapping.binding.loader import load_binding
from bankside.mapping.llm.loader import find_model, load_model
from bankside.mapping.llm.model import Model
from bankside.mapping.llm.transformer import Generation, generate
from bankside.provenance import collect
from bankside.registry import Registry
from bankside.schema import Section, key_problem, validate
from bankside.sim import full_machine, npu_run
from bankside.sim.array_attention import ArrayPrompt
from bankside.sim.attention import PimAttention
from bankside.sim.compared import check_executions
from bankside.sim.engine import Engine
from bankside.sim.executions import PIM_EXECUTIONS, make_engine
from bankside.sim.npu_run import NpuJob
from bankside.strict_yaml import Locations, load_yaml

Make = Callable[[str, AnyMachine], Engine]


class WaveOptions(Section):
    """A window of one attention call as a waveform.

    Attributes:
        machine: preset or file. It is compiled with tracing, so a small one is quicker.
        tokens: context of the recorded call.
    """

    machine: str = "pim_tiny_ddr4"
    tokens: int = Field(default=24, ge=1, le=4096)
    first_cycle: int = Field(default=0, ge=0)
    last_cycle: int = Field(default=1500, ge=0)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.last_cycle < self.first_cycle:
            raise key_problem(
                "last_cycle", f"is {self.last_cycle}, before first_cycle ({self.first_cycle})"
            )
        return self


class ReportOptions(Section):
    """Which files a run writes besides its result."""

    html: bool = True
    timeline: bool = True
    waves: WaveOptions | None = None


def _check_names(key: str, names: list[str], registry: Registry) -> None:
    for name in names:
        try:
            registry.entry(name)
        except ConfigError as error:
            raise key_problem(key, str(error)) from error


class StudyOptions(Section):
    """The kernel at the size of the paper's machine, by the timing model."""

    models: list[str] = Field(default=["opt_66b", "qwen_72b", "gpt_175b"], min_length=1)
    contexts: list[int] = Field(
        default=[2048, 4096, 8192, 16384, 32768, 65536, 131072], min_length=1
    )
    variants: list[str] = list(full_machine.VARIANTS)
    variant_context: int = Field(default=32768, ge=1, le=1 << 20)

    @model_validator(mode="after")
    def _check(self) -> Self:
        _check_names("models", self.models, full_machine.MODELS)
        _check_names("variants", self.variants, full_machine.VARIANTS)
        if any(not 1 <= context <= 1 << 20 for context in self.contexts):
            raise key_problem(
                "contexts", f"are {self.contexts}; expected 1 to {1 << 20} tokens each"
            )
        return self


class PrefillOptions(Section):
    """Attention over the prompt on an `array` machine, in the executions of the run.

    Attributes:
        machine: preset or file.
        binding: schedule of the work (mapping/binding).
    """

    machine: str = "array_16x16"
    binding: str = "interleaved"


class RunDescription(Section):
    """What to generate, on which machine, in which executions, and what to write about it."""

    model: str
    machine: str
    prompt: str | None = None
    prompt_tokens: list[int] | None = None
    new_tokens: int = Field(ge=2, le=100_000)
    executions: list[str] = list(PIM_EXECUTIONS)
    nhc: Literal[1, 2, 4, 8, 16] | None = None
    temperature: float = Field(default=0.0, ge=0, le=100)
    seed: int = Field(default=0, ge=0)
    prefill: PrefillOptions | None = None
    report: ReportOptions = ReportOptions()
    full_machine: StudyOptions | None = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        if problem := check_executions(self.executions, PIM_EXECUTIONS):
            raise key_problem("executions", f"is {self.executions}: {problem}")
        if (self.prompt is None) == (self.prompt_tokens is None):
            raise key_problem("prompt", "give either prompt (text) or prompt_tokens (a list)")
        if self.report.waves is not None and "rtl" not in self.executions:
            raise key_problem("report.waves", "waves come from the RTL; add rtl to executions")
        return self


@dataclass(frozen=True)
class Job:
    """A description with everything it names loaded."""

    description: RunDescription
    name: str
    model: Model
    model_hash: str
    machine: Machine
    wave_machine: Machine | None
    prefill_machine: ArrayMachine | None = None

    @property
    def prompt(self) -> bytes | list[int]:
        """What the model continues."""
        text = self.description.prompt
        return self.description.prompt_tokens or [] if text is None else text.encode()


def load_job(path: Path) -> Job | NpuJob:
    """Read a run description and what it names; an `NpuJob` where its machine is an `npu`.

    Raises ConfigError, with file and line, for anything that cannot be used. Nothing has been
    compiled or run by then.
    """
    data, locations = load_yaml(path)
    if npu_run.wanted(data, partial(_beside, path)):
        return npu_run.load(path, data, locations, partial(_beside, path))
    description = validate(RunDescription, data, locations)
    with _blame(locations, "model"):
        folder = find_model(_beside(path, description.model))
    model = load_model(folder)
    weights = sorted(folder.glob("*.safetensors"))
    digest = hashlib.sha256("".join(map(file_hash, weights)).encode()).hexdigest()
    with _blame(locations, "machine"):
        machine = _machine(_beside(path, description.machine))
    wave_machine = None
    if description.report.waves is not None:
        with _blame(locations, "report", "waves", "machine"):
            wave_machine = _machine(_beside(path, description.report.waves.machine))
    prefill_machine = None
    if description.prefill is not None:
        with _blame(locations, "prefill", "machine"):
            source = _beside(path, description.prefill.machine)
            prefill_machine = ArrayMachine.of(ArrayHardware.load(source))
        with _blame(locations, "prefill", "binding"):
            load_binding(description.prefill.binding)
    return Job(description, path.stem, model, digest, machine, wave_machine, prefill_machine)


def _machine(source: str) -> Machine:
    return Machine.of(PimHardware.load(source))


def _beside(path: Path, name: str) -> str:
    """A relative path in a description is meant relative to that description, where it exists."""
    beside = path.parent / name
    return str(beside) if "/" in name and beside.exists() else name


@contextmanager
def _blame(locations: Locations, *key: str) -> Iterator[None]:
    try:
        yield
    except ConfigError as error:
        raise ConfigError(f"{locations.where(key)}: {'.'.join(key)}: {error}") from error


def execute(
    job: Job,
    *,
    make: Make = make_engine,
    on_token: Callable[[int], None] | None = None,
    on_point: Callable[[int], None] | None = None,
) -> tuple[dict, PimAttention]:
    """Run a job. Returns the result as plain data, and the decode engine with its traces.

    `on_token` hears of every new token, `on_point` of every point of the full-machine study.
    """
    what = job.description
    attention = PimAttention(job.machine, what.executions, nhc=what.nhc, make=make)
    prompt = None
    if job.prefill_machine is not None and what.prefill is not None:
        binding = what.prefill.binding
        prompt = ArrayPrompt(job.prefill_machine, binding, what.executions, make=make)
    generation = generate(
        job.model,
        attention,
        job.prompt,
        what.new_tokens,
        temperature=what.temperature,
        seed=what.seed,
        prompt_engine=prompt,
        on_token=on_token,
    )
    study = None
    if what.full_machine is not None:
        study = _study(what.full_machine, on_point)
        study["anchor"] = _anchor(job, attention, what.full_machine)
    result = _result(job, attention, generation) | {"full_machine": study}
    return result | {"prefill": _prefill(prompt, what) if prompt is not None else None}, attention


def _study(options: StudyOptions, on_point: Callable[[int], None] | None) -> dict:
    points = []
    for point in full_machine.study(
        options.models, options.contexts, options.variants, options.variant_context
    ):
        points.append(point)
        if on_point is not None:
            on_point(1)
    return full_machine.summary(points) | {"variant_context": options.variant_context}


def _anchor(job: Job, attention: PimAttention, options: StudyOptions) -> dict | None:
    """One kernel of the study on the RTL, where the run's machine is a rank of the study's."""
    machine, context = job.machine, min(options.contexts)
    if not {"timing", "rtl"} <= attention.running:
        return None
    for name in options.models:
        shape = full_machine.MODELS.get(name)
        rank = full_machine.machine(shape.group, full_machine.VARIANTS.get("base"))
        if not _same_rank(rank, machine):
            continue
        try:
            program, _ = full_machine.kernel(
                machine, shape, context, full_machine.VARIANTS.get("base")
            )
        except ConfigError:  # too long for the rows that this machine simulates
            continue
        where = f"{shape.title} kernel at {context} tokens"
        results = attention.compare(full_machine.repeated(program, 2), where)
        cycles = {name: result.cycles for name, result in results.items()}
        return {
            "model": name,
            "title": shape.title,
            "context": context,
            "kernels": 2,
            "rtl_cycles": cycles.get("rtl"),
            "timing_cycles": cycles.get("timing"),
        }
    return None


def _same_rank(one: Machine, other: Machine) -> bool:
    """Whether two machines differ at most in their name and number of rows."""

    def plain(machine: Machine) -> HardwareConfig:
        config = machine.config
        dram = config.dram.model_copy(update={"rows": 2, "options": {}})
        return config.model_copy(update={"dram": dram, "name": "rank"})

    same = plain(one).content_hash == plain(other).content_hash
    return same and one.std.options == other.std.options


def _result(job: Job, attention: PimAttention, generation: Generation) -> dict:
    what, machine, found = job.description, job.machine, attention.found
    layout = attention.kernels.layout
    rtl = "rtl" in what.executions
    return {
        "kind": "run",
        "name": job.name,
        "prompt": what.prompt if what.prompt is not None else list(generation.prompt_tokens),
        "text": generation.text.decode("utf-8", "replace"),
        "tokens": list(generation.tokens),
        "model": what.model,
        "model_shape": {
            "layers": layout.shape.layers,
            "query_heads": layout.shape.query_heads,
            "kv_heads": layout.shape.kv_heads,
            "head_dim": layout.shape.head_dim,
        },
        "machine": machine.config.name,
        "machine_facts": _machine_facts(machine, attention),
        "executions": list(what.executions),
        "attention_calls": len(attention.calls),
        "programs": attention.programs,
        **found.counts(),
        "differences": list(found.details),
        "cycles": attention.cycles,
        "rtl_cycles": attention.cycles if rtl else None,
        "append_cycles": attention.append_cycles,
        "clock_domain": "mem",
        "clock_mhz": machine.clock_mhz,
        "stalls_of": "attention calls",
        "stalls": attention.stalls,
        "bandwidth": _bandwidth(machine, attention),
        "utilisation": _columns(attention) * machine.mac_period / attention.cycles,
        "provenance": collect(
            config_hash=machine.config.content_hash,
            program_hash=attention.program_hash,
            seed=what.seed,
        )
        | {"model_hash": job.model_hash, "description": what.model_dump(mode="json")},
    }


def _prefill(prompt: ArrayPrompt, what: RunDescription) -> dict:
    """Attention over the prompt, as part of the result."""
    machine, cycles = prompt.machine, prompt.cycles
    return {
        "machine": machine.config.name,
        "config_hash": machine.config.content_hash,
        "machine_facts": {"rows": machine.rows, "columns": machine.columns},
        "binding": prompt.binding,
        "attention_calls": len(prompt.calls),
        "programs": prompt.programs,
        "program_hash": prompt.program_hash,
        **prompt.found.counts(),
        "differences": list(prompt.found.details),
        "cycles": cycles,
        "rtl_cycles": cycles if "rtl" in what.executions else None,
        "clock_domain": machine.clock_domain,
        "clock_mhz": machine.clock_mhz,
        "stalls_of": "attention over the prompt, all layers",
        "stalls": prompt.stalls,
        "utilisation": prompt.stalls["mac"] / cycles,
    }


def _machine_facts(machine: Machine, attention: PimAttention) -> dict:
    layout = attention.kernels.layout
    return {
        "standard": machine.std.name,
        "chips": machine.chips,
        "banks": machine.banks,
        "query_lanes": machine.lanes,
        "nhc": layout.nhc,
        "columns_per_token": layout.cpt,
        "row_tokens": layout.row_tokens,
        "mac_period": machine.mac_period,
        "burst_cycles": machine.step,
        "refresh_interval": machine.refresh_interval if machine.refresh else None,
        "context_fits": machine.rows
        // (2 * layout.shape.layers * layout.passes)
        * layout.row_tokens,
    }


def _columns(attention: PimAttention) -> int:
    return sum(call.macs for call in attention.calls)


def _bandwidth(machine: Machine, attention: PimAttention) -> dict[str, float]:
    """Bytes per second of the attention calls, in GB/s, against what bank units and bus could do.

    `banks_useful` counts keys and values of real tokens; the rest of `banks_moved` are slots of the
    last row that hold no token yet, read because all banks work in lock-step.
    """
    shape = attention.kernels.layout.shape
    seconds = attention.cycles * machine.std.tck_ps * 1e-12
    slices = machine.chips * machine.slice_bits // 8
    tokens = sum(call.tokens for call in attention.calls)
    gbps = 1e-9 / seconds
    tck = machine.std.tck_ps * 1e-12
    return {
        "banks_peak": slices * machine.banks / (machine.mac_period * tck) * 1e-9,
        "banks_moved": _columns(attention) * slices * machine.banks * gbps,
        "banks_useful": 4 * tokens * shape.kv_heads * shape.head_dim * gbps,
        "bus_peak": slices / (machine.step * tck) * 1e-9,
        "bus_moved": sum(call.bursts for call in attention.calls) * slices * gbps,
    }


def calls_table(attention: PimAttention) -> dict[str, list]:
    """One entry per attention call and column; `stalls` by reason."""
    calls = attention.calls
    names = ("layer", "tokens", "cycles", "macs", "bursts")
    table: dict = {name: [getattr(call, name) for call in calls] for name in names}
    reasons = calls[0].stalls if calls else {}
    table["stalls"] = {reason: [call.stalls[reason] for call in calls] for reason in reasons}
    return table


def agreed(result: dict) -> bool:
    """Whether no comparison of a run found a difference."""
    counts = ("bit_mismatches", "cycle_mismatches", "stall_sum_mismatches", "reference_mismatches")
    parts = [result, result.get("prefill") or {}]
    return not any(part.get(name) for part in parts for name in counts)


@contextmanager
def published(out: Path) -> Iterator[Path]:
    """A fresh folder whose files move into `out` when the block ends well; else nothing appears."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(prefix=".bankside-", dir=out))
    except OSError as error:
        raise BanksideError(
            f"{out}: cannot be written: {error.strerror}; choose another folder with --out"
        ) from error
    try:
        yield work
        for file in sorted(work.iterdir()):
            os.replace(file, out / file.name)
    finally:
        shutil.rmtree(work, ignore_errors=True)
        if out.is_dir() and not any(out.iterdir()):
            out.rmdir()


def default_folder(name: str) -> Path:
    """Where a run's files go when nobody says."""
    return build_root() / "runs" / name


__all__ = ["Job", "NpuJob", "RunDescription", "agreed", "execute", "load_job", "published"]
