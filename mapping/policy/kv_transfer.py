"""Keys and values between GPUs and host memory: the slower of links and DRAM decides.

The host's DRAM works at what its controllers sustain, cycle by cycle, for the runs of a paged cache
(`sim/memory/runs.py`); time is proportional to bytes. Against full simulations it is within 1.5 %
where blocks are only read or only written, within 6 % where both are mixed (within 8 % token by
token; tests/mapping/policy/test_host_offload.py). A layer keeps keys and values apart, each in
blocks of 16 tokens at random places: whole blocks are read, and written for prompts; a decoded
token writes its own bytes only.

Assumed: runs are spread over all channels burst by burst; four ranks per channel; nobody else uses
the memory; a machine without a description of its host's DRAM is bound by its links.

Ref: blocks of 16 tokens, keys and values apart: PagedAttention (SOSP 2023).
"""

from __future__ import annotations

from functools import cached_property

import numpy as np

from bankside.errors import ConfigError
from bankside.mapping.system.system import System
from bankside.mapping.workload.architecture import Architecture
from bankside.mapping.workload.batch import Numbers
from bankside.sim.memory.runs import channel_rate, channels_of, run_rate

#: Tokens of a block of the cache.
BLOCK_TOKENS = 16
#: Ranks of a channel: two DIMMs of two. Ref: CHIME (ISCA 2026), table I.
RANKS = 4


class KvTransfer:
    """One model's keys and values on their way to and from one machine's host memory.

    Args:
        kv_bits: width of a cached element.

    Raises:
        ConfigError: the machine has no link to a host.
    """

    def __init__(self, arch: Architecture, system: System, kv_bits: float = 16) -> None:
        if system.host_link is None:
            raise ConfigError(
                f"{system.name} has no link to a host, over which keys and values would move; "
                f"give it a host_link"
            )
        self.system = system
        latent = any(layer.attention == "latent" for layer in arch.layers)
        #: Contiguous bytes of a token's keys (or values) in a layer.
        self.token_bytes = arch.kv_elements * kv_bits / 8 / (1 if latent else 2)
        self.links = system.host_links * system.host_link.bandwidth

    @cached_property
    def channels(self) -> float:
        """Controllers at work; a memory below its channels' peak counts as fewer of them."""
        host = self.system.host
        assert host is not None
        given = channels_of(host.standard, host.channels)
        return min(given, host.memory_bandwidth / channel_rate(host.standard))

    def rate(self, direction: str, tokens: int) -> float:
        """Bytes per second of the host's DRAM for runs of so many tokens."""
        host = self.system.host
        if host is None:
            return float("inf")
        run = tokens * self.token_bytes
        return run_rate(host.standard, direction, run, channels=self.channels, ranks=RANKS)

    def link_seconds(self, read: Numbers, blocks: Numbers = 0.0, tokens: Numbers = 0.0) -> Numbers:
        """Of the busier direction of all links together; arguments of `seconds`."""
        return np.maximum(read, np.add(blocks, tokens)) / self.links

    def dram_seconds(self, read: Numbers, blocks: Numbers = 0.0, tokens: Numbers = 0.0) -> Numbers:
        """Of the host's DRAM, both directions together; arguments of `seconds`.

        Where it reads and writes, as many bytes of both as there are of the fewer go at the rate of
        reads and writes in turn, the rest at its own.
        """
        written = np.add(blocks, tokens)
        both = np.minimum(read, written)
        # Of what is written in turn with reads, blocks and tokens have their share.
        alone = np.divide(written - both, np.maximum(written, 1e-300))
        shared = 1 - alone
        return (
            (read - both) / self._rates["read"]
            + blocks * (alone / self._rates["blocks"] + 2 * shared / self._rates["both blocks"])
            + tokens * (alone / self._rates["tokens"] + 2 * shared / self._rates["both tokens"])
        )

    @cached_property
    def _rates(self) -> dict[str, float]:
        return {
            "read": self.rate("read", BLOCK_TOKENS),
            "blocks": self.rate("write", BLOCK_TOKENS),
            "tokens": self.rate("write", 1),
            "both blocks": self.rate("both", BLOCK_TOKENS),
            "both tokens": self.rate("both", 1),
        }

    def seconds(self, read: Numbers, blocks: Numbers = 0.0, tokens: Numbers = 0.0) -> Numbers:
        """Seconds to move bytes of keys and values: the slower of links and DRAM.

        Args:
            read: to the GPUs, in whole blocks.
            blocks: to the host, in whole blocks (prompts, requests that are swapped out).
            tokens: to the host, token by token (decode).
        """
        links = self.link_seconds(read, blocks, tokens)
        return np.maximum(links, self.dram_seconds(read, blocks, tokens))
