"""A study's page: what it says, that it is whole, and what a browser makes of it."""

from __future__ import annotations

import base64
import csv
import json
import re
import subprocess
import sys
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from browser import Browser
from example_study import FAILED, REGIMES, SEEDS, TASKS, example_ledger, example_study, write_study
from palmette.errors import RunError
from palmette.study import drawing, tables, wording
from palmette.study.report import write_report

Json = dict[str, Any]
FIGURES = 10  # that the example study has
SECTIONS = {
    "differences",
    "scores",
    "cost",
    "transfer",
    "conflict",
    "learning-curve",
    "alarms",
    "failures",
    "methods",
}


class _Page(HTMLParser):
    """What the tests look at in a page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.references: list[str] = []  # of anything that a browser would fetch or jump to
        self.named: list[str] = []
        self.tags: list[str] = []
        self.sections: list[str] = []
        self.words: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        for name, value in attrs:
            if name == "id":
                self.ids.append(value or "")
                if tag == "section":
                    self.sections.append(value or "")
            if name in {"src", "href", "xlink:href"}:
                self.references.append(value or "")
            if name == "aria-labelledby":
                self.named += (value or "").split()

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


def _report(folder: Path, study: Json | None = None, ledger: Json | None = None) -> str:
    write_report(write_study(folder, study, ledger))
    return (folder / "report.html").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("study")
    _report(folder)
    return folder


@pytest.fixture(scope="module")
def page(folder: Path) -> _Page:
    return _Page((folder / "report.html").read_text(encoding="utf-8"))


def test_the_verdict_stands_before_all_else(page: _Page) -> None:
    assert page.sections[0] == "verdict"
    assert set(page.sections[1:]) == SECTIONS
    recommendation = example_study()["recommendation"]
    assert recommendation["sentence"] in page.text
    for found in recommendation["tasks"].values():
        for key in ("decision", "reason", "cost"):
            assert found[key] in page.text


def test_every_seed_is_shown_and_a_failed_run_as_failed(page: _Page) -> None:
    for by_regime in example_study()["scores"].values():
        for found in by_regime.values():
            assert all(value is None or wording.points(value) in page.text for value in found["seeds"].values())
    assert "No space left on device" in page.text
    assert "loss is not finite at update 212" in page.text
    assert "1 of 50 runs and 1 of 40 trials failed" in page.text


def test_an_alarm_is_one_row_with_its_end(page: _Page) -> None:
    assert "since update 1,920, noticed at 3,200, to the end" in page.text
    assert "since update 2,560, noticed at 2,560, until update 4,480" in page.text
    assert page.text.count("noticed at") == 3
    assert page.text.count("not measured") == 1
    assert "pos and irony" in page.text


def test_the_methods_say_what_was_measured_on_what(page: _Page) -> None:
    assert "48 runs with 1 thread each on AMD EPYC, 2 cores, 23.5 GB" in page.text
    assert "1 run with 2 threads each, on what is not noted" in page.text
    assert "judged on dev; pairs, leave one out and the learning curve with the settings so chosen; test" in page.text
    assert "8 in each multi-task run: 3.8 % on top of its training time" in page.text
    assert "one text at a time, over the same 500 texts for every model" in page.text


def test_times_that_do_not_compare_are_named(tmp_path: Path) -> None:
    ledger = example_ledger()
    ledger["regimes"]["frozen"]["one_by_one"] = False
    assert "for every model (frozen: batches of other texts)" in _Page(_report(tmp_path, ledger=ledger)).text


def test_it_fetches_nothing_and_runs_nothing(folder: Path, page: _Page) -> None:
    html = (folder / "report.html").read_text(encoding="utf-8")
    assert all(reference.startswith(("#", "data:")) for reference in page.references)
    assert not {"script", "link rel=stylesheet", "iframe", "img", "object"} & set(page.tags)
    assert not re.search(r"@import|url\((?!#)", html)


def test_ids_are_unique_and_every_reference_is_there(page: _Page) -> None:
    assert len(page.ids) == len(set(page.ids))
    wanted = {reference[1:] for reference in page.references if reference.startswith("#")} | set(page.named)
    assert wanted <= set(page.ids)
    assert (
        page.tags.count("svg")
        == page.tags.count("figcaption")
        == len([name for name in page.named if name.endswith("-desc")])
        == FIGURES
    )


def test_every_figure_is_named_and_described(folder: Path) -> None:
    html = (folder / "report.html").read_text(encoding="utf-8")
    for element in ("title", "desc"):
        said = re.findall(rf'<{element} id="[^"]+">(.*?)</{element}>', html)
        assert len(said) == len(set(said)) == FIGURES
        assert all(len(text) > 10 for text in said)


def test_the_same_study_gives_the_same_bytes(tmp_path: Path, folder: Path) -> None:
    _report(tmp_path)
    for path in [folder / "report.html", *sorted((folder / "csv").iterdir())]:
        assert path.read_bytes() == (tmp_path / path.relative_to(folder)).read_bytes(), path.name


def test_csv_files_hold_the_numbers_as_they_are(folder: Path) -> None:
    names = {"scores", "differences", "verdicts", "ledger", "budget", "runs", "trials", "transfer", "grouping"}
    names |= {"learning_curve", "conflict", "alarms"}
    assert {path.stem for path in (folder / "csv").iterdir()} == names
    study = example_study()
    rows = _sheet(folder, "scores")
    assert len(rows) == len(TASKS) * len(REGIMES) * len(SEEDS)
    for row in rows:
        value = study["scores"][row["task"]][row["regime"]]["seeds"][row["seed"]]
        assert (float(row["test"]) if row["test"] else None) == value
        assert (row["state"] == "failed") == (value is None)
    failed = [(row["regime"], row["task"], int(row["seed"])) for row in rows if row["state"] == "failed"]
    assert failed == [FAILED]
    runs = _sheet(folder, "runs")
    assert [(row["group"], row["model"], int(row["seed"])) for row in runs if row["state"] == "failed"] == [FAILED]
    assert len(runs) == 50
    assert {row["opposed_by"] for row in _sheet(folder, "alarms")} == {"pos irony", ""}
    assert len(_sheet(folder, "grouping")) == 3 * len(TASKS)
    assert {row["drawn_ner"] for row in _sheet(folder, "budget")} == {str(4 * TASKS["ner"][2])}
    for row in _sheet(folder, "differences"):
        assert float(row["low"]) == study["differences"][row["task"]][row["regime"]]["low"]
    assert {row["measure"] for row in _sheet(folder, "transfer")} == {"pair", "affinity", "left_out"}
    assert len(_sheet(folder, "conflict")) == len(SEEDS) * 8 * 6 * 7  # probes, pairs of tasks, layers


def test_an_alarm_that_comes_back_is_over_at_its_own_end() -> None:
    common = {"regime": "multi_task", "model": "a+b", "seed": 1, "task": "a", "kind": "below_own_best", "since": 100}
    events = [(300, False), (400, True), (500, False)]
    numbers = {"value": 0.5, "reference": 0.6, "p": 0.01, "opposed_by": []}
    alarms = [{**common, **numbers, "update": update, "over": over} for update, over in events]
    ((_, rows),) = tables.alarms({"alarms": alarms}).groups
    whens = [row[4] for row in rows]
    assert [str(when).rpartition(", ")[2] for when in whens] == ["until update 400", "to the end"]


def _sheet(folder: Path, name: str) -> list[dict[str, str]]:
    with (folder / "csv" / f"{name}.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def _no_pairs(study: Json) -> None:
    study["transfer"]["pairs"] = {}
    study["transfer"]["rank_correlation"] = None


def _no_probes(study: Json) -> None:
    study["transfer"] |= {"probes": [], "layers": [], "affinity": {}, "grouping": []}


def _no_failure(study: Json) -> None:
    for regime in study["regimes"].values():
        for item in [*regime["runs"], *regime["trials"]]:
            item["state"] = "done"


@pytest.mark.parametrize(
    ("change", "gone"),
    [
        (lambda study: study.pop("transfer"), {"conflict"}),
        (lambda study: study.update(transfer={}, leave_one_out={}), {"transfer", "conflict"}),
        (lambda study: study.pop("leave_one_out"), set()),
        (lambda study: study.update(learning_curve={}), {"learning-curve"}),
        (lambda study: study.update(alarms=[]), {"alarms"}),
        (lambda study: study.update(recommendation={}), {"verdict"}),
        (_no_pairs, set()),
        (_no_probes, {"conflict"}),
        (_no_failure, {"failures"}),
    ],
)
def test_sections_without_data_are_left_out(tmp_path: Path, change: Callable[[Json], None], gone: set[str]) -> None:
    study = example_study()
    change(study)
    assert set(_Page(_report(tmp_path, study)).sections) == (SECTIONS | {"verdict"}) - gone


def test_files_of_an_earlier_larger_study_go(tmp_path: Path) -> None:
    _report(tmp_path)
    _report(tmp_path, example_study() | {"learning_curve": {}})
    assert not (tmp_path / "csv" / "learning_curve.csv").exists()


def test_what_could_not_be_compared_is_said(tmp_path: Path) -> None:
    study, ledger = example_study(), example_ledger()
    few = {"verdict": "too few runs", "reason": "1 finished where an interval takes two"}
    for task in TASKS:
        study["differences"][task]["sequential"] = few
        study["scores"][task]["sequential"] |= {"mean": None, "sd": None, "dev": None, "gap": None}
        study["scores"][task]["sequential"]["seeds"] = {str(seed): None for seed in SEEDS}
    study["transfer"]["pairs"]["pos"]["ner"] = few
    study["leave_one_out"]["pos"]["ner"] = few
    ledger["regimes"]["sequential"] = {"models": 4}
    text = _Page(_report(tmp_path, study, ledger)).text
    # In the forest plot and its description, and in its table; once in the table of pairs and of tasks left out.
    assert text.count("too few runs") == 3 * len(TASKS) + 2
    assert text.count("failed") >= len(TASKS) * len(SEEDS)


def test_a_failed_run_of_a_design_is_shown(tmp_path: Path) -> None:
    run = {"model": "ner+pos", "seed": 1, "tasks": ["ner", "pos"], "state": "failed", "error": "killed", "key": "k"}
    study = example_study() | {"designs": {"pairs": {"models": [["ner", "pos"]], "trials": [], "runs": [run]}}}
    text = _Page(_report(tmp_path, study)).text
    assert "2 of 51 runs and 1 of 40 trials failed" in text
    assert "pairs ner+pos seed 1 killed" in text


def test_equal_scores_are_drawn_without_complaint(tmp_path: Path) -> None:
    study = example_study()
    for by_regime in study["scores"].values():
        for found in by_regime.values():
            found |= {"seeds": {str(seed): 1.0 for seed in SEEDS}, "mean": 1.0, "sd": 0.0}
    for by_regime in study["differences"].values():
        for found in by_regime.values():
            found |= {"difference": 0.0, "low": 0.0, "high": 0.0, "p": 1.0, "p_holm": 1.0, "effect": None}
    assert "100.00" in _Page(_report(tmp_path, study)).text


def test_a_study_of_two_regimes_two_tasks_and_one_trial(tmp_path: Path) -> None:
    study, ledger = example_study(), example_ledger()
    kept_tasks, kept_regimes = ("pos", "ner"), ("single_task", "multi_task")
    study["plan"] |= {"regimes": list(kept_regimes), "trials": 1, "search": {}, "examples": None, "commit": None}
    study["tasks"] = {task: study["tasks"][task] for task in kept_tasks}
    study["regimes"] = {regime: study["regimes"][regime] | {"trials": []} for regime in kept_regimes}
    study["scores"] = {t: {r: study["scores"][t][r] for r in kept_regimes} for t in kept_tasks}
    study["differences"] = {t: {"multi_task": study["differences"][t]["multi_task"]} for t in kept_tasks}
    study["recommendation"]["tasks"] = {t: study["recommendation"]["tasks"][t] for t in kept_tasks}
    study |= {"transfer": {}, "leave_one_out": {}, "learning_curve": {}, "alarms": []}
    ledger["regimes"] = {regime: ledger["regimes"][regime] for regime in kept_regimes}
    page = _Page(_report(tmp_path, study, ledger))
    assert page.sections == ["verdict", "differences", "scores", "cost", "methods"]
    assert "frozen" not in page.text


def test_names_are_text_whatever_they_hold(tmp_path: Path) -> None:
    name = "a<b>&$x^{2}$ 'ü'"
    study = json.loads(json.dumps(example_study()).replace('"pos"', json.dumps(name)))
    study["title"] = "<script>alert(1)</script>"
    page = _Page(_report(tmp_path, study))
    assert "script" not in page.tags
    assert page.tags.count("b") == page.tags.count("figcaption")
    assert "<script>alert(1)</script>" in page.text
    assert page.text.count(name) > 20


def test_a_folder_that_is_no_study_is_named(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"is no finished study \(no study.json\): palmette compare"):
        write_report(tmp_path)
    write_study(tmp_path, example_study() | {"version": 9})
    with pytest.raises(RunError, match="expected version 2, found 9"):
        write_report(tmp_path)
    (tmp_path / "study.json").write_text("{", encoding="utf-8")
    with pytest.raises(RunError, match="is damaged"):
        write_report(tmp_path)
    assert not (tmp_path / "report.html").exists()


def test_regimes_are_told_apart_by_shape_and_by_colour() -> None:
    styles = drawing.styles([*REGIMES, "text2text", "zero_shot", "few_shot", "lora"])
    assert len({colour for colour, _ in styles.values()}) == len({marker for _, marker in styles.values()}) == 8
    assert not {drawing.GAIN, drawing.LOSS} & {colour for colour, _ in styles.values()}


@pytest.mark.parametrize(
    ("spans", "low", "high"),
    [
        ([(-1, 1), (-0.5, 2)], -1, 2),  # all of them
        ([(-1, 1), (-0.5, 2), (-30, -20)], -2, 2),  # without the one far out
        ([(-30, -20), (0, 1)], -1, 1),
        ([(0, 0), (-22, -20)], -22, 0),  # the baseline's own difference, and one other
        ([(0, 0)], 0, 0),
        ([], -1, 1),
    ],
)
def test_an_axis_keeps_its_scale_when_one_regime_is_far_out(
    spans: list[tuple[float, float]], low: float, high: float
) -> None:
    found = drawing.window(spans)
    assert found[0] < found[1]
    assert found[0] <= low
    assert found[1] >= high
    assert found[1] - found[0] < 1.5 * max(high - low, 2)


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        (wording.signed_points(-0.0031), "\N{MINUS SIGN}0.31"),
        (wording.signed_points(-0.00001), "0.00"),
        (wording.signed(1234.5), "+1,234.50"),
        (wording.points(None), "\N{EN DASH}"),
        (wording.interval(-0.001, 0.02), "[\N{MINUS SIGN}0.10, +2.00]"),
        (wording.p_value(0.0004), "< 0.001"),
        (wording.large(22_713_216), "22.7\N{NO-BREAK SPACE}M"),
        (wording.size(92_800_000), "92.8\N{NO-BREAK SPACE}MB"),
        (wording.duration(5210), "87\N{NO-BREAK SPACE}min"),
        (wording.listed(["a"]), "a"),
        (wording.listed(["a", "b", "c"]), "a, b and c"),
    ],
)
def test_numbers_are_written_for_people(written: str, expected: str) -> None:
    assert written == expected


def test_rebuilding_a_page_needs_no_torch() -> None:
    code = "import sys; from palmette.study import page, report; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# In a browser ------------------------------------------------------------------------------------------------------

WIDTHS = {"desktop": 1280, "phone": 390}


def _url(folder: Path) -> str:
    return (folder / "report.html").as_uri()


@pytest.mark.parametrize("width", WIDTHS.values(), ids=WIDTHS)
def test_a_browser_shows_every_figure_and_has_nothing_to_complain_of(
    browser: Browser, folder: Path, width: int
) -> None:
    assert browser.open(_url(folder), width) == []
    assert browser.ask("window.innerWidth") == width
    overflow = browser.ask("document.documentElement.scrollWidth - document.documentElement.clientWidth")
    assert overflow == 0, "the page scrolls sideways"
    boxes = browser.ask(
        "[...document.querySelectorAll('svg')].map(svg => {const box = svg.getBoundingClientRect(); return [box.width, "
        "box.height, box.left, box.right, [...svg.querySelectorAll('path, use')].filter(mark => {const own = "
        "mark.getBoundingClientRect(); return own.width + own.height > 0}).length]})"
    )
    assert len(boxes) == FIGURES
    for shown_width, height, left, right, marks in boxes:
        assert shown_width > 300
        assert height > 100
        assert left >= 0
        assert right <= width
        assert marks > 10
    smallest = browser.ask(
        "Math.min(...[...document.querySelectorAll('svg text')].map(text => parseFloat(getComputedStyle(text).fontSize)"
        " * text.ownerSVGElement.getBoundingClientRect().width / text.ownerSVGElement.viewBox.baseVal.width))"
    )
    assert smallest >= 8, "letters of a figure are too small to read"


@pytest.fixture(scope="module")
def crowded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with long names and deep models."""
    written = json.dumps(example_study())
    for task in TASKS:
        written = written.replace(f'"{task}"', f'"{task}_and_much_more_of_it"')
    study = json.loads(written)
    transfer = study["transfer"]
    transfer["layers"] = ["embeddings", *(f"layer.{number}" for number in range(13))]
    for probe in transfer["probes"]:
        probe["cosine"] = {a: {b: layers * 2 for b, layers in row.items()} for a, row in probe["cosine"].items()}
    folder = tmp_path_factory.mktemp("crowded")
    _report(folder, study)
    return folder


@pytest.mark.parametrize("name", ["folder", "crowded"])
def test_no_text_of_a_figure_is_cut_off_or_lies_on_another(
    browser: Browser, name: str, request: pytest.FixtureRequest
) -> None:
    assert browser.open(_url(request.getfixturevalue(name)), WIDTHS["phone"]) == []
    assert browser.ask("document.documentElement.scrollWidth") == WIDTHS["phone"]
    cut = browser.ask(
        "[...document.querySelectorAll('svg text')].filter(text => {const own = text.getBoundingClientRect(), box = "
        "text.ownerSVGElement.getBoundingClientRect(); return own.left < box.left - 1 || own.right > box.right + 1 || "
        "own.top < box.top - 1 || own.bottom > box.bottom + 1}).map(text => text.textContent)"
    )
    assert cut == []
    # Boxes of turned text overlap where the letters do not.
    overlapping = browser.ask(
        "[...document.querySelectorAll('svg')].flatMap(svg => {const texts = [...svg.querySelectorAll('text')].filter("
        "text => !/rotate\\(-(?!0)/.test(text.getAttribute('transform'))).map(text => [text.textContent, "
        "text.getBoundingClientRect()]); return texts.flatMap(([a, p], i) => texts.slice(i + 1).filter(([b, q]) => "
        "Math.min(p.right, q.right) - Math.max(p.left, q.left) > 1 && Math.min(p.bottom, q.bottom) - "
        "Math.max(p.top, q.top) > 3).map(([b, q]) => a + ' | ' + b))})"
    )
    assert overlapping == []


def test_a_browser_prints_it_with_what_is_folded_on_screen(browser: Browser, folder: Path) -> None:
    browser.open(_url(folder), WIDTHS["desktop"])
    browser.command("Emulation.setEmulatedMedia", media="print")
    try:
        assert browser.ask("document.querySelector('details table').getBoundingClientRect().height") > 100
        assert browser.ask("getComputedStyle(document.querySelector('nav')).display") == "none"
    finally:
        browser.command("Emulation.setEmulatedMedia", media="")
    printed = base64.b64decode(browser.command("Page.printToPDF", preferCSSPageSize=True)["data"])
    assert printed.startswith(b"%PDF")
    assert 4 <= len(re.findall(rb"/Type\s*/Page\b", printed)) <= 20


def test_these_checks_find_a_broken_page(browser: Browser, folder: Path, tmp_path: Path) -> None:
    html = (folder / "report.html").read_text(encoding="utf-8")
    broken = tmp_path / "broken.html"
    broken.write_text(
        html.replace("</main>", "<script>missing()</script><img src='none.png'></main>"), encoding="utf-8"
    )
    # Refused by the page's own policy, and told of.
    assert len(browser.open(broken.as_uri(), WIDTHS["phone"])) == 2
    broken.write_text(html.replace("<main>", "<main><p style='width:900px'>wide</p>"), encoding="utf-8")
    browser.open(broken.as_uri(), WIDTHS["phone"])
    assert browser.ask("document.documentElement.scrollWidth") > WIDTHS["phone"]
