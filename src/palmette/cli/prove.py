"""Whether sharing helps, and why a model is bad at a task."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import click

from palmette.cli.group import main, open_console


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
    console = open_console()
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
    progress = open_console(stderr=True)
    found = examine(model, tasks=tasks, data=data, study=study, seed=seed, most=most, say=progress.print)
    if out is not None:
        write(found, out, now=datetime.now(UTC))
    if as_json:
        click.echo(json.dumps(found.as_json(), ensure_ascii=False, indent=2))
        return
    show_findings(open_console(), found.as_json())
    if out is not None:
        click.echo(f"{out / 'diagnosis.html'}")
