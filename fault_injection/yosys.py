"""Scripts for Yosys, run in a process of their own: Yosys ends its process on every error."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from bankside.errors import ToolError

__all__ = ["run_script", "yosys_version"]

_RUN = "import sys; from pyosys import libyosys as y; y.Design().run_pass('script ' + sys.argv[1])"


def yosys_version() -> str:
    """Version of the installed pyosys; `ToolError` if there is none."""
    try:
        return version("pyosys")
    except PackageNotFoundError as error:
        raise ToolError(
            "the Python package 'pyosys' (Yosys) is missing from this environment; "
            "install it: python -m pip install 'pyosys>=0.70'"
        ) from error


def run_script(commands: Sequence[str], purpose: str, outputs: Sequence[Path] = ()) -> None:
    """Run `commands`; `purpose` ("count the cells of x") is for messages.

    Raises:
        ToolError: Yosys failed or one of `outputs` is not there, with the end of its log.
    """
    yosys_version()
    with tempfile.TemporaryDirectory(prefix="bankside-yosys-") as folder:
        script = Path(folder) / "script.ys"
        script.write_text("\n".join(commands) + "\n")
        command = [sys.executable, "-c", _RUN, str(script)]
        done = subprocess.run(command, capture_output=True, text=True)
    missing = [path.name for path in outputs if not path.exists()]
    if done.returncode != 0 or missing:
        log = "\n".join((done.stdout + done.stderr).strip().splitlines()[-12:])
        raise ToolError(
            f"Yosys could not {purpose} (exit status {done.returncode}"
            f"{', nothing written: ' + ', '.join(missing) if missing else ''}):\n"
            f"{textwrap.indent(log, '  ')}\nexpected a word-level netlist of `to_json`"
        )
