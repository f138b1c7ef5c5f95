"""Units of numbers in files and reports.

A key carries the unit of its value as its last word (`trfc_ns`, `clock_mhz`), so that no number is
ever without one. Clock conversions are exact: nanoseconds are read as decimal fractions, never as
binary floats.
"""

from dataclasses import dataclass
from fractions import Fraction

from bankside.errors import ConfigError


@dataclass(frozen=True)
class Unit:
    """How a unit is written, what it measures, and its size in that dimension's base unit."""

    symbol: str
    dimension: str
    scale: Fraction


_G = 10**9
UNITS: dict[str, Unit] = {
    "ps": Unit("ps", "time", Fraction(1, 10**12)),
    "ns": Unit("ns", "time", Fraction(1, _G)),
    "us": Unit("us", "time", Fraction(1, 10**6)),
    "ms": Unit("ms", "time", Fraction(1, 1000)),
    "s": Unit("s", "time", Fraction(1)),
    "hz": Unit("Hz", "frequency", Fraction(1)),
    "mhz": Unit("MHz", "frequency", Fraction(10**6)),
    "ghz": Unit("GHz", "frequency", Fraction(_G)),
    "bits": Unit("bit", "data", Fraction(1, 8)),
    "bytes": Unit("B", "data", Fraction(1)),
    "kib": Unit("KiB", "data", Fraction(2**10)),
    "mib": Unit("MiB", "data", Fraction(2**20)),
    "gib": Unit("GiB", "data", Fraction(2**30)),
    "gbps": Unit("GB/s", "bandwidth", Fraction(_G)),
    "tbps": Unit("TB/s", "bandwidth", Fraction(1000 * _G)),
    "pj": Unit("pJ", "energy", Fraction(1, 10**12)),
    "cycles": Unit("cycles", "cycles", Fraction(1)),
    "words": Unit("words", "words", Fraction(1)),
}


def unit_of(key: str) -> Unit | None:
    """Return the unit that a key carries (`"trfc_ns"` -> ns), or None when it carries none."""
    name, separator, suffix = key.rpartition("_")
    return UNITS.get(suffix) if separator and name else None


def to_base(key: str, value: int | float | str) -> Fraction:
    """Convert a value to the base unit of its key's dimension (s, Hz, B, B/s, J).

    Raises:
        ConfigError: the key carries no known unit.
    """
    unit = unit_of(key)
    if unit is None:
        raise ConfigError(f"key {key!r} carries no unit; end it with one of: _{', _'.join(UNITS)}")
    return exact(value) * unit.scale


def exact(value: int | float | str | Fraction) -> Fraction:
    """Return the number as it is written: 13.75 and "13.75" are 55/4, 0.1 is 1/10."""
    return value if isinstance(value, Fraction) else Fraction(str(value))


def ns_to_cycles(time_ns: int | float | str | Fraction, tck_ps: int) -> int:
    """Return the fewest whole clock cycles of `tck_ps` that last at least `time_ns`."""
    return -int(-(exact(time_ns) * 1000) // tck_ps)


def cycles_to_ns(cycles: int, tck_ps: int) -> float:
    """Return the duration of `cycles` clock cycles of `tck_ps` picoseconds, in nanoseconds."""
    return cycles * tck_ps / 1000


def format_si(value: float, unit: str, digits: int = 3) -> str:
    """Write a quantity with an SI prefix: `format_si(1.31e13, "B/s")` -> "13.1 TB/s"."""
    if value == 0:
        return f"0 {unit}"
    for prefix, size in (("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3), ("", 1.0), ("m", 1e-3)):
        # Rounding must not carry into the next prefix: 999.9 is "1 k", not "1000".
        if float(f"{abs(value):.{digits}g}") >= size:
            return f"{float(f'{value / size:.{digits}g}'):g} {prefix}{unit}"
    for prefix, size in (("u", 1e-6), ("n", 1e-9)):
        if abs(value) >= size:
            return f"{float(f'{value / size:.{digits}g}'):g} {prefix}{unit}"
    return f"{value / 1e-12:.{digits}g} p{unit}"


def format_cycles(cycles: int, clock_mhz: float, domain: str) -> str:
    """Write a cycle count: "1,186 memory-clock cycles (741 ns)"."""
    return f"{cycles:,} {domain} cycles ({format_si(cycles / (clock_mhz * 1e6), 's')})"
