"""The sentences of a report: verdict and warnings, made from its metrics."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from worldsim.evaluation.cells import CLEAN, ReportRow

FEW = 20  # a report warns of fewer episodes
LOW_TRUST = 0.5


def decimal(value: float | None, digits: int = 2) -> str:
    """A number as text: with a minus sign (−), no negative zero, and a dash for None."""
    if value is None:
        return "–"
    text = f"{value:.{digits}f}"
    return text.lstrip("-") if float(text) == 0 else text.replace("-", "−")


def signed(value: float | None) -> str:
    """A difference, with its sign."""
    shown = decimal(value)
    return f"+{shown}" if value is not None and float(f"{value:.2f}") > 0 else shown


def percent(value: float | None) -> str:
    """A share as whole percent."""
    return "–" if value is None else f"{100 * value:.0f} %"


def bounds(ends: Sequence[float | None] | None, show: Any = decimal) -> str:
    """An interval as text; empty where there is none."""
    if ends is None or None in ends:
        return ""
    return f"[{show(ends[0])}, {show(ends[1])}]"


def condition(fault: str, severity: float) -> str:
    """A condition as text: fault and severity."""
    return "without faults" if fault == CLEAN else f"{fault} {severity:g}"


def order(ranks: Mapping[str, float]) -> str:
    """Agents from best to worst: "careful > hasty = random"."""
    groups: dict[float, list[str]] = {}
    for agent, rank in sorted(ranks.items(), key=lambda item: (item[1], item[0])):
        groups.setdefault(rank, []).append(agent)
    return " > ".join(" = ".join(agents) for agents in groups.values())


def verdict(data: ReportRow) -> list[str]:
    """Two to four sentences: crashes, best and worst agent, costliest fault, agreement of World and environment."""
    primary = "real" if any(row["where"] == "real" for row in data["results"]) else "world"
    sentences = [*_crashes(data["results"]), _best_and_worst(data, primary), _costliest(data, primary)]
    if any("by_means" in row for row in data["ranking"]):
        sentences.append(_agreement(data))
    return sentences


def warnings(data: ReportRow) -> list[str]:
    """Everything that a reader should know before believing the metrics."""
    found = list(_about_runs(data))
    found += _about_worlds(data)
    return found


def unjudged(rows: Sequence[ReportRow]) -> list[str]:
    """One sentence for each measure without a criterion, with the key that sets it."""
    found = []
    if rows[0]["success_rate"] is None:
        found.append("Success was not judged: set its criterion, env.success_return=<least return of a success>.")
    if rows[0]["violations_mean"] is None:
        key = "env.violation_reward=<greatest reward of a violation>"
        found.append(f"Violations were not judged: set their criterion, {key}.")
    return found


def without_effect(data: ReportRow) -> list[str]:
    """One sentence for each plan that can have no effect in this environment, and for each other that had none."""
    idle = data.get("idle", {})
    others = [row for row in data["results"] if row["fault"] not in idle]
    return [*(_no_effect(name, reasons) for name, reasons in idle.items()), *never_fired(others)]


def _no_effect(name: str, reasons: Sequence[str]) -> str:
    """The warning about a fault plan that cannot change anything in this environment."""
    return (
        f"{name} can never do anything in this environment ({'; '.join(reasons)}): "
        "its figures are those without faults."
    )


def never_fired(rows: Iterable[ReportRow]) -> list[str]:
    """One sentence for each fault, severity and world in which nothing happened, with the agents."""
    without_effect: dict[tuple[str, float, str], list[str]] = {}
    for row in rows:
        if row["fault"] != CLEAN and not row["episodes_with_faults"]:
            without_effect.setdefault((row["fault"], row["severity"], row["where"]), []).append(row["agent"])
    return [
        f"{fault} at severity {severity:g} never fired for {_list(agents)} in the {place(where)}: "
        f"{'its' if len(agents) == 1 else 'their'} figures say nothing about that fault."
        for (fault, severity, where), agents in without_effect.items()
    ]


def place(where: str) -> str:
    """The name of the real environment, or the World, in a sentence."""
    return "real environment" if where == "real" else "World"


def _crashes(rows: Sequence[ReportRow]) -> list[str]:
    """One sentence on agents that raised: the returns of such episodes cannot be compared."""
    crashed = [row for row in rows if row["crashes"]]
    if not crashed:
        return []
    worst = max(crashed, key=lambda row: row["crashes"])
    agents = {row["agent"] for row in crashed}
    theirs = [row for row in rows if row["agent"] in agents]
    total, episodes = sum(row["crashes"] for row in theirs), sum(row["episodes"] for row in theirs)
    most = f"most often {worst['agent']} {_under(worst)}" if total < episodes else "all of theirs"
    return [
        f"{_list(sorted(agents))} crashed, in {total} of {episodes} episodes, {most} ({worst['crash_example']}): what "
        "was earned until then is no measure, and comparisons with it mean nothing."
    ]


def _under(row: ReportRow) -> str:
    where = "without faults" if row["fault"] == CLEAN else f"under {row['fault']} {row['severity']:g}"
    return f"{where} in the {place(row['where'])}"


def _best_and_worst(data: ReportRow, where: str) -> str:
    rows = [row for row in data["results"] if row["where"] == where and row["fault"] == CLEAN]
    rows.sort(key=lambda row: -row["return_mean"])
    best, worst = rows[0], rows[-1]
    if len(rows) == 1:
        return f"Without faults {best['agent']} reaches {_reached(best)} in the {place(where)}."
    level = [row["agent"] for row in rows if row["return_mean"] == best["return_mean"]]
    if len(level) == len(rows):
        return f"Without faults all agents are level in the {place(where)}, at {_reached(best)}."
    does = f"{_list(level)} are level and do" if len(level) > 1 else f"{best['agent']} does"
    return (
        f"Without faults {does} best in the {place(where)}, with {_reached(best)}{_no_clear_lead(data, where, rows)}; "
        f"{worst['agent']} does worst, with {_reached(worst)}."
    )


def _no_clear_lead(data: ReportRow, where: str, rows: Sequence[ReportRow]) -> str:
    """Words to add when the second best may be as good as the best."""
    if rows[0]["return_mean"] == rows[1]["return_mean"]:
        return ""
    pair = {rows[0]["agent"], rows[1]["agent"]}
    for each in data["comparisons"]["agents"]:
        if each["where"] == where and each["fault"] == CLEAN and {each["a"], each["b"]} == pair:
            return "" if each["return"]["sign"] else f" (no clear difference from {rows[1]['agent']})"
    raise AssertionError(f"no comparison of {pair}")


def _reached(row: ReportRow) -> str:
    text = f"a mean return of {decimal(row['return_mean'])} {bounds(row['return_mean_interval'])}".rstrip()
    return text if row["success_rate"] is None else f"{text} and {percent(row['success_rate'])} success"


def _costliest(data: ReportRow, where: str) -> str:
    effects = [row for row in data["comparisons"]["faults"] if row["where"] == where]
    if not effects:
        return "No faults were tried."
    # The lowest of many differences is low by chance: only those whose interval excludes zero are named.
    hurt = [row for row in effects if row["return"]["sign"] < 0]
    if not hurt and not any(_is_known(row["return"]["interval"]) for row in effects):
        return "Too few episodes to say what a fault costs."
    if not hurt:
        return f"No fault lowered any agent's return in the {place(where)} by more than chance explains."
    row = min(hurt, key=lambda each: each["return"]["mean"])
    text = (
        f"The fault that costs most is {row['fault']} at severity {row['severity']:g}: it takes "
        f"{decimal(-row['return']['mean'])} of return from {row['agent']} "
        f"(change {bounds(row['return']['interval'], signed)})"
    )
    more = row["violations"]
    if more is not None and more["sign"] > 0:
        text += f" and adds {decimal(more['mean'])} violations an episode"
    spared = sorted({each["agent"] for each in effects} - {each["agent"] for each in hurt})
    if not spared:
        return f"{text}."
    return f"{text}; {_list(spared)} {'loses' if len(spared) == 1 else 'lose'} no more than chance explains."


def _agreement(data: ReportRow) -> str:
    ranked = [row for row in data["ranking"] if "by_means" in row]
    same, clearly = (sum(row[by]["same_ranking"] for row in ranked) for by in ("by_means", "by_intervals"))
    against = sum(len(row["by_intervals"]["contradictions"]) for row in ranked)
    gaps = data["comparisons"]["worlds"]
    largest = max(gaps, key=lambda row: abs(row["return"]["mean"]))
    mean = sum(abs(row["return"]["mean"]) for row in gaps) / len(gaps)
    pairs = "no pair is" if not against else f"{against} pair{'s are' if against > 1 else ' is'}"
    where = f"{largest['agent']}, {condition(largest['fault'], largest['severity'])}"
    apart = (
        f"the pairs of agents that differ by more than chance are the same in {clearly} of them, and {pairs} in "
        "clearly opposite order."
    )
    if not any(row["return"]["sign"] for row in data["comparisons"]["agents"]):
        apart = "but no two agents differ by more than chance, in either of them."
    return (
        f"By mean return the World ranks the agents as the real environment does in {same} of {len(ranked)} "
        f"conditions; {apart} Its mean returns are off by {decimal(mean)} on average, at most by "
        f"{decimal(abs(largest['return']['mean']))} ({where})."
    )


def _about_runs(data: ReportRow) -> Iterable[str]:
    rows = data["results"]
    episodes = rows[0]["episodes"]
    if episodes < FEW:
        lacking = "too few for intervals, so no difference is certain,"
        if _is_known(rows[0]["return_mean_interval"]):
            lacking = "the intervals are wide"
        many = f"{episodes} episode{'s' if episodes > 1 else ''} for each agent and condition"
        yield f"Only {many}: {lacking} and rankings may be luck."
    yield from unjudged(rows)
    yield from without_effect(data)
    yield from _crashed(rows)
    yield from _endless(data)


def _endless(data: ReportRow) -> Iterable[str]:
    """One sentence on episodes that were cut, because the environment sets no limit."""
    cells = data.get("endless", ())
    if cells:
        listed = [f"{cell['agent']} {_under(cell)} in {cell['episodes']}" for cell in cells]
        yield (
            f"Episodes that did not end were cut after {cells[0]['calls']:,} calls, carried out or not: "
            f"{', '.join(listed)}. Set a limit: max_steps=<calls>."
        )


def _crashed(rows: Sequence[ReportRow]) -> Iterable[str]:
    """One sentence for each agent that raised, with the cells in which it did."""
    for agent in dict.fromkeys(row["agent"] for row in rows if row["crashes"]):
        cells = [row for row in rows if row["agent"] == agent and row["crashes"]]
        shares = [f"{row['crashes']} of {row['episodes']} episodes {_under(row)}" for row in cells]
        worst = max(cells, key=lambda row: row["crashes"])
        yield f"{agent} crashed in {', '.join(shares)}: {worst['crash_example']}"


def _about_worlds(data: ReportRow) -> list[str]:
    found = []
    found += _contradictions(data["ranking"])
    found += _unseen(data["comparisons"]["agents"])
    apart = [row for row in data["comparisons"]["worlds"] if row["return"]["sign"]]
    if apart:
        high = sum(row["return"]["sign"] > 0 for row in apart)
        found.append(
            f"In {_of(len(apart), len(data['comparisons']['worlds']))} the World's mean return differs from the "
            f"real one by more than chance ({high} too high, {len(apart) - high} too low)."
        )
    found += _different_effects(data["comparisons"]["faults"])
    # A trust of 0 everywhere has a sentence of its own: it calls for calibration, not for another World.
    trusted = [row for row in data["results"] if row["trust_mean"] is not None]
    low = [row for row in trusted if row["trust_mean"] < LOW_TRUST]
    if trusted and not any(row["trust_mean"] for row in trusted):
        found.append(
            "The World's trust is 0 throughout: by its calibration none of its steps can be believed, or it was never "
            "calibrated (worldsim validate does that)."
        )
    elif low:
        least = min(low, key=lambda row: row["trust_mean"])
        found.append(
            f"The World's mean trust is below {LOW_TRUST:g} in {_of(len(low), len(trusted))} ("
            f"least with {least['agent']}, {condition(least['fault'], least['severity'])}: "
            f"{decimal(least['trust_mean'])}). Trust is the probability that every part of what it shows is what the "
            "real environment would show; means over episodes can be right where single steps are not."
        )
    return found


def _of(some: int, cases: int) -> str:
    """A count of cases, each one agent under one condition."""
    return f"all {cases} cases" if some == cases else f"{some} of {cases} cases"


def _is_known(bounds: Sequence[float | None] | None) -> bool:
    return bounds is not None and None not in bounds


def _contradictions(ranking: Sequence[ReportRow]) -> list[str]:
    """One sentence for all pairs that clearly differ in both worlds, in opposite orders."""
    conditions: dict[str, list[str]] = {}
    for row in ranking:
        for pair in row.get("by_intervals", {}).get("contradictions", ()):
            conditions.setdefault(_list(pair), []).append(condition(row["fault"], row["severity"]))
    if not conditions:
        return []
    pairs = "; ".join(f"{pair} ({', '.join(where)})" for pair, where in conditions.items())
    return [f"Do not choose by the World between agents that it puts in the opposite order: {pairs}."]


def _unseen(pairs: Sequence[ReportRow]) -> list[str]:
    """One sentence on how many differences between agents the World misses, if any."""
    real, world = (
        {(r["a"], r["b"], r["fault"], r["severity"]): r["return"]["sign"] for r in pairs if r["where"] == where}
        for where in ("real", "world")
    )
    there = [key for key in world if real.get(key)]
    missed = sum(not world[key] for key in there)
    if not missed:
        return []
    return [f"Of {len(there)} clear differences between two agents in the real environment, the World misses {missed}."]


def _different_effects(effects: Sequence[ReportRow]) -> list[str]:
    """One sentence for each fault with clear effects of opposite sign in the environment and in the World."""
    by_cell: dict[tuple[str, str, float], dict[str, ReportRow]] = {}
    for row in effects:
        by_cell.setdefault((row["agent"], row["fault"], row["severity"]), {})[row["where"]] = row["return"]
    found = []
    for (agent, fault, severity), both in by_cell.items():
        if len(both) == 2 and both["real"]["sign"] * both["world"]["sign"] < 0:
            found.append(
                f"{fault} {severity:g} changes {agent}'s return by {signed(both['real']['mean'])} in the real "
                f"environment and by {signed(both['world']['mean'])} in the World: the opposite."
            )
    return found


def _list(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
