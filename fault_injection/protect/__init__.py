"""Protection as real hardware: transforms of the word-level netlist, one mechanism per file."""

from bankside.fault_injection.protect.build import Netlist, protected
from bankside.fault_injection.protect.mechanisms import MECHANISMS
from bankside.fault_injection.protect.plan import Plan, Use, read_plan

__all__ = ["MECHANISMS", "Netlist", "Plan", "Use", "protected", "read_plan"]
