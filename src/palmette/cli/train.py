"""From a configuration to a measured model."""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from palmette.cli.group import main, open_console

if TYPE_CHECKING:
    from rich.console import Console

    from palmette.config import Config
    from palmette.trainer import Outcome


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

    console = open_console()
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
    command = "palmette" if shutil.which("palmette") else sys.argv[0]  # make quickstart: of an environment not active
    console.print("What to type next:", style="bold")
    console.print(f'  {command} predict {out} "Your own sentence."', markup=False)
    console.print(f"  {command} evaluate {out} --slices genre,length,unseen", markup=False)
    console.print(f"  {command} check your-tasks.yaml   (README.md: ten lines of configuration)", markup=False)


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
        render(report, open_console())


@main.command()
@click.argument("config", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--out", required=True, type=click.Path(path_type=Path), help="The run folder to write.")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override a setting.")
@click.option("--resume", is_flag=True, help="Go on from the last checkpoint in --out.")
@click.option("--strict", is_flag=True, help="Invalid span tags are an error instead of a counted repair.")
def train(config: Path, out: Path, overrides: Sequence[str], *, resume: bool, strict: bool) -> None:
    """Train one model on all tasks of a configuration."""
    from palmette.config import Config

    console = open_console()
    settings = Config.load(config, list(overrides))
    outcome = _train(settings, out, console, resume=resume, strict=strict)
    if os.environ.get("RANK", "0") == "0":
        console.print(f"{out}: {outcome.seconds:.0f} s, {outcome.units:,.0f} labelled units")
        _show_scores(out, settings, console)


@main.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--split", default="test", show_default=True, type=click.Choice(["train", "dev", "test"]))
@click.option("--slices", default="", help="Score apart by: length, unseen, or a column or comment (comma-separated).")
@click.option("--labels", is_flag=True, help="Show scores per label.")
@click.option("--data", "data_config", type=click.Path(dir_okay=False, path_type=Path), help="Other sources (YAML).")
@click.option("--strict", is_flag=True, help="Invalid span tags are an error instead of a counted repair.")
@click.option("--json", "as_json", is_flag=True, help="Everything as JSON.")
def evaluate(
    run: Path, split: str, slices: str, data_config: Path | None, *, labels: bool, strict: bool, as_json: bool
) -> None:
    """Score a run on its sources, or on those of another configuration with the same tasks."""
    from palmette.config import Config
    from palmette.console import details_table, labels_table, slices_table
    from palmette.run import Run

    loaded = Run.load(run)
    names = [name.strip() for name in slices.split(",") if name.strip()]
    other = Config.load(data_config) if data_config is not None else None
    result = loaded.evaluate(split, slices=names, config=other, strict=strict)
    for warning in result["warnings"]:
        click.echo(f"note: {warning}", err=True)
    if as_json:
        click.echo(json.dumps(result, indent=2, ensure_ascii=False))
        return
    console = open_console()
    metrics = {task: kind.metric for task, kind in loaded.kinds.items()}
    console.print(details_table(result))
    for task, table in result["labels"].items() if labels else ():
        console.print(labels_table(task, table))
    for name, found in result["slices"].items():
        console.print(slices_table(name, found, metrics))


@main.command()
def schema() -> None:
    """Print the JSON Schema of the configuration, for editors."""
    from palmette.config import Config

    click.echo(json.dumps(Config.json_schema(), indent=2))
