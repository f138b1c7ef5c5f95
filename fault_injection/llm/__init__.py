"""What a fault does to a language model: keys and values in DRAM, and replayed error patterns."""
