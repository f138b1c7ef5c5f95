"""Host DRAM controllers, cycle by cycle: requests in, commands, clocks and statistics out.

Start with `bankside.sim.memory.model.Memory`; the rules are in docs/memory_controller.md.
"""
