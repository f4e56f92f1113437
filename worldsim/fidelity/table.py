"""A certificate as people read it: a few rows of words and figures."""

from collections.abc import Mapping
from typing import Any

from rich.table import Table

SHOWN = (1, 5, 15, 30)  # horizons that a summary tells of


def certificate_table(certificate: Mapping[str, Any]) -> Table:
    """The summary of a certificate as `worldsim validate` writes it."""
    table = Table(title="Fidelity, on rollouts that the world has not seen", show_header=False, title_justify="left")
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for name, value in summary(certificate).items():
        table.add_row(name, value)
    return table


def summary(certificate: Mapping[str, Any]) -> dict[str, str]:
    """What is measured -> the figures in words."""
    horizons = certificate["horizons"]
    places = [horizons.index(h) for h in SHOWN if h in horizons] or [len(horizons) - 1]
    at = ", ".join(str(horizons[place]) for place in places)
    found = {"episodes": f"{certificate['episodes_reported']}, and {certificate['episodes_calibrating']} to calibrate"}
    for leaf, curves in certificate["psnr_by_leaf"].items():
        shown = "; ".join(f"{name} {_at(curve, places, '.1f')} dB" for name, curve in curves.items())
        found[f"{leaf} {at} steps ahead"] = shown
    accuracy = certificate["one_step"]["accuracy"]
    if accuracy:
        found["right, one step ahead"] = ", ".join(f"{leaf} {value:.0%}" for leaf, value in accuracy.items())
    ends = certificate["one_step"]["termination"]
    found["ends of episodes"] = (
        f"F1 {ends['f1']:.2f} (precision {ends['precision']:.2f}, recall {ends['recall']:.2f}, {ends['events']} ends)"
    )
    found["reward"] = f"off by {certificate['one_step']['reward_error']:.3g} on average, one step ahead"
    trust = certificate["trust"]
    area = "cannot be judged: all predictions are alike" if trust["auroc"] is None else f"AUROC {trust['auroc']:.2f}"
    found["trust"] = f"{area}; off by {trust['ece']:.2f} on average; {trust['share']:.0%} were within tolerance"
    return found


def _at(curve: list[float], places: list[int], form: str) -> str:
    return ", ".join(format(curve[place], form) for place in places)
