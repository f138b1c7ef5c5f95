"""Hardware descriptions: one strict YAML file drives RTL, golden and timing model and mapper.

A mistake in the file (unknown key, wrong type, value out of range, geometry that does not divide)
is refused with file, line, the reason and what would be valid.
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from bankside.errors import ConfigError
from bankside.registry import Lazy, Registry, nearest
from bankside.schema import Section, key_problem, validate
from bankside.strict_yaml import Locations, load_yaml, parse_yaml

PRESET_FOLDER = Path(__file__).parent / "hw" / "presets"
ELEMENT_BITS = 16  # FP16


@dataclass(frozen=True)
class DramStandard:
    """What a hardware description has to know of a DRAM standard (timing: `isa/dram`).

    `columns` counts bursts per row. `options` gives the values of each named ambiguity of the
    published tables.
    """

    name: str
    burst_length: int
    bank_groups: int
    banks_per_group: int
    columns: int
    tck_ps: int
    options: dict[str, tuple[str, ...]]


def _options(rd_to_wr: tuple[str, ...], trfc_ns: tuple[str, ...]) -> dict[str, tuple[str, ...]]:
    return {"rd_to_wr": rd_to_wr, "trfc_ns": trfc_ns, "multi_activate_faw": ("scaled", "waived")}


# The tables in isa/dram hold the same geometry and clock with their sources; a test compares the
# two.
DRAM_STANDARDS: Registry[DramStandard] = Registry("DRAM standard")
for _standard in (
    DramStandard("ddr4_2400", 8, 4, 4, 128, 833, _options(("9", "10"), ("350", "360"))),
    DramStandard("ddr4_3200", 8, 4, 4, 128, 625, _options(("11", "12"), ("350", "360"))),
    DramStandard("ddr5_4800", 16, 8, 2, 64, 416, _options(("11", "12"), ("195", "295"))),
):
    DRAM_STANDARDS.add(_standard.name, _standard)


class DramConfig(Section):
    """The DRAM rank. Geometry that is not given is that of the standard.

    Attributes:
        standard: name of the timing table.
        chips: x8 chips in the rank that hold data.
        rows: rows per bank that are simulated (a real bank has 65,536).
        columns: bursts per row.
        refresh: whether refresh commands are issued at tREFI.
        options: choice for each named ambiguity of the standard's published tables; the timing
            table has defaults.
    """

    standard: Literal["ddr4_2400", "ddr4_3200", "ddr5_4800"]
    chips: int = Field(default=8, ge=1, le=16)
    rows: int = Field(ge=2, le=65536)
    bank_groups: int = Field(ge=1, le=8)
    banks_per_group: int = Field(ge=1, le=8)
    columns: int = Field(ge=1, le=1024)
    refresh: bool = True
    options: dict[str, str] = Field(default_factory=dict)

    @model_validator(mode="before")
    @classmethod
    def _fill_geometry(cls, data: object) -> object:
        if not isinstance(data, dict):
            return data
        name = data.get("standard")
        # With an unknown standard any geometry does: the complaint about the name must stand alone.
        known = name if isinstance(name, str) and name in DRAM_STANDARDS else "ddr4_3200"
        standard = DRAM_STANDARDS.get(known)
        return {key: getattr(standard, key) for key in _GEOMETRY} | data

    @model_validator(mode="after")
    def _check_powers_of_two(self) -> Self:
        for key in ("chips", "rows", *_GEOMETRY):
            value: int = getattr(self, key)
            if value & (value - 1):
                below = 1 << (value.bit_length() - 1)
                raise key_problem(
                    key, f"is {value}, not a power of two; nearest are {below} and {2 * below}"
                )
        return self

    @model_validator(mode="after")
    def _check_options(self) -> Self:
        offered = DRAM_STANDARDS.get(self.standard).options
        for name, value in self.options.items():
            if name not in offered:
                raise key_problem(
                    f"options.{name}",
                    f"unknown option{nearest(name, offered)}; {self.standard} offers: "
                    + ", ".join(offered),
                )
            if value not in offered[name]:
                raise key_problem(
                    f"options.{name}",
                    f"is {value!r}; {self.standard} offers: {', '.join(offered[name])}",
                )
        return self

    @property
    def banks(self) -> int:
        """Banks per chip."""
        return self.bank_groups * self.banks_per_group

    @property
    def burst_length(self) -> int:
        """Beats per column access."""
        return DRAM_STANDARDS.get(self.standard).burst_length

    @property
    def slice_bits(self) -> int:
        """Bits that one column access gives one x8 chip."""
        return self.burst_length * 8

    @property
    def elements(self) -> int:
        """FP16 elements in one slice (NE)."""
        return self.slice_bits // ELEMENT_BITS

    @property
    def burst_bytes(self) -> int:
        """Bytes that one column access moves over all chips of the rank."""
        return self.chips * self.slice_bits // 8

    @property
    def tck_ps(self) -> int:
        """Period of the memory clock in picoseconds."""
        return DRAM_STANDARDS.get(self.standard).tck_ps


_GEOMETRY = ("bank_groups", "banks_per_group", "columns")
_Words = Annotated[int, Field(ge=2, le=65536)]


class PimConfig(Section):
    """The processing units beside the banks and in the rank's buffer chip.

    Attributes:
        query_lanes: query vectors that one fetched element meets (N_cmr).
        queue_depth: commands that wait in front of each engine.
    """

    query_lanes: Literal[1, 2, 4, 8]
    result_buffer_words: _Words = 64
    shared_buffer_words: _Words = 320
    score_words: _Words = 512
    probability_words: _Words = 320
    staging_words: _Words = 1024
    program_words: _Words = 1024
    queue_depth: int = Field(default=4, ge=1, le=64)


class HardwareConfig(Section):
    """What every machine has; `load` and `parse` give the class of its engine."""

    name: str = Field(min_length=1)
    engine: Literal["pim", "array", "npu"]

    @classmethod
    def load(cls, source: str | Path) -> Self:
        """Read a hardware description.

        Args:
            source: a preset's name, or the path of a YAML file (contains "/" or ends in .yaml or
                .yml).

        Raises:
            ConfigError: no such preset or file, or the description is not valid.
        """
        return cls._of(*load_yaml(preset_path(str(source))))

    @classmethod
    def parse(cls, text: str, name: str = "<text>") -> Self:
        """Read a hardware description from YAML text; `name` stands for the file in messages."""
        return cls._of(*parse_yaml(text, name))

    @classmethod
    def _of(cls, data: object, locations: Locations) -> Self:
        engine = data.get("engine") if isinstance(data, dict) else None
        # Without a known engine any class does: its check of the name is what will be read.
        model = HARDWARE.get(engine if engine in HARDWARE else "pim")
        config = validate(model, data, locations)
        if not isinstance(config, cls):
            wanted = next(name for name in HARDWARE if HARDWARE.get(name) is cls)
            raise ConfigError(
                f"{locations.where()}: describes a machine of the engine {config.engine!r}; "
                f"expected one of the engine {wanted!r}; choose from: "
                f"{', '.join(preset_names(wanted))}"
            )
        return config

    @property
    def content_hash(self) -> str:
        """64 hexadecimal digits, equal for equal machines, whatever their name and spelling."""
        content = self.model_dump(mode="json", exclude={"name"})
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    def __hash__(self) -> int:
        return hash(self.content_hash)  # options are a dict, which Python cannot hash


class PimHardware(HardwareConfig):
    """One machine of the `pim` engine: a rank of DRAM with its processing units."""

    dram: DramConfig
    pim: PimConfig

    @model_validator(mode="after")
    def _check_together(self) -> Self:
        if self.banks % self.elements:
            raise key_problem(
                "dram.banks_per_group",
                f"{self.dram.bank_groups} bank groups of {self.dram.banks_per_group} are "
                f"{self.banks} banks, but values are spread over {self.elements} banks "
                f"({self.dram.standard} slices hold {self.elements} FP16 elements); "
                f"make bank_groups * banks_per_group a multiple of {self.elements}",
            )
        if self.pim.shared_buffer_words % self.subbanks:
            below = self.pim.shared_buffer_words // self.subbanks * self.subbanks
            raise key_problem(
                "pim.shared_buffer_words",
                f"is {self.pim.shared_buffer_words}, which does not divide among {self.subbanks} "
                f"sub-banks (banks / FP16 elements per slice); nearest are {below} and "
                f"{below + self.subbanks}",
            )
        return self

    @property
    def banks(self) -> int:
        """Banks per chip."""
        return self.dram.banks

    @property
    def slice_bits(self) -> int:
        """Bits that one column access gives one chip."""
        return self.dram.slice_bits

    @property
    def elements(self) -> int:
        """FP16 elements in one slice (NE)."""
        return self.dram.elements

    @property
    def burst_bytes(self) -> int:
        """Bytes that one column access moves over all chips of the rank."""
        return self.dram.burst_bytes

    @property
    def subbanks(self) -> int:
        """Banks of the shared buffer: banks / NE."""
        return self.banks // self.elements

    @property
    def tck_ps(self) -> int:
        """Period of the memory clock in picoseconds."""
        return self.dram.tck_ps

    @property
    def clock_mhz(self) -> float:
        """Frequency of the memory clock."""
        return 1e6 / self.tck_ps


HARDWARE: Registry[type[HardwareConfig]] = Registry("engine")
HARDWARE.add("pim", PimHardware)
HARDWARE.add("array", Lazy("bankside.config_array:ArrayHardware"))
HARDWARE.add("npu", Lazy("bankside.config_npu:NpuHardware"))


def preset_names(engine: str | None = None) -> tuple[str, ...]:
    """Return the names of the hardware descriptions that come with the package, of one engine."""
    names = tuple(sorted(path.stem for path in PRESET_FOLDER.glob("*.yaml")))
    if engine is None:
        return names
    return tuple(name for name in names if HardwareConfig.load(name).engine == engine)


def preset_path(source: str) -> Path:
    """Return the file of a preset's name, or the path itself where `source` is written as a path.

    Raises:
        ConfigError: no preset has that name; the message lists them.
    """
    if "/" in source or source.endswith((".yaml", ".yml")):
        return Path(source)
    names = preset_names()
    if source not in names:
        raise ConfigError(
            f"unknown hardware preset {source!r}{nearest(source, names)}; "
            f"choose from: {', '.join(names)}; or give the path of a YAML file"
        )
    return PRESET_FOLDER / f"{source}.yaml"
