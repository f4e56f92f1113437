"""Hypothesis strategies: any fault of the catalogue, with any of its parameters, and plans of them."""

from typing import Any, Literal, get_args, get_origin

from hypothesis import strategies as st
from pydantic.fields import FieldInfo

from worldsim.errors import ConfigError
from worldsim.faults import KINDS, After, Always, Bursts, Fault, Plan, TimeWindow, Window
from worldsim.faults.parameters import bounds

names = st.text(st.characters(codec="utf-8", exclude_categories=["Cs", "Cc"]), max_size=12)


def schedules() -> st.SearchStrategy[Any]:
    calls, seconds = st.floats(1, 1e6), st.floats(0, 1e6)
    each_tool = st.booleans()
    return st.one_of(
        st.just(Always()),
        st.builds(After, calls=st.integers(0, 10**6), per_tool=each_tool),
        st.builds(
            lambda start, length, per_tool: Window(start=start, stop=start + length, per_tool=per_tool),
            st.integers(0, 99),
            st.integers(1, 99),
            each_tool,
        ),
        st.builds(Bursts, mean_calls=calls, mean_gap=calls, per_tool=each_tool),
        st.builds(
            lambda start_s, length_s, more_s: TimeWindow(
                start_s=start_s, stop_s=start_s + length_s, every_s=None if more_s is None else length_s + 1.0 + more_s
            ),
            seconds,
            st.floats(1.0, 1e6),
            st.none() | seconds,
        ),
    )


def values(name: str, field: FieldInfo) -> st.SearchStrategy[Any]:
    """Values of one parameter, as the model allows them."""
    limits, kind = bounds(field), field.annotation
    if name == "seed":
        return st.none() | st.integers(0, 2**63)
    if limits is not None:
        whole = kind is int or int in get_args(kind)
        number = st.integers(*map(int, limits)) if whole else st.floats(*limits)
        return number | st.just(field.default)
    if get_origin(kind) is Literal:
        return st.sampled_from(get_args(kind))
    if name == "schedule":
        return schedules()
    if name in ("tools", "targets"):
        return st.lists(st.sampled_from(["*", "step", "reply/*", "a: b", "ü"]), min_size=1, max_size=3).map(tuple)
    return st.booleans() if kind is bool else st.just(field.default)


@st.composite
def faults(draw: st.DrawFn) -> Fault:
    kind = KINDS[draw(st.sampled_from(sorted(KINDS)))]
    optional = {name: values(name, field) for name, field in kind.model_fields.items()}
    given = draw(st.fixed_dictionaries({}, optional=optional))
    try:
        return kind(**given)
    except ConfigError:  # parameters that do not fit together
        return kind(severity=given.get("severity", 0.5))


def plans() -> st.SearchStrategy[Plan]:
    seeds = st.none() | st.integers(0, 2**63 - 1)
    return st.builds(Plan, name=names, description=names, seed=seeds, faults=st.lists(faults(), min_size=1, max_size=4))
