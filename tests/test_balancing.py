"""An update's gradient is the same in one piece and in parts, whatever tasks each part holds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch

from conftest import make_loop
from fakes import ALL_TASKS, tiny_config
from palmette import balancing
from palmette.batching import collate, split_update
from palmette.config import Config
from palmette.corpus import load_corpus
from palmette.model import run, to_tensors
from palmette.text import Row
from palmette.trainer import _Tally

CPU = torch.device("cpu")
Gradients = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def loop(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A loop without dropout whose examples carry all sorts of subsets of the tasks; some are windowed."""
    folder = tmp_path_factory.mktemp("loop")
    data = tiny_config(folder, dropout=0.0, long=3, clip_norm=1e9)
    weights = {"pos": 0.5, "tone": 2.0}
    data["tasks"] = {task: {**declared, "weight": weights.get(task, 1.0)} for task, declared in ALL_TASKS.items()}
    config = Config.parse(data)
    corpus = load_corpus(config)
    for number, example in enumerate(corpus.splits["train"]):
        tasks = sorted(example.labels)
        kept = tasks[: 1 + number % len(tasks)] if number % 2 else tasks[number % len(tasks) :]
        corpus.splits["train"][number] = replace(example, labels={task: example.labels[task] for task in kept})
    return make_loop(config, folder / "run", corpus)


def gradients_of(loop: Any, rows: Sequence[Row], accumulation: int) -> tuple[Gradients, dict[str, float]]:
    """Gradients and losses of one update of the trainer, which is then not made."""
    found: Gradients = {}

    def step() -> None:
        found.update({n: p.grad.clone() for n, p in loop.bare.named_parameters() if p.grad is not None})

    tally = _Tally()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop.optimizer, "step", step)
        patch.setattr(loop, "training", loop.training.model_copy(update={"accumulation": accumulation}))
        loop._step(rows, 1.0, tally)
    return found, {task: float(sum(losses)) for task, losses in tally.losses.items()}


def assert_equal(one: Gradients, other: Gradients, *, relative: float = 1e-6) -> None:
    """Equal up to a fraction of the whole gradient's length."""
    assert one.keys() == other.keys()
    length = torch.sqrt(
        sum((g.double().square().sum() for g in one.values()), start=torch.zeros((), dtype=torch.double))
    )
    for name, gradient in one.items():
        difference = (gradient.double() - other[name].double()).norm()
        assert difference <= relative * length, (name, float(difference), float(length))


def rows_with(loop: Any, *tasks: str) -> list[Row]:
    """Rows of the examples that carry exactly these tasks, longest first as in an update."""
    numbers = [n for n, e in enumerate(loop.learner.dataset.examples) if set(e.labels) == set(tasks)]
    assert numbers
    return sorted(loop.learner.dataset.rows(numbers), key=lambda row: -len(row))


@pytest.mark.parametrize("accumulation", [2, 3, 7])
def test_parts_add_up_to_the_whole(loop: Any, accumulation: int) -> None:
    rows = sorted(loop.learner.dataset.rows(range(len(loop.learner.dataset.examples))), key=lambda row: -len(row))
    assert any(row.windows > 2 for row in rows)
    parts = split_update(rows, accumulation)
    shares = [
        [sum(task in loop.learner.dataset.examples[row.example].labels for row in part) for part in parts]
        for task in ALL_TASKS
    ]
    assert any(max(share) >= 2 * min(share) for share in shares)  # tasks are spread unevenly
    whole, losses = gradients_of(loop, rows, 1)
    divided, losses_of_parts = gradients_of(loop, rows, accumulation)
    assert whole.keys() == dict(loop.bare.named_parameters()).keys()
    assert_equal(whole, divided)
    assert losses_of_parts == pytest.approx(losses, rel=1e-5)


def test_the_trainers_gradient_is_that_of_the_stated_loss(loop: Any) -> None:
    """Each task: the sum over its units / its units, x weight; here row by row, in double precision at the end."""
    rows = sorted(loop.learner.dataset.rows(range(0, len(loop.learner.dataset.examples), 2)), key=lambda row: -len(row))
    found, _ = gradients_of(loop, rows, 1)
    units: dict[str, float] = {}
    sums: dict[str, Gradients] = {}
    for row in rows:
        batch = collate([row], loop.learner.dataset, loop.kinds, pad=loop.learner.pad, labelled=True)
        for task, part in batch.tasks.items():
            units[task] = units.get(task, 0.0) + part.units
            loop.bare.zero_grad()
            loop.kinds[task].loss(run(loop.bare, batch, CPU)[task], to_tensors(part.targets, CPU)).backward()
            total = sums.setdefault(task, {})
            for name, parameter in loop.bare.named_parameters():
                if parameter.grad is not None:
                    total[name] = total.get(name, torch.zeros((), dtype=torch.double)) + parameter.grad.double()
    loop.bare.zero_grad()
    expected: Gradients = {}
    for task, total in sums.items():
        for name, gradient in total.items():
            part = gradient / units[task] * loop.weights[task]
            expected[name] = expected.get(name, torch.zeros((), dtype=torch.double)) + part
    assert_equal(expected, found, relative=3e-6)


def test_units_are_words_and_texts_not_windows(loop: Any) -> None:
    examples = loop.learner.dataset.examples
    rows = loop.learner.dataset.rows(range(len(examples)))
    batch = collate(rows, loop.learner.dataset, loop.kinds, pad=loop.learner.pad, labelled=True)
    for task in ALL_TASKS:
        labelled = [example for example in examples if task in example.labels]
        words = sum(len(example.text.words) for example in labelled)
        assert batch.tasks[task].units == pytest.approx(words if task in ("pos", "ner") else len(labelled), rel=1e-6)


@pytest.mark.parametrize("accumulation", [2, 3])
def test_a_part_may_lack_a_task(loop: Any, accumulation: int) -> None:
    """The longest rows carry one task, the shortest another."""
    text = next(row for row in rows_with(loop, "tone", "topics", "pos", "ner") if row.windows == 1)
    long = [row for row in loop.learner.dataset.rows(range(len(loop.learner.dataset.examples))) if row.windows > 1]
    pair = [row for row in long if loop.learner.dataset.examples[row.example].pair is not None][:3]
    rows = sorted([*pair, text], key=lambda row: -len(row))
    carried = [
        {task for row in part for task in loop.learner.dataset.examples[row.example].labels}
        for part in split_update(rows, accumulation)
    ]
    assert carried[0].isdisjoint(carried[-1] - {"same", "likeness", "answer"})
    assert "tone" in carried[-1] - carried[0]
    assert_equal(gradients_of(loop, rows, 1)[0], gradients_of(loop, rows, accumulation)[0])


@pytest.mark.parametrize("accumulation", [2, 3, 5])
def test_fewer_rows_than_parts(loop: Any, accumulation: int) -> None:
    rows = rows_with(loop, "tone", "topics", "pos", "ner")[:1]
    assert [] in split_update(rows, accumulation)
    whole, divided = gradients_of(loop, rows, 1)[0], gradients_of(loop, rows, accumulation)[0]
    assert not any(name.startswith("heads.task_answer") for name in divided)  # an untouched head stays untouched
    assert_equal(whole, divided)


def test_windows_of_one_text_in_different_updates(loop: Any) -> None:
    """Rows are planned one by one; each window's words count where the window is."""
    rows = [row for row in loop.learner.dataset.rows(range(len(loop.learner.dataset.examples))) if row.windows > 1]
    for row in rows:
        found, losses = gradients_of(loop, [row], 1)
        assert all(gradient.isfinite().all() for gradient in found.values())
        assert losses.keys() == set(loop.learner.dataset.examples[row.example].labels)


def test_a_window_that_answers_for_no_word_does_no_harm(loop: Any) -> None:
    """Beside a word longer than the trunk, a window may be all context."""
    row = next(row for row in rows_with(loop, "tone", "topics", "pos", "ner"))
    silent = replace(row, words=row.words[:0], word_positions=row.word_positions[:0])
    found, losses = gradients_of(loop, [silent], 1)
    assert all(gradient.isfinite().all() for gradient in found.values())
    assert losses["pos"] == losses["ner"] == 0


def test_a_tasks_weight_scales_its_loss(loop: Any) -> None:
    parts = {"pos": torch.tensor(2.0), "tone": torch.tensor(3.0)}
    assert float(balancing.combine(parts, {"pos": 0.5, "tone": 2.0, "ner": 9.0})) == 7.0
    assert float(balancing.combine({"tone": torch.tensor(3.0)}, {"tone": 1.0})) == 3.0
