"""Which cells each fault model hits, and what is left of it behind each code."""

import numpy as np
import pytest

from bankside.config import PimHardware
from bankside.fault_injection.llm.dram_faults import Errors, Site, errors_of, read, site_of
from bankside.fault_injection.llm.placement import Placement
from bankside.isa.machine import Machine
from bankside.mapping.lower_pim import KvLayout, Shape

TOKENS = 40
CHIPS = {"dimm_pim_ddr4": 8, "dimm_pim_ddr5": 8, "pim_tiny_ddr4": 2}


@pytest.fixture(scope="module", params=list(CHIPS))
def place(request: pytest.FixtureRequest) -> Placement:
    machine = Machine.of(PimHardware.load(request.param))
    dim = 8 if request.param == "pim_tiny_ddr4" else 64
    return Placement(KvLayout.of(machine, Shape(1, 2, 2, dim, TOKENS)))


def faulty(place: Placement, model: str, element: int, bit: int, seed: int = 0) -> Errors:
    random = np.random.default_rng(seed)
    return errors_of(model, place, site_of(place, element, bit), place.live(TOKENS), random)


def wrong(place: Placement, errors: Errors, **codes) -> dict[int, int]:
    codes = {"on_die": False, "rank": "none"} | codes
    seen = read(place, errors, range(TOKENS), **codes)
    return dict(zip(seen.element.tolist(), seen.xor.tolist(), strict=True))


def test_a_cell_is_the_bit_that_was_meant(place: Placement) -> None:
    random = np.random.default_rng(1)
    for element in random.integers(len(place.cells.chip), size=20).tolist():
        bit = int(random.integers(16))
        errors = faulty(place, "cell", element, bit)
        assert wrong(place, errors) == {element: 1 << bit}
        for codes in ({"on_die": True}, {"rank": "secded"}, {"rank": "sddc"}):
            assert wrong(place, errors, **codes) == {}
            assert read(place, errors, range(TOKENS), on_die=False, rank="secded").flagged == 0


SAME = {"row": ("chip", "bank", "row"), "column": ("chip", "bank", "column", "position"),
        "chip": ("chip",), "pin": ("chip",)}  # fmt: skip


@pytest.mark.parametrize("model", list(SAME))
def test_only_cells_that_share_the_broken_part_are_hit(place: Placement, model: str) -> None:
    element = len(place.cells.chip) // 2
    random_hits: dict[int, int] = {}
    for seed in range(12):
        for where, xor in wrong(place, faulty(place, model, element, 5, seed)).items():
            random_hits[where] = random_hits.get(where, 0) | xor
    shared = np.ones(len(place.cells.chip), bool)
    for name in SAME[model]:
        values = getattr(place.cells, name)
        shared &= values == values[element]
    assert set(random_hits) <= set(np.flatnonzero(shared).tolist())
    assert len(random_hits) > 0.9 * shared.sum()  # each is missed with probability 2^-12 or less
    bits = {"row": 0xFFFF, "chip": 0xFFFF, "column": 1 << 5, "pin": 1 << 5 | 1 << 13}[model]
    assert np.bitwise_or.reduce(list(random_hits.values())) == bits


def test_a_burst_crosses_into_the_next_element(place: Placement) -> None:
    element = int(np.flatnonzero(place.cells.position == 0)[3])
    found = wrong(place, faulty(place, "burst", element, 15))
    assert found[element] == 1 << 15 and sorted(found.values()) in ([1, 1 << 15], [1 << 15])
    following = place.cells
    same = (following.chip == following.chip[element]) & (following.bank == following.bank[element])
    same &= (following.row == following.row[element]) & (following.position == 1)
    same &= following.column == following.column[element]
    assert [e for e, x in found.items() if x == 1] == np.flatnonzero(same).tolist()


def test_a_pin_is_one_bit_of_each_beat_and_beyond_the_on_die_code(place: Placement) -> None:
    errors = faulty(place, "pin", 7, 3)
    assert wrong(place, errors, on_die=True) == wrong(place, errors) != {}
    assert wrong(place, errors, rank="sddc") == {}
    if place.machine.chips == 8:
        seen = read(place, errors, range(TOKENS), on_die=False, rank="secded")
        assert not len(seen.element) and not seen.flagged


def test_a_chip_is_too_much_for_secded_but_not_for_sddc(place: Placement) -> None:
    errors = faulty(place, "chip", 7, 3)
    assert read(place, errors, range(TOKENS), on_die=False, rank="secded").flagged > 0
    seen = read(place, errors, range(TOKENS), on_die=False, rank="sddc")
    assert (len(seen.element), seen.flagged) == (0, 0) and seen.raw > 0


def test_words_of_other_tokens_are_not_read(place: Placement) -> None:
    errors = faulty(place, "chip", 7, 3)
    few = read(place, errors, range(4), on_die=False, rank="none")
    assert set(place.tokens(few.element).tolist()) == {0, 1, 2, 3}
    late = read(place, errors, range(36, TOKENS), on_die=False, rank="none")
    assert set(place.tokens(late.element).tolist()) == {36, 37, 38, 39}
    counts = [read(place, errors, range(n), on_die=False, rank="secded").flagged for n in (4, 8)]
    assert 0 < counts[0] < counts[1]


def test_a_miscorrection_hits_a_bit_that_was_right() -> None:
    """Two wrong bits of an on-die word whose columns sum to that of a third: 3 ^ 5 = 6."""
    machine = Machine.of(PimHardware.load("dimm_pim_ddr5"))
    place = Placement(KvLayout.of(machine, Shape(1, 2, 2, 64, TOKENS)))
    access = place.live(TOKENS)[:1]
    bits = np.zeros((1, 8, 16), np.uint8)
    bits[0, 2, 0] = 0b11
    found = wrong(place, Errors(access, bits), on_die=True)
    assert list(found.values()) == [0b111]


def test_sites_are_bits_of_an_access(place: Placement) -> None:
    site = site_of(place, 0, 15)
    assert isinstance(site, Site) and site.chip == place.cells.chip[0] and site.bit == 15
