"""The GPUs' memory is HBM-PIM: keys and values beside the weights, decode attention at its internal
bandwidth.

Ref: first baseline of CHIME (ISCA 2026); AttAcc (ASPLOS 2024).
"""

from __future__ import annotations

from bankside.mapping.policy.base import Policy
from bankside.mapping.policy.beside import Beside


class HbmPim(Beside):
    """GPUs and PIM take turns."""

    name = "hbm_pim"
    kv_place = "HBM-PIM"

    @property
    def kv_bytes(self) -> float:
        return Policy.kv_bytes.fget(self)  # type: ignore[attr-defined]


POLICY = HbmPim
