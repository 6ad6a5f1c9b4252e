"""The ways to train that a study compares, each as the models it takes. A regime is one function and one line below.

Models with heads answer the tasks that have some; those that write answer the tasks that can be put as text.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from palmette.config import Config
from palmette.kinds import find_kind
from palmette.study.plan import Plan

# What is tuned: setting -> (lowest, highest), searched on a logarithmic scale.
Search = Mapping[str, tuple[float, float]]
FINE_TUNING: Search = {"training.learning_rate": (2e-5, 5e-4)}
# Nothing of a frozen trunk learns, so that its heads' rate is the one that matters.
FEATURES: Search = {"training.head_learning_rate": (3e-4, 1e-2)}
# Adapters are new parameters; they take rates about ten times those of fine-tuning.
ADAPTING: Search = {"training.head_learning_rate": (2e-4, 5e-3)}

_SHOTS = 4  # of few_shot, where the configuration does not say


@dataclass(frozen=True)
class ModelPlan:
    """One model that a regime trains, for each seed.

    Attributes:
        tasks: that it answers.
        config: of its training, before tuning; the seed comes later.
        search: the settings that its trials vary; empty: none is tuned.
        start: the model whose trunk it starts from.
        seeded: its answers depend on the seed; else one run stands for every seed.
        keep: its weights stay on disk: someone may want to ship it, or another model starts from it.
    """

    tasks: tuple[str, ...]
    config: Config
    search: Search = field(default_factory=dict)
    start: ModelPlan | None = None
    seeded: bool = True
    keep: bool = False

    @property
    def name(self) -> str:
        """Its tasks, joined."""
        return "+".join(self.tasks)


def only_tasks(config: Config, tasks: Sequence[str]) -> Config:
    """The configuration with some of its tasks, and of its sources those that label one of them."""
    data: dict[str, Any] = config.model_dump(mode="json", exclude_none=True)
    data["tasks"] = {task: declared for task, declared in data["tasks"].items() if task in tasks}
    if len(data["tasks"]) == 1:  # a weight is relative to other tasks; alone it would only move the clipping
        data["tasks"][tasks[0]].pop("weight", None)
    for source in data["sources"]:
        source["labels"] = {task: label for task, label in source["labels"].items() if task in tasks}
    data["sources"] = [source for source in data["sources"] if source["labels"]]
    data.pop("families", None)  # of other runs; they may name the tasks that go
    weights = {task: weight for task, weight in data["mixing"].get("weights", {}).items() if task in tasks}
    data["mixing"]["weights"] = weights
    prompts = data["prompting"]["prompts"]
    data["prompting"]["prompts"] = {task: prompt for task, prompt in prompts.items() if task in tasks}
    if "baseline" in data:
        data["baseline"] = {task: value for task, value in data["baseline"].items() if task in tasks}
    if data["training"]["select"] not in {"mean_relative", *tasks}:
        data["training"]["select"] = "mean_relative"
    return Config.parse(data)


def adjusted(config: Config, settings: Mapping[str, Any]) -> Config:
    """The configuration with settings such as {"training.learning_rate": 1e-4} in place of its own."""
    data: dict[str, Any] = config.model_dump(mode="json", exclude_none=True)
    for path, value in settings.items():
        *parents, last = path.split(".")
        place = data
        for key in parents:
            place = place[key]
        place[last] = value
    return Config.parse(data)


@dataclass(frozen=True)
class Setting:
    """What regimes are made from.

    Attributes:
        config: the study's configuration, its cap on examples applied.
        plan: the study's.
        epochs: for each task, how often a model of it alone sees its examples to draw what the mix draws of it.
    """

    config: Config
    plan: Plan
    epochs: Mapping[str, int]

    @property
    def tasks(self) -> tuple[str, ...]:
        """All of them."""
        return tuple(self.config.tasks)

    @property
    def headed(self) -> tuple[str, ...]:
        """Those that a head can answer."""
        return tuple(task for task, declared in self.config.tasks.items() if find_kind(declared.kind).has_head)

    @property
    def written(self) -> tuple[str, ...]:
        """Those that can be put as text."""
        return tuple(task for task, declared in self.config.tasks.items() if find_kind(declared.kind).has_text())

    def in_family(self, family: Literal["text2text", "causal_lm"], **changes: Any) -> Config:
        """The configuration of the tasks that a family which writes can answer; see `Config.in_family`."""
        config = self.config.in_family(family, **changes)
        return config if self.written == self.tasks else only_tasks(config, self.written)

    @property
    def trunk(self) -> Config:
        """The configuration of the tasks that heads can answer."""
        return self.config if self.headed == self.tasks else only_tasks(self.config, self.headed)


def epochs_alone(config: Config, rates: Mapping[str, float]) -> dict[str, int]:
    """How often each task's examples are seen by a model of that task alone, to draw what the mix draws.

    Args:
        config: of the mix.
        rates: how often an epoch of the mix draws each example of a task (`palmette.mixing.sampling_rates`).
    """
    return {task: max(1, round(config.training.epochs * rate)) for task, rate in rates.items()}


def single_task(setting: Setting) -> list[ModelPlan]:
    """Fine-tuning: a trunk and a head for each task."""
    return [
        ModelPlan(
            (task,),
            adjusted(only_tasks(setting.config, [task]), {"training.epochs": setting.epochs[task]}),
            search=FINE_TUNING,
        )
        for task in setting.headed
    ]


def multi_task(setting: Setting) -> list[ModelPlan]:
    """One trunk, all tasks, trained together."""
    probes = setting.plan.probes if len(setting.headed) > 1 else 0
    config = adjusted(setting.trunk, {"training.probes": probes})
    return [ModelPlan(setting.headed, config, search=FINE_TUNING, keep=True)]


def frozen(setting: Setting) -> list[ModelPlan]:
    """Transfer learning by feature extraction: the pretrained trunk stays as it is, the heads learn.

    With nothing shared that learns, one model of all tasks is the same as one for each.
    """
    return [ModelPlan(setting.headed, adjusted(setting.trunk, {"trunk.frozen": True}), search=FEATURES)]


def sequential(setting: Setting) -> list[ModelPlan]:
    """Intermediate-task transfer: all tasks (or one support task) first, then each task alone from that trunk.

    Phang et al. 2018 ("STILTs"), Pruksachatkun et al. 2020. Each stage has half of the passes over a task's data, so
    that no task is drawn more often than elsewhere; a task that the first stage leaves out has all of its passes in
    the second.
    """
    support = setting.plan.support
    first_tasks = setting.headed if support is None else (support,)
    total = setting.config.training.epochs if support is None else setting.epochs[support]
    first = ModelPlan(
        first_tasks,
        adjusted(only_tasks(setting.config, first_tasks), {"training.epochs": math.ceil(total / 2)}),
        keep=True,
    )
    return [
        ModelPlan(
            (task,),
            adjusted(
                only_tasks(setting.config, [task]),
                {"training.epochs": max(1, setting.epochs[task] // 2) if task in first_tasks else setting.epochs[task]},
            ),
            search=FINE_TUNING,
            start=first,
        )
        for task in setting.headed
    ]


def text2text(setting: Setting) -> list[ModelPlan]:
    """An encoder-decoder learns to write every task's answer, all tasks together."""
    return [ModelPlan(setting.written, setting.in_family("text2text"), search=FINE_TUNING, keep=True)]


def zero_shot(setting: Setting) -> list[ModelPlan]:
    """A language model is asked, by instruction alone; nothing is trained."""
    config = setting.in_family("causal_lm", prompting={"shots": 0}, lora=None)
    return [ModelPlan(setting.written, config, seeded=False)]


def few_shot(setting: Setting) -> list[ModelPlan]:
    """A language model is asked, with some training examples in the prompt, chosen anew for each seed."""
    config = setting.in_family("causal_lm", lora=None)
    if config.prompting.shots == 0:
        config = adjusted(config, {"prompting.shots": _SHOTS})
    return [ModelPlan(setting.written, config, seeded=config.prompting.selection != "nearest")]


def lora(setting: Setting) -> list[ModelPlan]:
    """Adapters of a language model learn to answer the prompts of all tasks, one for all or one for each."""
    # Where a remote model is asked, adapters are those of the local one (families.causal_lm.trunk).
    config = setting.in_family("causal_lm", prompting={"shots": 0}, lora={}, endpoint=None)
    return [ModelPlan(setting.written, config, search=ADAPTING, keep=True)]


REGIMES: dict[str, Callable[[Setting], list[ModelPlan]]] = {
    "single_task": single_task,
    "multi_task": multi_task,
    "frozen": frozen,
    "sequential": sequential,
    "text2text": text2text,
    "zero_shot": zero_shot,
    "few_shot": few_shot,
    "lora": lora,
}
