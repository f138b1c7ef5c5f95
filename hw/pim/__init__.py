"""DIMM-PIM: bank units, rank unit and controller."""
