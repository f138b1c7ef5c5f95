"""YAML without surprises: what a file seems to say is what is read, or it is refused.

Differences to a plain YAML 1.1 reader: a key that appears twice, a merge key, a tag and a second
document are refused, and so are unquoted words that YAML 1.1 turns into something else (`on`,
`yes`, `010`, `1:30`, `1_000`). `1e9` is a real number (YAML 1.1 reads text), a date is text.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from bankside.errors import BanksideError, ConfigError

KeyPath = tuple[str | int | float | bool | None, ...]

_DECIMAL = re.compile(r"[-+]?(0|[1-9][0-9]*)$")
_PREFIXED = re.compile(r"[-+]?0(x[0-9a-fA-F]+|o[0-7]+|b[01]+)$")
_REAL = re.compile(r"[-+]?([0-9]+\.[0-9]*|\.[0-9]+|[0-9]+(?=[eE]))([eE][-+]?[0-9]+)?$")
_SPECIAL = {".inf": "inf", "+.inf": "inf", "-.inf": "-inf", ".nan": "nan"}
_WORDS = {"true": True, "false": False, "null": None, "~": None, "": None}
# What YAML 1.1 reads as something else than it looks: (pattern, what it would become).
_TRAPS = (
    (re.compile(r"(yes|no|on|off)$", re.IGNORECASE), "a truth value in YAML 1.1"),
    (re.compile(r"(true|false|null)$", re.IGNORECASE), "a truth value or null in odd spelling"),
    (re.compile(r"[-+]?0[0-9_]+$"), "an octal number in YAML 1.1"),
    (re.compile(r"[-+]?[0-9][0-9_]*(:[0-5]?[0-9])+(\.[0-9_]*)?$"), "a base-60 number in YAML 1.1"),
    (
        re.compile(r"[-+]?([0-9]+|0x[0-9a-fA-F]+|0b[01]+)(_[0-9a-fA-F]+)+$"),
        "a number with underscores in YAML 1.1",
    ),
)


@dataclass(frozen=True)
class Locations:
    """Where each key and list element of a YAML file stands.

    Paths are tuples of keys and list indices; `()` is the whole document.
    """

    path: Path
    lines: dict[KeyPath, int] = field(default_factory=dict)

    def line(self, key_path: Sequence[object]) -> int:
        """Return the line (from 1) of the key at that path, or of its closest known ancestor."""
        steps: tuple = tuple(key_path)
        while steps and steps not in self.lines:
            steps = steps[:-1]
        return self.lines.get(steps, 1)

    def where(self, key_path: Sequence[object] = ()) -> str:
        """Return "file:line" of the key at that path."""
        return f"{self.path}:{self.line(key_path)}"

    def below(self, key_path: Sequence[object]) -> "Locations":
        """Return the locations inside the element at that path, as if it were the document."""
        steps = tuple(key_path)
        inside = {
            path[len(steps) :]: n for path, n in self.lines.items() if path[: len(steps)] == steps
        }
        return Locations(self.path, {(): self.line(steps)} | inside)


class _Loader(yaml.SafeLoader):
    """Leaves every plain scalar as text, so that `_Builder` alone decides what it means."""

    yaml_implicit_resolvers: dict = {}


class _Builder:
    """Turns composed YAML nodes into Python data and notes where everything stands."""

    def __init__(self, path: Path, error: type[BanksideError]) -> None:
        self.locations = Locations(path)
        self._error = error
        self._open: set[int] = (
            set()
        )  # mappings and lists being built, to notice one that contains itself

    def refuse(self, node: yaml.Node, message: str) -> BanksideError:
        return self._error(f"{self.locations.path}:{node.start_mark.line + 1}: {message}")

    def build(self, node: yaml.Node, where: KeyPath) -> object:
        self.locations.lines.setdefault(where, node.start_mark.line + 1)
        if isinstance(node, yaml.ScalarNode):
            return self._scalar(node)
        if id(node) in self._open:
            raise self.refuse(node, "an alias makes this element contain itself; write it out")
        self._open.add(id(node))
        if isinstance(node, yaml.MappingNode):
            self._check_tag(node, "map")
            built: object = self._mapping(node, where)
        else:
            self._check_tag(node, "seq")
            built = [self.build(child, (*where, i)) for i, child in enumerate(node.value)]
        self._open.discard(id(node))
        return built

    def _mapping(self, node: yaml.MappingNode, where: KeyPath) -> dict:
        built: dict = {}
        for key_node, value_node in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                raise self.refuse(key_node, "a key must be a single word or number")
            key = self._scalar(key_node)
            if key == "<<" and key_node.style is None:
                raise self.refuse(key_node, "merge keys (<<) are not supported; write the keys out")
            # 1 and 1.0 and true are one key to Python; telling them apart in a file helps nobody.
            if key in built:
                first = self.locations.line((*where, key))
                raise self.refuse(
                    key_node, f"key {key!r} is given twice (first in line {first}); remove one"
                )
            self.locations.lines[(*where, key)] = key_node.start_mark.line + 1
            built[key] = self.build(value_node, (*where, key))
        return built

    def _check_tag(self, node: yaml.Node, kind: str) -> None:
        if node.tag != f"tag:yaml.org,2002:{kind}":
            raise self.refuse(node, f"tag {node.tag!r} is not supported; remove it")

    def _scalar(self, node: yaml.ScalarNode) -> str | int | float | bool | None:
        self._check_tag(node, "str")
        text = node.value
        if node.style is not None:
            return text
        if text in _WORDS:
            return _WORDS[text]
        if _DECIMAL.match(text):
            return int(text)
        if _PREFIXED.match(text):
            return int(text, 0)
        if _REAL.match(text) or text in _SPECIAL:
            return float(_SPECIAL.get(text, text))
        for pattern, meaning in _TRAPS:
            if pattern.match(text):
                raise self.refuse(
                    node,
                    f"{text!r} is {meaning}; write true, false, null or a plain number, "
                    "or quote it",
                )
        return text


def parse_yaml(
    text: str, path: str | Path, error: type[BanksideError] = ConfigError
) -> tuple[object, Locations]:
    """Read YAML text; `path` is only used in messages. See `load_yaml`."""
    path = Path(path)
    try:
        node = _Loader(text).get_single_node()
        if node is None:
            raise error(f"{path}: the file is empty; expected a YAML mapping")
        builder = _Builder(path, error)
        return builder.build(node, ()), builder.locations
    except yaml.MarkedYAMLError as bad:
        line = f":{bad.problem_mark.line + 1}" if bad.problem_mark else ""
        problem = "; ".join(part for part in (bad.context, bad.problem) if part)
        raise error(f"{path}{line}: not valid YAML: {problem}") from bad
    except yaml.YAMLError as bad:
        raise error(f"{path}: not valid YAML: {' '.join(str(bad).split())}") from bad
    except RecursionError as bad:
        raise error(f"{path}: nested too deeply to be a sensible description") from bad


def load_yaml(
    path: str | Path, error: type[BanksideError] = ConfigError
) -> tuple[object, Locations]:
    """Read a YAML file.

    Args:
        path: the file.
        error: class of the exception to raise, so that each caller's users see their own kind.

    Returns:
        The data (dict, list, str, int, float, bool, None) and the `Locations` of its keys.

    Raises:
        error: the file is missing, not UTF-8, not YAML, or says something ambiguous; with file and
            line.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as bad:
        raise error(f"{path}: cannot be read: {bad.strerror}") from bad
    except UnicodeDecodeError as bad:
        raise error(f"{path}: not UTF-8 text (byte {bad.start}); is it a YAML file?") from bad
    return parse_yaml(text, path, error)
