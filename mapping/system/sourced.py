"""Sections whose every number says where it comes from."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import BaseModel, Field, model_validator

from bankside.registry import nearest
from bankside.schema import Section, key_problem

Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=1)]

REST = "rest"


class Sourced(Section):
    """A section with a `source` for each number.

    Attributes:
        source: key -> where its value comes from, in words; the key `rest` stands for all others.
    """

    source: dict[str, str]

    @model_validator(mode="after")
    def _check_sources(self) -> Self:
        fields = [key for key in type(self).model_fields if key != "source"]
        for key in self.source:
            if key != REST and key not in fields:
                raise key_problem(
                    f"source.{key}",
                    f"names no key of this section{nearest(key, fields)}; keys: "
                    f"{', '.join(fields)}, or {REST} for all others",
                )
        for key in fields:
            value = getattr(self, key)
            by_default = value == type(self).model_fields[key].default
            if _is_number(value) and not by_default and not self.source_of(key):
                raise key_problem(
                    key, f"has no source; add `{key}: WHERE` or `{REST}: WHERE` below `source`"
                )
        return self

    def source_of(self, key: str) -> str:
        """Where the value of a key comes from, in words; "" where that is not said."""
        return self.source.get(key, self.source.get(REST, ""))


def _is_number(value: object) -> bool:
    """Whether it is a number, a list of them or a table of them that is not sourced itself."""
    if isinstance(value, bool) or value is None:
        return False
    if isinstance(value, BaseModel):
        return not isinstance(value, Sourced)
    if isinstance(value, tuple):
        return not all(isinstance(item, str) for item in value)
    return isinstance(value, int | float)
