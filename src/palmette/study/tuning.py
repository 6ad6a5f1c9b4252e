"""Which settings each model of a regime tries, and which it keeps: as many trials for every model."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from palmette.errors import MissingExtraError
from palmette.metrics import relative_to_best
from palmette.study.regimes import ModelPlan

_ROUND = 3  # significant digits of a suggested rate: what a person would write into a configuration


def suggest(model: ModelPlan, trials: int, *, seed: int) -> list[dict[str, float]]:
    """Settings to try: the configuration's own first, then a Sobol sequence over the search space (Optuna).

    Suggestions do not depend on results, so that trials can run side by side and an interrupted study finds them
    again; for a handful of trials in one dimension an even cover loses nothing to a model of the results
    (Bergstra & Bengio 2012 on random search; Sobol's sequence leaves smaller gaps).

    Args:
        model: whose `search` names the settings and their bounds.
        trials: how many, the configuration's own included.
        seed: of the sequence.
    """
    if trials == 1 or not model.search:
        return [{}]
    try:
        import optuna
    except ImportError as error:
        raise MissingExtraError("optuna", "study") from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    space: dict[str, optuna.distributions.BaseDistribution] = {
        name: optuna.distributions.FloatDistribution(low, high, log=True) for name, (low, high) in model.search.items()
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        sampler = optuna.samplers.QMCSampler(
            qmc_type="sobol", scramble=True, seed=seed, warn_independent_sampling=False
        )
        study = optuna.create_study(sampler=sampler)
        found: list[dict[str, float]] = [{}]
        study.ask(space)  # the first of a sequence that knows no bounds yet is drawn at random
        while len(found) < trials:
            params = study.ask(space).params
            found.append({name: float(f"{value:.{_ROUND}g}") for name, value in params.items()})
    return found


def choose(tasks: Sequence[str], dev: Sequence[Mapping[str, float] | None]) -> tuple[int | None, list[float | None]]:
    """Which trial is best on dev by the rule that also selects a run's checkpoint, and every trial's score.

    The rule is the mean over tasks of the metric relative to the best of all trials, so that no task's scale decides.

    Args:
        tasks: of the model.
        dev: each trial's {task: metric}; None where it failed.

    Returns:
        The trial (the earliest of equals; None where all failed), and a score for each (None where it failed).
    """
    done = [number for number, found in enumerate(dev) if found is not None]
    values: dict[str, list[float]] = {task: [(dev[n] or {}).get(task, 0.0) for n in done] for task in tasks}
    scores: list[float | None] = [None] * len(dev)
    for number, score in zip(done, relative_to_best(values), strict=True):
        scores[number] = score
    best = max(done, key=lambda number: (scores[number] or 0.0, -number), default=None)
    return best, scores


def as_json(search: Mapping[str, tuple[float, float]]) -> dict[str, Any]:
    """A search space, for the report."""
    return {name: {"low": low, "high": high, "log": True} for name, (low, high) in search.items()}
