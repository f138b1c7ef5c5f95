"""examples/measure_gpu.py without a GPU: its messages, its tables, what it measures how often."""

import importlib.util
import subprocess
import sys
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import SimpleNamespace

import pytest

from bankside.mapping.gpu.kinds import KINDS
from bankside.mapping.gpu.tables import read_table

SCRIPT = Path(__file__).parents[3] / "examples" / "measure_gpu.py"


@pytest.fixture
def script():
    spec = importlib.util.spec_from_file_location("measure_gpu", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Clock:
    """A stand-in for PyTorch: operators take time by their sizes, but only while replayed."""

    def __init__(self) -> None:
        self.now, self.cost, self.captured, self.capturing = 0.0, 0.0, [], False
        self.bfloat16 = "bfloat16"
        self.nn = SimpleNamespace(functional=SimpleNamespace(
            linear=lambda a, b: self.call(a.size + b.size),
            scaled_dot_product_attention=lambda q, k, v, **options: self.call(k.size + v.size),
        ))  # fmt: skip
        self.cuda = SimpleNamespace(
            is_available=lambda: True, synchronize=lambda: None, CUDAGraph=lambda: self,
            graph=self.capture, Event=lambda enable_timing: Event(self),
            get_device_name=lambda: "stand-in",
        )  # fmt: skip
        self.__version__ = "0"

    def call(self, size: float) -> None:
        if self.capturing:
            self.captured.append(1e-9 * size)

    @contextmanager
    def capture(self, graph: object):
        self.captured, self.capturing = [], True
        yield
        self.capturing = False

    def replay(self) -> None:
        self.now += sum(self.captured)

    def randn(self, *shape, device: str, dtype: str):
        shape = shape[0] if isinstance(shape[0], tuple) else shape
        size = 1
        for length in shape:
            size *= length
        return SimpleNamespace(size=size)

    def empty_like(self, other):
        return other

    def add(self, a, b, out) -> None:
        self.call(a.size + b.size + out.size)

    def no_grad(self):
        return nullcontext()


class Event:
    def __init__(self, clock: Clock) -> None:
        self.clock = clock

    def record(self) -> None:
        self.time = self.clock.now

    def synchronize(self) -> None:
        pass

    def elapsed_time(self, other: "Event") -> float:
        return 1e3 * (other.time - self.time)


def test_without_pytorch(tmp_path: Path) -> None:
    """Wherever this runs, with PyTorch or without: a module that is not there hides it."""
    (tmp_path / "torch.py").write_text("raise ModuleNotFoundError('No module named torch')")
    done = subprocess.run(
        [sys.executable, str(SCRIPT)], capture_output=True, text=True, cwd=tmp_path,
        env={"PYTHONPATH": str(tmp_path)},
    )  # fmt: skip
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr.startswith("measure_gpu: PyTorch is not installed; install the build for")


def test_without_gpu(script, monkeypatch) -> None:
    monkeypatch.setitem(
        sys.modules, "torch", SimpleNamespace(cuda=SimpleNamespace(is_available=lambda: False))
    )
    with pytest.raises(SystemExit, match="PyTorch finds no GPU; run this on a machine with one"):
        script.load_torch()


def test_tables(script, monkeypatch, tmp_path: Path, capsys) -> None:
    monkeypatch.setitem(sys.modules, "torch", Clock())
    monkeypatch.setattr(sys, "argv", ["measure_gpu", "--out", str(tmp_path), "--repeats", "3"])
    script.main()
    assert "measuring stand-in" in capsys.readouterr().out
    for kind in KINDS:
        table = read_table(tmp_path / f"{kind}.csv")
        assert (table.kind.name, table.form) == (kind, "plain")
        assert len(table) >= 50
    table = read_table(tmp_path / "gemm.csv")
    c = table.columns
    assert table.seconds == pytest.approx(1e-9 * (c["m"] * c["k"] + c["k"] * c["n"]))
    table = read_table(tmp_path / "decode.csv")
    c = table.columns
    read = 2 * c["requests"] * c["context"] * c["kv_heads"] * c["head_dim"]
    assert table.seconds == pytest.approx(1e-9 * read)


def test_data_change_from_call_to_call(script) -> None:
    """So many copies that a cache holds none until it is used again; none where none fit."""
    clock, made = Clock(), []

    def make():
        made.append(None)
        return lambda: clock.call(1e6)

    assert script.seconds_of(clock, make, 1e8, 3) == pytest.approx(1e-3)
    assert len(made) == 3
    assert script.seconds_of(clock, make, 5e9, 3) is None and len(made) == 3
    assert script.seconds_of(clock, make, 1e3, 3) == pytest.approx(1e-3) and len(made) == 35


def test_shapes_that_no_kernel_takes_are_left_out(script, capsys) -> None:
    def shapes():
        def fail():
            raise RuntimeError("out of memory\nmore")

        yield {"m": 1.0}, fail, 1e6
        yield {"m": 2.0}, lambda: lambda: None, 1e6

    rows = list(script.measure(Clock(), shapes(), 1))
    assert rows == [{"m": 2.0, "seconds": 0.0}]
    assert "left out {'m': 1.0}: out of memory\n" in capsys.readouterr().err
