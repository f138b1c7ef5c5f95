"""Codes, exhaustively where that is possible."""

from itertools import combinations

import numpy as np
import pytest

from bankside.fault_injection.llm.codes import ON_DIE, SECDED, BinaryCode, SymbolCode


def words(code: BinaryCode, *bits: tuple[int, ...]) -> np.ndarray:
    """One word per tuple of inverted bits."""
    made = np.zeros((len(bits), 8 * code.symbols), np.uint8)
    for row, which in zip(made, bits, strict=True):
        row[list(which)] = 1
    return np.packbits(made, axis=1, bitorder="little")


def weight(errors: np.ndarray) -> np.ndarray:
    return np.unpackbits(errors, axis=1).sum(axis=1)


@pytest.mark.parametrize(("code", "bits"), [(SECDED, 64), (ON_DIE, 128)])
def test_every_single_error_is_corrected(code: BinaryCode, bits: int) -> None:
    assert 8 * code.symbols == bits and len(set(code.columns.tolist())) == bits
    left, flags = code.decode(words(code, *((i,) for i in range(bits))))
    assert not left.any() and not flags.any()


def test_every_double_error_is_flagged() -> None:
    errors = words(SECDED, *combinations(range(64), 2))
    left, flags = SECDED.decode(errors)
    assert len(errors) == 2016 and flags.all() and np.array_equal(left, errors)


def test_three_errors_are_flagged_or_miscorrected() -> None:
    """Odd columns: a fourth bit is inverted where the sum is a column (56 % of all triples)."""
    left, flags = SECDED.decode(words(SECDED, *combinations(range(64), 3)))
    assert set(weight(left[flags]).tolist()) == {3}
    assert set(weight(left[~flags]).tolist()) <= {3, 4}
    triples = combinations(SECDED.columns.tolist(), 3)
    known = {*SECDED.columns.tolist(), *(1 << i for i in range(8))}
    assert (~flags).sum() == sum((a ^ b ^ c) in known for a, b, c in triples)


def test_on_die_makes_three_of_two_and_tells_nobody() -> None:
    left, flags = ON_DIE.decode(words(ON_DIE, *combinations(range(128), 2)))
    assert not flags.any()
    counts = np.bincount(weight(left))
    columns = set(ON_DIE.columns.tolist())
    pairs = combinations(ON_DIE.columns.tolist(), 2)
    assert counts[3] == sum((a ^ b) in columns for a, b in pairs) > 0
    assert counts[2] + counts[3] == 128 * 127 // 2


def test_a_code_with_equal_columns_miscorrects() -> None:
    """Known bad: the tests above can fail."""
    bad = BinaryCode([3, 3, *range(5, 11)], detects=True)
    left, _ = bad.decode(words(bad, (0,), (1,)))
    assert left.any()


def product(a: int, b: int) -> int:
    """In GF(256), by shifting."""
    total = 0
    for i in range(8):
        total ^= (a << i) * (b >> i & 1)
    for i in range(14, 7, -1):
        total ^= (0x11D << (i - 8)) * (total >> i & 1)
    return total


@pytest.mark.parametrize("symbols", [2, 8, 16])
def test_every_error_of_one_symbol_is_corrected(symbols: int) -> None:
    errors = np.zeros((symbols * 255, symbols), np.uint8)
    errors[np.arange(len(errors)), np.repeat(np.arange(symbols), 255)] = np.tile(
        np.arange(1, 256), symbols
    )
    left, flags = SymbolCode(symbols).decode(errors)
    assert not left.any() and not flags.any()


def test_two_symbols_are_flagged_or_taken_for_one() -> None:
    """Against syndromes by multiplication in GF(256)."""
    random = np.random.default_rng(3)
    errors = np.zeros((4000, 8), np.uint8)
    places = [random.choice(8, 2, replace=False) for _ in errors]
    for row, place in zip(errors, places, strict=True):
        row[place] = random.integers(1, 256, 2)
    left, flags = SymbolCode(8).decode(errors)
    power = [1]
    for _ in range(9):
        power.append(product(power[-1], 2))
    for row, after, flag in zip(errors.tolist(), left, flags, strict=True):
        zero = one = 0
        for i, e in enumerate(row):
            zero, one = zero ^ e, one ^ product(power[i], e)
        like = [i for i in range(10) if zero and one == product(power[i], zero)]
        assert flag == (not like)
        wanted = list(row)
        if like and like[0] < 8:
            wanted[like[0]] ^= zero
        assert after.tolist() == wanted
    assert 0 < flags.sum() < len(flags)
