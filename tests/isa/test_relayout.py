"""Re-layout reference against the element-by-element definition of docs/pim.md section 3."""

import numpy as np
import pytest

from bankside.errors import ProgramError
from bankside.isa import relayout as rl

SHAPES = [(c, ne, nhc) for c in (1, 2, 4, 8, 16) for ne in (2, 4, 8)
          for nhc in (1, 2, 4, 8, 16) if nhc <= c]  # fmt: skip


def place(layout: int, i: int, element: int, c: int, ne: int, nhc: int, cpt: int):
    """(address, chip, position) of one element, word for word from the table."""
    if layout == rl.RAW:
        return i, element // ne, element % ne
    if layout == rl.BIT:
        return i, element % c, element // c
    heads = c // nhc
    lane, r = divmod(i, cpt)
    h, nb = divmod(r, cpt // heads)
    rest, sub = divmod(element, nhc)
    g, p = divmod(rest, ne)
    return lane * cpt + heads * nb + g, h * nhc + sub, p


@pytest.mark.parametrize(("c", "ne", "nhc"), SHAPES)
@pytest.mark.parametrize("layout", [rl.RAW, rl.BIT, rl.HEAD])
def test_matches_the_definition(c, ne, nhc, layout):
    cpt = 3 * (c // nhc)
    bursts = np.arange(2 * cpt * c * ne).reshape(2 * cpt, c * ne)
    size = {"chips": c, "elements": ne, "nhc": nhc, "cpt": cpt}
    pieces = rl.relayout(bursts, layout, **size)
    for i, burst in enumerate(bursts):
        for element, value in enumerate(burst):
            assert pieces[place(layout, i, element, c, ne, nhc, cpt)] == value
    assert (rl.inverse(pieces, layout, **size) == bursts).all()


@pytest.mark.parametrize(("c", "ne", "nhc"), SHAPES)
@pytest.mark.parametrize("layout", [rl.RAW, rl.BIT, rl.HEAD])
@pytest.mark.parametrize("base", [0, 1, 5])
def test_both_sides_touch_every_column_once(c, ne, nhc, layout, base):
    cpt = 3 * (c // nhc)
    bursts = np.repeat(np.arange(2 * cpt), c * ne).reshape(2 * cpt, c * ne)
    pieces = rl.relayout(bursts, layout, chips=c, elements=ne, nhc=nhc, cpt=cpt)
    address, chip = np.indices(pieces.shape[:2])
    column = rl.staging_column(chip, base + address, chips=c, nhc=nhc)
    assert (np.sort(column, axis=1) == np.arange(c)).all()  # all chips of one address
    owner = pieces[:, :, 0]
    assert (pieces == owner[:, :, None]).all()  # no piece mixes two bursts
    for i in range(len(bursts)):  # all pieces of one burst
        assert sorted(column[owner == i]) == list(range(c))


def test_without_skew_the_head_layout_would_collide():
    pieces = rl.relayout(
        np.repeat(np.arange(4), 16).reshape(4, 16), rl.HEAD, chips=4, elements=4, nhc=1, cpt=4
    )
    chip = np.indices(pieces.shape[:2])[1]
    assert len(set(chip[pieces[:, :, 0] == 0])) == 1


def test_a_wrong_inverse_is_noticed():
    bursts = np.arange(64).reshape(4, 16)
    size = {"chips": 4, "elements": 4, "nhc": 2, "cpt": 2}
    pieces = rl.relayout(bursts, rl.HEAD, **size)
    assert (rl.inverse(pieces, rl.BIT, **size) != bursts).any()


@pytest.mark.parametrize(
    ("shape", "change", "message"),
    [
        ((4, 15), {}, r"bursts have shape \(4, 15\); expected \(n, 16\)"),
        ((4, 16), {"layout": 3}, "layout 3 is not known"),
        ((4, 16), {"nhc": 3}, "N_hc = 3 must divide the 4 chips"),
        ((4, 16), {"cpt": 3}, "cpt = 3 must be a multiple of the 2 heads"),
        ((5, 16), {}, "5 bursts; expected a multiple of cpt = 4"),
    ],
)
def test_refuses(shape, change, message):
    operands = {"layout": rl.HEAD, "chips": 4, "elements": 4, "nhc": 2, "cpt": 4, **change}
    with pytest.raises(ProgramError, match=message):
        rl.relayout(np.zeros(shape), **operands)


def test_inverse_refuses_wrong_pieces():
    with pytest.raises(ProgramError, match=r"pieces have shape \(2, 4, 3\)"):
        rl.inverse(np.zeros((2, 4, 3)), rl.RAW, chips=4, elements=4)
