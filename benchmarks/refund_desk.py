"""Accuracy of a world on the refund desk: of fields that the past determines, and of the distribution of the others.

    python benchmarks/refund_desk.py runs/quickstart/world runs/quickstart/rollouts

One step ahead, teacher-forced and sampled, on held-out episodes. A field of `reply` is determined unless it is shown
for the first time: facts of an order that no earlier reply has shown, the request when a ticket is first opened, and
the ledger after a refund of unknown amount. Prints the accuracy of determined fields, and for the others the
frequencies of values in the real desk and in the World, with total variation distance and a chi-square test.
"""

import json
import sys
from collections import defaultdict
from typing import Any

import numpy as np
from scipy.stats import chi2_contingency

from worldsim.envs.refund_desk.fields import DeskTool
from worldsim.fidelity.held_out import held_out
from worldsim.rollouts.dataset import Rollouts
from worldsim.rollouts.sampling import gather
from worldsim.simulator.rollout import predictions
from worldsim.simulator.world import load

FACTS = ("request", "paid", "shipping", "refunded", "age", "amount", "approved")


def replies(arrays: Any, rows: range) -> list[dict[str, int]]:
    names = [name for name in arrays.observation if name.startswith("reply/")]
    return [{name[6:]: int(arrays.observation[name][row, 0]) for name in names} for row in rows]


def undetermined(past: list[dict[str, int]], now: dict[str, int]) -> set[str]:
    """Fields of `now` that the replies in `past` do not determine."""
    about = [reply for reply in past if reply["ticket"] == now["ticket"] and now["ticket"]]
    fresh = {name for name in FACTS if now[name] and not any(reply[name] for reply in about)}
    if now["tool"] == DeskTool.REFUND and not any(reply["amount"] for reply in about):
        fresh.add("ledger")
    return fresh


def main(world_path: str, data_path: str, seed: int = 0) -> None:
    world, rollouts = load(world_path), Rollouts(data_path)
    arrays = rollouts.arrays()
    episodes = held_out(world.manifest, rollouts, arrays)
    right: dict[str, list[bool]] = defaultdict(list)
    shown: dict[str, dict[str, list[int]]] = {name: {"real": [], "world": []} for name in FACTS}
    generator = np.random.default_rng(seed)
    for episode in episodes:
        rows = range(arrays.start[episode], arrays.start[episode + 1])
        real = replies(arrays, rows)
        leaf = {name: array[rows[0] : rows[0] + 1] for name, array in arrays.observation.items()}
        state = world.encode(leaf, [int(generator.integers(2**62))])
        recorded = (gather(arrays, np.array([row])) for row in rows[1:])
        for t, each in enumerate(predictions(world, state, recorded, teacher_forced=True), start=1):
            drawn = world.observation(each.tick.state)
            predicted = {name[6:]: int(v[0, 0]) for name, v in drawn.items() if name.startswith("reply/")}
            fresh = undetermined(real[:t], real[t])
            for name, value in real[t].items():
                if name not in fresh:
                    right[name].append(predicted[name] == value)
                elif name in shown:
                    shown[name]["real"].append(value)
                    shown[name]["world"].append(predicted[name])
    print(f"{len(episodes)} held-out episodes, seed {seed}")
    print(f"{'field':<10} determined fields right at horizon 1")
    for name, values in right.items():
        print(f"{name:<10} {np.mean(values):7.2%}   of {len(values)}")
    print(f"{'all':<10} {np.mean([v for values in right.values() for v in values]):7.2%}")
    print("\nfirst shown: frequencies of the values, real and drawn")
    for name, drawn in shown.items():
        if drawn["real"]:
            frequencies(name, drawn)
    print(json.dumps({name: round(float(np.mean(values)), 4) for name, values in right.items()}))


def frequencies(name: str, drawn: dict[str, list[int]]) -> None:
    classes = sorted({*drawn["real"], *drawn["world"]})
    table = np.array([[drawn[where].count(c) for c in classes] for where in ("real", "world")])
    share = table / table.sum(1, keepdims=True)
    p = chi2_contingency(table).pvalue if len(classes) > 1 else 1.0
    variation = abs(share[0] - share[1]).sum() / 2
    print(f"{name:<10} n={table[0].sum():<4} total variation {variation:.3f}, chi-square p={p:.2f}")
    for label, row in zip(("real", "world"), share, strict=True):
        print(f"  {label:<6}" + " ".join(f"{c}:{x:.2f}" for c, x in zip(classes, row, strict=True)))


if __name__ == "__main__":
    main(*sys.argv[1:3])
