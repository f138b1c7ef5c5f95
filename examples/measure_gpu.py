"""Measure operators of your own GPU for `bankside calibrate`.

    python examples/measure_gpu.py --out measured
    bankside calibrate measured/gemm.csv --gpu a100-sxm-80g --out fit.yaml
    bankside calibrate measured/decode.csv --gpu a100-sxm-80g --out fit.yaml

Needs PyTorch and a GPU that it can use. Each time is the median of repetitions inside one captured
graph, so that no launch is in it, and every repetition works on other data than the one before it,
so that nothing is read from the cache that a model in service would read from memory. Inputs are
random numbers: zeros would draw less power and run at a higher clock.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median

_TOKENS = (1, 4, 16, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 2048, 4096, 8192)
_WIDTHS = (512, 1024, 2048, 3072, 4096, 5120, 8192, 11008, 14336, 22016)
_HEADS = ((32, 32), (32, 8), (64, 8))
_PROMPTS = (128, 256, 512, 1024, 2048, 4096, 8192)
_CONTEXTS = (128, 512, 1024, 2048, 4096, 8192, 16384)
_REQUESTS = (1, 2, 4, 8, 16, 32, 64)
_STREAMS = tuple(2**power for power in range(12, 30))
_MOST_BYTES = 8e9  # of all copies of a measurement's data
_LEAST_CACHE = 256e6  # copies until that much lies between two uses of one
_HEAD_DIM = 128

Row = dict[str, float]
Make = Callable[[], Callable[[], object]]


def load_torch():
    """PyTorch with a GPU; ends with a message otherwise."""
    try:
        import torch
    except ModuleNotFoundError:
        sys.exit(
            "measure_gpu: PyTorch is not installed; install the build for your GPU "
            "(https://pytorch.org/get-started) and run this again"
        )
    if not torch.cuda.is_available():
        sys.exit(
            "measure_gpu: PyTorch finds no GPU; run this on a machine with one, with a PyTorch "
            "build for it"
        )
    return torch


def seconds_of(torch, make: Make, size: float, repeats: int) -> float | None:
    """Median seconds of one call.

    Args:
        make: returns a call on data of its own.
        size: bytes of that data; None is returned where two copies do not fit.
    """
    copies = max(2, min(32, int(_LEAST_CACHE // max(size, 1)) + 1))
    if copies * size > _MOST_BYTES:
        return None
    calls = [make() for _ in range(copies)]
    for call in calls:  # libraries choose their kernels here, which a captured graph must not do
        call()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for call in calls:
            call()
    graph.replay()
    times = []
    for _ in range(repeats):
        start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        graph.replay()
        stop.record()
        stop.synchronize()
        times.append(1e-3 * start.elapsed_time(stop) / copies)
    return median(times)


def gemms(torch) -> Iterator[tuple[Row, Make, float]]:
    """Products of activations (m x k) and weights (k x n), bfloat16."""

    def make(m: int, n: int, k: int) -> Callable[[], object]:
        a = torch.randn(m, k, device="cuda", dtype=torch.bfloat16)
        weight = torch.randn(n, k, device="cuda", dtype=torch.bfloat16)
        return lambda: torch.nn.functional.linear(a, weight)

    for m, n, k in itertools.product(_TOKENS, _WIDTHS, _WIDTHS):
        row = {"m": m, "n": n, "k": k}
        yield row, lambda m=m, n=n, k=k: make(m, n, k), 2.0 * (m * k + k * n + m * n)


def _attention(torch, requests: int, new: int, keys: int, heads: int, kv_heads: int):
    def some(length: int, count: int):
        shape = (requests, count, length, _HEAD_DIM)
        return torch.randn(shape, device="cuda", dtype=torch.bfloat16)

    query, key, value = some(new, heads), some(keys, kv_heads), some(keys, kv_heads)
    group = heads != kv_heads
    return lambda: torch.nn.functional.scaled_dot_product_attention(
        query, key, value, is_causal=new > 1, enable_gqa=group
    )


def attention(torch, phase: str) -> Iterator[tuple[Row, Make, float]]:
    """Attention of prompts, or of one token per request."""
    lengths = _PROMPTS if phase == "prefill" else _CONTEXTS
    for requests, keys, (heads, kv_heads) in itertools.product(_REQUESTS, lengths, _HEADS):
        new = keys if phase == "prefill" else 1
        if requests * new > 65536:
            continue
        name = "tokens" if phase == "prefill" else "context"
        row = {"requests": requests, name: keys, "heads": heads, "kv_heads": kv_heads,
               "head_dim": _HEAD_DIM}  # fmt: skip
        size = 4.0 * _HEAD_DIM * requests * (keys * kv_heads + new * heads)
        arguments = (requests, new, keys, heads, kv_heads)
        yield row, lambda a=arguments: _attention(torch, *a), size


def streams(torch) -> Iterator[tuple[Row, Make, float]]:
    """Additions of two arrays."""

    def make(elements: int) -> Callable[[], object]:
        a, b = (torch.randn(elements, device="cuda", dtype=torch.bfloat16) for _ in range(2))
        c = torch.empty_like(a)
        return lambda: torch.add(a, b, out=c)

    for elements in _STREAMS:
        row = {"read_bytes": 4 * elements, "written_bytes": 2 * elements}
        for _ in range(3):
            yield row, lambda e=elements: make(e), 6.0 * elements


def measure(torch, shapes: Iterator[tuple[Row, Make, float]], repeats: int) -> Iterator[Row]:
    """Rows with their seconds; shapes that do not fit or that no kernel takes are left out."""
    for row, make, size in shapes:
        try:
            seconds = seconds_of(torch, make, size, repeats)
        except RuntimeError as error:
            print(f"left out {row}: {str(error).splitlines()[0]}", file=sys.stderr)
            continue
        if seconds is not None:
            yield {**row, "seconds": seconds}


def write(path: Path, rows: Iterator[Row]) -> int:
    """Write rows as CSV as they come, so that an interrupted run leaves what it has."""
    count, writer = 0, None
    with path.open("w", newline="", encoding="utf-8") as file:
        for row in rows:
            if writer is None:
                writer = csv.DictWriter(file, list(row))
                writer.writeheader()
            writer.writerow(row)
            file.flush()
            count += 1
    return count


def main() -> None:
    """Measure what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("measured"), help="folder of the tables")
    parser.add_argument("--kinds", nargs="+", default=["gemm", "prefill", "decode", "elementwise"],
                        choices=["gemm", "prefill", "decode", "elementwise"])  # fmt: skip
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--limit", type=int, help="only every so many-th shape")
    options = parser.parse_args()
    torch = load_torch()
    options.out.mkdir(parents=True, exist_ok=True)
    print(f"measuring {torch.cuda.get_device_name()} with PyTorch {torch.__version__}")
    sources = {
        "gemm": lambda: gemms(torch), "elementwise": lambda: streams(torch),
        "prefill": lambda: attention(torch, "prefill"),
        "decode": lambda: attention(torch, "decode"),
    }  # fmt: skip
    with torch.no_grad():
        for kind in options.kinds:
            shapes = itertools.islice(sources[kind](), 0, None, options.limit or 1)
            path = options.out / f"{kind}.csv"
            print(f"{path}: {write(path, measure(torch, shapes, options.repeats))} rows")


if __name__ == "__main__":
    main()
