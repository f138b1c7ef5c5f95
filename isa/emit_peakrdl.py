"""C header and HTML of the host registers, made by PeakRDL from the SystemRDL (extra `rdl`)."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

from bankside.cache import atomic_write
from bankside.errors import ToolError

_PACKAGES = {
    "systemrdl": "systemrdl-compiler",
    "peakrdl_cheader": "peakrdl-cheader",
    "peakrdl_html": "peakrdl-html",
}
C_STANDARD = "gnu11"
"""The header uses `static_assert`; the exporter's default is newer than many embedded compilers."""


def write_registers(text: str, name: str, folder: Path) -> list[Path]:
    """Write `NAME.rdl` (the SystemRDL `text`), `NAME.h` and `NAME/index.html` into `folder`.

    Gives their paths. Raises ToolError where PeakRDL is missing or refuses the text.
    Ref: PeakRDL-cheader 1.1, PeakRDL-html 2.12.
    """
    _require()
    from peakrdl_cheader.c_standards import CStandard
    from peakrdl_cheader.exporter import CHeaderExporter
    from peakrdl_html import HTMLExporter

    source = atomic_write(folder / f"{name}.rdl", text)
    top = compile_rdl(source)
    header, pages = folder / f"{name}.h", folder / name
    CHeaderExporter().export(top, str(header), std=CStandard[C_STANDARD])
    HTMLExporter().export(top, str(pages))
    return [source, header, pages / "index.html"]


def compile_rdl(path: Path) -> Any:
    """The elaborated address map (systemrdl.node.AddrmapNode) of a SystemRDL file. Raises ToolError
    with the compiler's messages.
    """
    from systemrdl import RDLCompileError, RDLCompiler
    from systemrdl.messages import MessagePrinter

    messages: list[str] = []

    class Collect(MessagePrinter):
        def emit_message(self, lines: list[str]) -> None:
            messages.extend(lines)

    compiler = RDLCompiler(message_printer=Collect())
    try:
        compiler.compile_file(str(path))
        return compiler.elaborate().top
    except RDLCompileError:
        text = "\n".join(messages)
        raise ToolError(f"{path}: the SystemRDL compiler refuses it:\n{text}") from None


def _require() -> None:
    missing = [p for module, p in _PACKAGES.items() if importlib.util.find_spec(module) is None]
    if missing:
        raise ToolError(
            f"{', '.join(missing)} not installed: needed for the C header and the HTML of the host "
            f"registers; install the extra: pip install 'bankside[rdl]'"
        )
