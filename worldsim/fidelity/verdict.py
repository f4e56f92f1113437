"""What the figures of a certificate come to, in plain words: what to believe, how far, and what not."""

from collections.abc import Iterable, Mapping
from itertools import groupby
from typing import Any

import numpy as np
from scipy.optimize import isotonic_regression

from worldsim.fidelity.measures import Curve

BELIEVED = 0.8  # share of windows that must be within tolerance; F1 that foreseen events must have
ENOUGH = 10  # events below which nothing is said about them; episodes below which it is said how few they are
BLIND = (
    "copy",
    "mean",
)  # guesses that know nothing: the last row that was seen, the data's mean or most frequent class
TELLING = ((0.8, "tells right from wrong"), (0.65, "hints at what is right"), (0.0, "tells little"))  # least AUROC
HEARD = {"psnr": 1.0, "accuracy": 0.05, "nrmse": -0.05}  # how much worse random actions must be: dB, share, deviations


def verdict(certificate: Mapping[str, Any]) -> list[str]:
    """Sentences about the observation, endings, rewards, actions and trust, from these figures alone."""
    step = certificate["one_step"]
    signs = step["reward"]["signs"].items()
    rewards = [(name, each) for name, each in signs if name != "none" and (each["events"] or each["foretold"])]
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
        yield f"Only {episodes} episode{'s were' if episodes > 1 else ' was'} looked at: others may go otherwise."


def believable(share: Curve, windows: list[int]) -> int:
    """Steps ahead up to which at least BELIEVED of the windows are within tolerance; 0: not even one.

    share: of the windows at each step, windows: how many there are. Chance makes such a curve rise here and there,
    which foresight does not: it is the falling curve nearest to it that counts.
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
        if steps and steps <= max(_guessed(shares[leaf], name, windows) for name in BLIND)
    ]
    order = sorted(until, key=lambda leaf: -until[leaf])
    groups = {steps: _listed(list(names)) for steps, names in groupby(order, key=lambda leaf: until[leaf])}
    whole = believable(certificate["within"], windows)
    if len(until) > 1:
        yield _far("all parts of an observation at once", whole)
    if believed := [f"{names} up to step {steps}" for steps, names in groups.items() if steps]:
        yield f"Believe {', '.join(believed)}."
    if guessed:
        yield f"For {_listed(guessed)} that proves nothing: a blind guess is right as far ahead."
    if 0 in groups:
        yield _far(groups[0], 0)


def _guessed(shares: Mapping[str, Curve], name: str, windows: list[int]) -> int:
    """`believable` of a blind guess."""
    return believable(shares[name], windows) if name in shares else 0


def _far(what: str, steps: int) -> str:
    return f"Believe {what} up to step {steps}." if steps else f"Do not believe {what}, not even one step ahead."


def _events(what: str, each: Mapping[str, Any]) -> str:
    seen = each["events"]
    if not seen:
        wrongly = f", though it foretold {each['foretold']}" if each["foretold"] else ""
        return f"Its {what} cannot be judged: none was seen{wrongly}."
    came = f"it foresaw {round(each['recall'] * seen)} of {seen} at their very step"
    came += f", and {each['precision']:.0%} of those that it foretold came" if each["precision"] else ""
    if seen < ENOUGH:
        return f"Do not count on its {what}: only {seen} {'were' if seen > 1 else 'was'} seen, and {came}."
    return f"{'Believe' if each['f1'] >= BELIEVED else 'Do not believe'} its {what}: {came}."


def _actions(found: Mapping[str, Any]) -> str:
    deltas = [
        each["delta"] / enough
        for measure, enough in HEARD.items()
        for each in found.get(measure, {}).values()
        if each["delta"] is not None
    ]
    if max(deltas, default=0) < 1:
        return "It hardly listens to its actions: under random ones it shows what it shows under the recorded ones."
    return "It listens to its actions: under random ones it shows something else."


def _trust(found: Mapping[str, Any]) -> str:
    area, error = found["auroc"], found["ece"]
    if area is None:
        return "Its trust cannot be judged: all predictions were alike."
    said = next(text for least, text in TELLING if area >= least)
    return f"Its trust {said} (AUROC {area:.2f}) and is off by {error:.2f} on average."


def _listed(names: list[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
