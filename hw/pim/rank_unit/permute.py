"""The permutation network of both stagings: element order of a host burst and column rotation."""

from amaranth.hdl import Cat, Module, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from bankside.errors import ConfigError
from bankside.isa.machine import Machine


def chip_bits(machine: Machine) -> int:
    """log2 C. Raises ConfigError unless C is a power of two of at least 2."""
    chips = machine.chips
    if chips < 2 or chips & (chips - 1):
        raise ConfigError(f"the rank unit has {chips} chips; expected a power of two of at least 2")
    return machine.tree_levels


def slices(word: Value, width: int) -> list[Value]:
    """`word` in parts of `width` bits, low part first."""
    return [word[i : i + width] for i in range(0, len(word), width)]


def skew(machine: Machine, address: Value, nhc_log2: Value) -> Value:
    """N_hc * address mod C: by how many columns the pieces of this address are rotated."""
    return (address[: chip_bits(machine)] << nhc_log2)[: chip_bits(machine)]


class Rotate(wiring.Component):
    """Rotate the C slices of a burst by `amount` columns, combinational.

    Slice k comes out as slice (k + amount) mod C; with `back` as slice (k - amount) mod C.

    Members
    -------
    i : In(C*NE*16), amount : In(log2 C), o : Out(C*NE*16)
    """

    i: Signal
    amount: Signal
    o: Signal

    def __init__(self, machine: Machine, *, back: bool = False) -> None:
        self.slice_bits = machine.slice_bits
        self.back = back
        burst = machine.chips * machine.slice_bits
        super().__init__({"i": In(burst), "amount": In(chip_bits(machine)), "o": Out(burst)})

    def elaborate(self, platform) -> Module:
        m = Module()
        word = self.i
        for level, bit in enumerate(self.amount):
            distance = self.slice_bits << level
            turned = word.rotate_right(distance) if self.back else word.rotate_left(distance)
            chosen = Signal(len(word), name=f"by{1 << level}")
            m.d.comb += chosen.eq(word)
            with m.If(bit):
                m.d.comb += chosen.eq(turned)
            word = chosen
        m.d.comb += self.o.eq(word)
        return m


class ElementOrder(wiring.Component):
    """Element order of a host burst <-> pieces, combinational.

    With N = 2^`group`: element N*(NE*g + p) + c of the host burst is element p of piece g*N + c.
    Forward turns a host burst into pieces, `inverse` pieces into a host burst. N = 1 is the
    layout raw, N = C the layout bit, N = N_hc the layout head.

    Members
    -------
    i : In(C*NE*16), group : In(3), o : Out(C*NE*16)
    """

    i: Signal
    group: Signal
    o: Signal

    def __init__(self, machine: Machine, *, inverse: bool = False) -> None:
        self.machine = machine
        self.inverse = inverse
        burst = machine.chips * machine.slice_bits
        super().__init__({"i": In(burst), "group": In(3), "o": Out(burst)})

    def elaborate(self, platform) -> Module:
        m = Module()
        elements = slices(self.i, 16)
        with m.Switch(self.group):
            for group in range(chip_bits(self.machine) + 1):
                with m.Case(group):
                    m.d.comb += self.o.eq(Cat(elements[k] for k in self._sources(group)))
        return m

    def _sources(self, group: int) -> list[int]:
        """Input element of every output element."""
        n, ne = 1 << group, self.machine.elements
        forward = [
            n * (ne * (piece // n) + p) + piece % n
            for piece in range(self.machine.chips)
            for p in range(ne)
        ]
        if not self.inverse:
            return forward
        backward = [0] * len(forward)
        for target, source in enumerate(forward):
            backward[source] = target
        return backward


class Relayout(wiring.Component):
    """Host burst -> the C columns of a staging; with `inverse` columns -> host burst.

    Members
    -------
    i : In(C*NE*16), group : In(3), amount : In(log2 C), o : Out(C*NE*16)
        `group` as in ElementOrder, `amount` columns of rotation.

    Ref: docs/pim.md section 3.
    """

    i: Signal
    group: Signal
    amount: Signal
    o: Signal

    def __init__(self, machine: Machine, *, inverse: bool = False) -> None:
        self.machine = machine
        self.inverse = inverse
        burst, bits = machine.chips * machine.slice_bits, chip_bits(machine)
        super().__init__({"i": In(burst), "group": In(3), "amount": In(bits), "o": Out(burst)})

    def elaborate(self, platform) -> Module:
        m = Module()
        m.submodules.order = order = ElementOrder(self.machine, inverse=self.inverse)
        m.submodules.rotate = rotate = Rotate(self.machine, back=self.inverse)
        first, second = (rotate, order) if self.inverse else (order, rotate)
        m.d.comb += [
            order.group.eq(self.group),
            rotate.amount.eq(self.amount),
            first.i.eq(self.i),
            second.i.eq(first.o),
            self.o.eq(second.o),
        ]
        return m
