"""What a long job says: one line of figures, on a terminal of 80 columns and in a log."""

import io
import re
from pathlib import Path

import pytest
from rich.console import Console

from worldsim.envs.make import EnvConfig
from worldsim.rollouts.collect import CollectConfig, collect
from worldsim.rollouts.progress import Bar, _bar

LONG = "worldsim.envs.refund_desk.agents:Curious under malformed_output at 0.5 in the World"


@pytest.mark.parametrize("what", ["train loss 3.21", LONG, "an [odd] name"])
@pytest.mark.parametrize("width", [60, 80])
def test_the_figures_are_whole_in_a_narrow_terminal(what: str, width: int) -> None:
    console = Console(file=io.StringIO(), width=width, force_terminal=True, color_system=None)
    progress = _bar(console)
    progress.add_task(what, total=123_456, completed=12_345, speed="1.23e+03/s")
    console.print(progress.get_renderable())
    (line,) = console.file.getvalue().splitlines()
    assert len(line) <= width
    assert (
        "12345/123456" in line
        and "1.23e+03/s" in line
        and line.startswith(what[:9])
        and line.endswith(("-:--:--", " "))
    )


def test_a_log_gets_lines_with_message_and_speed(capsys: pytest.CaptureFixture[str]) -> None:
    with Bar("train", 400, every_s=0.0) as bar:
        bar.at(100)
        bar.at(200, "loss 3.21")
        bar.at(300)
    first, second, third = capsys.readouterr().err.splitlines()
    assert first == "train: 100 of 400"  # what was done before it began has no speed
    number = r"[\d.e+]+"
    assert re.fullmatch(rf"train: 200 of 400, loss 3.21, {number}/s, 0:00:00 left", second)
    assert re.fullmatch(rf"train: 300 of 400, loss 3.21, {number}/s, 0:00:00 left", third)


def test_a_log_gets_no_line_within_half_a_minute_nor_where_nobody_wants_one(capsys: pytest.CaptureFixture[str]) -> None:
    with Bar("train", 4) as bar, Bar("read", 4, shown=False, every_s=0.0) as hidden:
        bar.at(1)
        hidden.at(1)
    assert capsys.readouterr().err == ""


def test_more_environments_than_steps_are_not_made(tmp_path: Path) -> None:
    few, many = (
        collect(CollectConfig(env=EnvConfig(id="CartPole-v1"), steps=3, num_envs=count, out=tmp_path / str(count)))
        for count in (3, 1024)
    )
    assert few.content_hash == many.content_hash
