"""What a study is to do: which regimes and designs, how many seeds, under which budget."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, ValidationError, model_validator

from palmette.config import Config, Settings
from palmette.errors import ConfigError
from palmette.kinds import AnyKind, find_kind

BASELINE = "single_task"  # what every other regime is compared with
# A task without a head is compared with the first of these that a study has, the least trained one.
WRITING = ("zero_shot", "few_shot", "text2text", "lora")
Regime = Literal["single_task", "multi_task", "frozen", "sequential", "text2text", "zero_shot", "few_shot", "lora"]
Design = Literal["pairs", "leave_one_out"]


def read_budget(text: str | None) -> dict[str, str]:
    """`trials=4,examples=20000` -> settings of a plan.

    Raises:
        ConfigError: it says something else.
    """
    found = {}
    for part in (text or "").split(","):
        if not part.strip():
            continue
        name, equals, value = part.partition("=")
        if not equals or name.strip() not in {"trials", "examples"}:
            raise ConfigError(f"--budget: expected trials=N or examples=N, found {part.strip()!r}")
        found[name.strip()] = value.strip()
    return found


class Plan(Settings):
    """What a study compares, and at what cost."""

    regimes: tuple[Regime, ...] = Field(
        ("single_task", "multi_task", "frozen", "sequential"),
        description="Ways to train; single_task, which the others are compared with, is always among them.",
    )
    designs: tuple[Design, ...] = Field((), description="Models of other groups of tasks: every pair, all but one.")
    seeds: int = Field(5, ge=1, description="Models of each kind; two are the least that an interval can be made of.")
    trials: int = Field(4, ge=1, description="Settings tried for each model of each regime; 1: the configuration's.")
    examples: int | None = Field(
        None, ge=1, description="Most examples of each task that a model draws over its training. Default: no cap."
    )
    support: str | None = Field(None, description="Task that the sequential regime trains first. Default: all tasks.")
    curve: tuple[float, ...] = Field((), description="Percentages of one task's training data for a learning curve.")
    curve_task: str | None = Field(None, description="Whose; default: the task with the fewest training examples.")
    probes: int = Field(8, ge=0, description="Looks at the tasks' gradients over a multi-task run.")
    level: float = Field(0.95, gt=0, lt=1, description="Of the intervals; 1 - level is where a verdict is given.")

    def baseline(self, kind: AnyKind) -> str:
        """The regime that the others are compared with on a task."""
        return BASELINE if kind.has_head else next(regime for regime in WRITING if regime in self.regimes)

    @model_validator(mode="after")
    def _fits(self) -> Plan:
        if any(not 0 < percent <= 100 for percent in self.curve):
            raise ValueError("a learning curve's percentages are above 0 and at most 100")
        if self.curve_task is not None and not self.curve:
            raise ValueError("curve_task goes with a learning curve")
        if self.support is not None and "sequential" not in self.regimes:
            raise ValueError("support goes with the sequential regime")
        return self

    @classmethod
    def make(cls, config: Config, **settings: object) -> Plan:
        """A plan for a configuration; a setting of None is left at its default.

        Raises:
            ConfigError: a setting is none, or does not fit the configuration.
        """
        given = {name: value for name, value in settings.items() if value is not None}
        try:
            plan = cls.model_validate(given)
        except ValidationError as error:
            problem = error.errors(include_url=False)[0]
            place = ".".join(map(str, problem["loc"])) or "study"
            raise ConfigError(f"{place}: {problem['msg'].removeprefix('Value error, ')}") from error
        if config.family != "heads":
            # Its single_task and multi_task would be models that write, under names that say heads.
            raise ConfigError(
                f"{config.where('family')}: a study is made from a configuration of family: heads; what regimes of "
                f"{config.family} need (trunk, training, writing, ...) goes under families: {config.family}:"
            )
        for name in ("support", "curve_task"):
            task = getattr(plan, name)
            if task is not None and task not in config.tasks:
                raise ConfigError(f"{name}: {task!r} is not a task of the configuration: {', '.join(config.tasks)}")
        headed = [task for task, declared in config.tasks.items() if find_kind(declared.kind).has_head]
        if len(config.tasks) < 2 or not headed:
            raise ConfigError(
                "tasks: a study compares sharing with not sharing, so it takes two tasks or more, and heads for one"
            )
        for task in config.tasks.keys() - headed if not set(WRITING) & set(plan.regimes) else ():
            raise ConfigError(
                f"{config.where('tasks', task, 'kind')}: {config.tasks[task].kind} has no head, so that none of the "
                f"regimes can answer it: add one of {', '.join(WRITING)} (--regimes)"
            )
        writing = [regime for regime in plan.regimes if regime in WRITING]
        if writing and not any(find_kind(declared.kind).has_text() for declared in config.tasks.values()):
            raise ConfigError(f"regimes: none of the tasks can be put as text, as {', '.join(writing)} needs it")
        if "sequential" in plan.regimes and config.training.epochs < 2:
            raise ConfigError("training.epochs: the sequential regime spends half of them on each stage: 2 or more")
        if plan.examples is not None and plan.examples < config.training.epochs:
            raise ConfigError(
                f"examples: fewer ({plan.examples}) than epochs ({config.training.epochs}), each draws one"
            )
        regimes = dict.fromkeys(plan.regimes if BASELINE in plan.regimes else (BASELINE, *plan.regimes))
        return plan.model_copy(update={"regimes": tuple(regimes)})
