"""Every legality rule refuses its known-bad twin, and only what it is about."""

from dataclasses import replace

import pytest

from bankside.errors import ConfigError
from bankside.mapping.scheduling.graph import Graph, Task
from bankside.mapping.scheduling.plan import Plan, Stay
from bankside.mapping.scheduling.rules import RULES, check, violations

SIZES = {"x": 4, "a": 4, "b": 4, "c": 2}
GRAPH = Graph(
    "twin",
    SIZES,
    (Task("t0", ("x",), "a"), Task("t1", ("a",), "b"), Task("t2", ("a", "b"), "c")),
    ("c",),
)
GOOD = Plan(
    GRAPH,
    12,
    (0, 1, 2),
    (
        Stay("x", 0, 1, 4, True, False),
        Stay("a", 0, 3, 0, False, False),
        Stay("b", 1, 3, 4, False, False),
        Stay("c", 2, 3, 8, False, True),
    ),
)


def stays(**changed: dict) -> Plan:
    """The good plan with fields of stays changed."""
    return replace(GOOD, stays=tuple(s._replace(**changed.get(s.tensor, {})) for s in GOOD.stays))


# rule -> (plan, part of the finding)
TWINS = {
    "one_task_per_step": (replace(GOOD, steps=(0, 2, 3)), "expected each of 0..2 once"),
    "write_before_read": (replace(GOOD, steps=(1, 0, 2)), "'t1' in step 0 reads what 't0'"),
    "stays_exist": (stays(x={"end": 0}), "'x' stays from step 0 to before 0"),
    "present": (stays(a={"end": 2}), "'a' is not there when 't2' runs in step 2"),
    "created_by_its_task": (stays(c={"first": 1}), "'c' is created in steps [1]; expected [2]"),
    "fetched_from_memory": (
        replace(
            stays(a={"end": 2}), stays=(*stays(a={"end": 2}).stays, Stay("a", 2, 3, 0, True, False))
        ),
        "'a' is fetched in step 2 but was never stored",
    ),
    "outputs_stored": (stays(c={"stored": False}), "'c' never reaches memory"),
    "one_copy": (
        replace(GOOD, stays=(*GOOD.stays, Stay("x", 0, 1, 8, True, False))),
        "'x' stays until step 1 and again from 0",
    ),
    "inside": (stays(c={"address": 11}), "'c' at bytes 11..12 of 12"),
    "no_overlap": (stays(c={"address": 7}), "'b' and 'c' share byte 7 in step 2"),
}


def test_the_good_plan_is_legal():
    assert violations(GOOD) == [] and check(GOOD) is GOOD
    assert (GOOD.extra_bytes, GOOD.peak_bytes, GRAPH.compulsory_bytes) == (0, 10, 6)


def test_every_rule_has_a_twin():
    assert set(TWINS) == set(RULES)


@pytest.mark.parametrize("name", TWINS)
def test_twin_is_refused(name):
    plan, finding = TWINS[name]
    found = list(RULES.get(name).check(plan))
    assert any(finding in text for text in found), found
    with pytest.raises(ConfigError, match="plan of 'twin'.*is not legal"):
        check(plan)


def test_only_the_broken_rule_speaks():
    """Twins of independent rules; moving a task breaks several by its nature."""
    for name in ("outputs_stored", "inside", "no_overlap", "one_copy", "fetched_from_memory"):
        assert {text.partition(":")[0] for text in violations(TWINS[name][0])} == {name}
