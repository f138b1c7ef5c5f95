"""What the `rtl` executions of all engines share: the life of a compiled model, its waves."""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

__all__ = ["CompiledModel", "pointer"]


def pointer(array: NDArray) -> ctypes.c_void_p:
    """The address of the first item of `array`, which must outlive its use."""
    return ctypes.c_void_p(array.ctypes.data)


class CompiledModel:
    """A model in a shared library with the functions PREFIX_new, PREFIX_delete, PREFIX_waves."""

    PREFIX: str

    def __init__(self, library: ctypes.CDLL) -> None:
        self._library = library
        self._handle: ctypes.c_void_p | None = None
        self._function("new").restype = ctypes.c_void_p
        self.reset()

    def _function(self, name: str) -> Any:
        return getattr(self._library, f"{self.PREFIX}_{name}")

    def _call(self, name: str, *arguments: Any) -> Any:
        return self._function(name)(self._handle, *arguments)

    def _new_arguments(self) -> tuple[Any, ...]:
        """What PREFIX_new is called with."""
        return ()

    def reset(self) -> None:
        """Power-on state: registers at their initial values, memories zero."""
        self.close()
        self._handle = ctypes.c_void_p(self._function("new")(*self._new_arguments()))

    def close(self) -> None:
        """Free the model."""
        if self._handle is not None:
            self._call("delete")
            self._handle = None

    def __del__(self) -> None:
        if getattr(self, "_library", None) is not None:
            self.close()

    def record_waves(self, path: Path, first_cycle: int, last_cycle: int) -> None:
        """Write cycles first..last of the next program to a VCD file (needs waves=True)."""
        window = (ctypes.c_uint64(cycle) for cycle in (first_cycle, last_cycle))
        self._call("waves", str(path).encode(), *window)
