"""The controller of the `pim` engine: front end, dispatch, the array and buffer engines, stall
counters.
"""
