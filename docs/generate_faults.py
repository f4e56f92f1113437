"""Writes docs/faults.md and its pictures from the code: python docs/generate_faults.py

It learns a small world of the refund desk on the way, for the lies that are drawn from one: some 20 s on one core.
"""

import difflib
import inspect
import json
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import gymnasium as gym
import numpy as np
from PIL import Image

from worldsim.envs.make import EnvConfig, make_env
from worldsim.envs.refund_desk.env import RefundDeskEnv
from worldsim.envs.refund_desk.fields import (
    ACTIONS,
    DAYS_PER_AGE_STEP,
    PRICES,
    DeskTool,
    Request,
    Shipping,
    Status,
    YesNo,
)
from worldsim.faults import (
    FAMILIES,
    LOST,
    Call,
    Fault,
    FaultRecord,
    Pipeline,
    Plan,
    PlausibleLie,
    Reply,
    VirtualClock,
    ready_plans,
)
from worldsim.faults.parameters import is_scaled
from worldsim.faults.pipeline import ForwardContext
from worldsim.faults.plans.listing import COMMON
from worldsim.faults.replies import Replies
from worldsim.faults.severity import SEVERITIES as MEASURED_AT
from worldsim.faults.severity import measured
from worldsim.faults.trees import leaves_of
from worldsim.models.config import SSMConfig
from worldsim.rollouts.collect import CollectConfig, collect
from worldsim.training.config import TrainConfig, TrainerConfig
from worldsim.training.loop import train
from worldsim.wrappers import InjectFaults

FOLDER = Path(__file__).parent
PICTURES = Path("media/faults")  # below FOLDER
SHIFT = [f"open_{ticket}" if call == 0 else name for ticket in range(5) for call, name in enumerate(
    ("open", "look_up", "refund" if ticket % 2 else "replace", "reply", "close"))]  # fmt: skip
SEVERITIES = (0.2, 0.4, 0.6, 0.8, 1.0)
PLACED = datetime(2026, 3, 30, 9, 30, tzinfo=UTC)
AGENTS = {name: f"worldsim.envs.refund_desk.agents:{name.title()}" for name in ("careful", "blind", "hasty")}
SMALL_DESK = EnvConfig(
    id="worldsim/RefundDesk-v0", resize=16, agents=AGENTS, policy=dict.fromkeys([*AGENTS, "random"], 1.0), epsilon=0.15
)
LIES = """What the refund desk answers when the order behind a ticket is looked up (-), and what a small world says
instead that has learned from 2,000 calls for a few seconds (+). The screen shows the same lie."""
LONGEST = 100  # characters of a text that are shown


@dataclass
class FaultyShift:
    """A shift at the refund desk with faults between it and whoever calls, as frames or as JSON."""

    faults: list[Fault]
    plain: bool
    seed: int = 1

    def run(self) -> list[tuple[Reply, list[FaultRecord]]]:
        """The replies to the calls of `SHIFT`, and what faults did to them."""
        env = RefundDeskEnv()
        observation, _ = env.reset(seed=3)
        leaves = None if self.plain else leaves_of(env.observation_space)
        seeded = [(fault, self.seed) for fault in self.faults]
        pipeline = Pipeline(seeded, leaves, ACTIONS, VirtualClock())
        shown = self._payload(observation)
        pipeline.start(np.zeros(1, np.int64), [(0,)], lambda: Replies.single(Reply(shown)))

        def execute(call: Call, context: ForwardContext) -> Reply:
            return Reply(self._payload(env.step(np.int64(ACTIONS.index(call.tool)))[0]))

        found = []
        for tool in SHIFT:
            reply, records = pipeline.call(tool, {"page": 1} if tool == "look_up" else {}, execute)
            found.append((reply, list(records)))
        return found

    def _payload(self, observation: dict[str, Any]) -> Any:
        return as_json(observation["reply"]) if self.plain else observation


def as_json(reply: dict[str, Any]) -> dict[str, Any]:
    """What a reply of the desk says, as a tool would say it: words for classes, euros, days and times."""
    value = {name: int(each) for name, each in reply.items()}
    order = {
        "paid": YesNo(value["paid"]).name.lower(),
        "shipping": Shipping(value["shipping"]).name.lower(),
        "refunded": YesNo(value["refunded"]).name.lower(),
        "amount_eur": float(PRICES[value["amount"] - 1]) if value["amount"] else None,
        "placed_at": (PLACED - timedelta(days=DAYS_PER_AGE_STEP * value["age"])).isoformat() if value["age"] else None,
    }
    return {
        "tool": DeskTool(value["tool"]).name.lower(),
        "status": Status(value["status"]).name.lower(),
        "ticket": value["ticket"],
        "request": Request(value["request"]).name.lower(),
        "order": order,
        "shift": [{"what": "calls", "count": value["clock"]}, {"what": "refunded_eur", "count": 50 * value["ledger"]}],
    }


def page() -> str:
    """The whole page."""
    parts = [head()]
    for family, kinds in FAMILIES.items():
        parts.append(f"## {family[0].upper()}{family[1:]}")
        parts += [entry(kind) for kind in kinds]
    return "\n\n".join(parts) + "\n"


def head() -> str:
    """The part that is written by hand, with the ready plans put in."""
    text = (FOLDER / "faults_head.md").read_text(encoding="utf-8").strip()
    plans = [f"| `{name}` | {Plan.load(name).description} |" for name in ready_plans()]
    return text.replace("READY_PLANS", "\n".join(["| name | what it stands for |", "|---|---|", *plans])).replace(
        "PLAN_SEVERITIES", plan_table()
    )


def entry(kind: type[Fault]) -> str:
    """One fault: what it does at which severity, its parameters, and an example."""
    return f"{described(kind)}\n\n{example(kind)}"


def described(kind: type[Fault]) -> str:
    """One fault without its example."""
    own_fields = {name: field for name, field in kind.model_fields.items() if name not in COMMON}
    rows = [
        f"| `{name}` | {_default(field.default)} | {field.description}{', at severity 1' if is_scaled(field) else ''} |"
        for name, field in own_fields.items()
    ]
    table = "\n".join(["| parameter | default | what it is |", "|---|---|---|", *rows]) if own_fields else ""
    parts = [f"### `{kind.kind}`", inspect.getdoc(kind) or "", severity_table(kind), table]
    return "\n\n".join(part for part in parts if part)


def severity_table(kind: type[Fault]) -> str:
    """What a severity means: the parameters that grow with it, and what was measured on the reference payloads."""
    values = {severity: kind(severity=severity).values_at_severity() for severity in MEASURED_AT}
    names = list(values[MEASURED_AT[-1]])
    found = {} if kind is PlausibleLie else {row.severity: row for row in measured(kind, MEASURED_AT)}
    waits = any(row.waited_s for row in found.values())
    heads = ["severity", *(f"`{name}`" for name in names)]
    heads += [*(["calls changed", "difference"] if found else []), *(["seconds a call"] if waits else [])]
    rows = [heads, ["---"] * len(heads)]
    for severity in MEASURED_AT:
        shown = {name: value for name, value in values[severity].items() if severity or name in kind.model_fields}
        cells = [f"{severity:g}", *(_value(shown.get(name)) for name in names)]
        if found:
            cells += [_percent(found[severity].share), f"{found[severity].difference:.2g}"]
        if waits:
            cells.append(f"{found[severity].waited_s:.2g}")
        rows.append(cells)
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def _value(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"


def _percent(share: float) -> str:
    return f"{share:.1%}" if 0 < share < 0.01 else f"{share:.0%}"


def plan_table() -> str:
    """The ready plans: what each does at a severity."""
    rows = [["plan", *(f"{severity:g}" for severity in MEASURED_AT)], ["---"] * (1 + len(MEASURED_AT))]
    for name in ready_plans():
        found = measured(Plan.load(name), MEASURED_AT)
        rows.append(
            [f"`{name}`", *(f"{_percent(row.share)} / {row.difference:.2g} / {row.waited_s:.2g} s" for row in found)]
        )
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def example(kind: type[Fault]) -> str:
    """A reply of the desk before and after, or its screen at five severities."""
    if kind is PlausibleLie:
        with TemporaryDirectory() as folder:
            return lies(small_world(Path(folder)))
    shown = "" if kind.family == "pixels and sensors" else changed_reply(kind)
    if shown:
        return f"A reply of the refund desk without it (-) and with it (+), at severity 1:\n\n```diff\n{shown}\n```"
    severities = ", ".join(f"{each:g}" for each in SEVERITIES)
    if "rate" in kind.model_fields:
        often = "a screen that it acts on; severity says how often"
        return f"The refund desk's screen without it, and {often}:\n\n![{kind.kind}]({picture_of(kind)})"
    return f"The refund desk's screen without it, and at severity {severities}:\n\n![{kind.kind}]({picture_of(kind)})"


EXAMPLES: dict[str, dict[str, Any]] = {"throttled": {"calls": 2}}  # parameters with which a short shift shows the fault


def changed_reply(kind: type[Fault]) -> str:
    """The difference that a fault makes to the first reply on which it shows, rather to one that arrives than to one
    that is lost; nothing where it shows on none.
    """
    lost_one = ""
    for seed in range(1, 40):
        faulty = FaultyShift([kind(severity=1.0, **EXAMPLES.get(kind.kind, {}))], True, seed).run()
        for (before, _), (after, records) in zip(FaultyShift([], True, seed).run(), faulty, strict=True):
            lost = after.payload is LOST
            from_before = any(record.details.get("of") == -1 for record in records)  # of a call that nobody has made
            if not records or from_before or written(before, lost) == written(after, lost):
                continue
            lines = difflib.unified_diff(written(before, lost), written(after, lost), lineterm="", n=2)
            shown = "\n".join(line for line in lines if not line.startswith(("---", "+++", "@@")))
            if not lost:
                return shown
            lost_one = lost_one or shown
        if lost_one and seed > 5:
            break
    return lost_one


def small_world(folder: Path) -> Path:
    """The folder of a world of the desk, its screen 16 pixels wide, learned from 2,000 calls in a few seconds."""
    data = collect(CollectConfig(env=SMALL_DESK, steps=2000, num_envs=1, out=folder / "rollouts"), progress=False)
    model = SSMConfig(embed=16, hidden=32, variables=4, width=64, layers=1, code_width=24, ensemble=2, head_hidden=32)
    sizes = {"steps": 150, "codec_steps": 150, "codec_frames": 128, "batch": 16, "length": 8, "warmup": 10}
    trainer = TrainerConfig(**sizes, learning_rate=5e-3, precision="32-true", accelerator="cpu", checkpoint_every=10**6)
    config = TrainConfig(env=SMALL_DESK, model=model, trainer=trainer, data=data.path, out=folder / "world")
    train(config, progress=False)
    return folder / "world"


def lies(world: Path) -> str:
    """A reply of the desk in which a lie is a slip, and in which it is another world."""
    parts = []
    for severity in (0.1, 1.0):
        true, shown = lied_to(world, severity)
        lines = difflib.unified_diff(_lines(as_json(true)), _lines(as_json(shown)), lineterm="", n=9)
        diff = "\n".join(line for line in lines if not line.startswith(("---", "+++", "@@")))
        parts.append(f"At severity {severity:g}:\n\n```diff\n{diff}\n```")
    return "\n\n".join([LIES, *parts])


def lied_to(world: Path, severity: float) -> tuple[dict[str, Any], dict[str, Any]]:
    """What the desk answers, and what is shown instead, under the first seed under which the record differs."""
    true = calls_of(make_env(SMALL_DESK))
    for seed in range(1, 200):
        fault = PlausibleLie(world=str(world), severity=severity, rate=1.0)
        shown = calls_of(InjectFaults(make_env(SMALL_DESK), [fault], seed=seed))
        if as_json(shown) != as_json(true):
            return true, shown
    raise RuntimeError(f"no seed shows a lie at severity {severity:g}")


def calls_of(env: gym.Env[Any, Any]) -> dict[str, Any]:
    """What the desk answers to the second of its calls: the order behind the first ticket, looked up."""
    env.reset(seed=3)
    for name in SHIFT[:2]:
        observation = env.step(np.int64(ACTIONS.index(name)))[0]
    reply: dict[str, Any] = observation["reply"]
    return reply


def written(reply: Reply, brief: bool) -> list[str]:
    """A reply as lines of JSON. brief: only the beginning of what it says."""
    described_reply = {"ok": reply.ok}
    described_reply |= {
        key: value for key, value in reply.to_json().items() if key not in described_reply and value not in (None, 0.0)
    }
    if reply.payload is not LOST:
        described_reply["reply"] = {"tool": reply.payload["tool"], "...": "..."} if brief else reply.payload
    return _lines(_short(described_reply))


def _lines(value: Any, before: str = "", after: str = "", indent: str = "") -> list[str]:
    """JSON with what is short on one line."""
    text = json.dumps(value, default=str)
    if not isinstance(value, dict | list) or (len(text) <= 60 and indent):
        return [f"{indent}{before}{text}{after}"]
    opening, closing = "{}" if isinstance(value, dict) else "[]"
    names = [f"{json.dumps(key)}: " for key in value] if isinstance(value, dict) else [""] * len(value)
    inner = list(zip(names, value.values() if isinstance(value, dict) else value, strict=True))
    found = [f"{indent}{before}{opening}"]
    for number, (name, each) in enumerate(inner, 1):
        found += _lines(each, name, "," if number < len(inner) else "", indent + " ")
    return [*found, f"{indent}{closing}{after}"]


def sheet(kind: type[Fault]) -> Image.Image:
    """The desk's screen six times, without the fault and at five severities, side by side."""
    for seed in range(1, 40):
        tiles = tiles_of(kind, seed)
        if not any(np.array_equal(tiles[0], tile) for tile in tiles[1:]):
            break
    space = np.full((64, 4, 3), 255, np.uint8)
    row = np.concatenate([part for tile in tiles for part in (tile, space)][:-1], axis=1)
    return Image.fromarray(row).resize((2 * row.shape[1], 2 * row.shape[0]), Image.Resampling.NEAREST)


def tiles_of(kind: type[Fault], seed: int) -> list[Any]:
    """The screen at the call at which a fault shows at most of the severities; first without it, then at each."""
    bare = screens([], seed, [])
    runs = [screens([kind(severity=severity)], seed, bare) for severity in SEVERITIES]
    shows = [[not np.array_equal(frame, before) for frame, before in zip(run, bare, strict=True)] for run in runs]
    call = int(np.argmax(np.sum(shows, axis=0)))
    return [bare[call], *(run[call] for run in runs)]


def screens(faults: list[Fault], seed: int, bare: list[Any]) -> list[Any]:
    """The screen after each call; that of `bare` where a reply was lost."""
    replies = [reply for reply, _ in FaultyShift(faults, False, seed).run()]
    return [bare[call] if reply.payload is LOST else reply.payload["screen"] for call, reply in enumerate(replies)]


def picture_of(kind: type[Fault]) -> str:
    return f"{PICTURES}/{kind.kind}.png"


def _default(value: object) -> str:
    if isinstance(value, tuple):
        return "`[" + ", ".join(map(str, value)) + "]`"
    if value in (None, ""):
        return '`""`' if value == "" else "`null`"
    return f"`{value:g}`" if isinstance(value, float) else f"`{value}`"


def _short(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _short(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_short(each) for each in value]
    if isinstance(value, float):
        return round(value, 3)
    if isinstance(value, str) and len(value) > LONGEST:
        return f"{value[: LONGEST - 30]} ... {value[-30:]} ({len(value)} characters)"
    return value


def main() -> None:
    text = page()
    (FOLDER / "faults.md").write_text(text, encoding="utf-8")
    (FOLDER / PICTURES).mkdir(parents=True, exist_ok=True)
    for kind in (kind for family in FAMILIES.values() for kind in family):
        if picture_of(kind) in text:
            sheet(kind).save(FOLDER / picture_of(kind), optimize=True)


if __name__ == "__main__":
    main()
