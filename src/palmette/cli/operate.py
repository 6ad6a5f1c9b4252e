"""After launch: whether a version may follow another, who answers whom, what people correct."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import reduce
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from palmette.cli.group import beside, main, open_console
from palmette.errors import MissingExtraError, RunError

if TYPE_CHECKING:
    from palmette.operate.releases.records import State
    from palmette.operate.review.queue import Queue


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
        show_gate(open_console(), report)
        if out is not None:
            click.echo(f"{out / 'gate.html'}: the report; {out / 'gate.json'}: its numbers")
    context.exit(EXIT[report["verdict"]])


@main.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--corrections", required=True, metavar="DB", help="Database of the review queue: a file, or a URL.")
@click.option("--out", type=click.Path(path_type=Path), help="The candidate: a new folder.  [default: RUN-candidate]")
@click.option("--old", type=click.Path(path_type=Path), help="Bundle to be replaced.  [default: the run]")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="A setting (docs/update.md).")
@_gate_options
@click.pass_context
def update(
    context: click.Context,
    /,
    run: Path,
    corrections: str,
    out: Path | None,
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
    from palmette.run import Run

    try:
        from palmette.operate.review.corrections import corrections as read
        from palmette.operate.update import UpdateSettings
        from palmette.operate.update import update as train_on
        from palmette.store import open_store
    except ModuleNotFoundError as error:
        raise MissingExtraError(error.name or "sqlalchemy", "operate") from error
    if "://" not in corrections and not Path(corrections).is_file():
        raise RunError(f"--corrections {corrections}: is no file, nor the URL of a database")
    settings, judged = UpdateSettings.read(overrides), GateSettings.read(margins, **options)
    out = out or beside(run, "candidate")
    console, now = open_console(), datetime.now(UTC)
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
        f"{candidate.model}: the candidate; {out / 'gate.html'}: the gate; {out / 'update.json'}: where it comes from"
    )
    context.exit(EXIT[candidate.gate["verdict"]])


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
@click.option("--gate", type=click.Path(dir_okay=False, path_type=Path), help="Report of palmette gate LIVE BUNDLE.")
@click.option(
    "--into",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("bundles"),
    show_default=True,
    help="Where a bundle from a registry is kept.",
)
@click.option("--force", "forced", is_flag=True, help="Although it lacks tasks, or the gate says no.")
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

    with _queue(store) as queue:
        from palmette.operate.review.corrections import LEFT_OUT
        from palmette.operate.review.transfer import export as write

        found = write(queue, form, task, out, now=datetime.now(UTC), which=which)
    click.echo(f"{out}: {found.items} items")
    for name in ("textless", "disagreed", "waiting"):
        if count := getattr(found, name):
            click.echo(f"palmette: {count} items left out: {LEFT_OUT[name]}", err=True)
    if found.unanswered:
        click.echo(f"palmette: {found.unanswered} items left out: they have no answer that can be read", err=True)


@review.command(name="import")
@click.argument("store")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--format", "form", required=True, type=_FORMATS)
@click.option("--task", required=True, help="Whose answers.")
@click.option("--reviewer", required=True, help="Who corrected them, where the file does not say.")
@click.option("--redact", metavar="NAME", help="The server's review.redact, for labels that repeat texts.")
def review_import(store: str, file: Path, form: str, task: str, reviewer: str, redact: str | None) -> None:
    """Bring back corrections of exported answers. What the queue has already is not taken twice."""
    from datetime import UTC, datetime

    with _queue(store, redact) as queue:
        from palmette.operate.review.transfer import bring_back

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
def _queue(store: str, redact: str | None = None) -> Iterator[Queue]:
    """The queue of a store that is there.

    Raises:
        StoreError: there is none.
        ConfigError: nothing of that name redacts.
        MissingExtraError: SQLAlchemy or a driver is not installed. What needs them is to be imported inside.
    """
    from palmette.errors import StoreError

    try:
        from palmette.operate.review.queue import Queue, Rules
        from palmette.operate.review.redaction import find_redaction
        from palmette.store import open_store
    except ModuleNotFoundError as error:
        raise MissingExtraError(error.name or "sqlalchemy", "operate") from error
    if "://" not in store and not Path(store).is_file():
        raise StoreError(f"{store}: there is no such file; give the store of the server (palmette serve --set store=…)")
    rules = Rules(redact=None if redact is None else find_redaction(redact))
    engine = open_store(store)
    try:
        yield Queue(engine, rules)
    finally:
        engine.dispose()
