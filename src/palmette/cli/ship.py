"""A model as a bundle that answers: in files, and over HTTP."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from palmette.cli.group import beside, main, open_console
from palmette.errors import MissingExtraError, RunError

if TYPE_CHECKING:
    from rich.progress import Progress

    from palmette.answering import Answerer
    from palmette.bulk.local import Counts
    from palmette.bulk.rows import Row, Section


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


@main.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option(
    "--target", "targets", multiple=True, required=True, metavar="TASK=PRECISION", help="May be given several times."
)
@click.option(
    "--out", type=click.Path(path_type=Path), help="The bundle to write: a new folder.  [default: BUNDLE-calibrated]"
)
@click.option("--data", type=click.Path(path_type=Path), help="A configuration of labelled texts; default: dev's.")
@click.option(
    "--split", type=click.Choice(["train", "dev", "test"]), default="dev", show_default=True, help="Of --data."
)
def calibrate(bundle: Path, targets: Sequence[str], out: Path | None, data: Path | None, split: str) -> None:
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
    out = out or beside(bundle, "calibrated")
    written = set_thresholds(bundle, out, wanted, data=Config.load(data) if data else None, split=split, say=click.echo)
    click.echo(f"{out}: {written.digest[:12]}")


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
    console = None if as_json or section is not None else open_console()
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
    return Progress(*columns, console=open_console(stderr=True))


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
