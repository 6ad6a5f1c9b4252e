"""The commands. Thin: each reads its options, calls one function, shows the result. Heavy imports are inside."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial, reduce
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from palmette import __version__
from palmette.errors import MissingExtraError, PalmetteError, RunError

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress

    from palmette.answering import Answerer
    from palmette.bulk.local import Counts
    from palmette.bulk.rows import Row, Section
    from palmette.config import Config
    from palmette.operate.releases.records import State
    from palmette.operate.review.queue import Queue
    from palmette.trainer import Outcome


class _Group(click.Group):
    """Turns a user's mistake into one message and exit code 2, never a traceback."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except PalmetteError as error:
            click.echo(f"palmette: {error}", err=True)
            ctx.exit(2)
        except BrokenPipeError:
            # The reader of our output (head, less) has seen enough.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            ctx.exit(0)
        except KeyboardInterrupt:
            click.echo("palmette: interrupted; palmette train … --resume goes on from the last checkpoint", err=True)
            ctx.exit(130)


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="palmette")
def main() -> None:
    """One model for many text tasks: train, prove, ship, operate."""


def _console(*, stderr: bool = False) -> Console:
    from rich.console import Console

    return Console(stderr=stderr, highlight=False)


def _train(config: Config, out: Path, console: Console, *, resume: bool, strict: bool) -> Outcome:
    """Load the data, say what is noteworthy, train with a live table."""
    from palmette.console import LiveTable
    from palmette.corpus import load_corpus
    from palmette.trainer import train

    main_process = os.environ.get("RANK", "0") == "0"
    corpus = load_corpus(config, strict=strict)
    if not main_process:
        return train(config, out, resume=resume, strict=strict, corpus=corpus)
    report = corpus.reports["train"]
    console.print(f"{report.examples:,} training examples, {report.fused:,} of them fused from several sources")
    for warning in corpus.warnings():
        console.print(f"note: {warning}", style="yellow", markup=False)
    metrics = {task: kind.metric for task, kind in corpus.kinds.items()}
    with LiveTable(console, metrics) as table:
        return train(config, out, resume=resume, strict=strict, corpus=corpus, listeners=[table])


def _show_scores(out: Path, config: Config, console: Console) -> None:
    from palmette.checkpoint import RunFolder, read_labels
    from palmette.console import scores_table

    folder = RunFolder(out)
    kinds = read_labels(config, folder)
    scores = json.loads(folder.metrics.read_text(encoding="utf-8"))
    console.print(scores_table(scores, {task: kind.metric for task, kind in kinds.items()}))


@main.command()
@click.option("--out", type=click.Path(path_type=Path), default=Path("runs/quickstart"), show_default=True)
def quickstart(out: Path) -> None:
    """Train on the embedded sample, evaluate and predict: no network, two minutes.

    A finished run in the folder is shown again instead of trained again; an unfinished one goes on.
    """
    from palmette import quickstart as sample
    from palmette.console import show_prediction
    from palmette.run import Run

    console = _console()
    console.print("Part-of-speech tags, entities and sentiment: one trunk, three heads, on the embedded sample.\n")
    started = time.perf_counter()
    config = sample.config()
    outcome = _train(config, out, console, resume=out.exists(), strict=True)
    took = time.perf_counter() - started
    console.print(f"trained in {outcome.seconds:.0f} s ({took:.0f} s with reading and loading)\n")
    _show_scores(out, config, console)
    console.print("\nThree sentences it has never seen:\n")
    run = Run.load(out)
    for sentence in sample.SENTENCES:
        show_prediction(console, run.predict(sentence))
    console.print("What to type next:", style="bold")
    console.print(f'  palmette predict {out} "Your own sentence."', markup=False)
    console.print(f"  palmette evaluate {out} --slices genre,length,unseen", markup=False)
    console.print("  palmette check your-tasks.yaml   (README.md: ten lines of configuration)", markup=False)


@main.command()
@click.argument("config", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override a setting.")
@click.option("--strict", is_flag=True, help="Invalid span tags are an error instead of a counted repair.")
@click.option("--json", "as_json", is_flag=True, help="The report as JSON.")
def check(config: Path, overrides: Sequence[str], *, strict: bool, as_json: bool) -> None:
    """Read every source and report: labels, lengths, duplicates, leakage, licences, sampling."""
    from palmette.check import check as run_check
    from palmette.check import render
    from palmette.config import Config
    from palmette.trunk import load_text_encoder

    settings = Config.load(config, list(overrides))
    encoder = load_text_encoder(settings.trunk) if settings.family == "heads" else None
    report = run_check(settings, strict=strict, encoder=encoder)
    if as_json:
        click.echo(json.dumps(report.as_json(), indent=2, ensure_ascii=False))
    else:
        render(report, _console())


@main.command()
@click.argument("config", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--out", required=True, type=click.Path(path_type=Path), help="The run folder to write.")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override a setting.")
@click.option("--resume", is_flag=True, help="Go on from the last checkpoint in --out.")
@click.option("--strict", is_flag=True, help="Invalid span tags are an error instead of a counted repair.")
def train(config: Path, out: Path, overrides: Sequence[str], *, resume: bool, strict: bool) -> None:
    """Train one model on all tasks of a configuration."""
    from palmette.config import Config

    console = _console()
    settings = Config.load(config, list(overrides))
    outcome = _train(settings, out, console, resume=resume, strict=strict)
    if os.environ.get("RANK", "0") == "0":
        console.print(f"{out}: {outcome.seconds:.0f} s, {outcome.units:,.0f} labelled units")
        _show_scores(out, settings, console)


@main.command()
@click.argument("config", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--out", required=True, type=click.Path(path_type=Path), help="The study: new, continued or extended.")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override a setting.")
@click.option(
    "--regimes", help="Also text2text, zero_shot, few_shot, lora. Default: single_task,multi_task,frozen,sequential."
)
@click.option("--design", help="Models of other groups of tasks as well: pairs, leave_one_out.")
@click.option("--seeds", type=click.IntRange(min=1), help="Models of each kind.  [default: 5]")
@click.option("--budget", help="trials=4: settings tried for each model; examples=N: most that is drawn of a task.")
@click.option("--support", metavar="TASK", help="What the sequential regime trains first. Default: all tasks.")
@click.option("--learning-curve", "curve", metavar="1,4,16,64,100", help="Percentages of one task's training data.")
@click.option("--curve-task", metavar="TASK", help="Whose. Default: the one with the fewest training examples.")
@click.option("--probes", type=click.IntRange(min=0), help="Looks at the gradients of a multi-task run.  [default: 8]")
@click.option("--jobs", type=click.IntRange(min=1), default=1, show_default=True, help="Runs at once.")
@click.option("--threads", type=click.IntRange(min=1), help="For each run. Default: the cores, shared by the jobs.")
@click.option("--engine", type=click.Choice(["processes", "ray"]), default="processes", show_default=True)
@click.option("--strict", is_flag=True, help="Invalid span tags are an error instead of a counted repair.")
def compare(
    config: Path,
    out: Path,
    overrides: Sequence[str],
    budget: str | None,
    jobs: int,
    threads: int | None,
    engine: Literal["processes", "ray"],
    *,
    strict: bool,
    **options: Any,
) -> None:
    """Train every task alone, together and in other ways, and say per task whether sharing helped.

    Finished runs are kept in --out: an interrupted study goes on, an extended one reuses them.
    """
    from palmette.config import Config
    from palmette.console import show_study
    from palmette.machine import cores
    from palmette.study.compare import compare as run_study
    from palmette.study.execute import engine_named
    from palmette.study.plan import Plan, read_budget

    settings = Config.load(config, list(overrides))
    for name in ("regimes", "design", "curve"):
        options[name] = [part.strip() for part in options[name].split(",") if part.strip()] if options[name] else None
    options["designs"] = options.pop("design")
    plan = Plan.make(settings, **options, **read_budget(budget))
    threads = threads or max(1, cores() // jobs)
    console = _console()
    study = run_study(
        settings,
        out,
        plan=plan,
        engine=engine_named(engine, jobs=jobs, threads=threads),
        threads=threads,
        strict=strict,
        say=lambda line: console.print(line, markup=False),
    )
    show_study(console, study)
    console.print(f"\n{out / 'report.html'}: the report; {out / 'study.json'}: its numbers", markup=False)


@main.command()
@click.argument("study", type=click.Path(path_type=Path))
def report(study: Path) -> None:
    """Rebuild the page of a study from its numbers."""
    from palmette.study.report import write_report

    write_report(study)
    click.echo(f"{study / 'report.html'}")


@main.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--split", default="test", show_default=True, type=click.Choice(["train", "dev", "test"]))
@click.option("--slices", default="", help="Score apart by: length, unseen, or a column or comment (comma-separated).")
@click.option("--labels", is_flag=True, help="Show scores per label.")
@click.option("--data", "data_config", type=click.Path(dir_okay=False, path_type=Path), help="Other sources (YAML).")
@click.option("--json", "as_json", is_flag=True, help="Everything as JSON.")
def evaluate(run: Path, split: str, slices: str, data_config: Path | None, *, labels: bool, as_json: bool) -> None:
    """Score a run on its sources, or on those of another configuration with the same tasks."""
    from palmette.config import Config
    from palmette.console import details_table, labels_table, slices_table
    from palmette.run import Run

    loaded = Run.load(run)
    names = [name.strip() for name in slices.split(",") if name.strip()]
    other = Config.load(data_config) if data_config is not None else None
    result = loaded.evaluate(split, slices=names, config=other)
    if as_json:
        click.echo(json.dumps(result, indent=2, ensure_ascii=False))
        return
    console = _console()
    metrics = {task: kind.metric for task, kind in loaded.kinds.items()}
    console.print(details_table(result))
    for task, table in result["labels"].items() if labels else ():
        console.print(labels_table(task, table))
    for name, found in result["slices"].items():
        console.print(slices_table(name, found, metrics))


@main.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option(
    "--target", "targets", multiple=True, required=True, metavar="TASK=PRECISION", help="May be given several times."
)
@click.option("--out", required=True, type=click.Path(path_type=Path), help="The bundle to write: a new folder.")
@click.option("--data", type=click.Path(path_type=Path), help="A configuration of labelled texts; default: dev's.")
@click.option(
    "--split", type=click.Choice(["train", "dev", "test"]), default="dev", show_default=True, help="Of --data."
)
def calibrate(bundle: Path, targets: Sequence[str], out: Path, data: Path | None, split: str) -> None:
    """Set from which confidence on a bundle's answers are automatic; the others say `decision: review`."""
    from palmette.config import Config
    from palmette.deploy.decisions import set_thresholds

    wanted: dict[str, float] = {}
    for target in targets:
        task, _, value = target.partition("=")
        try:
            wanted[task] = float(value)
        except ValueError as error:
            raise RunError(f"--target {target}: expected TASK=PRECISION, as in ner=0.95") from error
    written = set_thresholds(bundle, out, wanted, data=Config.load(data) if data else None, split=split, say=click.echo)
    click.echo(f"{out}: {written.digest[:12]}")


@main.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--out", required=True, type=click.Path(path_type=Path), help="The bundle to write: a new folder.")
@click.option("--quantize", type=click.Choice(["int8"]), help="8-bit weights: a quarter of the size, twice as fast.")
@click.option(
    "--accuracy-budget",
    type=click.FloatRange(min=0),
    default=0.5,
    show_default=True,
    help="Points that a task may lose on dev by int8.",
)
def export(run: Path, out: Path, quantize: str | None, accuracy_budget: float) -> None:
    """Write a run as a bundle: one ONNX graph with every head, checked against the run on its data."""
    from datetime import UTC, datetime

    from palmette.deploy.export import export as write

    bundle = write(
        run,
        out,
        now=datetime.now(UTC),
        quantize=quantize,
        accuracy_budget=accuracy_budget,
        say=lambda line: click.echo(line, err=True),
    )
    click.echo(f"{out}: {bundle.bytes / 1e6:.1f} MB, {bundle.manifest['precision']}, {bundle.digest[:12]}")


def _gate_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """What the gate asks for, in every command that opens or closes it."""
    options = (
        click.option(
            "--margin", "margins", multiple=True, metavar="[TASK=]POINTS", help="What a task may lose.  [default: 1]"
        ),
        click.option("--latency-budget", type=float, help="Times the old model's time.  [default: 1.2]"),
        click.option("--size-budget", type=float, help="Times the old model's bytes.  [default: 1.2]"),
        click.option("--calibration-budget", type=float, help="Points that a task's ECE may rise.  [default: 2]"),
        click.option(
            "--behaviour-margin", type=float, help="Points that a check's failure rate may rise.  [default: 2]"
        ),
        click.option(
            "--checks", type=click.Path(dir_okay=False, path_type=Path), help="Behavioural checks of your own (YAML)."
        ),
        click.option("--cases", type=int, help="Most cases of a check for a task.  [default: 300]"),
    )
    return reduce(lambda decorated, option: option(decorated), reversed(options), command)


@main.command()
@click.argument("old", type=click.Path(path_type=Path))
@click.argument("new", type=click.Path(path_type=Path))
@click.option(
    "--data", type=click.Path(dir_okay=False, path_type=Path), help="Configuration of the data. Default: NEW's."
)
@click.option("--split", type=click.Choice(["train", "dev", "test"]), help="Of the data.  [default: test]")
@_gate_options
@click.option("--threads", type=click.IntRange(min=1), help="For a pass.  [default: the cores]")
@click.option("--out", type=click.Path(path_type=Path), help="Write gate.json and gate.html here.")
@click.option("--json", "as_json", is_flag=True, help="Everything as JSON.")
@click.pass_context
def gate(
    context: click.Context,
    /,
    old: Path,
    new: Path,
    data: Path | None,
    margins: Sequence[str],
    checks: Path | None,
    threads: int | None,
    out: Path | None,
    *,
    as_json: bool,
    **options: Any,
) -> None:
    """Judge whether NEW may take OLD's place: bundles or run folders.

    Each task must be shown to lose less than its margin; behaviour, calibration, time and size are checked besides.
    Exit code: 0 passed, 1 failed, 3 undecided (too few examples), 2 a mistake in what was asked.
    """
    from datetime import UTC, datetime

    from palmette.console import show_gate
    from palmette.operate.gate import GateSettings
    from palmette.operate.gate import gate as judge
    from palmette.operate.gate.gate import EXIT
    from palmette.operate.gate.report import write_report

    report = judge(
        old,
        new,
        now=datetime.now(UTC),
        settings=GateSettings.read(margins, **options),
        data=data,
        checks=checks,
        threads=threads,
        say=lambda line: click.echo(line, err=True),
    )
    if out is not None:
        write_report(out, report)
    if as_json:
        click.echo(json.dumps(report, indent=2, ensure_ascii=False))
    else:
        show_gate(_console(), report)
        if out is not None:
            click.echo(f"{out / 'gate.html'}: the report; {out / 'gate.json'}: its numbers")
    context.exit(EXIT[report["verdict"]])


@main.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--corrections", required=True, metavar="DB", help="Database of the review queue: a file, or a URL.")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="The candidate: a new folder.")
@click.option("--old", type=click.Path(path_type=Path), help="Bundle to be replaced.  [default: the run]")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="A setting (docs/update.md).")
@_gate_options
@click.pass_context
def update(
    context: click.Context,
    /,
    run: Path,
    corrections: str,
    out: Path,
    old: Path | None,
    overrides: Sequence[str],
    margins: Sequence[str],
    checks: Path | None,
    **options: Any,
) -> None:
    """Train a run on with what people corrected, export it, gate it: a candidate.

    Exit code: that of the gate.
    """
    from datetime import UTC, datetime

    from palmette.console import LiveTable, show_gate, show_update
    from palmette.operate.gate import GateSettings
    from palmette.operate.gate.gate import EXIT
    from palmette.operate.review.corrections import corrections as read
    from palmette.operate.update import UpdateSettings
    from palmette.operate.update import update as train_on
    from palmette.run import Run
    from palmette.store import open_store

    if "://" not in corrections and not Path(corrections).is_file():
        raise RunError(f"--corrections {corrections}: is no file, nor the URL of a database")
    settings, judged = UpdateSettings.read(overrides), GateSettings.read(margins, **options)
    console, now = _console(), datetime.now(UTC)
    metrics = {task: kind.metric for task, kind in Run.load(run).kinds.items()}
    with LiveTable(console, metrics) as table:
        candidate = train_on(
            run,
            read(open_store(corrections), now=now),
            out,
            now=now,
            settings=settings,
            gate_settings=judged,
            old=old,
            checks=checks,
            listeners=[table],
            say=lambda line: click.echo(line, err=True),
        )
    show_update(console, candidate.record)
    show_gate(console, candidate.gate)
    click.echo(
        f"{out / 'bundle'}: the candidate; {out / 'gate.html'}: the gate; {out / 'update.json'}: where it comes from"
    )
    context.exit(EXIT[candidate.gate["verdict"]])


@main.command()
@click.argument("model", type=click.Path(path_type=Path))
@click.argument("texts", nargs=-1)
@click.option(
    "--input", "source", type=click.Path(path_type=Path, allow_dash=True), help="Texts, JSON lines or Parquet."
)
@click.option(
    "--format", "form", type=click.Choice(["text", "jsonl", "parquet"]), help="Of the input; default: by its name."
)
@click.option("--output", type=click.Path(path_type=Path), help="Write JSON lines here, or Parquet (.parquet).")
@click.option("--tasks", default="", help="Only these tasks (comma-separated).")
@click.option("--json", "as_json", is_flag=True, help="JSON lines on standard output.")
@click.option(
    "--bad-rows",
    type=click.Choice(["stop", "keep"]),
    default="stop",
    show_default=True,
    help="At a row that cannot be answered: end, or write its error in its place.",
)
@click.option("--threads", type=click.IntRange(min=1), help="For a pass.  [default: the cores; with ray: 1]")
@click.option("--engine", type=click.Choice(["local", "ray"]), default="local", show_default=True)
@click.option(
    "--replicas", metavar="N|MIN..MAX", help="Of --engine ray: workers.  [default: as many as it has room for]"
)
def predict(
    model: Path,
    texts: tuple[str, ...],
    source: Path | None,
    form: str | None,
    output: Path | None,
    tasks: str,
    bad_rows: str,
    threads: int | None,
    engine: str,
    replicas: str | None,
    *,
    as_json: bool,
) -> None:
    """Predict by a run or a bundle, from texts, a file, or standard input (--input -).

    JSON lines (--format jsonl, or a name in .jsonl) hold objects with "text" (a string or words) and, for pairs and
    questions, "text_pair"; Parquet (.parquet) has columns of these names. Whatever else a row holds is kept in its
    answer. Any other input is a text a line.
    """
    from palmette import load
    from palmette.bulk.answers import answer_rows
    from palmette.bulk.rows import Row, Section, form_of, read_rows
    from palmette.bulk.sinks import dump
    from palmette.console import answer_live, show_prediction
    from palmette.writing.predictor import WritingPredictor

    if (source is None) == (not texts):
        raise RunError("give texts, or --input FILE, and not both")
    chosen = [name.strip() for name in tasks.split(",") if name.strip()] or None
    keep = bad_rows == "keep"
    section = None if source is None else Section(source, form_of(source, form))
    if engine == "ray":
        if section is None or output is None:
            raise RunError("--engine ray: is for --input FILE and --output FILE")
        _predict_on_ray(model, section, output, replicas=replicas, threads=threads or 1, tasks=chosen, keep=keep)
        return
    _only_with_ray(replicas=replicas)
    loaded = load(model, threads=threads)
    given = (Row(f"text {n}", text) for n, text in enumerate(texts, 1)) if section is None else read_rows(section)
    if output is not None:
        _write_answers(loaded, given, section, output, tasks=chosen, keep=keep)
        return
    console = None if as_json or section is not None else _console()
    if console is not None and console.is_terminal and isinstance(loaded.predictor, WritingPredictor):
        for text in texts:
            show_prediction(console, answer_live(console, loaded.predictor, text, chosen))
        return
    for answered in answer_rows(loaded, given, tasks=chosen, keep=keep):
        if console is not None and answered.answer is not None:
            show_prediction(console, answered.answer)
        else:
            click.echo(dump(answered.record()))


def _write_answers(
    model: Answerer, rows: Iterable[Row], source: Section | None, output: Path, *, tasks: list[str] | None, keep: bool
) -> None:
    """Answers into a file, with progress on stderr."""
    from palmette.bulk.columns import columns_of
    from palmette.bulk.local import write_answers
    from palmette.bulk.rows import form_of

    columns = columns_of(source) if source is not None and form_of(output) == "parquet" else ()
    with _progress() as progress:
        bar = progress.add_task("predicting", total=None)
        counts = write_answers(
            model, rows, output, columns=columns, tasks=tasks, keep=keep, tick=lambda: progress.advance(bar)
        )
    _show_bad(counts)


def _predict_on_ray(
    model: Path,
    source: Section,
    output: Path,
    *,
    replicas: str | None,
    threads: int,
    tasks: list[str] | None,
    keep: bool,
) -> None:
    """The parts of a file on a Ray cluster, with progress on stderr."""
    from palmette.scale.predict import predict as run
    from palmette.scale.replicas import Replicas

    def begin(parts: int, found: int) -> None:
        if found:
            click.echo(f"{found} of {parts} parts are finished already", err=True)

    workers = None if replicas is None else Replicas.parse(replicas)
    with _progress() as progress:
        bar = progress.add_task("predicting", total=None)
        counts = run(
            model,
            source,
            output,
            replicas=workers,
            threads=threads,
            tasks=tasks,
            keep=keep,
            begin=begin,
            tick=lambda rows: progress.advance(bar, rows),
        )
    _show_bad(counts)


def _progress() -> Progress:
    from rich.progress import MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("predicting"), MofNCompleteColumn(), TimeElapsedColumn())
    return Progress(*columns, console=_console(stderr=True))


def _show_bad(counts: Counts) -> None:
    if counts.bad:
        message = f"{counts.bad} of {counts.rows} rows have an error instead of an answer, the first: {counts.first}"
        click.echo(f"palmette: {message}", err=True)


@main.command()
@click.argument("model", required=False, type=click.Path(path_type=Path))
@click.option("--host", help="Address to listen on.  [default: 127.0.0.1]")
@click.option("--port", type=click.IntRange(0, 65535), help="0: a free one.  [default: 8000]")
@click.option("--keys", type=click.Path(dir_okay=False, path_type=Path), help="Ask for a key: a file of hashes.")
@click.option("--store", metavar="URL|FILE", help="Database of versions and their roles (docs/releases.md).")
@click.option(
    "--writer", type=click.Path(path_type=Path), help="A run whose model writes: a second model, in its own process."
)
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Another setting (docs/serving.md).")
@click.option("--threads", type=click.IntRange(min=1), help="For a pass.  [default: the cores; with ray: 1]")
@click.option("--engine", type=click.Choice(["local", "ray"]), default="local", show_default=True)
@click.option("--replicas", metavar="N|MIN..MAX", help="Of --engine ray: servers, as many as the load asks for.")
@click.option(
    "--ongoing", type=click.FloatRange(min=0, min_open=True), help="Requests for each before one more.  [default: 16]"
)
def serve(
    model: Path | None,
    overrides: Sequence[str],
    threads: int | None,
    engine: str,
    replicas: str | None,
    ongoing: float | None,
    **options: Any,
) -> None:
    """Answer over HTTP. SIGTERM drains and ends, SIGHUP loads the model anew.

    MODEL can be left out where a store says what is live.
    """
    try:
        from palmette.serving import ServerSettings
        from palmette.serving import serve as run_server
    except ImportError as error:
        raise MissingExtraError(error.name or "fastapi", "serve") from error
    settings = ServerSettings.read(overrides, **options)
    if engine == "ray":
        from palmette.scale.replicas import Replicas
        from palmette.scale.serve import serve as run_replicas

        if model is None:
            raise RunError("--engine ray: give the model as well")
        if settings.writer is not None:
            raise RunError("--writer: each replica would start one; serve it by a server of its own")
        run_replicas(model, settings, Replicas.parse(replicas or "1", threads=threads or 1, ongoing=ongoing or 16.0))
        return
    _only_with_ray(replicas=replicas, ongoing=ongoing)
    from palmette import load

    run_server(partial(load, threads=threads), model, settings)


def _only_with_ray(**options: object) -> None:
    for name, value in options.items():
        if value is not None:
            raise RunError(f"--{name} {value}: is for --engine ray")


def _show_roles(state: State) -> None:
    """The roles as they are now, a line each."""
    for role, digest in state.roles.items():
        what = f"  {state.mode}, {state.share:.0%} of the traffic" if role == "candidate" else ""
        click.echo(f"{role:10}{digest[:12]}{what}")


_BY = click.option("--by", metavar="NAME", help="Who decides; kept in the log.  [default: user@machine]")
_WHY = click.option("--why", default="", help="The reason; kept in the log.")


@main.command()
@click.argument("store")
@click.argument("bundle")
@click.option("--mode", required=True, type=click.Choice(["shadow", "canary", "live"]), help="What it may answer.")
@click.option("--share", type=click.FloatRange(0, 1, min_open=True), default=0.1, show_default=True)
@click.option("--gate", type=click.Path(dir_okay=False, path_type=Path), help="Report of palmette gate: it must pass.")
@click.option(
    "--into",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("bundles"),
    show_default=True,
    help="Where a bundle from a registry is kept.",
)
@click.option("--force", "forced", is_flag=True, help="Although it lacks tasks, or the gate refused it.")
@_BY
@_WHY
def release(store: str, bundle: str, by: str | None, **options: Any) -> None:
    """Give a bundle a role in the servers of a store.

    STORE is the URL or the file that `palmette serve --store` was given; BUNDLE a folder, or models:/NAME/VERSION of an
    MLflow registry. shadow: it answers a share of the traffic in the background, and nobody sees that. canary: it
    answers the callers of a share. live: it answers everybody, without a trial.
    """
    from palmette.operate.releases import desk

    with desk.opened(store) as releases:
        _show_roles(desk.release(releases, bundle, by=by or desk.whoami(), **options))


@main.command()
@click.argument("store")
@click.option("--candidate", metavar="DIGEST", help="Only if this is the candidate.")
@_BY
@_WHY
def promote(store: str, candidate: str | None, by: str | None, why: str) -> None:
    """Make the candidate live. What was live is kept as the previous version."""
    from palmette.operate.releases import desk

    with desk.opened(store) as releases:
        state = releases.promote(by=by or desk.whoami(), why=why, candidate=candidate)
        desk.tell_registry(releases, state)
    _show_roles(state)


@main.command()
@click.argument("store")
@click.option("--to", metavar="DIGEST", help="Make this version live, whichever it is.")
@_BY
@_WHY
def rollback(store: str, to: str | None, by: str | None, why: str) -> None:
    """Undo the last step: take the candidate back if there is one, else make the previous version live."""
    from palmette.operate.releases import desk

    with desk.opened(store) as releases:
        state = releases.rollback(by=by or desk.whoami(), why=why, to=to)
        desk.tell_registry(releases, state)
    _show_roles(state)


@main.group()
def releases() -> None:
    """Versions of a store, and the log of their roles."""


@releases.command()
@click.argument("store")
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
def show(store: str, *, as_json: bool) -> None:
    """Show the roles, and every registered version."""
    from palmette.operate.releases import desk

    with desk.opened(store) as book:
        state, versions = book.state(), book.versions()
    if as_json:
        click.echo(json.dumps(desk.as_json(state, versions), indent=2))
        return
    _show_roles(state)
    for version in versions.values():
        tasks = ", ".join(version.tasks)
        click.echo(f"{version.digest[:12]}  {version.registered:%Y-%m-%d %H:%M} UTC  {version.path}  {tasks}")


@releases.command()
@click.argument("store")
@click.option("--json", "as_json", is_flag=True, help="JSON lines.")
def log(store: str, *, as_json: bool) -> None:
    """Show who changed what, when and why."""
    from palmette.operate.releases import desk

    with desk.opened(store) as book:
        entries = book.log()
    for entry in entries:
        if as_json:
            click.echo(json.dumps(entry.as_json()))
            continue
        origin, target = ((digest or "-")[:12] for digest in (entry.origin, entry.target))
        line = f"{entry.state.number:4}  {entry.at:%Y-%m-%d %H:%M:%S} UTC  {entry.action:9} {origin} -> {target}"
        click.echo(f"{line}  {entry.who}" + (f": {entry.why}" if entry.why else ""))


@releases.command()
@click.argument("store")
@click.option("--hash", "known", help="Of an entry, from an earlier verification: it must still be there.")
def verify(store: str, known: str | None) -> None:
    """Check that nobody changed the log. Keep the hash that it prints where the database's owner cannot change it."""
    from palmette.operate.releases import desk

    with desk.opened(store) as book:
        last = book.verify(known=known)
    click.echo(f"{last.state.number} entries, none changed; the last: {last.hash}" if last is not None else "no entry")


@releases.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@click.argument("name")
def register(bundle: Path, name: str) -> None:
    """Register a bundle as a version of a model in an MLflow registry (MLFLOW_TRACKING_URI)."""
    from palmette.operate.releases import registry

    click.echo(registry.register(bundle, name))


@main.group()
def keys() -> None:
    """Keys of the HTTP server."""


@keys.command()
@click.option("--note", default="", help="Who the key is for; stands in the file behind the hash.")
def new(note: str) -> None:
    """Make a key. It is shown this once; the line below it goes into the file of `palmette serve --keys`."""
    from palmette.serving.keys import hash_key, new_key

    key = new_key()
    click.echo(f"key, for the caller:   {key}")
    click.echo(f"line, for the server:  {hash_key(key)} {note}".rstrip())


@main.group()
def review() -> None:
    """Answers that people check (docs/review.md): files out, corrections in."""


_FORMATS = click.Choice(["conllu", "columns", "jsonl", "argilla", "label-studio"])


@review.command(name="export")
@click.argument("store")
@click.option("--format", "form", required=True, type=_FORMATS)
@click.option("--task", required=True, help="Whose answers.")
@click.option("--out", required=True, type=click.Path(dir_okay=False, path_type=Path), help="The file to write.")
@click.option(
    "--which",
    type=click.Choice(["checked", "waiting", "all"]),
    help="Those on which people agree, those that wait, or all.  [default: checked; all for argilla, label-studio]",
)
def review_export(store: str, form: str, task: str, out: Path, which: Any) -> None:
    """Write the answers of a task to a file: for training, or to be corrected in another tool.

    STORE is the server's: an SQLite file, or the URL of a database.
    """
    from datetime import UTC, datetime

    from palmette.operate.review.transfer import export as write

    with _queue(store) as queue:
        found = write(queue, form, task, out, now=datetime.now(UTC), which=which)
    click.echo(f"{out}: {found.items} items")
    for count, why in ((found.textless, "their text is not kept"), (found.disagreed, "their reviewers disagree")):
        if count:
            click.echo(f"palmette: {count} items left out: {why}", err=True)


@review.command(name="import")
@click.argument("store")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--format", "form", required=True, type=_FORMATS)
@click.option("--task", required=True, help="Whose answers.")
@click.option("--reviewer", required=True, help="Who corrected them, where the file does not say.")
def review_import(store: str, file: Path, form: str, task: str, reviewer: str) -> None:
    """Bring back corrections of exported answers. What the queue has already is not taken twice."""
    from datetime import UTC, datetime

    from palmette.operate.review.transfer import bring_back

    with _queue(store) as queue:
        found = bring_back(queue, form, task, file, reviewer=reviewer, now=datetime.now(UTC))
    click.echo(f"{found.taken} taken, {found.known} known already")
    left = {
        "of items that the queue does not have (or no longer their text)": found.unknown,
        f"no label of {task}, the first: {found.reason}": found.refused,
        "spans widened to whole words": found.widened,
    }
    for why, count in left.items():
        if count:
            click.echo(f"palmette: {count} {why}", err=True)


@contextmanager
def _queue(store: str) -> Iterator[Queue]:
    """The queue of a store that is there."""
    from palmette.errors import StoreError

    try:
        from palmette.operate.review.queue import Queue
        from palmette.store import open_store
    except ModuleNotFoundError as error:
        raise MissingExtraError(error.name or "sqlalchemy", "operate") from error
    if "://" not in store and not Path(store).is_file():
        raise StoreError(f"{store}: there is no such file; give the store of the server (palmette serve --set store=…)")
    engine = open_store(store)
    try:
        yield Queue(engine)
    finally:
        engine.dispose()


@main.command()
@click.argument("model", type=click.Path(path_type=Path))
@click.option("--task", "tasks", multiple=True, help="Look at this task only; may be repeated.")
@click.option(
    "--data",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Configuration with the sources to look at. Default: the run's own; a bundle needs one.",
)
@click.option("--study", type=click.Path(file_okay=False, path_type=Path), help="A study of the same tasks.")
@click.option("--out", type=click.Path(path_type=Path), help="Folder for diagnosis.html and diagnosis.json.")
@click.option("--seed", type=click.IntRange(min=0), default=13, show_default=True, help="Of everything drawn.")
@click.option(
    "--examples",
    "most",
    type=click.IntRange(min=50),
    default=2000,
    show_default=True,
    help="Most examples of a task and split that are looked at, evenly chosen.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the diagnosis as JSON.")
def diagnose(
    model: Path,
    tasks: Sequence[str],
    data: Path | None,
    study: Path | None,
    out: Path | None,
    seed: int,
    most: int,
    *,
    as_json: bool,
) -> None:
    """Why is a model bad, and what would help? Ranked causes, each with evidence, gain and next command."""
    from datetime import UTC, datetime

    from palmette.console import show_findings
    from palmette.operate.diagnose.diagnose import diagnose as examine
    from palmette.operate.diagnose.diagnose import refuse, write

    if out is not None:
        refuse(out)
    progress = _console(stderr=True)
    found = examine(model, tasks=tasks, data=data, study=study, seed=seed, most=most, say=progress.print)
    if out is not None:
        write(found, out, now=datetime.now(UTC))
    if as_json:
        click.echo(json.dumps(found.as_json(), ensure_ascii=False, indent=2))
        return
    show_findings(_console(), found.as_json())
    if out is not None:
        click.echo(f"{out / 'diagnosis.html'}")


@main.command()
def schema() -> None:
    """Print the JSON Schema of the configuration, for editors."""
    from palmette.config import Config

    click.echo(json.dumps(Config.json_schema(), indent=2))


if __name__ == "__main__":
    main()
