"""Experiments by the `kind` of their description, for the command line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from bankside.fault_injection.llm import kv_cache, replay
from bankside.registry import Registry

Experiment = Callable[[Path, bool, Callable[[int, int], None] | None], dict]
"""File, quick, called with (done, in all): plain data."""

EXPERIMENTS: Registry[Experiment] = Registry("experiment")


@EXPERIMENTS.register("llm_kv_cache")
def run_kv_cache(
    path: Path, quick: bool = False, on_fault: Callable[[int, int], None] | None = None
) -> dict:
    """See `kv_cache.run`."""
    return kv_cache.run(kv_cache.load(path), base=path.parent, quick=quick, on_fault=on_fault)


@EXPERIMENTS.register("llm_replay")
def run_replay(
    path: Path, quick: bool = False, on_fault: Callable[[int, int], None] | None = None
) -> dict:
    """See `replay.run`."""
    return replay.run(replay.load(path), base=path.parent, quick=quick, on_fault=on_fault)
