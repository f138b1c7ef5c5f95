"""Control of the `npu` engine: fetch, state registers, checks, queues, counters."""
