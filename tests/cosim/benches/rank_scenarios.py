"""Scenarios of the rank unit that run on any simulator.

A scenario drives an adapter `p` with `set(port, value)`, `await get(port)` (settled, in this cycle)
and `await tick()`; ports are flat (`host_in__valid`). It checks every cycle against docs/pim.md
and every bit against `rank_reference`; a difference is an AssertionError.
"""

import itertools
import random
from collections.abc import Iterator

from rank_reference import Geometry, Reference, Scores, pack, unpack

from bankside.hw.pim.rank_unit import ports
from bankside.isa.machine import Machine
from bankside.isa.relayout import BIT, HEAD, RAW


class RankDriver:
    """Commands of the rank unit, cycle by cycle, with the reference beside it."""

    def __init__(self, p, machine: Machine, geometry: Geometry, rng: random.Random) -> None:
        self.p, self.machine, self.rng = p, machine, rng
        self.geometry = geometry
        self.reference = Reference(machine, geometry)
        self.layouts = {
            "geometry": ports.geometry_layout(machine),
            "host_command": ports.host_layout(machine),
            "rank_command": ports.rank_layout(machine),
            "read_info": ports.burst_layout(machine),
        }
        self.put("geometry", nhc_log2=geometry.nhc_log2, cpt=geometry.cpt, lanes=geometry.lanes)

    def put(self, port: str, **fields: int) -> None:
        """Drive a packed port."""
        self.p.set(port, self.layouts[port].const(fields).as_bits())

    def noise(self) -> int:
        """A random burst, for cycles in which the data must not matter."""
        return self.rng.getrandbits(self.machine.chips * self.machine.slice_bits)

    async def expect(self, what: str, **values: int) -> None:
        """Compare ports in this cycle."""
        for port, value in values.items():
            got = await self.p.get(port)
            assert got == value, f"{what}: {port} is {got:#x}, expected {value:#x}"

    def slices(self, word: int, bits: int = 16):
        """[chip][element] of a burst."""
        chips, width = self.machine.chips, self.machine.slice_bits
        return unpack(word, bits, chips, width // bits)

    # --- host ---------------------------------------------------------------------------------
    async def _host_start(self, **fields: int) -> None:
        await self.expect("before the load", host_busy=0, host_done=0)
        self.p.set("host_start", 1)
        self.put("host_command", **fields)
        await self.p.tick()
        self.p.set("host_start", 0)
        self.p.set("host_command", 0)

    async def hwr(self, address: int, layout: int, bursts, stalls: float = 0.0) -> None:
        """HWR; the host waits now and then with probability `stalls`."""
        await self._host_start(read=0, address=address, count=len(bursts), layout=layout)
        for i, burst in enumerate(bursts):
            for phase in range(self.machine.step - 1):
                # A burst that is offered early must not be taken.
                self.p.set("host_in__valid", self.rng.getrandbits(1))
                self.p.set("host_in__payload", self.noise())
                await self.expect(
                    f"HWR burst {i} phase {phase}", host_busy=1, host_done=0, host_in__ready=0
                )
                await self.p.tick()
            self.p.set("host_in__valid", 0)
            while self.rng.random() < stalls:
                await self.expect(f"HWR burst {i} stalled", host_done=0, host_in__ready=1)
                await self.p.tick()
            self.p.set("host_in__valid", 1)
            self.p.set("host_in__payload", pack(burst, 16))
            last = int(i == len(bursts) - 1)
            await self.expect(f"HWR burst {i}", host_busy=1, host_in__ready=1, host_done=last)
            await self.p.tick()
        self.p.set("host_in__valid", 0)
        await self.expect("after HWR", host_busy=0, host_done=0, host_in__ready=0)

    async def hrd(self, address: int, layout: int, count: int, stalls: float = 0.0):
        """HRD; returns the bursts."""
        await self._host_start(read=1, address=address, count=count, layout=layout)
        bursts = []
        for i in range(count):
            for phase in range(self.machine.step - 1):
                self.p.set("host_out__ready", self.rng.getrandbits(1))
                await self.expect(
                    f"HRD burst {i} phase {phase}", host_busy=1, host_done=0, host_out__valid=0
                )
                await self.p.tick()
            self.p.set("host_out__ready", 0)
            while self.rng.random() < stalls:
                await self.expect(f"HRD burst {i} stalled", host_done=0, host_out__valid=1)
                await self.p.tick()
            self.p.set("host_out__ready", 1)
            last = int(i == count - 1)
            await self.expect(f"HRD burst {i}", host_busy=1, host_out__valid=1, host_done=last)
            bursts.append(self.slices(await self.p.get("host_out__payload")).reshape(-1))
            await self.p.tick()
        self.p.set("host_out__ready", 0)
        await self.expect("after HRD", host_busy=0, host_done=0, host_out__valid=0)
        return bursts

    # --- chips --------------------------------------------------------------------------------
    async def _read(self, port: str, addresses):
        """Words of a synchronous read port, one per cycle, with a gap now and then."""
        words = []
        for address in addresses:
            self.p.set(f"{port}_en", 1)
            self.p.set(f"{port}_address", address)
            await self.p.tick()
            self.p.set(f"{port}_en", 0)
            self.p.set(f"{port}_address", 0)
            words.append(await self.p.get(f"{port}_data"))
            if self.rng.random() < 0.3:
                await self.p.tick()
                await self.expect("data is kept", **{f"{port}_data": words[-1]})
        return [self.slices(word) for word in words]

    async def stage(self, addresses):
        """Slices of the input staging."""
        return await self._read("stage", addresses)

    async def probabilities(self, addresses):
        """Words of the probability memory as the chips get them."""
        return await self._read("prob", addresses)

    async def rd(self, address: int, pieces) -> None:
        """Bursts of RD, back to back."""
        for i, piece in enumerate(pieces):
            self.p.set("read_out", 1)
            self.p.set("read_out_address", address + i)
            self.p.set("read_data", pack(piece, 16))
            await self.p.tick()
            self.p.set("read_out", 0)
            self.p.set("read_data", self.noise())
            for _ in range(self.machine.step - 1):
                await self.p.tick()

    def burst(self, values, **info: int) -> Iterator[None]:
        """One burst of RDRB, a cycle per item; the next may come STEP cycles later or more."""
        self.p.set("read_valid", 1)
        self.put("read_info", **info)
        self.p.set("read_data", pack(values, 32))
        yield
        self.p.set("read_valid", 0)
        self.p.set("read_info", 0)
        self.p.set("read_data", self.noise())
        wait = self.machine.step - 1
        wait += self.rng.randrange(1, 2 * self.machine.step) if self.rng.random() < 0.2 else 0
        for _ in range(wait):
            yield

    async def play(self, cycles: Iterator[None]) -> None:
        """Run a command given cycle by cycle, up to the cycle after its completion."""
        for _ in cycles:
            await self.p.tick()
        # From STEP cycles after the last burst to the cycle after its completion.
        for _ in range(self.machine.tree_levels * self.machine.step + 1):
            await self.p.tick()

    def rdrbs(self, score, groups, buf, valid, mood) -> Iterator[None]:
        """RDRBS, a cycle per item."""
        mc, scores = self.machine, Scores(self.rng, mood)
        for lane in range(self.geometry.lanes):
            for g, n in itertools.product(range(groups), range(mc.banks)):
                tokens = (
                    (g * mc.slots_per_burst + u) * mc.banks + mc.visit(n)
                    for u in range(mc.slots_per_burst)
                )
                values = scores.burst(mc, tuple(token < valid for token in tokens))
                address = score + (lane * groups + g) * mc.banks + n
                self.reference.score_burst(address, lane, g, n, buf, valid, values)
                yield from self.burst(
                    values, context=0, address=address, lane=lane, group=g, bank=mc.visit(n),
                    first_of_lane=int(g == n == 0), buf=buf, valid=valid,
                    first_bank=self.rng.getrandbits(1), last_bank=self.rng.getrandbits(1),
                )  # fmt: skip

    def rdrbc(self, score, count) -> Iterator[None]:
        """RDRBC, a cycle per item."""
        mc, scores = self.machine, Scores(self.rng)
        for word in range(self.geometry.lanes * count * 2):
            bursts = [scores.burst(mc) for _ in range(mc.banks)]
            self.reference.context_word(score + word, bursts)
            for n, values in enumerate(bursts):
                yield from self.burst(
                    values, context=1, address=score + word, lane=word // (2 * count),
                    first_bank=int(n == 0), last_bank=int(n == mc.banks - 1),
                    first_of_lane=self.rng.getrandbits(1), buf=self.rng.getrandbits(1),
                    group=self.rng.getrandbits(2), bank=mc.visit(n), valid=1,
                )  # fmt: skip

    # --- rank ---------------------------------------------------------------------------------
    async def _rank(self, what: str, cycles: int, background=(), **fields: int) -> None:
        background = iter(background)
        await self.expect(f"before {what}", rank_busy=0, rank_done=0)
        self.p.set("rank_start", 1)
        self.put("rank_command", **fields)
        await self.p.tick()
        self.p.set("rank_start", 0)
        self.p.set("rank_command", 0)
        for i in range(1, cycles + 1):
            next(background, None)
            await self.expect(f"{what} cycle {i}", rank_busy=1, rank_done=int(i == cycles))
            await self.p.tick()
        await self.expect(f"after {what}", rank_busy=0, rank_done=0)
        await self.play(background)

    async def sfm(self, background=(), **fields: int) -> None:
        """SFM beside another command, then every word of its blocks against the reference."""
        mc, groups = self.machine, fields["groups"]
        cycles = self.geometry.lanes * (groups * mc.banks + 5) * mc.step
        self.reference.softmax(**fields)
        await self._rank("SFM", cycles, background, norm=0, **fields)
        block = 1 + groups * mc.slots_per_burst * mc.subbanks
        addresses = range(fields["prob"], fields["prob"] + self.geometry.lanes * block)
        for address, word in zip(addresses, await self.probabilities(addresses), strict=True):
            expected = self.reference.chips_probability(address)
            assert word.tolist() == expected, f"probability word {address}: {word} != {expected}"

    async def norm(self, **fields: int) -> None:
        """NORM, then HRD raw of its results against the reference."""
        count = fields["count"]
        cycles = self.geometry.lanes * (2 * count + 29) * self.machine.step
        await self._rank("NORM", cycles, norm=1, **fields)
        self.reference.normalise(**fields)
        words = self.geometry.lanes * count
        bursts = await self.hrd(fields["out"], RAW, words)
        for i, burst in enumerate(bursts):
            expected = [x for piece in self.reference.out[fields["out"] + i] for x in piece]
            assert burst.tolist() == expected, f"output word {i}: {burst} != {expected}"


def random_bursts(driver: RankDriver, count: int):
    """Host bursts of random FP16 bits."""
    size = driver.machine.burst_elements
    return [[driver.rng.getrandbits(16) for _ in range(size)] for _ in range(count)]


async def relayout_scenario(driver: RankDriver) -> None:
    """All layouts, both directions, with and without stalls, at odd base addresses."""
    for layout, stalls in ((RAW, 0), (BIT, 0.4), (HEAD, 0), (HEAD, 0.4)):
        count = driver.geometry.cpt * 2 if layout == HEAD else 3
        base = driver.rng.randrange(12)
        bursts = random_bursts(driver, count)
        await driver.hwr(base, layout, bursts, stalls)
        pieces = driver.reference.relayout(bursts, layout)
        got = await driver.stage(range(base, base + count))
        for i, (have, want) in enumerate(zip(got, pieces, strict=True)):
            assert have.tolist() == want.tolist(), f"layout {layout} address {i}: {have} != {want}"
        base = driver.rng.randrange(12)
        await driver.rd(base, pieces)
        back = await driver.hrd(base, layout, count, stalls)
        for i, (have, want) in enumerate(zip(back, bursts, strict=True)):
            assert have.tolist() == want, f"layout {layout} burst {i} of HRD: {have} != {want}"


#: (mood, first chunk of a sequence, slot groups, tokens at the end that do not exist)
CHUNKS = (
    ("usual", True, 1, 3), ("usual", False, 2, 9), ("dominant", False, 1, 1),
    ("negative", True, 1, 0), ("negative", False, 1, 2), ("usual", False, 1, 5),
    ("equal", True, 2, 0), ("zero", True, 1, 100), ("usual", False, 1, 0), ("usual", False, 1, 0),
)  # fmt: skip


async def attention_scenario(driver: RankDriver, chunks=CHUNKS) -> None:
    """Chunks of scores with softmax, then context sums, normalised."""
    mc, rng = driver.machine, driver.rng
    commands = []
    for i, (mood, first, groups, missing) in enumerate(chunks):
        tokens = groups * mc.slots_per_burst * mc.banks
        span = driver.geometry.lanes * groups * mc.banks
        chunk = {
            "score": rng.randrange(64 - span) + 64 * (i & 1), "groups": groups, "buf": i & 1,
            "valid": max(1, tokens - missing),
        }  # fmt: skip
        commands.append((chunk, mood, first))
    count = min(driver.geometry.cpt, 2)
    context = driver.rdrbc(64 * (len(chunks) & 1) + rng.randrange(16), count)
    following = [driver.rdrbs(**chunk, mood=mood) for chunk, mood, _ in commands] + [context]
    await driver.play(following.pop(0))
    for (chunk, _, first), beside in zip(commands, following, strict=True):
        block = 1 + chunk["groups"] * mc.slots_per_burst * mc.subbanks
        prob = rng.randrange(160 - driver.geometry.lanes * block)
        overlap = rng.random() < 0.6
        await driver.sfm(beside if overlap else (), **chunk, prob=prob, first=int(first))
        if not overlap:
            await driver.play(beside)
    await driver.norm(score=min(driver.reference.context), out=rng.randrange(16), count=count)
