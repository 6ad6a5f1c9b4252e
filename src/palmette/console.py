"""What a person sees: the live table of training, tables of scores, marked-up predictions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text as Markup

from palmette.writing.predictor import WritingPredictor

_COLOURS = (
    "bold black on bright_yellow",
    "bold black on bright_cyan",
    "bold black on bright_green",
    "bold black on plum1",
)
_UNREAD = "could not be read"
_DETAIL = {"examples"}


class LiveTable:
    """Shows training as it goes: on a terminal a table that changes, elsewhere a line an evaluation.

    Args:
        console: where to show it.
        metrics: each task's own metric.
    """

    def __init__(self, console: Console, metrics: Mapping[str, str]) -> None:
        self.console = console
        self.metrics = metrics
        self.loss: dict[str, float] = {}
        self.dev: list[tuple[int, dict[str, float]]] = []
        self.progress = Progress(
            TextColumn("training"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("updates"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[speed]}"),
            console=console,
        )
        self.bar = self.progress.add_task("training", total=None, speed="")
        self.live = Live(self._view(), console=console, refresh_per_second=4, transient=True)

    def __enter__(self) -> LiveTable:
        if self.console.is_terminal:
            self.live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.console.is_terminal:
            self.live.stop()

    def on_event(self, event: Mapping[str, Any]) -> None:
        """Take in a line of the history."""
        if event["event"] == "started":
            self.progress.update(self.bar, total=event["updates"])
            self.console.print(
                f"{event['parameters'] / 1e6:.1f} M parameters, {event['precision']} on {event['device']}, "
                f"{event['threads']} threads, {event['updates']} updates"
            )
        elif event["event"] == "progress":
            self.loss = event["loss"]
            speed = f"{event['units_per_second']:.0f} labels/s"
            self.progress.update(self.bar, total=event["updates"], completed=event["update"], speed=speed)
            if not self.console.is_terminal:
                losses = "  ".join(f"{task} {loss:.3f}" for task, loss in self.loss.items())
                self.console.print(f"update {event['update']}/{event['updates']}  {speed}  loss: {losses}")
        elif event["event"] == "evaluation":
            values = {t: s[self.metrics[t]] for t, s in event["dev"].items()}
            self.dev.append((event["epoch"], values))
            shown = "  ".join(f"{task} {value:.3f}" for task, value in values.items())
            self.console.print(f"epoch {event['epoch']}  dev: {shown}" if shown else f"epoch {event['epoch']}")
        elif event["event"] == "epoch":
            self.console.print(epoch_line(event))
        elif event["event"] == "stopped":
            self.console.print(
                f"stopped early, at update {event['update']}: no better on dev for {event['patience']} evaluations"
            )
        elif event["event"] == "alarm":
            self.console.print(alarm_line(event), style="green" if event["over"] else "bold red")
        elif event["event"] == "unwatched":
            self.console.print(f"note: no alarms for {event['task']}: {event['reason']}", style="yellow", markup=False)
        elif event["event"] == "asking":
            shots = f", {event['shots']} shots" if event["shots"] else ""
            self.console.print(f"asking {event['model']}{shots}, {event['threads']} threads")
        elif event["event"] == "answered":
            self.console.print(f"{event['split']}: answered in {event['seconds']:.0f} s")
        elif event["event"] == "selected":
            rule = f"rule: {event['rule']}" if "dev" in event else "the last one: there is no dev to choose by"
            self.console.print(f"kept the model of update {event['update']} ({rule})")
        self.live.update(self._view())

    def _view(self) -> RenderableType:
        table = Table(
            "task", "metric", "loss", *(f"dev {epoch}" for epoch, _ in self.dev[-6:]), box=None, pad_edge=False
        )
        for task, metric in self.metrics.items():
            values = [f"{values[task]:.3f}" if task in values else "" for _, values in self.dev[-6:]]
            table.add_row(task, metric, f"{self.loss[task]:.3f}" if task in self.loss else "", *values)
        return Group(table, self.progress)


def epoch_line(event: Mapping[str, Any]) -> str:
    """What became of each task's examples in an epoch."""
    parts = []
    for task, counts in event["tasks"].items():
        extra = [
            f"{counts[key]} {key.replace('_', ' ')}"
            for key in ("never_seen", "windowed", "truncated", "out_of_reach")
            if counts.get(key)
        ]
        if counts["seen"] < counts["draws"]:
            extra.insert(0, f"{counts['seen']} different")
        parts.append(f"{task} {counts['draws']} drawn" + (f" ({', '.join(extra)})" if extra else ""))
    return f"epoch {event['epoch']}  {', '.join(parts)}; padding {event['padding']:.1%}"


def alarm_line(event: Mapping[str, Any]) -> str:
    """An alarm that begins or ends, in a sentence."""
    own = event["kind"] == "below_own_best"
    reference = f"its own best, {event['reference']:.3f}" if own else f"its baseline, {event['reference']:.3f}"
    value = f"{event['task']} ({event['value']:.3f})"
    if event["over"]:
        return f"alarm over: {value} is no longer significantly below {reference}"
    when = f"of update {event['since']}" if own else f"since update {event['since']}"
    opposed = ""
    if event["opposed_by"]:
        opposed = f"; the gradients of {', '.join(event['opposed_by'])} oppose it"
    elif event["opposed_by"] is None:
        opposed = "; whose gradients oppose it was not measured (training.probes)"
    return f"alarm: {value} is significantly below {reference}, {when} (p = {event['p']:.2g}){opposed}"


def scores_table(scores: Mapping[str, Mapping[str, Mapping[str, float]]], metrics: Mapping[str, str]) -> Table:
    """{split: {task: {metric: value}}} as one row a task: its metric, each split's value and number of examples."""
    table = Table(title="scores", title_justify="left")
    table.add_column("task")
    table.add_column("metric")
    for split in scores:
        table.add_column(split, justify="right")
        table.add_column("examples", justify="right", style="dim")
    for task, metric in metrics.items():
        cells = []
        for by_task in scores.values():
            found = by_task.get(task)
            cells += [f"{found[metric]:.3f}", f"{found['examples']:,}"] if found else ["-", "0"]
        table.add_row(task, metric, *cells)
        unread = [by_task.get(task, {}).get("unparseable") for by_task in scores.values()]
        if any(share is not None for share in unread):  # a model wrote the answers
            shown = [[_percent(share), ""] if share is not None else ["-", ""] for share in unread]
            table.add_row("", "unparseable", *(cell for cells in shown for cell in cells))
    return table


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def details_table(result: Mapping[str, Any]) -> Table:
    """Every metric of an evaluation."""
    table = Table("task", "metric", title=str(result["split"]), title_justify="left")
    table.add_column("value", justify="right")
    table.add_column("examples", justify="right", style="dim")
    for task, scores in result["tasks"].items():
        for number, (metric, value) in enumerate((k, v) for k, v in scores.items() if k not in _DETAIL):
            first = number == 0
            shown = _percent(value) if metric == "unparseable" else f"{value:.4f}"
            table.add_row(task if first else "", metric, shown, f"{scores['examples']:,}" if first else "")
    return table


def labels_table(task: str, labels: Mapping[str, Mapping[str, float]], *, most: int = 30) -> Table:
    """Scores per label of one task, the frequent ones first."""
    table = Table("label", title=f"{task}, by label", title_justify="left")
    for name in ("precision", "recall", "f1", "support"):
        table.add_column(name, justify="right")
    ranked = sorted(labels.items(), key=lambda item: -item[1]["support"])
    for label, scores in ranked[:most]:
        table.add_row(
            Markup(label), *(f"{scores[n]:.3f}" for n in ("precision", "recall", "f1")), f"{scores['support']:,}"
        )
    if len(ranked) > most:
        table.add_row(f"… and {len(ranked) - most} more (--json shows all)", "", "", "", "")
    return table


def slices_table(name: str, slices: Mapping[str, Any], metrics: Mapping[str, str]) -> Table:
    """Scores of each slice: one row a slice and task."""
    table = Table(name, "task", "metric", title=f"by {name}", title_justify="left")
    table.add_column("value", justify="right")
    table.add_column("examples", justify="right", style="dim")
    for place, scores in slices.items():
        for number, (task, values) in enumerate(scores.items()):
            metric = metrics[task]
            table.add_row(
                Markup(place if number == 0 else ""), task, metric, f"{values[metric]:.3f}", f"{values['examples']:,}"
            )
    return table


def show_study(console: Console, study: Mapping[str, Any]) -> None:
    """What a study found: each regime's difference to the task alone, then what to ship."""
    regimes = [name for name in study["plan"]["regimes"] if name != study["plan"]["baseline_regime"]]
    table = Table("task", "metric", title="difference to the task alone, in points", title_justify="left")
    table.add_column("alone", justify="right")
    for regime in regimes:
        table.add_column(regime, justify="right")
    for task, by_regime in study["differences"].items():
        baseline = study["tasks"][task]["baseline"]
        mean = study["scores"][task][baseline]["mean"]
        first = "failed" if mean is None else f"{100 * mean:.2f}"
        if baseline != study["plan"]["baseline_regime"]:
            first += f"\n({baseline})"  # no head can answer it
        cells = ["baseline" if regime == baseline else _difference(by_regime[regime]) for regime in regimes]
        table.add_row(task, study["tasks"][task]["metric"], first, *cells)
    console.print(table)
    recommendation = study["recommendation"]
    if recommendation:
        console.print(recommendation["sentence"], style="bold", markup=False)
        for task, entry in recommendation["tasks"].items():
            console.print(f"  {task}: {entry['reason']}", markup=False)
    for name, found in {**study["regimes"], **study.get("designs", {})}.items():
        for one in (one for one in (*found["runs"], *found["trials"]) if one["state"] == "failed"):
            what = f"seed {one['seed']}" if "seed" in one else "a trial"
            console.print(f"failed: {name}, {one['model']}, {what}: {one['error']}", style="red", markup=False)


def _difference(found: Mapping[str, Any]) -> str:
    if "difference" not in found:
        return str(found["verdict"])
    low, high = 100 * found["low"], 100 * found["high"]
    return f"{100 * found['difference']:+.2f} [{low:+.2f}, {high:+.2f}]\n{found['verdict']}"


def show_findings(console: Console, diagnosis: Mapping[str, Any]) -> None:
    """A diagnosis: each task's score, the causes in order, what could not be looked at."""
    for task, about in diagnosis["tasks"].items():
        console.print(Markup(f"{task}: {100 * about['score']:.1f} {about['metric']} on {about['split']}", style="bold"))
    console.print()
    for number, finding in enumerate(diagnosis["findings"], start=1):
        gain = finding["gain"]
        head = Markup(f"{number}. {finding['cause']}", style="bold")
        head.append(f" ({finding['task']}), {finding['confidence']} confidence: ", style="not bold")
        head.append(f"{gain['points']:+.1f} points [{gain['low']:+.1f}, {gain['high']:+.1f}] of {finding['unit']}")
        console.print(head)
        for line in (finding["summary"], f"next: {finding['command']}"):
            console.print(Markup(f"   {line}"))
    if not diagnosis["findings"]:
        console.print("No cause with half a point to gain was found.")
    for item in diagnosis["not_looked_at"]:
        console.print(Markup(f"not looked at: {item['what']} ({item['task']}): {item['why']}", style="dim"))


_VERDICTS = {"passed": "green", "undecided": "yellow"}  # every other one is bad news


def show_gate(console: Console, report: Mapping[str, Any]) -> None:
    """What a gate found: a row a task, then the parts that did not pass, then the verdict."""
    table = Table("task", "metric", title="new against old, in points", title_justify="left")
    for name in ("old", "new", "difference", "margin", "examples"):
        table.add_column(name, justify="right")
    table.add_column("verdict")
    for task, found in report["tasks"].items():
        numbers = [""] * 3
        if "difference" in found:
            low, high = 100 * found["low"], 100 * found["high"]
            change = f"{100 * found['difference']:+.2f} [{low:+.2f}, {high:+.2f}]"
            numbers = [f"{100 * found['old']:.2f}", f"{100 * found['new']:.2f}", change]
        verdict = Markup(found["verdict"], style=_VERDICTS.get(found["verdict"], "bold red"))
        table.add_row(task, found["metric"], *numbers, f"{found['margin']:g}", f"{found.get('examples', 0):,}", verdict)
    console.print(table)
    for task, found in report["new_tasks"].items():
        value = "not in the data" if found["value"] is None else f"{100 * found['value']:.2f}"
        console.print(f"new task: {task}, {found['metric']} {value}", markup=False)
    checks = report["behaviour"]
    failed = sum(found["verdict"] == "failed" for found in checks)
    console.print(f"behaviour: {len(checks) - failed} of {len(checks)} checks passed")
    for name in ("latency", "size"):
        console.print(f"{name}: {report[name]['verdict']}: {report[name]['reason']}", markup=False)
    style = _VERDICTS.get(report["verdict"], "bold red")
    console.print(f"{report['verdict']}: {report['sentence']}", style=style, markup=False)
    for reason in report["reasons"]:
        console.print(f"  {reason}", style=style, markup=False)


def show_update(console: Console, record: Mapping[str, Any]) -> None:
    """What corrections were used and what they bought."""
    found, training = record["corrections"], record["training"]
    left = len(found["left_out"]) + sum(n for counts in found["not_taken"].values() for n in counts.values())
    console.print(
        f"{len(found['used'])} corrections trained on ({training['repeats']} times an epoch, beside "
        f"{training['replayed']:,} old examples), {len(found['held_out'])} held out, {left} left out"
    )
    table = Table("task", "metric", title="what the corrections bought, in points", title_justify="left")
    for name in ("held-out corrections", "examples", "old data", "examples"):
        table.add_column(name, justify="right")
    for task, entry in record["bought"].items():
        cells = []
        for part in (entry["corrections"], entry["data"]):
            cells += [_bought(part), f"{part['examples']:,}"] if part and "difference" in part else ["-", "0"]
        table.add_row(task, entry["metric"], *cells)
    console.print(table)


def _bought(part: Mapping[str, Any]) -> str:
    low, high = 100 * part["low"], 100 * part["high"]
    change = f"{100 * part['difference']:+.2f} [{low:+.2f}, {high:+.2f}]"
    return f"{100 * part['old']:.2f} -> {100 * part['new']:.2f}: {change}"


def show_prediction(console: Console, answer: Mapping[str, Any]) -> None:
    """One answer: entities marked in the text, tags under the words, classes with their probability."""
    tasks = answer["tasks"]
    spans = [(task, span) for task, found in tasks.items() for span in found.get("spans", ())]
    console.print(_marked(answer["text"], spans))
    if "text_pair" in answer:
        console.print(Markup(answer["text_pair"]))
    for task, found in tasks.items():
        if "spans" in found:
            if not found["spans"]:
                nothing = "none" if found.get("readable", True) else _UNREAD
                console.print(Markup(f"  {task}: {nothing}", style="dim"))
        elif "tags" in found:
            _tags_under_words(console, answer["words"], found["tags"])
        else:
            console.print(Markup(f"  {task}: {_plain(found)}"))
    console.print()


def answer_live(
    console: Console, predictor: WritingPredictor, text: str, tasks: Sequence[str] | None
) -> dict[str, Any]:
    """The answer over a text, as `predict` gives it; what is being written is shown meanwhile.

    Raises:
        RunError: a task is unknown, or none of them takes a text.
    """
    example = predictor.example(text)
    if tasks:
        predictor.refuse_unanswerable([example], tasks)
    with console.status("") as status:

        def show(_: int, task: str, written: str) -> None:
            status.update(Markup(f"{task}: {written}"))

        (found,) = predictor.answer_aloud([example], [tasks], show)
    return predictor.render(example, found)


def _marked(text: str, spans: Sequence[tuple[str, Mapping[str, Any]]]) -> Markup:
    """The text with each span highlighted and named; of overlapping spans (of several tasks) the first is marked."""
    markup = Markup()
    labels = sorted({span["label"] for _, span in spans})
    place = 0
    for _, span in sorted(spans, key=lambda item: (item[1]["start"], -item[1]["end"])):
        if span["start"] < place:
            continue
        markup.append(text[place : span["start"]])
        style = _COLOURS[labels.index(span["label"]) % len(_COLOURS)]
        markup.append(f"[{text[span['start'] : span['end']]} {span['label']}]", style=style)
        place = span["end"]
    markup.append(text[place:])
    return markup


def _tags_under_words(console: Console, words: Sequence[str], tags: Sequence[str]) -> None:
    """Words above, tags below, in as many lines as the width needs."""
    width = max(40, console.width) - 2
    upper, lower = Markup("  "), Markup("  ")
    for word, tag in zip(words, tags, strict=True):
        cell = max(Markup(word).cell_len, len(tag)) + 1
        if upper.cell_len + cell > width and upper.cell_len > 2:
            console.print(upper, lower, sep="\n", soft_wrap=True)
            upper, lower = Markup("  "), Markup("  ")
        upper.append(word + " " * (cell - Markup(word).cell_len))
        lower.append(tag + " " * (cell - len(tag)), style="cyan")
    if upper.cell_len > 2:
        console.print(upper, lower, sep="\n", soft_wrap=True)


def _plain(found: Mapping[str, Any]) -> str:
    if found.get("readable") is False and not found.get("labels"):
        return _UNREAD
    confidence = f"  ({found['confidence']:.0%})" if "confidence" in found else ""
    for key in ("label", "value", "answer"):
        if key in found:
            return f"{found[key] if found[key] is not None else 'no answer'}{confidence}"
    if "labels" in found:
        return f"{', '.join(found['labels']) or 'none'}{confidence}"
    return str(dict(found))
