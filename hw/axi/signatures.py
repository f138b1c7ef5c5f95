"""Signatures of AXI4 and AXI4-Lite, seen from the manager (the side that sends addresses).

Members carry the names of the AXI specification in lower case, so that `prefixed` gives the usual
port names (`m_axi_araddr`), which tools and bus models find by themselves.
Ref: AMBA AXI and ACE protocol specification, ARM IHI 0022E.
"""

from amaranth.hdl import Module
from amaranth.lib import enum, wiring
from amaranth.lib.wiring import In, Member, Out
from amaranth.utils import exact_log2

__all__ = [
    "BURST_BYTES",
    "BURST_INCR",
    "AxiLiteSignature",
    "AxiReadSignature",
    "AxiWriteSignature",
    "Resp",
    "connect_prefixed",
    "prefixed",
]

BURST_INCR = 1
"""AxBURST of incrementing addresses."""
BURST_BYTES = 4096
"""No burst crosses a multiple of this many bytes."""
BURST_BEATS = 256
"""No burst has more beats."""


class Resp(enum.Enum, shape=2):
    """RRESP, BRESP. Bit 1 tells an error."""

    OKAY = 0
    EXOKAY = 1
    SLVERR = 2
    DECERR = 3


class _AxiSignature(wiring.Signature):
    """A signature that is equal to others of its class with the same widths."""

    def __init__(self, members: dict[str, Member], *, data_bits: int, address_bits: int) -> None:
        if data_bits % 8 or data_bits & (data_bits - 1):
            raise ValueError(f"data_bits must be a power of two from 8 on, not {data_bits!r}")
        self.data_bits, self.address_bits = data_bits, address_bits
        super().__init__(members)

    @property
    def size(self) -> int:
        """AxSIZE of full-width beats: log2 of their bytes."""
        return exact_log2(self.data_bits // 8)

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and self.members == other.members

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}(data_bits={self.data_bits}, address_bits={self.address_bits})"
        )


def _address(channel: str, address_bits: int) -> dict[str, Member]:
    return {
        f"{channel}id": Out(1),
        f"{channel}addr": Out(address_bits),
        f"{channel}len": Out(8),
        f"{channel}size": Out(3),
        f"{channel}burst": Out(2),
        f"{channel}valid": Out(1),
        f"{channel}ready": In(1),
    }


class AxiReadSignature(_AxiSignature):
    """The two read channels of AXI4, ID of one bit."""

    def __init__(self, *, data_bits: int, address_bits: int) -> None:
        members = {
            **_address("ar", address_bits),
            "rid": In(1),
            "rdata": In(data_bits),
            "rresp": In(Resp),
            "rlast": In(1),
            "rvalid": In(1),
            "rready": Out(1),
        }
        super().__init__(members, data_bits=data_bits, address_bits=address_bits)


class AxiWriteSignature(_AxiSignature):
    """The three write channels of AXI4, ID of one bit."""

    def __init__(self, *, data_bits: int, address_bits: int) -> None:
        members = {
            **_address("aw", address_bits),
            "wdata": Out(data_bits),
            "wstrb": Out(data_bits // 8),
            "wlast": Out(1),
            "wvalid": Out(1),
            "wready": In(1),
            "bid": In(1),
            "bresp": In(Resp),
            "bvalid": In(1),
            "bready": Out(1),
        }
        super().__init__(members, data_bits=data_bits, address_bits=address_bits)


class AxiLiteSignature(_AxiSignature):
    """AXI4-Lite. AxPROT is left out: a slave that does not look at it may do so."""

    def __init__(self, *, data_bits: int, address_bits: int) -> None:
        members = {
            "awaddr": Out(address_bits),
            "awvalid": Out(1),
            "awready": In(1),
            "wdata": Out(data_bits),
            "wstrb": Out(data_bits // 8),
            "wvalid": Out(1),
            "wready": In(1),
            "bresp": In(Resp),
            "bvalid": In(1),
            "bready": Out(1),
            "araddr": Out(address_bits),
            "arvalid": Out(1),
            "arready": In(1),
            "rdata": In(data_bits),
            "rresp": In(Resp),
            "rvalid": In(1),
            "rready": Out(1),
        }
        super().__init__(members, data_bits=data_bits, address_bits=address_bits)


def prefixed(prefix: str, signature: wiring.Signature) -> dict[str, Member]:
    """Members of `signature` under the names `prefix` + name, for the ports of a top module."""
    return {prefix + name: member for name, member in signature.members.items()}


def connect_prefixed(m: Module, outer: wiring.Component, prefix: str, inner) -> None:
    """Pass the ports `prefix*` of the component `outer` on to `inner`, an interface inside it of
    the signature whose members `prefixed` gave to `outer`.
    """
    for name, member in inner.signature.members.items():
        port = getattr(outer, prefix + name)
        if member.flow == Out:
            m.d.comb += port.eq(getattr(inner, name))
        else:
            m.d.comb += getattr(inner, name).eq(port)
