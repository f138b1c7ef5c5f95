"""Masks and sign extensions that go: what is left computes the same."""

import re

import numpy as np
import pytest

from bankside.sim.lanes import simplify as module
from bankside.sim.lanes.simplify import simplify

FULL = 0xFFFFFFFF


def signed(value: int) -> int:
    return value - (1 << 32) if value >> 31 else value


class Machine:
    """Lines of a function on one lane; `stored`: what it stores and what its tests give."""

    def __init__(self, lines: list[str], loads: dict[str, int]) -> None:
        self.loads, self.stored, self.values = loads, [], {}
        for line in lines:
            self.step(line)

    def step(self, line: str) -> None:
        if m := re.fullmatch(r"const [VB] (\w+) = (.+);", line):
            self.values[m[1]] = self.of(m[2])
        elif m := re.fullmatch(r"STV\(d \+ \d+, (.+)\);", line):
            self.stored.append(self.of(m[1]))

    def of(self, text: str) -> int:
        if m := re.fullmatch(r"LDV\((\w+)\)", text):
            return self.loads[m[1]]
        if m := re.fullmatch(r"K\((0x[0-9a-f]+)u\)", text):
            return int(m[1], 16)
        if text in self.values:
            return self.values[text]
        if m := re.fullmatch(r"(SRA|SEL|MZ|ORM|ADDM|SUBM|TST)\((.+)\)", text):
            a, *rest = [p if p.isdigit() else self.of(p) for p in m[2].split(", ")]
            return self.call(m[1], a, *rest)
        a, op, b = text.split(" ")
        return self.binary(op, self.of(a), int(b) if b.isdigit() else self.of(b))

    @staticmethod
    def call(name: str, a, b=0, c=0) -> int:
        found = {
            "SRA": lambda: signed(a) >> int(b), "SEL": lambda: b if a else c,
            "MZ": lambda: b if a else 0, "ORM": lambda: a | c if b else a,
            "ADDM": lambda: a + c if b else a, "SUBM": lambda: a - c if b else a,
            "TST": lambda: int(a & b != 0),
        }  # fmt: skip
        return found[name]() & FULL

    @staticmethod
    def binary(op: str, a: int, b: int) -> int:
        found = {
            "+": a + b, "-": a - b, "*": a * b, "&": a & b, "|": a | b, "^": a ^ b,
            "<<": a << min(b, 64), ">>": a >> min(b, 64),
        }  # fmt: skip
        return found[op] & FULL


def random_function(rng: np.random.Generator) -> tuple[list[str], dict[str, int]]:
    """Masks and extensions of all widths among everything that is understood."""
    lines, widths, names = [], {}, []
    for i in range(4):
        widths[f"v{i}"] = int(rng.integers(1, 33))
        lines.append(f"const V v{i} = LDV(p{i});")
        names.append(f"v{i}")
    lines.append("const B b0 = TST(v0, K(0x1u));")
    for i in range(4, 60):
        a, b = (names[int(len(names) * rng.random() ** 0.5)] for _ in range(2))
        n = int(rng.integers(1, 32))
        mask = f"K({(1 << n) - 1 if rng.random() < 0.8 else int(rng.integers(1 << 32)):#x}u)"
        up = f"{a} << {n}"
        choices = [
            f"{a} & {mask}", f"{a} & {mask}", up, f"SRA({a}, {n})", f"{a} >> {n}", f"{a} + {b}",
            f"{a} - {b}", f"{a} * {b}", f"{a} | {b}", f"{a} ^ {b}", f"{a} & {b}",
            f"SEL(b0, {a}, {b})", f"MZ(b0, {a})", f"ORM({a}, b0, {mask})", f"ADDM({a}, b0, {b})",
            f"SUBM({a}, b0, {b})",
        ]  # fmt: skip
        text = choices[int(rng.integers(len(choices)))]
        lines.append(f"const V v{i} = {text};")
        names.append(f"v{i}")
        if text == up and rng.random() < 0.9:
            lines.append(f"const V v{i + 100} = SRA(v{i}, {n});")
            names.append(f"v{i + 100}")
        if rng.random() < 0.1:
            lines.append(f"STV(d + {i}, {names[-1]});")
        if rng.random() < 0.1:
            lines.append(f"const B b{i} = TST({names[-1]}, K({1 << n - 1:#x}u));")
            lines.append(f"STV(d + {i}, b{i});")
    return lines, widths


def differing(seed: int) -> tuple[int, int]:
    """(Operations less, inputs for which something else is stored)."""
    rng = np.random.default_rng(seed)
    lines, widths = random_function(rng)
    shorter = simplify(lines, widths)
    wrong = 0
    for _ in range(20):
        loads = {f"p{i}": int(rng.integers(1 << widths[f"v{i}"])) for i in range(4)}
        wrong += Machine(lines, loads).stored != Machine(shorter, loads).stored
    return len(lines) - len(shorter), wrong


def test_random_functions_store_the_same() -> None:
    found = [differing(seed) for seed in range(60)]
    assert not sum(wrong for _, wrong in found)
    assert sum(less for less, _ in found) > 120


@pytest.mark.parametrize("what", ["sign", "possible", "demanded"])
def test_a_wrong_rule_is_noticed(what, monkeypatch) -> None:
    """Too little possible, too many copies of the sign, readers that look at less than they do."""
    if what == "demanded":
        monkeypatch.setattr(module._Function, "_pass_on", staticmethod(lambda *_: None))
    else:
        fact = module._Fact(sign=2) if what == "sign" else module._Fact(possible=0xFF)
        monkeypatch.setattr(module._Function, "_of", lambda self, step: fact)
    assert sum(differing(seed)[1] for seed in range(40)) > 10


def test_a_chain_of_products() -> None:
    """What a sum of signed bytes is made of: no mask but the last one."""
    lines = []
    for i, name in enumerate("ab"):
        n = 10 * i
        lines += [
            f"const V v{n} = LDV({name});", f"const V v{n + 1} = v{n} << 24;",
            f"const V v{n + 2} = SRA(v{n + 1}, 24);", f"const V v{n + 3} = v{n + 2} & K(0xffffu);",
        ]  # fmt: skip
    lines += [
        "const V v20 = v3 * v13;", "const V v21 = v20 & K(0xffffu);", "const V v22 = v21 << 16;",
        "const V v23 = SRA(v22, 16);", "const V v24 = v23 & K(0x1ffffu);",
        "const V v25 = v24 + v23;", "const V v26 = v25 & K(0x1ffffu);", "STV(d + 0, v26);",
    ]  # fmt: skip
    assert simplify(lines, {"v0": 8, "v10": 8})[-3:] == [
        "const V v25 = v20 + v20;", "const V v26 = v25 & K(0x1ffffu);", "STV(d + 0, v26);"
    ]  # fmt: skip


def test_what_is_not_understood_reads_everything() -> None:
    lines = ["const V v1 = LDV(p);", "const V v2 = v1 & K(0xffu);", "READ(g, m, 8u, 1, v2, r3);"]
    assert simplify(lines, {}) == lines
