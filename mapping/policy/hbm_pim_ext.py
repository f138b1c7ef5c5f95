"""HBM-PIM added beside the GPUs: keys and values there.

Ref: second baseline of CHIME (ISCA 2026).
"""

from __future__ import annotations

from bankside.mapping.policy.beside import Beside


class HbmPimExt(Beside):
    """GPUs and PIM take turns."""

    name = "hbm_pim_ext"
    kv_place = "added HBM-PIM"


POLICY = HbmPimExt
