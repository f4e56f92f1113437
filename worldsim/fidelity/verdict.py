"""The verdict of a certificate: sentences on what can be believed, and how many steps ahead."""

from collections.abc import Iterable, Mapping
from itertools import groupby
from typing import Any

import numpy as np
from scipy.optimize import isotonic_regression

from worldsim.fidelity.measures import Curve

BELIEVED = 0.8  # share of windows that must be within tolerance; F1 that predicted events must have
ENOUGH = 10  # least number of events for a judgement; least number of episodes without a warning
BASELINES = ("copy", "mean")  # the last observed row; the data's mean, or most frequent class
SEPARATION = (  # least AUROC of trust, and the words for it
    (0.8, "separates right predictions from wrong ones"),
    (0.65, "hints at which predictions are right"),
    (0.0, "says little about which predictions are right"),
)
LEAST_EFFECT = {"psnr": 1.0, "accuracy": 0.05, "nrmse": -0.05}  # of random actions: dB, share, deviations


def verdict(certificate: Mapping[str, Any]) -> list[str]:
    """Sentences about observation, endings, rewards, actions and trust."""
    step = certificate["one_step"]
    signs = step["reward"]["signs"].items()
    rewards = [(name, each) for name, each in signs if name != "none" and (each["events"] or each["predicted"])]
    return [
        *(f"The data is lossy: {line}." for line in certificate.get("lossy", [])),
        *_few(certificate["episodes_reported"]),
        *_observation(certificate),
        _events("endings", step["termination"]),
        *(_events(f"{name} rewards", each) for name, each in rewards),
        _actions(certificate["controllability"]),
        _trust(certificate["trust"]),
    ]


def _few(episodes: int) -> Iterable[str]:
    if episodes < ENOUGH:
        yield f"Only {episodes} episode{'s were' if episodes > 1 else ' was'} measured: others may give other figures."


def believable(share: Curve, windows: list[int]) -> int:
    """Steps ahead up to which at least BELIEVED of the windows are within tolerance; 0: not even one.

    share: of windows within tolerance at each step; windows: their number. The share is first smoothed to a falling
    curve (isotonic regression), because quality can only decrease with the horizon: rises are chance.
    """
    there = [i for i, value in enumerate(share) if value is not None and windows[i]]
    falling = isotonic_regression([share[i] for i in there], weights=[windows[i] for i in there], increasing=False).x
    return int((np.round(falling, 9) >= BELIEVED).sum())


def _observation(certificate: Mapping[str, Any]) -> Iterable[str]:
    windows = certificate["windows_at"]
    shares = certificate["within_by_leaf"]
    until = {leaf: believable(found["model"], windows) for leaf, found in shares.items()}
    guessed = [
        leaf
        for leaf, steps in until.items()
        if steps and steps <= max(_guessed(shares[leaf], name, windows) for name in BASELINES)
    ]
    # Leaves with the same number of steps share a clause, the greatest number first.
    order = sorted(until, key=lambda leaf: -until[leaf])
    groups = {steps: _listed(list(names)) for steps, names in groupby(order, key=lambda leaf: until[leaf])}
    whole = believable(certificate["within"], windows)
    if len(until) > 1:
        yield _far("all parts of an observation at once", whole)
    if believed := [f"{names} up to step {steps}" for steps, names in groups.items() if steps]:
        yield f"Believe {', '.join(believed)}."
    if guessed:
        yield f"For {_listed(guessed)} that proves nothing: copying or guessing the mean is right as far ahead."
    if 0 in groups:
        yield _far(groups[0], 0)


def _guessed(shares: Mapping[str, Curve], name: str, windows: list[int]) -> int:
    """`believable` of a baseline."""
    return believable(shares[name], windows) if name in shares else 0


def _far(what: str, steps: int) -> str:
    return f"Believe {what} up to step {steps}." if steps else f"Do not believe {what}, not even one step ahead."


def _events(what: str, each: Mapping[str, Any]) -> str:
    events, predicted = each["events"], each["predicted"]
    if not events:
        wrongly = f", though it predicted {predicted}" if predicted else ""
        return f"Its {what} cannot be judged: the data has none{wrongly}."
    hits = f"it predicted {round(each['recall'] * events)} of {events} at exactly their step"
    hits += f", and {each['precision']:.0%} of those that it predicted happened" if each["precision"] else ""
    if events < ENOUGH:
        return f"Do not count on its {what}: the data has only {events}, and {hits}."
    return f"{'Believe' if each['f1'] >= BELIEVED else 'Do not believe'} its {what}: {hits}."


def _actions(found: Mapping[str, Any]) -> str:
    deltas = [
        each["delta"] / enough
        for measure, enough in LEAST_EFFECT.items()
        for each in found.get(measure, {}).values()
        if each["delta"] is not None
    ]
    if max(deltas, default=0) < 1:
        return "Its predictions hardly depend on the actions: they are as good under random as under the recorded ones."
    return "Its predictions depend on the actions: they are worse under random than under the recorded ones."


def _trust(found: Mapping[str, Any]) -> str:
    area, error = found["auroc"], found["ece"]
    if area is None:
        return "Its trust cannot be judged: all predictions were right, or all were wrong."
    how_well = next(text for least, text in SEPARATION if area >= least)
    return f"Its trust {how_well} (AUROC {area:.2f}); as a probability it is off by {error:.2f} on average."


def _listed(names: list[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
