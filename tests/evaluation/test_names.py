"""Names that a user gives are shown as they are: no mathematics, no markup, no commands to the terminal."""

import io
import re
import sys
from functools import partial
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.table import Table

from tests.evaluation.conftest import CARTPOLE, small
from worldsim.cli import main
from worldsim.errors import ConfigError
from worldsim.evaluation import plots
from worldsim.evaluation.stress import stress
from worldsim.printing import Terminal, printable
from worldsim.rollouts.progress import Bar, say

STRANGE = "[red]up[/blue] $5 to $9 :smile: \x1b[31m"
SHOWN = r"[red]up[/blue] $5 to $9 :smile: \x1b[31m"


def plan(path: Path, name: str) -> str:
    text = name.replace("\x1b", r"\e")
    path.write_text(f'name: "{text}"\nfaults:\n  - kind: missing_data\n')
    return str(path)


def test_a_plan_called_none_is_refused_before_anything_runs(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"a plan with the name 'none'.*change its name in the file, name:"):
        stress(small(tmp_path / "out", faults=[plan(tmp_path / "p.yaml", "none")]), progress=False)
    assert not (tmp_path / "out").exists()


def test_a_plan_and_an_agent_with_strange_names_on_all_that_is_shown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    agents = {STRANGE: "tests.evaluation.agents:Brittle"}
    env = CARTPOLE.model_copy(update={"agents": agents})
    faults = [plan(tmp_path / "p.yaml", STRANGE)]
    config = small(tmp_path / "out", env=env, agents=[STRANGE], faults=faults, severities=[1.0], episodes=3)
    monkeypatch.setattr("worldsim.evaluation.stress.Bar", partial(Bar, every_s=0.0))
    report = stress(config, progress=True)
    printed_text = capsys.readouterr().err
    assert SHOWN in printed_text
    assert "\x1b[31m" not in printed_text
    terminal = Terminal(file=io.StringIO(), width=400, force_terminal=True, color_system=None)
    terminal.print(report.table())
    printed = terminal.file.getvalue()  # type: ignore[attr-defined]
    assert "\x1b[31m" not in printed
    assert f"{SHOWN} 1" in printed and re.search(rf"{re.escape(SHOWN)} +in|{re.escape(SHOWN)} +real", printed)
    assert f"{SHOWN} crashed in" in printed  # the same in its sentences


def test_a_dollar_in_a_plot_is_a_dollar() -> None:
    interval = [0.0, 1.0]
    rows = [
        {"agent": "a", "where": "real", "fault": fault, "severity": severity, "m": 0.5, "m_interval": interval}
        for fault, severity in (("none", 0.0), ("$5 to $9", 1.0), ("$x^2_1$", 1.0))
    ]
    for fault in ("$5 to $9", "$x^2_1$"):
        assert f">{fault}</text>" in plots.severity_plot(rows, ["a"], fault, "m", "Measure", (0, 1))
        drawn = plots.curves_plot([1, 2], {fault: [0.1, 0.2]}, fault, "dB")
        assert drawn.count(f">{fault}</text>") == 2  # its title, and the name beside the curve


@given(st.text())
def test_printable_text_commands_nothing_and_keeps_the_rest(text: str) -> None:
    shown = printable(text)
    shown.encode()  # what no terminal takes would raise
    assert not re.search(r"[^\t\n\x20-\x7e\xa0-\U0010ffff]", shown)
    assert printable(shown) == shown
    kept = [letter for letter in text if letter.isprintable() or letter in "\t\n"]
    letters = iter(shown)
    assert all(letter in letters for letter in kept), "in their order"


def test_tables_show_names_as_they_are() -> None:
    table = Table("tool", title=STRANGE)
    table.add_row(STRANGE)
    terminal = Terminal(file=io.StringIO(), width=200, color_system=None)
    terminal.print(table)
    assert terminal.file.getvalue().count(SHOWN) == 2  # type: ignore[attr-defined]


def test_errors_and_notes_on_the_command_line_command_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["stress", "where=[real]", "env=CartPole-v1", "agents=[random]", "faults=[missing\x1b[31m.yaml]"]) == 2
    printed_text = capsys.readouterr().err
    assert "\x1b" not in printed_text and printed_text.count("\n") == 1
    monkeypatch.setenv("COLUMNS", "300")
    call = '{"tool": "[b]x[/i]\\u001b[31m", "latency_s": %s, "ok": true}\n'
    calls = "".join(call % (0.1 + number / 100) for number in range(40))
    Path("traces.jsonl").write_text(calls + (call % 0.1).replace("[b]x", "[i]few"))
    assert main(["faults", "fit", "traces=traces.jsonl", "out=plan.yaml"]) == 0
    printed_text = capsys.readouterr().out
    assert "\x1b" not in printed_text and r"[b]x[/i]\x1b[31m" in printed_text and "left out" in printed_text


def test_what_is_said_besides_is_no_markup(monkeypatch: pytest.MonkeyPatch) -> None:
    class Watched(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr(sys, "stderr", Watched())
    say(f"{STRANGE} is complete")
    assert f"{SHOWN} is complete" in sys.stderr.getvalue()  # type: ignore[attr-defined]
