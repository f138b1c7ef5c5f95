"""Programs in files: `.npz` (words, host data, names of the outputs) or assembler text.

No pickles: an `.npz` holds the arrays words uint64 [n], host_in uint16 [bursts, C*NE], engine and
output_names (text), output_ranges int64 [outputs, 2], and, if the program has any, regions int64
[regions, 2] (base, size).
"""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np

from bankside.cache import atomic_write
from bankside.errors import ProgramError
from bankside.isa.asm import assemble, disassemble
from bankside.isa.program import Program
from bankside.isa.spec import spec_names

# Name -> start of the NumPy type's name, dimensions.
_ARRAYS = {"words": ("uint64", 1), "host_in": ("uint16", 2), "engine": ("str", 0),
           "output_names": ("str", 1), "output_ranges": ("int64", 2)}  # fmt: skip
# Left out where there is none, so that programs of other engines keep their bytes.
_OPTIONAL = {"regions": ("int64", 2)}


def program_bytes(program: Program) -> bytes:
    """Content of the `.npz` of `program`; equal programs give equal bytes."""
    buffer = io.BytesIO()
    regions = {"regions": np.array(program.regions, np.int64)} if program.regions else {}
    np.savez(
        buffer,
        words=np.array(program.words, np.uint64),
        host_in=np.ascontiguousarray(program.host_in, np.uint16),
        engine=np.array(program.engine),
        output_names=np.array(list(program.outputs), np.str_),
        output_ranges=np.array(list(program.outputs.values()), np.int64).reshape(-1, 2),
        **regions,
    )
    return buffer.getvalue()


def save_program(path: str | Path, program: Program) -> Path:
    """Write `program`: `.npz`, or text for every other suffix. The file is complete or absent."""
    path = Path(path)
    data = program_bytes(program) if path.suffix == ".npz" else disassemble(program)
    return atomic_write(path, data)


def load_program(path: str | Path) -> Program:
    """Read a file that `save_program` or a person wrote.

    Raises ProgramError when it is missing, damaged or not a program.
    """
    path = Path(path)
    if path.suffix == ".npz":
        return _load_npz(path)
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ProgramError(f"{path}: cannot be read: {error.strerror}; check the path") from None
    except UnicodeDecodeError:
        raise ProgramError(
            f"{path}: is not text; expected assembler text, or a program with the suffix .npz"
        ) from None
    return assemble(text, str(path), folder=path.parent)


def _load_npz(path: Path) -> Program:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ProgramError(f"{path}: cannot be read: {error.strerror}; check the path") from None
    try:
        # From memory: on damaged files NumPy leaves the file it opened itself open.
        with np.load(io.BytesIO(data), allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except Exception as error:  # a damaged archive can break its reader anywhere
        kind = type(error).__name__
        raise ProgramError(
            f"{path}: is damaged or not a program ({kind}: {error}); write it anew"
        ) from None
    if set(arrays) - set(_OPTIONAL) != set(_ARRAYS):
        raise ProgramError(
            f"{path}: holds {', '.join(sorted(arrays)) or 'nothing'}; expected "
            f"{', '.join(_ARRAYS)}; write it with `bankside asm`"
        )
    for name, array in arrays.items():
        kind, dimensions = (_ARRAYS | _OPTIONAL)[name]
        if not array.dtype.name.startswith(kind) or array.ndim != dimensions:
            raise ProgramError(
                f"{path}: {name} is {array.dtype} with {array.ndim} dimensions; expected {kind} "
                f"with {dimensions}; write it with `bankside asm`"
            )
    if arrays["output_ranges"].shape != (len(arrays["output_names"]), 2):
        raise ProgramError(f"{path}: names and ranges of the outputs differ; write it anew")
    regions = arrays.get("regions", np.zeros((0, 2), np.int64))
    if regions.shape[1] != 2 or regions.size and regions.min() < 0:
        raise ProgramError(f"{path}: regions are not pairs of base and size; write it anew")
    if str(arrays["engine"]) not in spec_names():
        known = ", ".join(spec_names())
        raise ProgramError(f"{path}: no command set for engine {arrays['engine']}; known: {known}")
    names, ranges = arrays["output_names"].tolist(), arrays["output_ranges"].tolist()
    outputs = {name: (first, count) for name, (first, count) in zip(names, ranges, strict=True)}
    words = tuple(arrays["words"].tolist())
    pairs = tuple((base, size) for base, size in regions.tolist())
    return Program(str(arrays["engine"]), words, arrays["host_in"], outputs, pairs)
