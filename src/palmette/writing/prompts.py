"""How an example becomes a prompt: instruction, shots, question."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from string import Formatter

import numpy as np
from numpy.typing import NDArray

from palmette.config import Config, PromptConfig
from palmette.errors import ConfigError
from palmette.kinds import AnyKind
from palmette.types import Example, Text
from palmette.writing.writer import Message

Prompt = tuple[Message, ...]
Choose = Callable[[str, Example], Sequence[Example]]  # task, asked example -> its shots, the last shown last
Embed = Callable[[Sequence[Example]], NDArray[np.float32]]  # examples -> [examples, width], of length 1


def content_free(kind: AnyKind) -> Example:
    """An input of the task's form that says nothing: what a model answers to it is its bias (Zhao et al. 2021)."""
    nothing = Text(("N/A",))
    return Example(nothing, {}, pair=nothing if kind.state.get("paired") else None)


def source_text(task: str, kind: AnyKind, example: Example) -> str:
    """What a text-to-text model reads: the task's name in front, as T5 has it (Raffel et al. 2020)."""
    return f"{task}: {kind.source_text(example)}"


@dataclass(frozen=True)
class Prompter:
    """Makes the prompts of a language model.

    Attributes:
        kinds: the tasks.
        prompts: what the user says instead of a kind's own words, by task.
        choose: the shots of an example.
    """

    kinds: Mapping[str, AnyKind]
    prompts: Mapping[str, PromptConfig]
    choose: Choose

    def prompt(self, task: str, example: Example) -> Prompt:
        """The conversation that asks for a task's answer: the instruction, shots as turns, the question."""
        return self._conversation(task, [*self.choose(task, example), example])

    def neutral(self, task: str, example: Example) -> Prompt:
        """The same with an input that says nothing in the example's place: what is answered is the prompt's bias."""
        return self._conversation(task, [*self.choose(task, example), content_free(self.kinds[task])])

    def _conversation(self, task: str, turns: Sequence[Example]) -> Prompt:
        kind = self.kinds[task]
        messages: list[Message] = []
        for number, shown in enumerate(turns):
            asked = self.input(task, shown)
            content = f"{self.instruction(task)}\n\n{asked}" if number == 0 else asked
            messages.append({"role": "user", "content": content})
            if number + 1 < len(turns):
                answer = kind.target_text(shown.labels[task], shown)
                messages.append({"role": "assistant", "content": answer})
        return tuple(messages)

    def instruction(self, task: str) -> str:
        """What is to be done."""
        own = self.prompts.get(task)
        return own.instruction if own is not None and own.instruction is not None else self.kinds[task].instruction()

    def input(self, task: str, example: Example) -> str:
        """An example as it is shown."""
        written = self.kinds[task].source_text(example)
        own = self.prompts.get(task)
        if own is None or own.input is None:
            return written
        pair = example.pair.string if example.pair is not None else ""
        return own.input.format(input=written, text=example.text.string, pair=pair)


def check_prompts(config: Config) -> None:
    """Refuse templates that cannot be filled in.

    Raises:
        ConfigError: naming the template's place.
    """
    for task, prompt in config.prompting.prompts.items():
        problem = _problem(prompt.input) if prompt.input is not None else None
        if problem is not None:
            where = config.where("prompting", "prompts", task, "input")
            raise ConfigError(
                f"{where}: {{text}}, {{pair}} and {{input}} are filled in (other braces doubled): {problem}"
            )


def _problem(template: str) -> str | None:
    """Why a template cannot be filled in, or None."""
    known = {"input": "", "text": "", "pair": ""}
    try:
        for _, name, _, _ in Formatter().parse(template):
            if name is not None and name not in known:
                return f"found {name!r}"
        template.format(**known)
    except (ValueError, LookupError, AttributeError, TypeError) as error:  # all that a format can be wrong in
        return str(error)
    return None


def choose_shots(config: Config, kinds: Mapping[str, AnyKind], train: Sequence[Example], embed: Embed | None) -> Choose:
    """How `prompting` says that shots are chosen. The same shots for every example, unless the nearest are wanted.

    Args:
        config: the run.
        kinds: its tasks.
        train: where shots are taken from.
        embed: gives the embeddings that `nearest` compares.

    Raises:
        ConfigError: a task has too few training examples.
    """
    count = config.prompting.shots
    pools = {task: [example for example in train if task in example.labels] for task in kinds}
    for task, pool in pools.items() if count else ():
        if len(pool) < count:
            where = config.where("prompting", "shots")
            raise ConfigError(f"{where}: {count} shots, but {task} has {len(pool)} training examples")
    if count and config.prompting.selection == "nearest":
        if embed is None:
            raise ValueError("nearest shots need embeddings")
        vectors = {task: embed(pool) for task, pool in pools.items()}

        def nearest(task: str, example: Example) -> Sequence[Example]:
            pool = pools[task]
            likeness = vectors[task] @ embed([example])[0]  # [pool]
            # An example is no shot for itself; the nearest is shown last, closest to the question.
            order = [int(n) for n in np.argsort(-likeness, kind="stable") if pool[int(n)].key != example.key]
            return [pool[number] for number in reversed(order[:count])]

        return nearest
    balanced = config.prompting.selection != "random"
    seed = config.training.seed
    shots = {task: _pick(task, kinds[task], pool, count, seed, balanced=balanced) for task, pool in pools.items()}

    def the_same(task: str, _: Example) -> Sequence[Example]:
        return shots[task]

    return the_same


def _pick(task: str, kind: AnyKind, pool: Sequence[Example], count: int, seed: int, *, balanced: bool) -> list[Example]:
    """Shots in a random order: any, or as many of each answer as can be."""
    rng = np.random.default_rng([seed, 7])
    order = [pool[int(number)] for number in rng.permutation(len(pool))]
    if not balanced:
        return order[:count]
    groups: dict[str, list[Example]] = {}
    for example in order:
        groups.setdefault(_group(kind, example, task), []).append(example)
    chosen: list[Example] = []
    while len(chosen) < count:
        for name in sorted(groups):
            if groups[name] and len(chosen) < count:
                chosen.append(groups[name].pop(0))
    return [chosen[int(number)] for number in rng.permutation(count)]


def _group(kind: AnyKind, example: Example, task: str) -> str:
    """What examples are balanced by: the class; whether there is anything to find, for spans, sets and answers."""
    if kind.next_pieces((), example) == kind.labels:
        return str(example.labels[task])
    answer = kind.target_text(example.labels[task], example)
    return answer if answer in {"none", "unanswerable"} else "something"
