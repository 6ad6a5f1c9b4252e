"""The page of a study: its sections, each figure with its table, in one HTML file that fetches nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from palmette.study import plots, tables, wording
from palmette.study.drawing import Figure
from palmette.study.tables import Table
from palmette.study.wording import compared, listed, pair_label, regime_label, short, signed

_TEMPLATES = Path(__file__).parent / "templates"
_SIDE_BY_SIDE = 10  # columns of a table that still fit beside a figure


@dataclass(frozen=True, slots=True)
class Plate:
    """A figure and how to read it."""

    figure: Figure
    note: str


@dataclass(frozen=True, slots=True)
class Exhibit:
    """A table and the figures that draw its numbers; `folded`: shown on demand."""

    table: Table
    plates: tuple[Plate, ...] = ()
    folded: bool = False

    @property
    def beside(self) -> bool:
        """Whether the table has a place beside the figures."""
        return bool(self.plates) and len(self.table.columns) <= _SIDE_BY_SIDE


@dataclass(frozen=True, slots=True)
class Section:
    """A heading, what it shows in a sentence or two, and the exhibits."""

    name: str
    title: str
    lead: str
    exhibits: tuple[Exhibit, ...]


def render(study: Mapping[str, Any], ledger: Mapping[str, Any]) -> str:
    """The page as HTML.

    Args:
        study: `study.json`.
        ledger: `ledger.json`.
    """
    templates = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    templates.filters["svg"] = lambda figure: Markup(figure.svg)  # noqa: S704 - drawn here, its texts escaped
    return (
        templates.get_template("report.html.j2").render(
            style=Markup((_TEMPLATES / "report.css").read_text(encoding="utf-8")),  # noqa: S704 - the package's own
            study=study,
            recommendation=study.get("recommendation") or None,
            verdicts=tables.verdicts(study) if study.get("recommendation") else None,
            failed=_failed(study),
            facts=_facts(study),
            sections=_sections(study, ledger),
            methods=methods(study, ledger),
        )
        + "\n"
    )


def _facts(study: Mapping[str, Any]) -> list[str]:
    plan = study["plan"]
    regimes = listed([regime_label(regime) for regime in plan["regimes"]])
    return [
        f"{len(study['tasks'])} tasks: {listed(list(study['tasks']))}",
        f"{len(plan['regimes'])} regimes: {regimes}",
        f"{_count(len(plan['seeds']), 'seed')}, {_count(plan['trials'], 'trial')} a model",
    ]


def _failed(study: Mapping[str, Any]) -> str:
    """How many trials and runs failed, in words; nothing if none."""
    counts = []
    for kind in ("runs", "trials"):
        items = [item for group in tables.everything(study).values() for item in group[kind]]
        failed = sum(item["state"] == "failed" for item in items)
        if failed:
            counts.append(f"{failed} of {len(items)} {kind}")
    return f"{listed(counts)} failed" if counts else ""


def _sections(study: Mapping[str, Any], ledger: Mapping[str, Any]) -> list[Section]:
    """Those that the study has something for."""
    found = [
        _differences(study),
        _scores(study),
        _cost(study, ledger),
        _transfer(study),
        _conflict(study),
        _learning_curve(study),
        _alarms(study),
        _failures(study),
    ]
    return [section for section in found if section is not None]


def _differences(study: Mapping[str, Any]) -> Section | None:
    if len(study["plan"]["regimes"]) < 2:
        return None
    baseline = regime_label(study["plan"]["baseline_regime"])
    note = (
        f"Right of the line is better than {baseline}, left is worse; the bar is the {_level(study)} interval. A "
        "filled mark is a difference shown (Holm-corrected over tasks), a hollow one is not. Each task has a scale of "
        "its own; an arrow points to what lies beyond it."
    )
    lead = (
        f"Each regime against {baseline}, on test, over seeds and test examples. The detectable difference is the "
        "smallest true one that a study like this finds four times in five: no difference shown is not the same as no "
        "difference."
    )
    for task in study["differences"]:
        if (other := tables.baseline_of(study, task)) != study["plan"]["baseline_regime"]:
            lead += f" No head can answer {task}: it is compared with {regime_label(other)} instead."
    exhibit = Exhibit(tables.differences(study), (Plate(plots.forest(study), note),))
    return Section("differences", "Does sharing help?", lead, (exhibit,))


def _scores(study: Mapping[str, Any]) -> Section:
    note = (
        "A mark is a seed, the bar the mean over seeds, the number its value. Each task has a scale of its own; an "
        "arrow points to a regime beyond it."
    )
    exhibit = Exhibit(tables.scores(study), (Plate(plots.scores(study), note),))
    lead = "Every model was measured on test once, after selection on dev."
    return Section("scores", "Scores of every seed", lead, (exhibit,))


def _cost(study: Mapping[str, Any], ledger: Mapping[str, Any]) -> Section:
    note = (
        "Up is better, left is cheaper. The mark is the mean over tasks, the line spans the worst and the best task. A "
        "triangle at the lower edge lies below it."
    )
    lead = (
        f"Measured, not estimated: time is for answering all tasks over a text together{_timed(ledger)}; size, "
        "training time (without probes) and wordpieces are summed over the models of a regime, of seeds the median is "
        "taken (of peak memory the largest)."
    )
    writing = tables.usage(study, ledger)
    exhibits = (
        Exhibit(tables.cost_quality(study, ledger), (Plate(plots.cost_quality(study, ledger), note),)),
        Exhibit(tables.ledger(study, ledger)),
        Exhibit(tables.parameters(study, ledger)),
        *([Exhibit(writing)] if writing is not None else []),
    )
    return Section("cost", "What it costs", lead, exhibits)


def _timed(ledger: Mapping[str, Any]) -> str:
    """How the time of an answer was measured."""
    timed = {name: found for name, found in ledger["regimes"].items() if found.get("texts")}
    alike = [found["texts"] for found in timed.values() if found["one_by_one"]]
    said = f", one text at a time, over the same {max(alike):,} texts for every model" if alike else ""
    others = [regime_label(name) for name, found in timed.items() if not found["one_by_one"]]
    return said + (f" ({listed(others)}: batches of other texts)" if others else "")


def _transfer(study: Mapping[str, Any]) -> Section | None:
    transfer, tasks = study.get("transfer") or {}, list(study["tasks"])
    exhibits = []
    if transfer.get("pairs"):
        note = (
            "Rows act, columns are acted on: points that a task gains when it is trained with another, over being "
            "trained alone. Bold: the interval excludes 0 (not corrected for the number of pairs)."
        )
        table = tables.pairs(transfer)
        figure = _effects("pairs", "Pairwise transfer", transfer["pairs"], tasks, "trained with")
        exhibits.append(Exhibit(table, (Plate(figure, note),)))
    if transfer.get("affinity"):
        exhibits.append(_affinity(transfer, tasks))
    if study.get("leave_one_out"):
        note = (
            "Points that the other tasks gain when one is left out of the shared model. Blue: they are better off "
            "without it. Bold: the interval excludes 0 (not corrected; the verdict rests on p after Holm's correction)."
        )
        values = study["leave_one_out"]
        table = tables.acting("One left out, in points over all together", values, "left out", "effect on")
        figure = _effects("left-out", "Effect of leaving one task out", values, tasks, "left out")
        exhibits.append(Exhibit(table, (Plate(figure, note),)))
    if transfer.get("grouping"):
        exhibits.append(Exhibit(tables.grouping(transfer)))
    lead = "Which task helps which, and which to train together when only so many models can be hosted."
    return Section("transfer", "Transfer between tasks", lead, tuple(exhibits)) if exhibits else None


def _effects(
    name: str, title: str, values: Mapping[str, Mapping[str, Mapping[str, Any]]], tasks: list[str], down: str
) -> Figure:
    """Differences of one task acting on another, as a matrix; bold where the interval excludes 0."""
    found = [[values.get(acts, {}).get(task, {}) for task in tasks] for acts in tasks]
    return plots.matrix(
        name,
        title,
        [[100 * d["difference"] if compared(d) else None for d in row] for row in found],
        rows=_short(tasks),
        columns=_short(tasks),
        strong=frozenset(
            (y, x) for y, row in enumerate(found) for x, d in enumerate(row) if compared(d) and d["low"] * d["high"] > 0
        ),
        across="effect on",
        down=down,
    )


def _short(tasks: list[str]) -> list[str]:
    return [short(task, 16) for task in tasks]


def _affinity(transfer: Mapping[str, Any], tasks: list[str]) -> Exhibit:
    values = transfer["affinity"]
    figure = plots.matrix(
        "affinity",
        "Affinity between tasks",
        [
            [1e4 * value if (value := values.get(acts, {}).get(task)) is not None else None for task in tasks]
            for acts in tasks
        ],
        rows=_short(tasks),
        columns=_short(tasks),
        across="changes the loss of",
        down="a step on",
    )
    note = (
        "By how many ten thousandths a step on one task lowers the loss of another, mean over probes and seeds "
        "(Fifty et al. 2021). Blue: lower loss."
    )
    plates = [Plate(figure, note)]
    if transfer.get("pairs"):
        plates.append(Plate(plots.affinity_scatter(transfer), correlation(transfer)))
    return Exhibit(tables.affinity(transfer), tuple(plates))


def correlation(transfer: Mapping[str, Any]) -> str:
    """How well affinity predicted measured transfer, in a sentence."""
    found = transfer.get("rank_correlation")
    text = "Each mark is an ordered pair of tasks, its shape the task that is acted on. "
    if found is None:
        return text + "There are too few pairs for a rank correlation."
    return text + (
        f"How well affinity predicted measured transfer: a rank correlation (Spearman) of {signed(found['rho'])} over "
        f"{found['pairs']} pairs (p {_equals(wording.p_value(found['p']))}, as if the pairs were independent, which "
        "they are not)."
    )


def _equals(p: str) -> str:
    return p if p.startswith("<") else f"= {p}"


def _conflict(study: Mapping[str, Any]) -> Section | None:
    transfer = study.get("transfer") or {}
    if not transfer.get("probes") or not tables.cosines(transfer):
        return None
    found = tables.cosines_by_layer(transfer)
    by_layer = plots.matrix(
        "conflict-by-layer",
        "Cosine between the tasks' gradients by layer",
        list(found.values()),
        rows=[pair_label(*pair, 22) for pair in found],
        columns=tables.layer_labels(transfer),
        across="layer",
    )
    lead = (
        "Cosine between the gradients of two tasks on the shared parameters of the multi-task model: below zero they "
        "pull the trunk apart."
    )
    note = "A thin line is a seed, the thick one their mean over layers and seeds; orange below zero, blue above."
    exhibits = (
        Exhibit(tables.conflict(transfer), (Plate(plots.conflict(transfer), note),)),
        Exhibit(tables.conflict_by_layer(transfer), (Plate(by_layer, "Mean over probes and seeds."),)),
    )
    return Section("conflict", "Conflict over training", lead, exhibits)


def _learning_curve(study: Mapping[str, Any]) -> Section | None:
    curve = study.get("learning_curve")
    if not curve or not curve.get("points"):
        return None
    lead = (
        f"Part of the training data of {curve['task']}, all of that of the other tasks. A smaller gap between train "
        "and dev is less overfitting."
    )
    note = (
        "Above: score on test, small marks the seeds, bars their standard deviation. Below: score on train minus score "
        "on dev. The parts are nested: each holds the smaller ones."
    )
    exhibit = Exhibit(tables.learning_curve(study), (Plate(plots.learning_curve(study), note),))
    return Section("learning-curve", "How far less data goes", lead, (exhibit,))


def _alarms(study: Mapping[str, Any]) -> Section | None:
    if not study.get("alarms"):
        return None
    lead = (
        "During training a task fell significantly below its own best dev score, or below the given baseline. Named "
        "beside it: the tasks whose gradients opposed its own in the last probe."
    )
    return Section("alarms", "Alarms while training", lead, (Exhibit(tables.alarms(study)),))


def _failures(study: Mapping[str, Any]) -> Section | None:
    table = tables.failures(study)
    if table is None:
        return None
    lead = "Left out of means and intervals, never of the report. Start the study again to try them once more."
    return Section("failures", "Failed runs", lead, (Exhibit(table),))


def _space(space: Mapping[str, Mapping[str, Any]]) -> str:
    """The settings that a regime's trials vary, and between which bounds."""
    varied = [
        f"{name} from {found['low']:g} to {found['high']:g}{', logarithmic' if found.get('log') else ''}"
        for name, found in space.items()
    ]
    return ", ".join(varied) or "nothing varied"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _moment(iso: str) -> str:
    return datetime.fromisoformat(iso).astimezone(UTC).strftime("%Y-%m-%d %H:%M UTC")


def _level(study: Mapping[str, Any]) -> str:
    return f"{100 * study['plan']['level']:g}\N{NO-BREAK SPACE}%"


def _machine(found: Mapping[str, Any]) -> str:
    """A machine and the runs that it made."""
    said = f"{_count(found['runs'], 'run')} with {_count(found['threads'], 'thread')} each"
    if "cpu" not in found:
        return f"{said}, on what is not noted"
    return (
        f"{said} on {found['cpu']}, {_count(found['cores'], 'core')}, {found['memory_gb']:g} GB, {found['system']}, "
        f"Python {found['python']}, torch {found['torch']}"
    )


def _probes(study: Mapping[str, Any], ledger: Mapping[str, Any]) -> str:
    """How often the gradients were looked at, and what that took beside the training."""
    probes = study["plan"]["probes"]
    if not probes or "multi_task" not in study["plan"]["regimes"]:
        return "none"
    found = ledger["regimes"].get("multi_task", {})
    said = f"{probes} in each multi-task run"
    if not found.get("seconds") or found.get("probe_seconds") is None:
        return said
    return f"{said}: {100 * found['probe_seconds'] / found['seconds']:.1f} % on top of its training time"


def methods(study: Mapping[str, Any], ledger: Mapping[str, Any]) -> dict[str, Any]:
    """Budget, seeds, versions, hardware: what it takes to judge the study, or to repeat it."""
    plan = study["plan"]
    spaces: dict[str, list[str]] = {}
    for regime, space in plan["search"].items():
        spaces.setdefault(_space(space), []).append(regime_label(regime))
    search = "; ".join(f"{listed(regimes)}: {space}" for space, regimes in spaces.items())
    cap = "no cap" if plan["examples"] is None else f"at most {plan['examples']:,} examples of each task a model"
    versions = ", ".join(f"{name} {number}" for name, number in plan["versions"].items())
    others = [part.replace("_", " ") for part in plan["design"][1:]]
    others += ["the learning curve"] if study.get("learning_curve") else []
    tuned = f"{listed(others)} with the settings so chosen; " if others and plan["trials"] > 1 else ""
    terms = {
        "Design": listed([part.replace("_", " ") for part in plan["design"]]),
        "Seeds": ", ".join(map(str, plan["seeds"])),
        "Trials": f"{plan['trials']} for each model of each regime, judged on dev; {tuned}"
        "test is touched once, at the end",
        "Search": search if plan["trials"] > 1 else "none: the settings of the configuration",
        "Examples drawn": f"{cap}; {plan['epochs']} epochs of the mix",
        "Probes": _probes(study, ledger),
        "Selection": f"{plan['select']} on dev, the same rule for every regime",
        "Versions": versions + (f", commit {plan['commit']}" if plan.get("commit") else ""),
        "Hardware": "; ".join(map(_machine, ledger["hardware"])),
        "Made": f"{_moment(ledger['started'])} to {_moment(ledger['finished'])} (the last sitting)",
    }
    regimes = {regime_label(name): found["description"] for name, found in study["regimes"].items()}
    trials = tables.trials(study)
    return {
        "terms": terms,
        "regimes": regimes,
        "level": _level(study),
        "exhibits": (
            Exhibit(tables.tasks(study)),
            Exhibit(tables.budget(study)),
            *((Exhibit(trials, folded=True),) if trials.groups else ()),
        ),
    }
