"""The tables of a study's report: each beside its figure, with the numbers that the figure draws."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np
from numpy.typing import NDArray

from palmette.study import wording
from palmette.study.wording import (
    NOTHING,
    compared,
    interval,
    listed,
    p_value,
    points,
    regime_label,
    signed,
    signed_points,
)

# Verdicts and decisions are words with a sign, coloured besides.
_VERDICTS = {"helps": "gain", "hurts": "loss"}
_DECISIONS = {"share": "gain", "split": "loss", "leave out": "loss"}
_SIGNS = {
    "gain": "\N{BLACK UP-POINTING TRIANGLE}",
    "loss": "\N{BLACK DOWN-POINTING TRIANGLE}",
    "same": "\N{WHITE CIRCLE}",
}


_LONG = 30  # rows
_AT_MOST = "\N{LESS-THAN OR EQUAL TO}: the endpoint counts no tokens, these are upper bounds"
_NO_TIME = "without ms: every answer was kept from before"


@dataclass(frozen=True, slots=True)
class Cell:
    """Text of a table; `tone` (gain, loss, same, failed, error, strong) says how it is set off."""

    text: str
    tone: str = ""


Row = tuple[Cell | str, ...]


@dataclass(frozen=True, slots=True)
class Table:
    """Rows under a caption.

    Attributes:
        caption: what it holds.
        columns: headings; the first column names the row.
        groups: (heading or nothing, rows).
        words: columns of text, which read from the left and may break.
        cards: on a phone each row stands alone, its cells under one another: for tables of sentences.
    """

    caption: str
    columns: tuple[str, ...]
    groups: tuple[tuple[str, tuple[Row, ...]], ...]
    words: frozenset[str] = frozenset()
    cards: bool = False

    @property
    def size(self) -> int:
        """How many rows."""
        return sum(len(rows) for _, rows in self.groups)

    @property
    def long(self) -> bool:
        """Whether it is shown on demand: nobody reads so many rows on the way to the next figure."""
        return self.size > _LONG and len(self.groups) == 1


def verdict_cell(verdict: str) -> Cell:
    """A verdict of the statistics: helps, hurts, no difference shown."""
    return _marked(verdict, _VERDICTS.get(verdict, "same"))


def _marked(text: str, tone: str) -> Cell:
    return Cell(f"{_SIGNS[tone]}\N{NO-BREAK SPACE}{text}", tone)


def _one(caption: str, columns: Sequence[str], rows: Sequence[Row], *, words: Sequence[str] = ()) -> Table:
    return Table(caption, tuple(columns), (("", tuple(rows)),), frozenset(words))


def verdicts(study: Mapping[str, Any]) -> Table:
    """What to do with each task, why, and at what cost."""
    decided = study["recommendation"]["tasks"]
    rows: list[Row] = [
        (
            task,
            _marked(found["decision"], _DECISIONS.get(found["decision"], "same")),
            found["reason"],
            found["change"] or "nothing",
            found["cost"] or NOTHING,
        )
        for task, found in decided.items()
    ]
    columns = ("task", "decision", "reason", "what would change", "cost")
    return Table("What to do with each task", columns, (("", tuple(rows)),), frozenset(columns), cards=True)


def baseline_of(study: Mapping[str, Any], task: str) -> str:
    """The regime that the others are compared with on a task: the study's, but for tasks that no head answers."""
    return str(study["tasks"][task]["baseline"])


def against(study: Mapping[str, Any], task: str) -> str:
    """A task, and what its differences are to, where that is not what all others' are to."""
    baseline = baseline_of(study, task)
    return task if baseline == study["plan"]["baseline_regime"] else f"{task}, against {regime_label(baseline)}"


def shared(study: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Differences of the tasks that are compared with the study's baseline: those that can be averaged."""
    baseline = study["plan"]["baseline_regime"]
    return [found for task, found in study["differences"].items() if baseline_of(study, task) == baseline]


def differences(study: Mapping[str, Any]) -> Table:
    """What the forest plot draws, and what the verdicts rest on."""
    baseline = study["plan"]["baseline_regime"]
    level = f"{100 * study['plan']['level']:g}\N{NO-BREAK SPACE}% interval"
    columns = ("regime", "difference", "verdict", level, "p", "p (Holm)", "effect", "detectable")
    groups = []
    for task, by_regime in study["differences"].items():
        rows: list[Row] = []
        for regime in study["plan"]["regimes"]:
            if regime == baseline_of(study, task):
                continue
            d = by_regime.get(regime, {})
            if d.get("verdict") == "not answered":
                rows.append((regime_label(regime), NOTHING, f"not answered: {d['reason']}", *[NOTHING] * 5))
                continue
            if not compared(d):
                rows.append(
                    (regime_label(regime), NOTHING, Cell(d.get("verdict", "no result"), "failed"), *[NOTHING] * 5)
                )
                continue
            rows.append(
                (
                    regime_label(regime),
                    Cell(signed_points(d["difference"]), "strong"),
                    verdict_cell(d["verdict"]),
                    interval(d["low"], d["high"]),
                    p_value(d["p"]),
                    p_value(d["p_holm"]),
                    signed(d["effect"]),
                    points(d["detectable"]),
                )
            )
        groups.append((against(study, task), tuple(rows)))
    caption = f"Differences to {regime_label(baseline)}, in points"
    return Table(caption, columns, tuple(groups), frozenset({"verdict"}))


def scores(study: Mapping[str, Any]) -> Table:
    """Mean, spread and every seed."""
    seeds = study["plan"]["seeds"]
    columns = ("regime", "mean", "SD", "dev", "train \N{MINUS SIGN} dev", *(f"seed {seed}" for seed in seeds))
    groups = []
    for task, by_regime in study["scores"].items():
        rows: list[Row] = []
        for regime in study["plan"]["regimes"]:
            found = by_regime.get(regime, {"seeds": {}})
            if "reason" in found:
                rows.append((regime_label(regime), found["reason"], *[NOTHING] * (len(columns) - 2)))
                continue
            each = [found["seeds"].get(str(seed)) for seed in seeds]
            rows.append(
                (
                    regime_label(regime),
                    Cell(points(found.get("mean")), "strong"),
                    points(found.get("sd")),
                    points(found.get("dev")),
                    signed_points(found.get("gap")),
                    *(Cell("failed", "failed") if value is None else points(value) for value in each),
                )
            )
        groups.append((f"{task}: {study['tasks'][task]['metric']}", tuple(rows)))
    return Table("Scores on test, times 100", columns, tuple(groups))


def ledger(study: Mapping[str, Any], measured: Mapping[str, Any]) -> Table:
    """What each regime costs."""
    columns = (
        *(
            "regime",
            "models",
            "parameters",
            "shared",
            "trained",
            "size",
            "peak memory",
            "training a seed",
            "all trials",
        ),
        *("wordpieces", "ms per text"),
    )
    rows: list[Row] = []
    for regime in study["plan"]["regimes"]:
        found = measured["regimes"].get(regime, {})
        if "parameters" not in found:  # nothing of it finished
            rows.append((regime_label(regime), *[NOTHING] * (len(columns) - 1)))
            continue
        peak = found["peak_rss_gb"]
        rows.append(
            (
                regime_label(regime),
                str(found["models"]),
                wording.large(found["parameters"]["total"]),
                wording.large(found["parameters"]["shared"]),
                wording.large(found["parameters"].get("trained")),
                wording.size(found["bytes"]),
                NOTHING if peak is None else f"{peak:.1f}\N{NO-BREAK SPACE}GB",
                wording.duration(found["seconds"]),
                wording.duration(found["trial_seconds"]),
                wording.large(found["wordpieces"]),
                Cell(wording.number(found["ms_per_text"], 1), "strong"),
            )
        )
    return _one("Cost of answering all tasks", columns, rows)


def usage(study: Mapping[str, Any], measured: Mapping[str, Any]) -> Table | None:
    """What models that write spent on each example of test; None where there is none."""
    columns = ("task", "unparseable", "truncated", "prompt tokens", "written tokens", "ms", "money per 1,000")
    groups = []
    notes: set[str] = set()
    for regime, found in study["regimes"].items():
        rows: list[Row] = []
        for task, spent in found.get("usage", {}).items():
            most = "\N{LESS-THAN OR EQUAL TO}\N{NO-BREAK SPACE}" if spent.get("estimated") else ""
            took = measured["regimes"].get(regime, {}).get("written_ms", {}).get(task)
            money = wording.number(spent.get("money_per_thousand"), 4)
            notes |= {_AT_MOST} if most else set()
            notes |= {_NO_TIME} if took is None else set()
            rows.append(
                (
                    task,
                    Cell(f"{100 * spent['unparseable']:.1f} %", "strong"),
                    f"{100 * spent['truncated']:.1f} %",
                    most + wording.number(spent["prompt_tokens"], 0),
                    most + wording.number(spent["written_tokens"], 1),
                    wording.number(took, 0),
                    f"{most}{money}\N{NO-BREAK SPACE}{spent['currency']}" if "currency" in spent else NOTHING,
                )
            )
        if rows:
            groups.append((regime_label(regime), tuple(rows)))
    caption = "; ".join(["Models that write: an example of test", *sorted(notes)])
    return Table(caption, columns, tuple(groups)) if groups else None


def parameters(study: Mapping[str, Any], measured: Mapping[str, Any]) -> Table:
    """How many parameters are each task's own."""
    tasks = list(study["tasks"])
    rows: list[Row] = [
        (
            regime_label(regime),
            wording.large(found["parameters"]["shared"]),
            *(wording.large(found["parameters"]["tasks"].get(task)) for task in tasks),
        )
        for regime, found in measured["regimes"].items()
        if "parameters" in found
    ]
    return _one("Parameters by task", ("regime", "shared", *tasks), rows)


def cost_quality(study: Mapping[str, Any], measured: Mapping[str, Any]) -> Table:
    """What the figure of the same name draws."""
    baseline = study["plan"]["baseline_regime"]
    rows: list[Row] = []
    for regime in study["plan"]["regimes"]:
        found = [100 * d[regime]["difference"] for d in shared(study) if compared(d.get(regime))]
        values = [0.0] if regime == baseline else found
        cost = measured["regimes"].get(regime, {})
        rows.append(
            (
                regime_label(regime),
                Cell(signed(float(np.mean(values)) if values else None), "strong"),
                signed(min(values, default=None)),
                signed(max(values, default=None)),
                wording.number(cost.get("ms_per_text"), 1),
                wording.size(cost.get("bytes")),
                wording.duration(cost.get("seconds")),
            )
        )
    columns = ("regime", "mean of tasks", "worst task", "best task", "ms per text", "to ship", "to train")
    return _one(f"Points to {regime_label(baseline)}, and cost", columns, rows)


def budget(study: Mapping[str, Any]) -> Table:
    """What each regime was given: the same trials, the same examples."""
    tasks = list(study["tasks"])
    columns = ("regime", "models", "trials", "runs", "wordpieces", *(f"{task} drawn" for task in tasks))
    rows: list[Row] = [
        (
            regime_label(regime),
            str(len(found["models"])),
            str(len(found["trials"])),
            str(len(found["runs"])),
            wording.large(found["wordpieces"]),
            *(wording.large(found["drawn"].get(task)) for task in tasks),
        )
        for regime, found in study["regimes"].items()
    ]
    return _one("What each regime was given; draws and wordpieces a seed", columns, rows)


def trials(study: Mapping[str, Any]) -> Table:
    """Every setting tried, the chosen one marked."""
    groups = []
    for regime, found in study["regimes"].items():
        rows: list[Row] = []
        for model, tried in groupby(found["trials"], key=lambda trial: str(trial["model"])):
            for trial in tried:
                failed = trial["state"] == "failed"
                settings = ", ".join(f"{key} {wording.setting(value)}" for key, value in trial["settings"].items())
                outcome = Cell("failed", "failed") if failed else points(trial["score"])
                chosen = Cell("\N{CHECK MARK} chosen", "strong") if trial["chosen"] else ""
                rows.append((model, settings or "the configuration's", outcome, chosen))
        if rows:
            groups.append((regime_label(regime), tuple(rows)))
    columns = ("model", "settings", "score on dev", "selected")
    return Table("Trials", columns, tuple(groups), frozenset({"settings", "selected"}))


def everything(study: Mapping[str, Any]) -> dict[str, Any]:
    """All that was trained, by regime or design."""
    return {**study["regimes"], **study.get("designs", {})}


def failures(study: Mapping[str, Any]) -> Table | None:
    """Trials and runs that failed; none, no table."""
    rows: list[Row] = []
    for regime, found in everything(study).items():
        for kind in ("trials", "runs"):
            for item in found[kind]:
                if item["state"] == "failed":
                    what = f"seed {item['seed']}" if kind == "runs" else "a trial"
                    rows.append((regime_label(regime), item["model"], what, Cell(item["error"] or NOTHING, "error")))
    columns = ("regime", "model", "what", "error")
    return Table("What failed", columns, (("", tuple(rows)),), frozenset(columns), cards=True) if rows else None


def acting(caption: str, values: Mapping[str, Mapping[str, Mapping[str, Any]]], rows: str, columns: str) -> Table:
    """One task acting on another: difference, interval, p, for every ordered pair.

    Args:
        caption: of the table.
        values: task that acts -> task acted on -> difference with its interval and p.
        rows: what acting is, such as "trained with".
        columns: what being acted on is, such as "effect on".
    """
    found: list[Row] = [
        (
            acts,
            task,
            Cell(signed_points(d["difference"]), "strong")
            if compared(d)
            else Cell(d.get("verdict", "no result"), "failed"),
            interval(d.get("low"), d.get("high")),
            p_value(d.get("p")),
        )
        for acts, by_task in values.items()
        for task, d in by_task.items()
    ]
    return _one(caption, (rows, columns, "difference", "interval", "p"), found, words=(columns,))


def pairs(transfer: Mapping[str, Any]) -> Table:
    """What each task does to each other that it is trained with."""
    return acting("Pairs, in points over the task alone", transfer["pairs"], "trained with", "effect on")


def affinity(transfer: Mapping[str, Any]) -> Table:
    """Affinity, beside measured transfer where pairs were trained."""
    rows: list[Row] = []
    for acts, by_task in transfer["affinity"].items():
        for task, value in by_task.items():
            measured = transfer.get("pairs", {}).get(acts, {}).get(task, {}).get("difference")
            rows.append((acts, task, Cell(wording.affinity(value), "strong"), signed_points(measured)))
    return _one(
        "Affinity in ten thousandths of the loss, and measured transfer in points",
        ("a step on", "effect on", "affinity", "measured"),
        rows,
        words=("effect on",),
    )


def grouping(transfer: Mapping[str, Any]) -> Table:
    """Which tasks to put together, for each number of models."""
    measured = transfer.get("grouped_by") == "measured pairs"
    rows: list[Row] = [
        (
            str(found["models"]),
            "; ".join(listed(group) for group in found["groups"]),
            ", ".join(
                f"{task} {signed_points(value) if measured else wording.affinity(value)}"
                for task, value in found["expected"].items()
            ),
        )
        for found in transfer["grouping"]
    ]
    columns = ("models", "groups", f"expected gain ({'points, from pairs' if measured else 'affinity'})")
    groups = (("", tuple(rows)),)
    return Table("Proposed groups under a budget of models", columns, groups, frozenset(columns[1:]), cards=True)


def conflict(transfer: Mapping[str, Any]) -> Table:
    """Cosine of each pair at the first and the last probe, and how often it was below zero."""
    rows: list[Row] = []
    for (first, second), (_, by_seed) in cosines(transfer).items():
        values = np.array(list(by_seed.values()))  # [seeds, probes]
        mean = values.mean(axis=0)
        rows.append(
            (
                f"{first}, {second}",
                Cell(signed(float(mean.mean()), 3), "strong"),
                signed(float(mean[0]), 3),
                signed(float(mean[-1]), 3),
                f"{float((values < 0).mean()):.0%}",
            )
        )
    return _one("Cosine, mean over layers and seeds", ("pair", "mean", "first", "last", "probes below zero"), rows)


def conflict_by_layer(transfer: Mapping[str, Any]) -> Table:
    """What the figure of the same name draws."""
    rows: list[Row] = [
        (", ".join(pair), *(signed(value, 3) for value in layers))
        for pair, layers in cosines_by_layer(transfer).items()
    ]
    return _one("Cosine by layer, mean over probes and seeds", ("pair", *layer_labels(transfer)), rows)


def learning_curve(study: Mapping[str, Any]) -> Table:
    """What the learning curves draw."""
    groups = []
    found = study["learning_curve"]["points"]
    for regime in dict.fromkeys(point["regime"] for point in found):
        rows: list[Row] = [
            (
                f"{point['percent']:g}\N{NO-BREAK SPACE}%",
                wording.number(point["examples"], 0),
                f"{sum(value is not None for value in point['seeds'].values())} of {len(point['seeds'])}",
                Cell(points(point["mean"]), "strong"),
                points(point["sd"]),
                points(point.get("train")),
                points(point.get("dev")),
                signed_points(point.get("gap")),
            )
            for point in found
            if point["regime"] == regime
        ]
        groups.append((regime_label(regime), tuple(rows)))
    columns = ("data", "examples", "seeds", "test", "SD", "train", "dev", "train \N{MINUS SIGN} dev")
    return Table(f"Scores of {study['learning_curve']['task']}, times 100", columns, tuple(groups))


_ALARMS = {"below_own_best": "below its own best", "below_baseline": "below the baseline"}


def alarms(study: Mapping[str, Any]) -> Table:
    """Tasks that fell behind during training: a row from where an alarm begins to where it is over."""

    def key(alarm: Mapping[str, Any]) -> tuple[Any, ...]:
        return tuple(alarm[name] for name in ("regime", "model", "seed", "task", "kind"))

    # An alarm is over with the next end of its run, task and kind: one may begin again, with the same `since`.
    ends: dict[tuple[Any, ...], list[int]] = {}
    for alarm in study["alarms"]:
        if alarm.get("over"):
            ends.setdefault(key(alarm), []).append(alarm["update"])
    rows: list[Row] = []
    for alarm in study["alarms"]:
        if alarm.get("over"):
            continue
        end = next((update for update in ends.get(key(alarm), []) if update > alarm["update"]), None)
        until = "to the end" if end is None else f"until update {end:,}"
        rows.append(
            (
                alarm["task"],
                f"{regime_label(alarm['regime'])}, seed {alarm['seed']}",
                _ALARMS.get(alarm["kind"], alarm["kind"]),
                f"{points(alarm['value'])} instead of {points(alarm['reference'])}",
                f"since update {alarm['since']:,}, noticed at {alarm['update']:,}, {until}",
                p_value(alarm["p"]),
                _opposed(alarm["opposed_by"]),
            )
        )
    columns = ("task", "run", "what", "dev score", "when", "p", "opposed by")
    return Table("Alarms", columns, (("", tuple(rows)),), frozenset(columns), cards=True)


def _opposed(tasks: list[str] | None) -> str:
    if tasks is None:
        return "not measured"
    return listed(tasks) if tasks else "no task's gradients"


def tasks(study: Mapping[str, Any]) -> Table:
    """What is predicted, and from how much."""
    rows: list[Row] = [
        (task, found["kind"], found["metric"], *(f"{found['examples'][split]:,}" for split in ("train", "dev", "test")))
        for task, found in study["tasks"].items()
    ]
    return _one("Tasks", ("task", "kind", "metric", "train", "dev", "test"), rows, words=("kind", "metric"))


Series = dict[tuple[str, str], tuple[list[float], dict[int, NDArray[np.float64]]]]


def cosines(transfer: Mapping[str, Any]) -> Series:
    """Each pair of tasks -> the shares of training looked at, and the mean cosine over layers there, by seed."""
    shares = sorted({probe["share"] for probe in transfer["probes"]})
    found: dict[tuple[str, str], dict[int, dict[float, float]]] = {}
    for probe, pair, layers in _probed(transfer):
        found.setdefault(pair, {}).setdefault(probe["seed"], {})[probe["share"]] = float(np.mean(layers))
    return {
        pair: (
            shares,
            {
                # Runs of one length are looked at in the same places; others are read off in between.
                seed: np.interp(shares, sorted(values), [values[share] for share in sorted(values)])
                for seed, values in by_seed.items()
            },
        )
        for pair, by_seed in found.items()
    }


def cosines_by_layer(transfer: Mapping[str, Any]) -> dict[tuple[str, str], list[float]]:
    """Each pair of tasks -> [layers] mean cosine over probes and seeds."""
    found: dict[tuple[str, str], list[Sequence[float]]] = {}
    for _, pair, layers in _probed(transfer):
        found.setdefault(pair, []).append(layers)
    return {pair: list(map(float, np.mean(values, axis=0))) for pair, values in found.items()}


def layer_labels(transfer: Mapping[str, Any]) -> list[str]:
    """Short names of the layers: emb., 0, 1 and so on."""
    return [layer.removeprefix("layer.").replace("embeddings", "emb.") for layer in transfer["layers"]]


def _probed(transfer: Mapping[str, Any]) -> Iterator[tuple[Mapping[str, Any], tuple[str, str], Sequence[float]]]:
    for probe in transfer["probes"]:
        for first, others in probe["cosine"].items():
            for second, layers in others.items():
                if layers:
                    yield probe, (first, second), layers
