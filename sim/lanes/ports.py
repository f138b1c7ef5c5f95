"""C++ of a design's ports: one lane's as members, all lanes' where the design has them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from bankside.sim.lanes.activity import literal
from bankside.sim.lanes.places import Design, Place
from bankside.sim.lanes.segment import LIMB

_ALARMS = ("corrected", "detected")


def ports_header(design: Design, ignored: Sequence[str]) -> str:
    """Text of `lane_ports.h`. ignored: outputs that are not compared (traces)."""
    every = [p for p in design.places if p.kind in ("input", "output")]
    inputs = [p for p in every if p.kind == "input"]
    outputs = [p for p in every if p.kind == "output"]
    compared = [p for p in outputs if p.path not in (*ignored, *_ALARMS)]
    members = "\n".join(f"    {_type(p)} {_member(p)}{_array(p)};" for p in every)
    return "\n".join(
        [
            "#ifndef BANKSIDE_LANE_PORTS_H\n#define BANKSIDE_LANE_PORTS_H",
            '#include "runtime.h"\nnamespace bankside {',
            f"struct Ports {{\n{members}\n}};",
            _function(
                "void gather_outputs(Ports& p, const char* t, unsigned lane)", map(_gather, outputs)
            ),
            _function(
                "void spread_inputs(const Ports& p, lane_group& one, B which)",
                ["char* t = one.t; B odd; V vodd;", *(_spread(i, design.readers) for i in inputs)],
            ),
            "inline void broadcast_inputs(const Ports& p, lane_group& g) {",
            "    spread_inputs(p, g, ALL);\n}",
            "inline void scatter_inputs(const Ports& p, lane_group& g, unsigned lane) {",
            "    spread_inputs(p, g, B(1) << lane);\n}",
            _function("B outputs_differ(const char* t)", _differ(compared)),
            _function("B any_output_differs(const char* t)", _differ(outputs)),
            _function("B inputs_differ(const char* t)", _differ(inputs)),
            *(_alarm(name, outputs) for name in _ALARMS),
            "}\n#endif\n",
        ]
    )


def _function(head: str, lines: Iterable[str]) -> str:
    return f"inline {head} {{\n    " + "\n    ".join(lines) + "\n}"


def _member(place: Place) -> str:
    """As Verilator calls it."""
    return place.path.replace("__", "___05F")


def _type(place: Place) -> str:
    for bits in (8, 16, 32, 64):
        if place.width <= bits:
            return f"uint{bits}_t"
    return "uint32_t"


def _array(place: Place) -> str:
    return f"[{place.limbs}]" if place.width > 64 else ""


def _limb(place: Place, limb: int) -> str:
    return f"reinterpret_cast<const uint32_t*>(t + {place.offset + LIMB * limb})[lane]"


def _gather(place: Place) -> str:
    name = _member(place)
    if place.width == 1:
        return f"p.{name} = LDB(t + {place.offset}) >> lane & 1;"
    if place.width <= 32:
        return f"p.{name} = {_limb(place, 0)};"
    if place.width <= 64:
        return f"p.{name} = {_limb(place, 0)} | uint64_t{{{_limb(place, 1)}}} << 32;"
    return " ".join(f"p.{name}[{i}] = {_limb(place, i)};" for i in range(place.limbs))


def _part(place: Place, limb: int) -> str:
    name = _member(place)
    if place.width > 64:
        return f"p.{name}[{limb}]"
    return f"uint32_t(p.{name} >> {32 * limb})" if limb else f"uint32_t(p.{name})"


def _spread(place: Place, readers: Mapping[str, int]) -> str:
    """An input in some lanes; who reads it is told where it changes."""
    at, mask = f"t + {place.offset}", readers.get(place.path, 0)
    tell = f"one.g.now |= {literal(mask)}, one.g.next |= {literal(mask)};"
    if place.width == 1:
        return (
            f"odd = ((p.{_member(place)} & 1u ? ALL : 0) ^ LDB({at})) & which; "
            f"if (odd) {{ STB({at}, LDB({at}) ^ odd); {tell} }}"
        )
    return " ".join(
        f"vodd = MZ(which, K({_part(place, i)}) ^ LDV({at} + {LIMB * i})); "
        f"if (TST(vodd, vodd)) {{ STV({at} + {LIMB * i}, LDV({at} + {LIMB * i}) ^ vodd); {tell} }}"
        for i in range(place.limbs)
    )


def _differ(places: Sequence[Place]) -> list[str]:
    lines = ["V odd = K(0); B bits = 0;"]
    for place in places:
        if place.width == 1:
            lines.append(
                f"{{ const B b = LDB(t + {place.offset}); bits |= b ^ (b & 1 ? ALL : 0); }}"
            )
        else:
            lines += [
                f"{{ const V v = LDV(t + {place.offset + LIMB * i}); odd |= v ^ K(v[0]); }}"
                for i in range(place.limbs)
            ]
    return [*lines, "return (TST(odd, odd) | bits) & ALL;"]


def _alarm(name: str, outputs: Sequence[Place]) -> str:
    place = next((p for p in outputs if p.path == name and p.width == 1), None)
    value = f"LDB(t + {place.offset})" if place else "0"
    return f"inline B alarm_{name}(const char* t) {{ (void)t; return {value}; }}"
