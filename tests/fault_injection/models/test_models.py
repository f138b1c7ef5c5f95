"""Every fault model on small sites: places, actions, JSON, what it must not do."""

import pytest

from bankside.errors import ConfigError
from bankside.fault_injection.fault import Fault, check_fault
from bankside.fault_injection.models.dram import Cells, Dram
from bankside.fault_injection.models.models import FAULT_MODELS
from bankside.sim.faults import Action, Site, check_actions

BANKS = [Site("memory", f"rank.chip{c}.bank{b}.array.cells", 8, 6) for c in (0, 1) for b in (0, 1)]
SITES = {
    site.path: site
    for site in (
        Site("flop", "core.count", 5), Site("flop", "core.valid", 1),
        Site("memory", "core.ring", 4, 3), *BANKS, Site("net", "core.sum", 3),
        Site("port", "s_data", 2), Site("store", "store", 8, 40),
    )
}  # fmt: skip
OPTIONS = {
    "dram_cell": {"columns": 3}, "dram_burst": {"columns": 3, "bits": 3},
    "dram_row": {"columns": 3, "chips": 2, "banks": 2, "row_bytes": 8},
    "dram_column": {"columns": 3, "chips": 2, "banks": 2, "row_bytes": 8},
    "dram_chip": {"columns": 3, "chips": 2, "banks": 2, "row_bytes": 8},
}  # fmt: skip


def all_faults(name: str, cycle: int = 7):
    model = FAULT_MODELS.get(name)
    options = model.options.model_validate(OPTIONS.get(name, {}))
    for site in SITES.values():
        if site.kind in model.kinds:
            for place in range(model.places(site, options)):
                yield model.fault(site, place, cycle, options)


@pytest.mark.parametrize("name", FAULT_MODELS)
def test_every_place_is_a_fault_of_its_own_with_legal_actions(name: str) -> None:
    faults = list(all_faults(name))
    assert faults and len({fault.to_json() for fault in faults}) == len(faults)
    for fault in faults:
        assert fault.model == name
        check_fault(fault, SITES, 8)
        actions = FAULT_MODELS.get(name).actions(fault, SITES)
        assert actions
        check_actions(actions, SITES)
        assert min(action.first for action in actions) == 7
        again = Fault.from_json(fault.to_json())
        assert again == fault and FAULT_MODELS.get(name).actions(again, SITES) == actions


@pytest.mark.parametrize(
    ("name", "count"),
    [("seu", 6), ("mbu", 4 + 0 + 9), ("stuck_at", 12), ("intermittent", 12), ("set_net", 3),
     ("sram_bit", 12), ("bus_bit", 2), ("dram_cell", 4 * 48 + 320), ("dram_burst", 4 * 36 + 240),
     ("dram_row", 4 * 2 + 5 * 2), ("dram_column", 4 * 24 + 16 * 8), ("dram_chip", 2 + 2)],
)  # fmt: skip
def test_number_of_places(name: str, count: int) -> None:
    assert len(list(all_faults(name))) == count


def test_upset_inverts_one_bit_once() -> None:
    model = FAULT_MODELS.get("seu")
    fault = model.fault(SITES["core.count"], 3, 9, model.options())
    assert model.actions(fault, SITES) == (Action("flip", "core.count", 0, 8, None, 9),)


def test_cluster_has_the_declared_shape() -> None:
    model = FAULT_MODELS.get("mbu")
    options = model.options.model_validate({"cluster": [[0, 0], [0, 2], [1, 1]]})
    assert model.places(SITES["core.ring"], options) == 2 * 2
    assert model.places(SITES["core.count"], options) == 0
    fault = model.fault(SITES["core.ring"], 3, 1, options)
    assert {(a.word, a.mask) for a in model.actions(fault, SITES)} == {(1, 0b1010), (2, 0b100)}


def test_stuck_bits_are_held_and_nets_forced() -> None:
    model = FAULT_MODELS.get("stuck_at")
    fault = Fault("core.count", "stuck_at", 0, None, 2, parameters={"value": 1})
    assert model.actions(fault, SITES) == (Action("hold", "core.count", 0, 4, 4, 0, None),)
    fault = Fault("core.sum", "stuck_at", 0, None, 2, parameters={"value": 0})
    assert model.actions(fault, SITES) == (Action("force", "core.sum", 0, 4, 0, 0, None),)


def test_intermittent_bursts_end_with_the_duration() -> None:
    times = {"value": 0, "period": 10, "active": 4}
    fault = Fault("core.valid", "intermittent", 5, 22, 0, parameters=times)
    found = FAULT_MODELS.get("intermittent").actions(fault, SITES)
    assert [(a.first, a.last) for a in found] == [(5, 8), (15, 18), (25, 26)]
    assert all(a.op == "hold" and a.value == 0 for a in found)


def test_rows_and_lines_of_main_memory_lie_where_the_mapping_says() -> None:
    cells = Cells.of(SITES["store"], Dram(chips=2, banks=2, row_bytes=8))
    assert list(cells.row(1, 1)) == [9, 11, 13, 15]
    assert list(cells.line(11)) == [11, 27]  # the second bank has rows 8..15 and 24..31
    assert list(cells.chip(1)) == list(range(1, 40, 2))
    bank = Cells.of(BANKS[0], Dram(columns=3))
    assert list(bank.row(1, 0)) == [3, 4, 5] and list(bank.line(4)) == [1, 4]


def test_a_chip_takes_all_its_banks_and_no_other() -> None:
    model = FAULT_MODELS.get("dram_chip")
    fault = model.fault(BANKS[2], 0, 3, model.options(columns=3))
    found = model.actions(fault, SITES)
    assert {a.site for a in found} == {BANKS[2].path, BANKS[3].path} and len(found) == 12
    assert all(a.op == "hold" and a.last is None for a in found)


def test_lost_rows_are_written_again_without_hold() -> None:
    model = FAULT_MODELS.get("dram_row")
    fault = model.fault(BANKS[0], 1, 3, model.options(columns=3, hold=False))
    found = model.actions(fault, SITES)
    assert {a.op for a in found} == {"flip"} and {a.word for a in found} <= {3, 4, 5}


def test_arrays_without_columns_are_refused() -> None:
    model = FAULT_MODELS.get("dram_row")
    with pytest.raises(ConfigError, match="columns is missing: words of a row of the bank"):
        model.places(BANKS[0], model.options())


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (Fault("core.cuont", "seu"), r"no site 'core.cuont' \(did you mean 'core.count'\?\)"),
        (Fault("core.count", "seu", 100), "the run has 100 cycles: expected 0 to 99"),
        (Fault("core.count", "seu", bit=5), "bit 5; 'core.count' has 0 to 4"),
        (Fault("core.ring", "sram_bit", word=3), "word 3; 'core.ring' has 0 to 2"),
    ],
)
def test_faults_that_do_not_fit(fault: Fault, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check_fault(fault, SITES, 100)


@pytest.mark.parametrize(
    "text", ["[]", "{", '{"site": "a"}', '{"site": "a", "model": "seu", "bit": "3"}']
)
def test_text_that_is_no_fault(text: str) -> None:
    with pytest.raises(ConfigError, match="expected"):
        Fault.from_json(text)


@pytest.mark.parametrize(
    "name", ["dram_cell", "dram_burst", "dram_row", "dram_column", "dram_chip"]
)
def test_main_memory_beyond_what_counts_is_not_hit(name: str) -> None:
    model = FAULT_MODELS.get(name)
    options = model.options.model_validate({**OPTIONS[name], "store_bytes": 12})
    store, whole = SITES["store"], model.options.model_validate(OPTIONS[name])
    assert 0 < model.places(store, options) <= model.places(store, whole)
    for place in range(model.places(store, options)):
        found = model.actions(model.fault(store, place, 1, options), SITES)
        assert found and all(action.word < 12 for action in found)
