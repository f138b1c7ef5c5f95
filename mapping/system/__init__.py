"""Machines that run language models: GPUs, links, memories, PIM, arrays, NPUs.

Ref: docs/workloads.md, section Systems.
"""

from bankside.mapping.system.devices import Array, DimmPim, HbmPim, Host, LogicPim, Npu, RankPim
from bankside.mapping.system.gpu import Gpu, Link, Peaks
from bankside.mapping.system.system import System, system_names
from bankside.mapping.system.tables import gpu_names, link_names, load_gpu, load_link

__all__ = [
    "Array",
    "DimmPim",
    "Gpu",
    "HbmPim",
    "Host",
    "Link",
    "LogicPim",
    "Npu",
    "Peaks",
    "RankPim",
    "System",
    "gpu_names",
    "link_names",
    "load_gpu",
    "load_link",
    "system_names",
]
