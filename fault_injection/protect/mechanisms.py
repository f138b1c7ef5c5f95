"""Every protection mechanism, by name; one file each."""

from __future__ import annotations

from bankside.fault_injection.protect.mechanism import Mechanism
from bankside.registry import Lazy, Registry

__all__ = ["MECHANISMS"]

_HOME = "bankside.fault_injection.protect"

MECHANISMS: Registry[Mechanism] = Registry("protection mechanism")
MECHANISMS.add("parity", Lazy(f"{_HOME}.parity:PARITY"))
MECHANISMS.add("secded", Lazy(f"{_HOME}.secded:SECDED"))
MECHANISMS.add("tmr", Lazy(f"{_HOME}.tmr:TMR"))
MECHANISMS.add("dwc", Lazy(f"{_HOME}.dwc:DWC"))
MECHANISMS.add("dcls", Lazy(f"{_HOME}.dcls:DCLS"))
MECHANISMS.add("abft", Lazy(f"{_HOME}.abft:ABFT"))
MECHANISMS.add("hardened", Lazy(f"{_HOME}.hardened:HARDENED"))
