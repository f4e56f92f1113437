"""docs/faults.md is what docs/generate_faults.py writes from the code as it is."""

import importlib.util
import json
import re
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from worldsim.cli import VERBS
from worldsim.envs.refund_desk import fields
from worldsim.envs.refund_desk.env import RefundDeskEnv
from worldsim.faults import FAMILIES, KINDS, Plan, ready_plans
from worldsim.faults.learned.traces import read_traces
from worldsim.faults.trees import get, nodes

BUILT_IN = {kind.kind for family in FAMILIES.values() for kind in family}
DOCS = Path(__file__).parent.parent / "docs"
PAGE = (DOCS / "faults.md").read_text(encoding="utf-8")
spec = importlib.util.spec_from_file_location("generate_faults", DOCS / "generate_faults.py")
assert spec is not None and spec.loader is not None
generate = importlib.util.module_from_spec(spec)
spec.loader.exec_module(generate)


def sections() -> dict[str, str]:
    parts = re.split(r"^(?=##+ )", PAGE, flags=re.MULTILINE)
    return {part.partition("\n")[0].strip("#` "): part.strip() for part in parts}


def test_every_fault_has_its_section_and_every_plan_its_line() -> None:
    assert set(sections()) >= BUILT_IN and PAGE.startswith(generate.head())
    assert all(f"| `{name}` | {Plan.load(name).description} |" in PAGE for name in ready_plans())
    assert all(f"worldsim {verb}" in PAGE for verb in VERBS if verb in ("faults fit", "schema faults"))


@pytest.mark.parametrize("kind", sorted(BUILT_IN - {"plausible_lie"}))
def test_a_section_is_current_and_shows_the_fault(kind: str) -> None:
    shown = sections()[kind]
    assert generate.entry(KINDS[kind]) == shown
    assert "```diff\n" in shown or f"]({generate.picture_of(KINDS[kind])})" in shown


def test_the_lies_that_are_shown_are_of_a_real_reply_and_valid_in_every_field() -> None:
    """A learned world rounds differently elsewhere, so the example is held against the desk and not made again."""
    shown = sections()["plausible_lie"]
    assert shown.startswith(generate.described(KINDS["plausible_lie"]))
    true = generate.as_json(generate.calls_of(RefundDeskEnv()))
    wrong = []
    for diff in re.findall(r"```diff\n(.*?)```", shown, re.DOTALL):
        before, after = (
            json.loads("\n".join(line[1:] for line in diff.splitlines() if line[0] in kept)) for kept in (" -", " +")
        )
        assert before == true and before != after and generate.as_json(classes_of(after)) == after
        wrong.append(
            sum(value != get(after, path) for path, value in nodes(before) if not isinstance(value, dict | list))
        )
    assert 0 < wrong[0] < wrong[1]


def classes_of(said: dict[str, Any]) -> dict[str, int]:
    """The desk's reply that says this. Raises where a word or an amount is none of the desk's."""
    order, (calls, refunded) = said["order"], said["shift"]
    placed = order["placed_at"]
    days = 0 if placed is None else (generate.PLACED - datetime.fromisoformat(placed)).days
    known = {key: fields.YesNo[order[key].upper()] for key in ("paid", "refunded")}
    return {
        **known,
        "shipping": fields.Shipping[order["shipping"].upper()],
        "amount": 0 if order["amount_eur"] is None else 1 + fields.PRICES.index(order["amount_eur"]),
        "age": days // fields.DAYS_PER_AGE_STEP,
        "tool": fields.DeskTool[said["tool"].upper()],
        "status": fields.Status[said["status"].upper()],
        "request": fields.Request[said["request"].upper()],
        "ticket": said["ticket"],
        "clock": calls["count"],
        "ledger": refunded["count"] // 50,
    }


@pytest.mark.parametrize("path", sorted((DOCS / "media" / "faults").glob("*.png")), ids=lambda path: path.stem)
def test_a_picture_is_current(path: Path) -> None:
    kept, made = (np.asarray(each.convert("RGB"), int) for each in (Image.open(path), generate.sheet(KINDS[path.stem])))
    assert kept.shape == made.shape == (128, 2 * (6 * 64 + 5 * 4), 3)
    assert np.abs(kept - made).mean() < 1, "run python docs/generate_faults.py"  # codecs and blurs round differently
    tiles = [kept[:, 136 * tile : 136 * tile + 128] for tile in range(6)]
    changes = [np.abs(tile - tiles[0]).mean() for tile in tiles]
    assert changes[-1] > 0 and path.stem in PAGE


def test_pictures_are_small_and_none_is_left_over() -> None:
    paths = list((DOCS / "media" / "faults").iterdir())
    assert sum(path.stat().st_size for path in paths) < 1e6
    assert {f"media/faults/{path.name}" for path in paths} == set(re.findall(r"\]\((media/faults/[^)]+)\)", PAGE))


def test_the_examples_of_the_page_are_right(tmp_path: Path) -> None:
    (plan,) = re.findall(r"```yaml\n(name: .*?)```", PAGE, re.DOTALL)
    assert [fault.kind for fault in Plan.from_yaml(plan).faults] == ["lognormal_latency", "lost_answer"]
    (traces,) = re.findall(r"```json\n(.*?)```", PAGE, re.DOTALL)
    (tmp_path / "traces.jsonl").write_text(traces)
    assert [call.failure for call in read_traces(tmp_path / "traces.jsonl").calls] == ["timeout", None, "rate_limited"]
