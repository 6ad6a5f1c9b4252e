"""Task kinds: one file each, one line each. Other packages add theirs by an entry point of group `palmette.kinds`."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from importlib.metadata import entry_points
from typing import Any

from palmette.config import Config, TaskConfig
from palmette.errors import ConfigError
from palmette.kinds.base import Kind
from palmette.kinds.extractive_qa import ExtractiveQA
from palmette.kinds.generation import Generation
from palmette.kinds.multilabel_classification import MultilabelClassification
from palmette.kinds.pair_classification import PairClassification
from palmette.kinds.regression import Regression
from palmette.kinds.sequence_labeling import SequenceLabeling
from palmette.kinds.text_classification import TextClassification

AnyKind = Kind[Any]

KINDS: dict[str, type[AnyKind]] = {
    "sequence_labeling": SequenceLabeling,
    "text_classification": TextClassification,
    "multilabel_classification": MultilabelClassification,
    "pair_classification": PairClassification,
    "regression": Regression,
    "extractive_qa": ExtractiveQA,
    "generation": Generation,
}


@cache
def find_kind(name: str) -> type[AnyKind]:
    """The class of a kind, built in or from another package.

    Raises:
        ConfigError: there is none of that name, or the package's entry point is not a kind.
    """
    if name in KINDS:
        return KINDS[name]
    others = {point.name: point for point in entry_points(group="palmette.kinds")}
    if name not in others:
        raise ConfigError(f"kind: {name!r} is not one of {', '.join([*KINDS, *sorted(others)])}")
    kind = others[name].load()
    if not (isinstance(kind, type) and issubclass(kind, Kind)):
        raise ConfigError(f"kind: the entry point {others[name].value} is not a subclass of palmette.kinds.Kind")
    return kind


def task_kinds(config: Config) -> dict[str, type[AnyKind]]:
    """The kind of each task, its declaration checked."""
    return _each(config, lambda kind, declared: kind.check(declared))


def check_family(config: Config) -> None:
    """Refuse tasks that the configuration's family cannot answer. A study has regimes of several families.

    Raises:
        ConfigError: naming the task.
    """
    _each(config, lambda kind, declared: _check_family(declared.kind, kind, config.family))


def _each(config: Config, check: Callable[[type[AnyKind], TaskConfig], None]) -> dict[str, type[AnyKind]]:
    kinds = {}
    for task, declared in config.tasks.items():
        try:
            kinds[task] = find_kind(declared.kind)
            check(kinds[task], declared)
        except ConfigError as error:
            key, _, message = str(error).partition(": ")
            raise ConfigError(f"{config.where('tasks', task, *key.split('.'))}: {message}") from error
    return kinds


def _check_family(name: str, kind: type[AnyKind], family: str) -> None:
    if family == "heads" and not kind.has_head:
        raise ConfigError(f"kind: {name} is for models that write: family: text2text or causal_lm")
    if family != "heads" and not kind.has_text():
        raise ConfigError(f"kind: {name} cannot be put as text, as family: {family} needs it")


__all__ = ["KINDS", "AnyKind", "Kind", "check_family", "find_kind", "task_kinds"]
