"""The contract: command sets, DRAM standards and their encodings."""
