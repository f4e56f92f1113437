"""Hypothesis strategies: any fault of the catalogue, with any of its parameters, and plans of them."""

from dataclasses import Field, fields
from typing import Any

from hypothesis import strategies as st

from worldsim.errors import ConfigError
from worldsim.faults import KINDS, After, Always, Bursts, Fault, Plan, Window

names = st.text(st.characters(codec="utf-8", exclude_categories=["Cs", "Cc"]), max_size=12)


def schedules() -> st.SearchStrategy[Any]:
    calls = st.floats(1, 1e6)
    return st.one_of(
        st.just(Always()),
        st.builds(After, st.integers(0, 10**6)),
        st.tuples(st.integers(0, 99), st.integers(1, 99)).map(lambda pair: Window(pair[0], pair[0] + pair[1])),
        st.builds(Bursts, calls, calls),
    )


def values(each: Field[Any]) -> st.SearchStrategy[Any]:
    """Values of one parameter, as its metadata allows them."""
    says = each.metadata
    if each.name == "seed":
        return st.none() | st.integers(0, 2**63)
    if says.get("whole"):
        return st.integers(says["low"], says["high"])
    if "low" in says:
        return st.floats(says["low"], says["high"]) | st.just(each.default)
    if "among" in says:
        return st.sampled_from(says["among"])
    if says.get("type") is Always:
        return schedules()
    if each.name in ("tools", "targets"):
        return st.lists(st.sampled_from(["*", "step", "reply/*", "a: b", "ü"]), min_size=1, max_size=3).map(tuple)
    return st.booleans() if says.get("type") is bool else st.just(each.default)


@st.composite
def faults(draw: st.DrawFn) -> Fault:
    kind = KINDS[draw(st.sampled_from(sorted(KINDS)))]
    given = draw(st.fixed_dictionaries({}, optional={each.name: values(each) for each in fields(kind)}))
    try:
        return kind(**given)
    except ConfigError:  # parameters that do not fit together
        return kind(severity=given.get("severity", 0.5))


def plans() -> st.SearchStrategy[Plan]:
    seeds = st.none() | st.integers(0, 2**63 - 1)
    return st.builds(Plan, name=names, description=names, seed=seeds, faults=st.lists(faults(), min_size=1, max_size=4))
