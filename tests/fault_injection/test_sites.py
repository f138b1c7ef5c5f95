"""Sites of real machines: names, blocks, roles."""

import json

import pytest

from bankside.errors import ConfigError
from bankside.fault_injection.sites import Grouping, bits_of, chosen, is_dram, role_of, sites_of
from bankside.isa.machines import load_machine
from bankside.sim.elaborate import to_json
from bankside.sim.faults import KINDS, Site
from bankside.sim.lanes.emit import emit
from bankside.sim.lanes.flatten import load
from bankside.sim.rtl.tops import top_of


@pytest.fixture(scope="module", params=["array_4x4", "pim_tiny_ddr4"])
def netlist(request):
    return to_json(*top_of(load_machine(request.param)))


def test_names_are_those_of_the_lane_engine(netlist) -> None:
    sites = sites_of(netlist)
    places = {p.path: p for p in emit(load(netlist), nets=True).places}
    kinds = {"input": "port", "output": "port"}
    for path, place in places.items():
        site = sites[path]
        if site.kind == kinds.get(place.kind, place.kind):
            assert (site.width, site.depth) == (place.width, place.depth)
    missing = {p for p in sites if p not in places}
    assert missing == set()


def test_every_site_has_a_block_and_a_role(netlist) -> None:
    sites = sites_of(netlist, store_bytes=4096)
    assert {s.kind for s in sites.values()} == set(KINDS)
    assert sites["store"].depth == 4096 and sites["store"].block == "main memory"
    for site in sites.values():
        assert site.block and site.role in ("data", "control", "configuration")
        if site.block not in ("top", "main memory"):
            assert site.path.startswith(site.block + ".") and site.block.count(".") <= 1


def test_blocks_are_instances(netlist) -> None:
    """Also of nets that are called after a cell, `core.$16.Y`."""
    modules = json.loads(netlist.read_text())["modules"]
    tops = [n for n, m in modules.items() if int(str(m["attributes"].get("top", "0")), 2)]

    def below(module: str, path: str):
        for name, cell in modules[module]["cells"].items():
            if cell["type"] in modules:
                yield path + name
                yield from below(cell["type"], f"{path}{name}.")

    instances = {"top", *below(tops[0], "")}
    nets = [site for site in sites_of(netlist).values() if site.kind == "net"]
    assert any(".$" in site.path for site in nets)
    assert {site.block for site in sites_of(netlist).values()} <= instances


@pytest.mark.parametrize(
    ("site", "role"),
    [
        (Site("flop", "core.control.fsm_state", 3), "control"),
        (Site("flop", "core.mesh.pe0_0.valid", 1), "control"),
        (Site("flop", "core.queue.level", 4), "control"),
        (Site("flop", "core.mesh.pe0_0.score0", 32), "data"),
        (Site("flop", "core.mac.lanes0.w0_0", 8), "data"),
        (Site("flop", "core.control.front.registers.beats", 11), "configuration"),
        (Site("memory", "core.control.front.program", 64, 4096), "configuration"),
        (Site("memory", "core.unit.columns.column3", 64, 16), "data"),
        (Site("memory", "core.control.sequencer.queue.items", 64, 16), "control"),
        (Site("memory", "core.rank.chip0.bank1.array.cells", 64, 16), "data"),
        (Site("store", "store", 8, 16), "data"),
    ],
)
def test_roles(site: Site, role: str) -> None:
    assert role_of(site) == role


def test_roles_by_pattern_come_first() -> None:
    grouping = Grouping(roles={"configuration": ["*.score0"], "data": ["*.valid"]})
    assert role_of(Site("flop", "core.pe.score0", 32), grouping) == "configuration"
    assert role_of(Site("flop", "core.pe.valid", 1), grouping) == "data"
    assert role_of(Site("flop", "core.pe.level", 4), grouping) == "control"


def test_copies_belong_to_the_block_that_they_protect() -> None:
    from bankside.fault_injection.sites import grouped

    site = Site("flop", "core.mac__dwc.lane0.acc", 8)
    assert grouped({site.path: site}, Grouping())[site.path].block == "core.mac"


def test_banks_of_dram_are_told_from_other_memories() -> None:
    sites = sites_of(to_json(*top_of(load_machine("pim_tiny_ddr4"))))
    banks = [s for s in sites.values() if is_dram(s)]
    assert len(banks) == 8 and {(s.width, s.depth) for s in banks} == {(64, 256)}


def test_choice_by_pattern_and_its_errors() -> None:
    sites = {p: Site("flop", p, 2) for p in ("a.x", "a.y", "b.x")}
    sites["m"] = Site("memory", "m", 4, 8)
    assert [s.path for s in chosen(sites, ["*.x", "a.x"], ("flop",))] == ["a.x", "b.x"]
    assert bits_of(sites.values()) == 3 * 2 + 32
    with pytest.raises(ConfigError, match=r"no site 'm' of the kind flop; there are 3"):
        chosen(sites, ["m"], ("flop",))
    with pytest.raises(ConfigError, match=r"no site 'a.z' .*\(did you mean 'a\.[xy]'\?\)"):
        chosen(sites, ["a.z"], ("flop",))
