"""Palmette: one model for many text tasks; train, prove, ship, operate."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from palmette.errors import BundleError, ConfigError, MissingExtraError, PalmetteError, ReadError, RunError

if TYPE_CHECKING:
    from collections.abc import Callable

    from palmette.answering import Answerer
    from palmette.config import Config
    from palmette.run import Run
    from palmette.runtime import Runtime

__version__ = "0.1.0"


def train(config: Config | dict[str, Any] | str | Path, out: str | Path, **options: Any) -> Run:
    """Train one model on all tasks of a configuration and load it.

    Args:
        config: a `Config`, the same as a mapping, or a YAML file.
        out: the run folder to write.
        **options: of `palmette.trainer.train`: resume, strict, listeners.

    Raises:
        ConfigError, ReadError, RunError: what is wrong, and where.
    """
    from palmette import trainer
    from palmette.config import Config
    from palmette.run import Run

    if isinstance(config, str | Path):
        config = Config.load(config)
    elif isinstance(config, dict):
        config = Config.parse(config)
    trainer.train(config, out, **options)
    return Run.load(out)


def compare(
    config: Config | dict[str, Any] | str | Path,
    out: str | Path,
    *,
    jobs: int = 1,
    threads: int | None = None,
    engine: Literal["processes", "ray"] = "processes",
    strict: bool = False,
    say: Callable[[str], None] | None = None,
    **settings: Any,
) -> dict[str, Any]:
    """Compare ways of training over the same tasks, as `palmette compare` does.

    Args:
        config: a `Config`, the same as a mapping, or a YAML file.
        out: the study's folder: new, to be continued, or to be extended.
        jobs: runs at once, each in a process of its own.
        threads: for each run; results are the same, bit for bit, for the same number. Default: jobs share the cores.
        engine: where the runs are made: on this machine, or on the Ray cluster that RAY_ADDRESS names.
        strict: invalid span tags are an error instead of a counted repair.
        say: is told what happens, a line at a time.
        **settings: of `palmette.study.plan.Plan`: regimes, designs, seeds, trials, examples, support, curve,
            curve_task, probes, level.

    Returns:
        What `study.json` holds: scores, differences with intervals, verdicts, transfer; `report.html` shows it.

    Raises:
        ConfigError, ReadError, RunError: what is wrong, and where.
    """
    from palmette.config import Config
    from palmette.errors import ConfigError
    from palmette.machine import cores
    from palmette.study.compare import compare as run_study
    from palmette.study.execute import engine_named
    from palmette.study.plan import Plan

    if jobs < 1:
        raise ConfigError(f"jobs: expected 1 or more, found {jobs}")
    if isinstance(config, str | Path):
        config = Config.load(config)
    elif isinstance(config, dict):
        config = Config.parse(config)
    plan = Plan.make(config, **settings)
    threads = threads or max(1, cores() // jobs)
    runs = engine_named(engine, jobs=jobs, threads=threads)
    return run_study(config, out, plan=plan, engine=runs, threads=threads, strict=strict, say=say)


def __getattr__(name: str) -> Any:
    """Import `Config` when it is asked for: pydantic would double the time of `palmette --help`."""
    if name == "Config":
        from palmette.config import Config

        return Config
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def load(path: str | Path, *, threads: int | None = None) -> Run | Runtime:
    """Load a bundle, or a finished run: both answer by `predict`, `stream` and `answer`.

    Args:
        path: its folder.
        threads: that a pass computes with; by default, one for each core that the process may use. For a run it is
            PyTorch's setting for the whole process.

    Raises:
        BundleError, RunError: it is neither, or is damaged.
        MissingExtraError: a run needs `palmette[train]`, a bundle `palmette[serve]`.
    """
    from palmette.deploy.bundle import is_bundle

    if is_bundle(path):
        from palmette.runtime import Runtime

        return Runtime.load(path, threads=threads)
    try:
        from palmette.run import Run
    except ModuleNotFoundError as error:
        raise MissingExtraError(str(error.name), "train") from error
    if threads is not None:
        import torch

        torch.set_num_threads(threads)
    return Run.load(path)


def export(run: str | Path, out: str | Path, **options: Any) -> Runtime:
    """Write a run's bundle and load it.

    Args:
        run: the run folder.
        out: the folder to write; must not exist.
        **options: of `palmette.deploy.export.export`: quantize, accuracy_budget, say.

    Raises:
        BundleError: the graph does not answer as the run does, or int8 costs more than the budget.
    """
    from datetime import UTC, datetime

    from palmette.deploy.export import export as write
    from palmette.runtime import Runtime

    write(run, out, now=datetime.now(UTC), **options)
    return Runtime.load(out)


def pipeline(model: Answerer | str | Path, task: str, **options: Any) -> Any:
    """A task as a callable with the inputs and outputs of a Hugging Face `pipeline`.

    Args:
        model: a run or a bundle, or its folder.
        task: one of its tasks: tags, classes, a number, or question answering.
        **options: what calls use by default: `aggregation_strategy` for tags, `top_k` for classes.

    Raises:
        RunError: there is no such model or task, or no pipeline for its kind.
    """
    from palmette.pipelines import make_pipeline

    return make_pipeline(load(model) if isinstance(model, str | Path) else model, task, **options)


__all__ = [
    "BundleError",
    "Config",
    "ConfigError",
    "MissingExtraError",
    "PalmetteError",
    "ReadError",
    "RunError",
    "compare",
    "export",
    "load",
    "pipeline",
    "train",
]
