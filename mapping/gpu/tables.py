"""Tables of measured operator times: AIConfigurator's, Vidur's, and our own plain form.

Ref: ai-dynamo/aiconfigurator (columns as converted from its parquet files, latency in ms);
microsoft/vidur, data/profiling/compute/*/mlp.csv (medians in ms); docs/gpu.md, section Tables.
"""

from __future__ import annotations

import csv
import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bankside.errors import ConfigError
from bankside.mapping.gpu.kinds import KINDS, Kind
from bankside.registry import nearest

_AIC_GEMM = ("m", "n", "k", "latency")
_AIC_ATTENTION = (
    "batch_size", "isl", "num_heads", "num_key_value_heads", "head_dim", "step", "latency",
)  # fmt: skip
_VIDUR = ("n_embd", "n_expanded_embd", "n_head", "n_kv_head", "use_gated_mlp", "num_tokens",
          "num_tensor_parallel_workers")  # fmt: skip
_DEFAULTS = {"head_dim": 128.0, "rotated": 0.0}  # of a plain table without these columns
_LEAST_ROWS = 20


@dataclass(frozen=True)
class Table:
    """Measurements of one kind of operator.

    Attributes:
        kind: what was measured.
        columns: the kind's columns, arrays of one length.
        seconds: measured.
        form: `aiconfigurator`, `vidur` or `plain`.
        file: name of the file, without its folder.
        sha256: of the file.
        gives_overhead: the method of measurement adds a time of its own to every row.
    """

    kind: Kind
    columns: dict[str, NDArray]
    seconds: NDArray
    form: str
    file: str
    sha256: str
    gives_overhead: bool = False

    def __len__(self) -> int:
        return len(self.seconds)

    def part(self, rows: NDArray) -> Table:
        """The rows of an index or mask."""
        columns = {name: values[rows] for name, values in self.columns.items()}
        return Table(self.kind, columns, self.seconds[rows], self.form, self.file, self.sha256,
                     self.gives_overhead)  # fmt: skip


class _Csv:
    """A CSV file whose numbers are read by column, with line numbers in messages."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            raw = path.read_bytes()
            text = raw.decode("utf-8-sig")
        except OSError as error:
            raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
        except UnicodeDecodeError as error:
            raise ConfigError(f"{path}: not UTF-8 text; expected a CSV file") from error
        self.sha256 = hashlib.sha256(raw).hexdigest()
        rows = list(csv.reader(text.splitlines()))
        if len(rows) < 2:
            raise ConfigError(f"{path}: no rows; expected a header line and measurements below it")
        self.header = [name.strip() for name in rows[0]]
        if len(set(self.header)) != len(self.header):
            twice = next(name for name in self.header if self.header.count(name) > 1)
            raise ConfigError(f"{path}:1: column {twice!r} is there twice; remove one")
        self.rows = [(line, row) for line, row in enumerate(rows[1:], 2) if any(row)]
        for line, row in self.rows:
            if len(row) != len(self.header):
                raise ConfigError(
                    f"{path}:{line}: {len(row)} fields; expected {len(self.header)} as in the "
                    f"header; complete or remove the line"
                )

    def has(self, names: tuple[str, ...]) -> bool:
        return set(names) <= set(self.header)

    def text(self, name: str) -> list[str]:
        place = self.header.index(name)
        return [row[place].strip() for _, row in self.rows]

    def numbers(self, name: str, least: float | None = None) -> NDArray:
        """A column; values have to be above 0, or at least `least` where that is given."""
        found = np.empty(len(self.rows))
        for place, ((line, _), text) in enumerate(zip(self.rows, self.text(name), strict=True)):
            try:
                found[place] = float(text)
            except ValueError:
                found[place] = np.nan
            good = found[place] > 0 if least is None else found[place] >= least
            if not (good and np.isfinite(found[place])):
                wanted = "a number above 0" if least is None else f"a number from {least:g}"
                raise ConfigError(
                    f"{self.path}:{line}: {name} is {text!r}; expected {wanted}; correct or "
                    f"remove the line"
                )
        return found


def read_table(path: str | Path, kind: str | None = None) -> Table:
    """Read a table of measurements; its form is recognised by its columns.

    Args:
        path: CSV file with a header.
        kind: name of `KINDS`; by default what the columns say (of Vidur's tables: `gemm`).

    Raises:
        ConfigError: no known form, another kind than asked for, a value that is no time or size,
            or fewer than 20 rows; with file and line.
    """
    file = _Csv(Path(path))
    wanted = KINDS.get(kind) if kind else None
    if file.has(_VIDUR):
        table = _vidur(file, wanted)
    elif file.has(_AIC_ATTENTION):
        table = _aic_attention(file, wanted)
    elif file.has(_AIC_GEMM):
        table = _checked(file, wanted, "gemm", "aiconfigurator",
                         {name: file.numbers(name) for name in "mnk"},
                         1e-3 * file.numbers("latency"))  # fmt: skip
    else:
        table = _plain(file, wanted)
    if len(table) < _LEAST_ROWS:
        raise ConfigError(
            f"{path}: {len(table)} rows of kind {table.kind.name}; expected at least "
            f"{_LEAST_ROWS}; measure more shapes"
        )
    return table


def _checked(
    file: _Csv, wanted: Kind | None, name: str, form: str,
    columns: dict[str, NDArray], seconds: NDArray, gives_overhead: bool = False,
) -> Table:  # fmt: skip
    if wanted is not None and wanted.name != name:
        raise ConfigError(
            f"{file.path}: holds measurements of kind {name!r}, not {wanted.name!r}; drop --kind "
            f"or give another file"
        )
    return Table(KINDS.get(name), columns, seconds, form, file.path.name, file.sha256,
                 gives_overhead)  # fmt: skip


def _aic_attention(file: _Csv, wanted: Kind | None) -> Table:
    columns = {
        "requests": file.numbers("batch_size"), "heads": file.numbers("num_heads"),
        "kv_heads": file.numbers("num_key_value_heads"), "head_dim": file.numbers("head_dim"),
    }  # fmt: skip
    length, step = file.numbers("isl"), file.numbers("step", 0)
    if "window_size" in file.header and file.numbers("window_size", 0).any():
        raise ConfigError(
            f"{file.path}: rows with a window; the models know full attention; remove these rows"
        )
    if not (step.any() or (length > 1).any()):
        raise ConfigError(f"{file.path}: neither prompts nor steps; expected isl or step to vary")
    decode = bool(step.any())
    rotated = np.ones(len(length))  # the measured operator rotates and stores, too
    columns |= {"context": length + step} if decode else {"tokens": length, "rotated": rotated}
    return _checked(file, wanted, "decode" if decode else "prefill", "aiconfigurator", columns,
                    1e-3 * file.numbers("latency"))  # fmt: skip


def _vidur(file: _Csv, wanted: Kind | None) -> Table:
    """Four products per row, or the additions of the residual."""
    width, inner = file.numbers("n_embd"), file.numbers("n_expanded_embd")
    heads, kv_heads = file.numbers("n_head"), file.numbers("n_kv_head")
    tokens, shares = file.numbers("num_tokens"), file.numbers("num_tensor_parallel_workers")
    gated = np.array([1.0 if text == "True" else 0.0 for text in file.text("use_gated_mlp")])
    if wanted is not None and wanted.name == "elementwise":
        moved = {"read_bytes": 4 * tokens * width, "written_bytes": 2 * tokens * width}
        return _checked(file, wanted, "elementwise", "vidur", moved, _median(file, "add"))
    query, pair = width, 2 * width * kv_heads / heads
    products = {
        "attn_pre_proj": ((query + pair) / shares, width),
        "attn_post_proj": (width, width / shares),
        "mlp_up_proj": ((1 + gated) * inner / shares, width),
        "mlp_down_proj": (width, inner / shares),
    }
    found = [(tokens, n, k, _median(file, name)) for name, (n, k) in products.items()]
    m, n, k, seconds = (np.concatenate(column) for column in zip(*found, strict=True))
    return _checked(file, wanted, "gemm", "vidur", {"m": m, "n": n, "k": k}, seconds, True)


def _median(file: _Csv, operator: str) -> NDArray:
    name = f"time_stats.{operator}.median"
    if name not in file.header:
        raise ConfigError(
            f"{file.path}: column {name!r} is missing; expected the columns of Vidur's mlp.csv"
        )
    return 1e-3 * file.numbers(name)


def _plain(file: _Csv, wanted: Kind | None) -> Table:
    """Columns of a kind and `seconds`."""
    kinds = [wanted] if wanted else [KINDS.get(name) for name in KINDS]
    for kind in kinds:
        needed = tuple(name for name in kind.columns if name not in _DEFAULTS)
        if file.has((*needed, "seconds")):
            size = len(file.rows)
            columns = {
                name: file.numbers(name, 0 if name == "rotated" else None) if name in file.header
                else np.full(size, _DEFAULTS[name])
                for name in kind.columns
            }  # fmt: skip
            return Table(kind, columns, file.numbers("seconds"), "plain", file.path.name,
                         file.sha256)  # fmt: skip
    near = nearest(file.header[-1], ["seconds", "latency"])
    forms = "; ".join(f"{kind.name}: {', '.join((*kind.columns, 'seconds'))}" for kind in kinds)
    raise ConfigError(
        f"{file.path}:1: columns {', '.join(file.header[:8])} are of no known form{near}; expected "
        f"AIConfigurator's, Vidur's, or plain ones ({forms})"
    )
