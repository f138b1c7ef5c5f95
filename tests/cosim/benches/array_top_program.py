"""A small attention on the `array` engine, assembled by hand, and what it must give.

One row block of C queries over keys in tiles of R; keys and values stream through a ring of two
tiles; several tiles are in flight.
"""

from math import exp2

import numpy as np
from numpy.typing import NDArray

from bankside.isa.array_machine import ArrayMachine
from bankside.isa.program import Builder, Program

HEAD = 8
"""Elements of a query, key and value."""
RING = 2
#: name: (place, slot, length, stage); the slots hold for machines of up to 5 rows.
_SCHEDULE = {
    "qk": (0, 0, HEAD, 0),
    "lm": (1, HEAD, 1, 0),
    "exp": (2, 21, 7, 0),
    "sld": (3, 9, 1, 1),
    "slnv": (4, 10, HEAD, 1),
    "rcp": (8, 18, 1, 1),
    "av": (9, 0, HEAD, 2),
}
_INTERVAL = 32


def _registers(b: Builder, **values: int) -> None:
    for name, value in values.items():
        b.SET(reg=name, value=value)


def attention_program(
    machine: ArrayMachine, query: NDArray, key: NDArray, value: NDArray, *, causal: bool = False
) -> Program:
    """`query` [C, HEAD], `key`, `value` [keys, HEAD] of float; results under the name `out`."""
    n, rows, columns = machine.bus_elements, machine.rows, machine.columns
    b, words = Builder("array", n), HEAD // n
    keys = len(key)
    tiles = -(-keys // rows)
    both = np.zeros((tiles * rows, 2 * HEAD))
    both[:keys] = np.concatenate([key, value], axis=1)
    image = np.concatenate([query.ravel(), both.ravel(), np.zeros(columns * HEAD)])
    cache, result = columns * HEAD * 2, (columns * HEAD + both.size) * 2
    _registers(b, outer=1, inner=columns, inner_bytes=2 * HEAD, beats=words, ring=1)
    b.LOAD(side="column", signal="compute")
    _load_keys(b, machine, cache, tiles, words)
    b.KERNEL(ii=_INTERVAL, format="fp16")
    for name, (index, start, length, stage) in _SCHEDULE.items():
        b.BLOCK(index=index, op=name, start=start, length=length, stage=stage,
                free=int(name == "slnv"), done=int(name == "av"))  # fmt: skip
    _registers(b, k=0, v=words, kv_step=2 * words, kv_ring=RING, q=0, out=words, keys=keys,
               causal=int(causal), position=keys - columns, group=1)  # fmt: skip
    b.RUN(tiles=tiles, each=1, free=1, first=1, last=1, wait="load", signal="store")
    _registers(b, mem=result, outer=1, inner=columns, inner_bytes=2 * HEAD, beats=words, ring=1,
               ring_phase=0, buf=words)  # fmt: skip
    b.STORE(wait="compute")
    b.HALT()
    data = image.astype("<f2").view("<u2").reshape(-1, n)
    return Program("array", tuple(b.words), data, {"out": (result // 2 // n, columns * words)})


def _load_keys(b: Builder, machine: ArrayMachine, cache: int, tiles: int, words: int) -> None:
    """The first tiles at once, the others when the rows of a tile are free."""
    tile_bytes = machine.rows * 2 * HEAD * 2
    _registers(b, outer_bytes=tile_bytes, inner=machine.rows, inner_bytes=4 * HEAD,
               beats=2 * words, buf_step=2 * words, ring=RING, mem=cache)  # fmt: skip
    ahead = min(RING, tiles)
    b.SET(reg="outer", value=ahead)
    b.LOAD(side="row", each=1, signal="compute")
    if tiles > ahead:
        _registers(b, outer=tiles - ahead, mem=cache + ahead * tile_bytes, ring_phase=ahead % RING)
        b.LOAD(side="row", each=1, wait="compute", signal="compute")


def attention_float(
    query: NDArray, key: NDArray, value: NDArray, *, causal: bool = False
) -> NDArray:
    """Base-2 softmax attention in float64, of FP16 operands. [C, HEAD]."""
    q, k, v = (x.astype(np.float16).astype(np.float64) for x in (query, key, value))
    scores, keys, columns = q @ k.T, len(k), len(q)
    if causal:
        met = np.arange(keys) <= (keys - columns + np.arange(columns))[:, None]
        scores = np.where(met, scores, -np.inf)
    weights = np.vectorize(exp2)(scores - scores.max(axis=1, keepdims=True))
    return weights @ v / weights.sum(axis=1, keepdims=True)


def random_operands(
    rng: np.random.Generator, columns: int, keys: int
) -> tuple[NDArray, NDArray, NDArray]:
    """Queries, keys, values of moderate size."""
    return (
        rng.normal(0, 0.7, (columns, HEAD)),
        rng.normal(0, 1, (keys, HEAD)),
        rng.normal(0, 1, (keys, HEAD)),
    )
