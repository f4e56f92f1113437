"""The report: one page that fetches nothing, shows the metrics of report.json, and sentences that follow from them."""

import copy
import html
import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from PIL import Image
from rich.console import Console

from worldsim.evaluation import narrative, plots
from worldsim.evaluation.animations import animate
from worldsim.evaluation.report import Report, certificate_view

VOID = {"meta", "link", "img", "br", "hr", "input", "path", "use", "rect", "line"}


class Page(HTMLParser):
    """Notes tables, figures and everything that a browser would fetch; fails on tags that do not match."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open, self.fetched, self.values, self.images, self.shown = [], [], {}, [], ""
        self.table = self.row = None
        self.feed(text)
        self.close()
        assert not self.open, self.open

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        if tag not in VOID:
            self.open.append(tag)
        self.fetched += [given[key] for key in ("src", "href", "xlink:href", "srcset", "data") if key in given]
        self.table = given.get("id") if tag == "table" else self.table
        if tag == "tr":
            self.row = tuple(given.get(f"data-{key}") for key in ("agent", "fault", "severity"))
        if tag == "data":
            self.values.setdefault((self.table, self.row), []).append([float(given["value"]), ""])
        if tag == "img":
            self.images.append(given)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.handle_endtag(tag)

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        self.shown += data
        if self.open and self.open[-1] == "data":
            self.values[self.table, self.row][-1][1] += data


@pytest.fixture(scope="module")
def page(report: Report, out: Path) -> Page:
    return Page((out / "report.html").read_text())


def test_one_file_that_fetches_nothing(page: Page, out: Path) -> None:
    text = (out / "report.html").read_text()
    assert page.fetched and all(link.startswith(("#", "data:")) for link in page.fetched)
    assert not re.search(r"https?:|//[a-z]+\.|@import|url\((?!#)", text)
    assert "<script" not in text


def test_the_page_shows_the_figures_of_the_json(page: Page, out: Path) -> None:
    rows = json.loads((out / "report.json").read_text())["results"]
    for row in rows:
        shown = page.values["results", (row["agent"], row["fault"], str(row["severity"]))]
        names = ["return_mean", "success_rate", "violations_mean"] + ["faults_fired"] * (row["fault"] != "none")
        assert [value for value, _ in shown] == [row[name] for name in names]
        assert shown[0][1].replace("−", "-") == f"{row['return_mean']:.2f}"
        assert shown[1][1] == f"{100 * row['success_rate']:.0f} %"


def test_verdict_and_warnings_are_on_the_page(page: Page, report: Report) -> None:
    flat = " ".join(page.shown.split())
    assert all(sentence in flat for sentence in report.data["verdict"] + report.data["warnings"])
    assert "Without faults balance and brittle are level and do best in the real environment" in flat
    assert any("Only 6 episodes" in warning for warning in report.data["warnings"])


def test_worst_episodes_move(page: Page, report: Report) -> None:
    assert len(page.images) == len(report.data["worst"]) == 2
    for worst, image in zip(report.data["worst"], page.images, strict=True):
        assert worst["replayed"] and worst["return_drop"] > 0
        assert worst["agent"] in image["alt"] and str(worst["seed"]) in image["alt"]
    assert len({worst["fault"] for worst in report.data["worst"]}) == 2


def test_animation_has_a_frame_for_each_step(report: Report) -> None:
    episode = next(iter(report.replays.values()))
    film = Image.open(io.BytesIO(animate({"real": episode, "again": episode})))
    assert film.n_frames == len(episode.frames) == episode.result.steps + 1
    assert film.width > 2 * episode.frames[0].shape[1]


def printed(report: Report, width: int) -> str:
    console = Console(width=width, file=io.StringIO())
    console.print(report.table())
    return console.file.getvalue()


@pytest.mark.parametrize("width", [60, 80, 120])
def test_the_terminal_shows_the_same_figures_whole_at_any_width(report: Report, width: int) -> None:
    text = printed(report, width)
    for row in report.results:
        mean, interval = narrative.decimal(row["return_mean"]), narrative.bounds(row["return_mean_interval"])
        assert interval and mean in text and interval in text
        assert width < 80 or f"{mean} {interval}" in text
    assert max(map(len, text.splitlines())) <= width
    flat = " ".join(text.replace("\n-", "").split())
    assert all(" ".join(text.split()) in flat for text in report.data["verdict"] + report.data["warnings"])


def test_long_names_are_folded_and_figures_never(report: Report) -> None:
    data = copy.deepcopy(report.data)
    for row in data["results"]:
        row["agent"] = "a_package.with_agents:" + row["agent"]
    text = printed(Report(data, report.replays), 80)
    assert max(map(len, text.splitlines())) <= 80
    assert all(narrative.bounds(row["return_mean_interval"]) in text for row in data["results"])


def test_a_fault_that_never_fired_is_reported(report: Report) -> None:
    data = copy.deepcopy(report.data)
    row = data["results"][-1]
    row["episodes_with_faults"], row["faults_fired"] = 0, 0.0
    (sentence,) = narrative.never_fired(data["results"])
    assert sentence in narrative.warnings(data)
    assert row["agent"] in sentence and row["fault"] in sentence and "never fired" in sentence
    assert sentence in Report(data, report.replays).html()


def test_the_page_says_beside_the_dashes_why_nothing_was_judged(report: Report) -> None:
    data = copy.deepcopy(report.data)
    for row in data["results"]:
        row |= {"success_rate": None, "violations_mean": None}
    text = html.unescape(Report(data, report.replays).html())
    results = text[text.index("<h2>Results</h2>") : text.index('<table id="results">')]
    assert len(narrative.unjudged(data["results"])) == 2 and not narrative.unjudged(report.data["results"])
    for sentence in narrative.unjudged(data["results"]):
        assert sentence in results and sentence in narrative.warnings(data)
    assert "A dash stands for what was not judged" in results


def test_the_page_shows_the_verdict_of_the_certificate(report: Report) -> None:
    verdict_line = "Do not believe screen, not even one step ahead."
    page = Report(report.data, report.replays, {"verdict": [verdict_line]}).html()
    assert f"<p>{verdict_line}</p>" in page[page.index("Fidelity certificate") :]


def test_certificate_may_be_anything() -> None:
    assert certificate_view(None) is None
    assert certificate_view({}) == {"plot": "", "verdict": [], "metrics": {}}
    odd = {"horizons": [1, 2], "psnr": {"model": [1.0], "copy": None}, "termination_f1": 0.91, "deep": {"a": 1}}
    assert certificate_view(odd) == {"plot": "", "verdict": [], "metrics": {"termination f1": "0.91"}}
    good = certificate_view({"horizons": [1, 2, 3], "psnr": {"model": [30, 28.0, 27], "copy": [29, 25, 22]}})
    assert good is not None and "<svg" in good["plot"] and "model" in good["plot"]


def test_plots_take_their_colours_from_the_page(report: Report) -> None:
    svg = plots.severity_plot(report.results, ["push"], "slow_api", "return_mean", "a <b> & c", (0, 40))
    assert "var(--c0)" in svg and "var(--ink)" in svg and "xmlns" not in svg
    assert 'aria-label="a &lt;b> &amp; c"' in svg
    assert not re.search(r"#0102|#01020", svg)


def test_a_share_is_drawn_between_nothing_and_all() -> None:
    svg = plots.curves_plot([1, 2, 3], {"model": [0.0, 0.0, None]}, "Within tolerance", "share", (0.0, 1.0))
    assert ">1.0<" in svg and "−" not in svg


@pytest.mark.parametrize(
    "value, shown", [(1.005, "1.00"), (-0.001, "0.00"), (-2.5, "−2.50"), (None, "–"), (0.0, "0.00")]
)
def test_figures(value: float | None, shown: str) -> None:
    assert narrative.decimal(value) == shown


def test_differences_show_their_sign() -> None:
    assert [narrative.signed(v) for v in (0.5, -0.5, 0.001, -0.001)] == ["+0.50", "−0.50", "0.00", "0.00"]
    assert narrative.order({"b": 1.5, "a": 1.5, "c": 3.0}) == "a = b > c"
    assert narrative.bounds([None, 1.0]) == narrative.bounds(None) == ""
