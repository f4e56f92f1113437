"""The summary of a certificate, as a table for the terminal."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table

SHOWN = (1, 5, 15, 30)  # horizons that a summary shows


def certificate_table(certificate: Mapping[str, Any]) -> Table:
    """The table that `worldsim validate` prints."""
    table = Table(title="Fidelity, on held-out rollouts", show_header=False, title_justify="left")
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for name, clauses in summary(certificate).items():
        table.add_row(name, in_lines(clauses))
    return table


def in_lines(clauses: Sequence[str]) -> str:
    """One clause a line, for narrow terminals; if all are a name with numbers, the numbers are aligned in columns."""
    named = [re.fullmatch(r"(\S+) ((?:[-\d.–]+(?:, )?)+)(\D*)", clause) for clause in clauses]
    if len(clauses) == 1 or None in named:
        return "\n".join(clauses)
    each = [(found[1], found[2].split(", "), found[3]) for found in named if found]
    wide = max(len(name) for name, _, _ in each)
    return "\n".join(f"{name:<{wide}}{''.join(f'{x:>7}' for x in numbers)}{unit}" for name, numbers, unit in each)


def summary(certificate: Mapping[str, Any]) -> dict[str, list[str]]:
    """Label -> clauses of text with the metrics."""
    # Not split by measure: the order of the lines here is the order of the printed table.
    horizons = certificate["horizons"]
    places = [horizons.index(h) for h in SHOWN if h in horizons] or [len(horizons) - 1]
    found = {"verdict": list(certificate.get("verdict", []))}
    found["episodes"] = [f"{certificate['episodes_reported']}, and {certificate['episodes_calibrating']} to calibrate"]
    found["steps ahead"] = [f"{', '.join(str(horizons[place]) for place in places)} in each of the following"]
    for key, of in (("psnr_by_leaf", ""), ("psnr_changed_by_leaf", ", changed pixels")):
        for leaf, curves in certificate.get(key, {}).items():
            found[f"{leaf}{of}"] = _beside(curves, places, ".1f", " dB")
    for leaf, curves in certificate.get("nrmse_by_leaf", {}).items():
        found[f"{leaf}, error / deviation"] = _beside(curves, places, ".2f", "")
    step = certificate["one_step"]
    if step["accuracy"]:
        found["accuracy, one step ahead"] = [f"{leaf} {value:.0%}" for leaf, value in step["accuracy"].items()]
    for leaf, curves in certificate.get("edit_distance_by_leaf", {}).items():
        found[f"{leaf}, edits a character"] = _beside(curves, places, ".2f", "")
    ends = step["termination"]
    found["ends of episodes"] = [_detected(ends), f"calibration error {ends['ece']:.3f}"]
    signs = [f"{name} {_detected(each)}" for name, each in step["reward"]["signs"].items() if each["events"]]
    found["sign of the reward"] = [*signs, f"calibration error {step['reward']['ece']:.3f}"]
    found["reward"] = [f"mean absolute error {step['reward_error']:.3g}, one step ahead"]
    for leaf, each in certificate["controllability"].get("psnr", {}).items():
        if each["delta"] is not None:
            at = certificate["controllability"]["step"]
            found[f"{leaf}, random actions"] = [f"{worse(each['delta'])} at step {at}"]
    places = certificate["loop_closure"]
    if places["return_rate"] is not None:
        found["revisited places"] = [f"shown as before in {places['returned']} of {places['left']} returns to them"]
    trust = certificate["trust"]
    area = "cannot be judged: all right or all wrong" if trust["auroc"] is None else f"AUROC {trust['auroc']:.2f}"
    share_within = f"{trust['share']:.0%} of predictions within tolerance"
    found["trust"] = [area, f"calibration error {trust['ece']:.3f}", share_within]
    return found


def _beside(curves: Mapping[str, Any], places: list[int], form: str, unit: str) -> list[str]:
    return [f"{name} {_at(curve, places, form)}{unit}" for name, curve in curves.items()]


def _detected(each: Mapping[str, Any]) -> str:
    f1, precision, recall = (share(each[name]) for name in ("f1", "precision", "recall"))
    return f"F1 {f1} (precision {precision}, recall {recall}, {each['events']} events)"


def share(value: float | None) -> str:
    """A share as text; a dash for None."""
    return "–" if value is None else f"{value:.2f}"


def worse(delta: float) -> str:
    """A loss of PSNR as text: 1.2 dB worse."""
    return f"{abs(delta):.1f} dB {'better' if round(delta, 1) < 0 else 'worse'}"


def _at(curve: list[float | None], places: list[int], form: str) -> str:
    return ", ".join("–" if curve[place] is None else format(curve[place], form) for place in places)
