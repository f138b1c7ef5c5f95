"""Serving: request traces, batching, key/value memory, latencies. Ref: docs/serving.md."""
