"""Random legal programs of the `npu` engine, for agreement runs.

Two kinds: small networks as the compiler lowers them, and free programs that reach corners no
compiler uses. A seed gives the same programs on every run.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from bankside.isa.npu_machine import NpuMachine
from bankside.isa.program import Program
from bankside.sim.random_npu_free import free_program
from bankside.sim.random_npu_graphs import network_program
from bankside.sim.random_npu_layers import Rng

FREE, NETWORK = "free", "network"


class Named(NamedTuple):
    """A program and its kind."""

    kind: str
    program: Program


def random_programs(rng: Rng, machine: NpuMachine) -> Iterator[Named]:
    """Programs without end, two free ones and a network in turn."""
    while True:
        yield Named(FREE, free_program(rng, machine))
        yield Named(FREE, free_program(rng, machine))
        yield Named(NETWORK, network_program(rng, machine))
