"""fidelity.html: the certificate as a page, one file with plots and films inside."""

import base64
from collections.abc import Mapping
from typing import Any

import jinja2

from worldsim.evaluation import plots
from worldsim.fidelity.films import Films
from worldsim.fidelity.table import share, summary, worse

MEASURES = (  # key of the certificate, title, unit
    ("psnr_by_leaf", "All pixels", "PSNR (dB)"),
    ("psnr_changed_by_leaf", "Pixels that change", "PSNR (dB)"),
    ("ssim_by_leaf", "Structure", "SSIM"),
    ("ms_ssim_by_leaf", "Structure at several scales", "MS-SSIM"),
    ("nrmse_by_leaf", "Vectors", "error / deviation"),
    ("edit_distance_by_leaf", "Edit distance", "edits a character"),
    ("within_by_leaf", "Within tolerance", "share"),
)
AT = (1, 2, 3, 5, 10, 15, 20, 30, 50, 75, 100)  # horizons of the tables


def page(certificate: Mapping[str, Any], made: Films) -> str:
    """The whole page. Depends on its arguments only."""
    loader = jinja2.ChoiceLoader([jinja2.PackageLoader(f"worldsim.{room}", ".") for room in ("fidelity", "evaluation")])
    environment = jinja2.Environment(
        loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    environment.filters |= {"share": share, "worse": worse}
    facts = {name: "; ".join(clauses) for name, clauses in summary(certificate).items() if name != "verdict"}
    view: dict[str, Any] = {"data": certificate, "facts": facts}
    view |= {"imagined": _shown(certificate, certificate, "steps ahead")}
    view |= {"teacher_forced": _shown(certificate, certificate["teacher_forced"], "step of the stretch")}
    view |= {"calibration": _calibration(certificate), "chosen": made.chosen, "steps": _columns(certificate)}
    pictures = (("strip", made.strip, "png"), ("film", made.film, "gif"))
    view |= {name: f"data:image/{form};base64,{base64.b64encode(data).decode()}" for name, data, form in pictures}
    return environment.get_template("fidelity.html.j2").render(**view)


def _columns(certificate: Mapping[str, Any]) -> list[int]:
    return [step for step in AT if step in certificate["horizons"]]


def _shown(certificate: Mapping[str, Any], found: Mapping[str, Any], steps: str) -> dict[str, Any]:
    """A part of the certificate for the template.

    Returns "groups": curves and tables of images, fields and vectors, leaf by leaf; "records": the accuracy of discrete
    leaves, None where there are none; and "steps", the label of the x axis.
    """
    records = _records(certificate, found["accuracy"]) if found.get("accuracy") else None
    return {"groups": _groups(certificate, found, steps), "records": records, "steps": steps}


def _groups(certificate: Mapping[str, Any], found: Mapping[str, Any], steps: str) -> list[dict[str, Any]]:
    """Curves and tables of images, fields and vectors, leaf by leaf."""
    leaves: dict[str, dict[str, Any]] = {}
    for key, title, unit in MEASURES:
        for leaf, curves in found.get(key, {}).items():
            if leaf in found.get("accuracy", {}) and key != "edit_distance_by_leaf":
                continue
            group = leaves.setdefault(leaf, {"leaf": leaf, "plots": [], "tables": []})
            limits = (0.0, 1.0) if key in ("within_by_leaf", "edit_distance_by_leaf") else None
            plot = plots.curves_plot(certificate["horizons"], curves, f"{title}: {leaf}", unit, limits, steps)
            group["plots"].append(plot)
            group["tables"].append({"title": title, "unit": unit, "rows": _rows(certificate, curves, unit)})
    return list(leaves.values())


def _records(certificate: Mapping[str, Any], found: Mapping[str, Any]) -> dict[str, Any]:
    """Accuracy of each discrete leaf: an overview of all leaves, and a table for each leaf."""
    models = {leaf: curves["model"] for leaf, curves in found.items()}
    each = {leaf: _rows(certificate, curves, "") for leaf, curves in found.items()}
    return {"overview": _rows(certificate, models, ""), "each": each}


def _rows(certificate: Mapping[str, Any], curves: Mapping[str, Any], unit: str) -> list[dict[str, Any]]:
    places = [certificate["horizons"].index(step) for step in _columns(certificate)]
    digits = 1 if "dB" in unit else 3
    return [
        {"name": name, "values": ["–" if curve[at] is None else f"{curve[at]:.{digits}f}" for at in places]}
        for name, curve in curves.items()
    ]


def _calibration(certificate: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Reliability diagrams, each with its calibration error, before and after where there are both."""
    heads = certificate["one_step"]
    found = (
        ("Trust", certificate["trust"]),
        ("Sign of the reward", heads["reward"]),
        ("End of the episode", heads["termination"]),
    )
    return [
        {"title": title, "plot": plots.reliability_plot(each["reliability"], title), "metrics": each}
        for title, each in found
    ]
