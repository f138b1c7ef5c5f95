"""The GPU host model: kernel times from calibrated parameters. Ref: docs/gpu.md."""

from bankside.mapping.gpu.fitted import fit_names, load_fit
from bankside.mapping.gpu.model import GpuModel

__all__ = ["GpuModel", "fit_names", "load_fit"]
