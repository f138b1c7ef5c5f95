"""Named things that users choose from: engines, executions, DRAM standards, sub-commands.

A registry is filled where the things are defined and read by name. There is no discovery: one file
lists what exists, and a name that does not exist is answered with those that do.
"""

import difflib
import importlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

from bankside.errors import ConfigError, ToolError

T = TypeVar("T")


def nearest(name: str, valid: Iterable[str]) -> str:
    """Return " (did you mean 'x'?)" for the valid name closest to `name`, or nothing."""
    found = difflib.get_close_matches(name, list(valid), n=1)
    return f" (did you mean {found[0]!r}?)" if found else ""


@dataclass(frozen=True)
class Lazy:
    """An object that is imported when first asked for, written "package.module:attribute"."""

    target: str

    @property
    def module(self) -> str:
        return self.target.partition(":")[0]

    def load(self) -> object:
        """Import the module and return the attribute.

        Raises:
            ToolError: the module, one of its dependencies or the attribute is missing.
        """
        module_name, _, attribute = self.target.partition(":")
        try:
            return getattr(importlib.import_module(module_name), attribute)
        except ModuleNotFoundError as error:
            missing = error.name or str(error)
            if missing.partition(".")[0] == "bankside":
                advice = "it is not part of this installation"
            else:
                advice = f"install it: python -m pip install {missing.partition('.')[0]}"
            raise ToolError(f"{self.target}: module {missing!r} is missing; {advice}") from error
        except AttributeError as error:
            raise ToolError(
                f"{self.target}: no such object; this installation is broken"
            ) from error


class Registry(Generic[T]):
    """Mapping from names to objects of one kind, in order of registration.

    Args:
        kind: what the objects are, in the singular, for messages ("engine").
    """

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._entries: dict[str, T | Lazy] = {}

    def add(self, name: str, entry: T | Lazy) -> None:
        """Register `entry`; a `Lazy` entry is imported by the first `get`.

        Raises:
            ConfigError: the name is taken.
        """
        if name in self._entries:
            raise ConfigError(f"{self.kind} {name!r} is registered twice; choose another name")
        self._entries[name] = entry

    def register(self, name: str) -> Callable[[T], T]:
        """Return a decorator that registers what it decorates."""

        def decorate(entry: T) -> T:
            self.add(name, entry)
            return entry

        return decorate

    def entry(self, name: str) -> T | Lazy:
        """Return the entry as registered, without importing it.

        Raises:
            ConfigError: unknown name; the message lists the valid ones.
        """
        if name not in self._entries:
            valid = ", ".join(self._entries) or "none is registered"
            raise ConfigError(
                f"unknown {self.kind} {name!r}{nearest(name, self._entries)}; choose from: {valid}"
            )
        return self._entries[name]

    def get(self, name: str) -> T:
        """Return the object of that name, importing it if need be.

        Raises:
            ConfigError: unknown name; the message lists the valid ones.
            ToolError: it cannot be imported.
        """
        entry = self.entry(name)
        if isinstance(entry, Lazy):
            entry = self._entries[name] = entry.load()  # type: ignore[assignment]
        return entry  # type: ignore[return-value]

    def names(self) -> tuple[str, ...]:
        """Return every registered name."""
        return tuple(self._entries)

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)
