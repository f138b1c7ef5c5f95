"""Shared by all tests: the command line, inputs that must be refused, hypothesis settings."""

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

ROOT = Path(__file__).parents[1]

# Other load makes wall-clock limits on single examples meaningless.
settings.register_profile(
    "bankside", deadline=None, print_blob=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("bankside")

RunCli = Callable[..., subprocess.CompletedProcess]


@pytest.fixture(scope="session")
def run_cli() -> RunCli:
    """Return `run(*args, cwd, env, timeout)`, which runs `python -m bankside` as users do."""

    def run(
        *args: str | Path,
        cwd: Path | None = None,
        env: dict[str, str] | None = None,
        timeout: float = 120,
    ) -> subprocess.CompletedProcess:
        full = os.environ | {"PYTHONPATH": str(ROOT / "src")} | (env or {})
        command = [sys.executable, "-m", "bankside", *map(str, args)]
        return subprocess.run(
            command, cwd=cwd or ROOT, env=full, capture_output=True, text=True, timeout=timeout
        )

    return run


@dataclass(frozen=True)
class BadCase:
    """A file that must be refused, and the exact message ("FILE" stands for its path)."""

    path: Path
    message: str

    def check(self, error: Exception) -> None:
        """Compare an exception's message with the expected one."""
        assert str(error).replace(str(self.path), "FILE") == self.message


def read_bad_case(path: Path) -> BadCase:
    """Read the expected message from the file's `# expect: ` lines, one per message line."""
    prefix = "# expect: "
    lines = path.read_text(encoding="utf-8").splitlines()
    expected = [line.removeprefix(prefix) for line in lines if line.startswith(prefix)]
    assert expected, f"{path} has no line that starts with {prefix!r}"
    return BadCase(path, "\n".join(expected))


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    marker = metafunc.definition.get_closest_marker("bad_inputs")
    if marker is None:
        return
    files = sorted((ROOT / "tests" / "bad" / marker.args[0]).iterdir())
    assert files, f"tests/bad/{marker.args[0]} is empty"
    cases = [read_bad_case(path) for path in files]
    metafunc.parametrize("bad_case", cases, ids=[path.stem for path in files])
