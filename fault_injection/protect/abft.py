"""Checksum of a matrix product: one more lane beside the MAC lanes of the NPU.

Lanes that see the same activations multiply them by different weights. A lane that multiplies them
by the sum of those weights has to end up with the sum of their accumulators. The comparison is
exact, since all of them count modulo 2^32, and is made whenever accumulators are written: an upset
in an accumulator after its last write is not seen and wants SEC-DED or parity on the memory.

Only for integers: sums of floating-point numbers are rounded, so those of the `array` and `pim`
engines agree only to within a tolerance, below which upsets would pass.

Ref: K.-H. Huang, J. A. Abraham, IEEE Trans. Computers C-33 (1984) 518, Algorithm-based fault
tolerance for matrix operations.
"""

from __future__ import annotations

import json
from typing import Any

from bankside.errors import ConfigError
from bankside.fault_injection.protect.mechanism import Mechanism, Target
from bankside.fault_injection.protect.netlist import Bit
from bankside.hw.npu.mac.checksum import ChecksumLane
from bankside.sim.elaborate import to_json

__all__ = ["ABFT"]

_LANES = "bankside_npu_lanes_"
_NEW = "protect__new"
_PER_LANE = ("w_en", "w_data", "lane")
_SHARED = ("w_slot", "w_part", "load", "slot", "single", "pool", "multiply", "accumulate", "first",
           "maximum", "part", "x", "address", "clk", "rst")  # fmt: skip


def apply(target: Target) -> None:
    """Add a checksum lane for each set of lanes of the module that share their activations.

    Raises:
        ConfigError: there are none, or their weights have scales of their own (W4).
    """
    module = target.module
    groups: dict[tuple[Bit, ...], list[dict[str, Any]]] = {}
    for _, cell in module.instances():
        if cell["type"].startswith(_LANES):
            groups.setdefault(tuple(cell["connections"]["x"]), []).append(cell)
    if not groups:
        raise ConfigError(
            f"{module.kind} has no MAC lanes beside each other; abft is for the block that holds "
            f"those of an NPU (core.mac)"
        )
    for lanes in groups.values():
        if "w4" in lanes[0]["connections"]:
            raise ConfigError(
                f"{module.kind}: the lanes of the llm profile scale each tile by a factor of its "
                f"own before they add, which the checksum lane has no multipliers for; use dwc "
                f"on the block, or a u55 machine"
            )
        _add_lane(target, lanes)


def _add_lane(target: Target, lanes: list[dict[str, Any]]) -> None:
    module = target.module
    connections = {port: lanes[0]["connections"][port] for port in _SHARED}
    for port in _PER_LANE:
        connections[port] = [bit for cell in lanes for bit in cell["connections"][port]]
    connections["new"] = [bit for cell in lanes for bit in _new_sums(target, cell)]
    failed = module.wire(1)
    count, address = len(connections["w_en"]), len(connections["address"])
    kind = f"bankside_npu_checksum_{count}x{1 << address}"
    if kind not in target.design:
        made = json.loads(to_json(ChecksumLane(count, address), kind).read_text())["modules"]
        made[kind]["attributes"].pop("top", None)
        target.design.update(made)
    name = module.fresh("lanes__abft")
    module.cell(kind, {**connections, "failed": failed}, name=name)
    module.cells[name]["port_directions"]["failed"] = "output"
    module.added.append(name)
    target.alarm("detected", failed[0])


def _new_sums(target: Target, cell: dict[str, Any]) -> list[Bit]:
    """Nets with what the lanes of an instance write, brought out of their module."""
    inside = target.design[cell["type"]]
    if _NEW not in inside["ports"]:
        memory = next(
            c for c in inside["cells"].values() if c["parameters"].get("MEMID") == "\\accumulators"
        )
        bits = list(memory["connections"]["WR_DATA"])
        inside["ports"][_NEW] = {"direction": "output", "bits": bits}
        inside["netnames"][_NEW] = {"hide_name": 0, "bits": bits, "attributes": {}}
    outside = target.module.wire(len(inside["ports"][_NEW]["bits"]))
    cell["connections"][_NEW] = outside
    cell["port_directions"][_NEW] = "output"
    return outside


ABFT = Mechanism(("body",), apply)
