"""The family text2text, from a configuration to answers: every kind, learning, resuming, what is refused."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from rich.console import Console

import palmette
from conftest import Trained, assert_resumes, make_loop, train_and_keep
from fakes import TEXT_TASKS, tiny_config, tiny_t5, tiny_text_config, write_jsonl
from palmette import trainer
from palmette.batching import plan_updates
from palmette.checkpoint import RunFolder
from palmette.cli import main
from palmette.config import Config
from palmette.console import answer_live
from palmette.errors import ConfigError, RunError
from palmette.evaluation import spread
from palmette.run import Run
from palmette.trainer import _Tally
from palmette.writing.predictor import WritingPredictor

INPUTS: list[Any] = ["anna sat in paris", "good dog 😀", ("where is anna", "tom sat in london and anna in paris"), ""]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """A short run over every kind, with two evaluations."""
    folder = tmp_path_factory.mktemp("text2text")
    config = Config.parse(tiny_text_config(folder, examples=8, dev_examples=4))
    return train_and_keep(config, folder / "run")


@pytest.fixture(scope="module")
def run(written: Trained) -> Run:
    return Run.load(written.folder)


class TestAFinishedRun:
    def test_its_files(self, written: Trained) -> None:
        assert sorted(path.name for path in written.folder.iterdir()) == [
            "config.yaml",
            "data.json",
            "history.jsonl",
            "labels.json",
            "metrics.json",
            "model.safetensors",
            "tokenizer.json",
            "trunk.json",
        ]

    def test_metrics_say_what_could_not_be_read(self, written: Trained) -> None:
        metrics = json.loads((written.folder / "metrics.json").read_text())
        for scores in metrics.values():
            assert scores.keys() == TEXT_TASKS.keys()
            for task, found in scores.items():
                assert found["examples"] == 8
                assert 0 <= found["unparseable"] <= 1
                if task not in ("answer", "summary"):  # anything may be written there
                    assert found["unparseable"] == 0

    def test_its_history(self, written: Trained) -> None:
        assert written.events[0]["dev_examples"] == 4
        evaluated = [event["dev"] for event in written.events if event["event"] == "evaluation"]
        assert len(evaluated) == 2
        assert {scores["examples"] for dev in evaluated for scores in dev.values()} == {4}
        (first, _) = [event for event in written.events if event["event"] == "epoch"]
        for counts in first["tasks"].values():
            assert counts == {"draws": 8, "seen": 8, "never_seen": 0, "truncated": 0}
        rows = written.loop.learner.rows(range(len(written.loop.train_examples)))
        assert first["wordpieces"] == sum(map(len, rows))

    def test_the_loaded_run_answers_as_the_trained_model(self, written: Trained, run: Run) -> None:
        examples = [*map(run.predictor.example, INPUTS), *written.loop.corpus.splits["test"]]
        written.loop.bare.eval()
        before = written.loop.learner.predictor.answer(examples)
        assert repr(run.answer(examples)) == repr(before)

    def test_evaluated_again(self, written: Trained, run: Run) -> None:
        found = run.evaluate("test", slices=["length"])
        assert found["tasks"] == json.loads((written.folder / "metrics.json").read_text())["test"]
        assert found["usage"]["pos"]["examples"] == 8
        assert found["usage"]["pos"]["written_tokens"] > 8 * 2
        assert run.evaluate("test")["usage"]["pos"]["examples"] == 8

    def test_what_is_predicted_is_json_without_confidences(self, run: Run) -> None:
        found = run.predict(INPUTS)
        assert json.loads(json.dumps(found, allow_nan=False)) == found
        assert found[0]["tasks"].keys() == {"pos", "ner", "tone", "topics", "summary"}
        assert found[2]["tasks"].keys() == {"same", "likeness", "answer"}
        assert len(found[0]["tasks"]["pos"]["tags"]) == 4
        assert "confidence" not in found[0]["tasks"]["pos"]

    def test_answers_are_heard_as_they_grow(self, run: Run) -> None:
        predictor = run.predictor
        assert isinstance(predictor, WritingPredictor)
        heard: dict[tuple[int, str], list[str]] = {}
        examples = [predictor.example(given) for given in INPUTS]
        found = predictor.answer_aloud(
            examples, [None] * len(examples), lambda n, task, text: heard.setdefault((n, task), []).append(text)
        )
        assert repr(found) == repr(predictor.answer(examples))
        assert heard.keys() == {(number, task) for number, answers in enumerate(found) for task in answers}
        for (number, task), texts in heard.items():
            assert run.kinds[task].read_text(texts[-1], examples[number])[0] == found[number][task].label
        assert any(len(set(texts)) > 2 for texts in heard.values())

    def test_a_terminal_shows_what_is_being_written(self, run: Run) -> None:
        assert isinstance(run.predictor, WritingPredictor)
        console = Console(file=io.StringIO(), force_terminal=True)
        assert answer_live(console, run.predictor, "anna sat", ["tone"]) == run.predict("anna sat", tasks=["tone"])
        with pytest.raises(RunError, match="no task 'nothing'"):
            answer_live(console, run.predictor, "anna sat", ["nothing"])

    @pytest.mark.parametrize("constrained", [True, False])
    def test_unconstrained_and_with_beams(self, run: Run, constrained: bool) -> None:
        writing = run.config.writing.model_copy(update={"constrained": constrained, "beams": 3, "longest": 20})
        config = run.config.model_copy(update={"writing": writing})
        from palmette.run import _text2text

        model, predictor = _text2text(config, run.kinds, run.folder, torch.device("cpu"))
        model.load_state_dict(run.model.state_dict())
        model.eval()
        assert isinstance(predictor, WritingPredictor)
        heard: list[str] = []
        (found,) = predictor.answer_aloud(
            [run.predictor.example("a cat sat")], [None], lambda _, task, __: heard.append(task)
        )
        assert heard == []  # a search with beams knows no answer before its end
        assert found.keys() == {"pos", "ner", "tone", "topics", "summary"}
        assert predictor.usage["pos"].written_tokens <= 21
        assert found["pos"].readable or not constrained

    def test_commands(self, written: Trained) -> None:
        runner = CliRunner()
        shown = runner.invoke(main, ["predict", str(written.folder), "Anna sat in Paris"])
        assert shown.exit_code == 0, shown.output
        shown = runner.invoke(main, ["evaluate", str(written.folder), "--split", "dev"])
        assert shown.exit_code == 0, shown.output
        assert re.search(r"unparseable[ │]+\d+\.\d %", shown.output)
        shown = runner.invoke(main, ["check", str(written.folder / "config.yaml")])
        assert shown.exit_code == 0, shown.output

    def test_the_command_that_trains(self, tmp_path: Path) -> None:
        config = tmp_path / "tasks.yaml"
        data = tiny_text_config(tmp_path, examples=4, epochs=1)
        config.write_text(
            json.dumps(
                data
                | {
                    "tasks": {"tone": TEXT_TASKS["tone"]},
                    "sources": [data["sources"][0] | {"labels": {"tone": "tone"}}],
                }
            )
        )
        shown = CliRunner().invoke(main, ["train", str(config), "--out", str(tmp_path / "run")])
        assert shown.exit_code == 0, shown.output
        assert "epoch 1  tone 4 drawn; padding" in shown.output
        assert re.search(r"unparseable[ │]+0\.0 %", shown.output), "labels are constrained"

    def test_a_bundle_is_refused(self, written: Trained, tmp_path: Path) -> None:
        shown = CliRunner().invoke(main, ["export", str(written.folder), "--out", str(tmp_path / "bundle")])
        assert shown.exit_code == 2
        assert "no bundle can be written: its model writes its answers" in shown.output
        assert f"palmette serve {written.folder}" in shown.output
        assert not (tmp_path / "bundle").exists()

    def test_what_needs_probabilities_is_refused(self, run: Run) -> None:
        with pytest.raises(RunError, match="explain: the model writes its answers"):
            run.predict("anna", explain=True)
        with pytest.raises(RunError, match="pipeline: the model writes its answers"):
            palmette.pipeline(run, "tone")

    def test_it_can_be_the_start_of_another(self, written: Trained, tmp_path: Path) -> None:
        data = tiny_text_config(tmp_path, examples=4, epochs=1) | {"trunk": str(written.folder)}
        data["training"]["learning_rate"] = 1e-30
        loop = make_loop(Config.parse(data), tmp_path / "run")
        expected = written.loop.bare.state_dict()
        assert all(torch.equal(tensor, expected[name]) for name, tensor in loop.bare.state_dict().items())

    def test_it_is_no_trunk_of_heads(self, written: Trained, tmp_path: Path) -> None:
        data = tiny_config(tmp_path) | {"trunk": str(written.folder)}
        with pytest.raises(ConfigError, match="is the run of a model that writes"):
            trainer.train(Config.parse(data), tmp_path / "run")


def toy(folder: Path, *, model: str, words: int, rate: float) -> dict[str, Any]:
    """Tags, and the class of a text, that single words decide."""
    tags = {"cat": "N", "dog": "N", "film": "N", "good": "A", "bad": "A", "great": "A", "sat": "V", "runs": "V"}
    sources = {}
    rng = np.random.default_rng(1)
    for split, count in (("train", 480), ("dev", 24), ("test", 40)):
        sentences = [list(map(str, rng.choice(list(tags), size=words))) for _ in range(count)]
        lines = [{"words": s, "pos": [tags[word] for word in s], "first": tags[s[0]]} for s in sentences]
        sources[split] = write_jsonl(folder / f"{split}.jsonl", lines)
    labels = {"pos": "pos", "first": "first"}
    rates = {"learning_rate": rate, "head_learning_rate": rate}
    return tiny_text_config(folder, model=model, epochs=5 if words > 1 else 2, batch_tokens=128, **rates) | {  # type: ignore[arg-type]
        "tasks": {"pos": {"kind": "sequence_labeling"}, "first": {"kind": "text_classification"}},
        "sources": [{"format": "jsonl", "name": "toy", **sources, "text": "words", "labels": labels}],
    }


@pytest.mark.slow
@pytest.mark.parametrize(("model", "words", "rate"), [("t5", 2, 2e-3), ("warm start", 1, 2e-3)])
def test_it_learns(tmp_path: Path, model: str, words: int, rate: float) -> None:
    trainer.train(Config.parse(toy(tmp_path, model=model, words=words, rate=rate)), tmp_path / "run")
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())["test"]
    assert metrics["pos"]["accuracy"] > 0.9
    assert metrics["first"]["accuracy"] > 0.9
    assert metrics["pos"]["unparseable"] == 0


def test_resumed_is_uninterrupted(tmp_path: Path) -> None:
    """Dropout, two evaluations an epoch, parts of updates; killed between checkpoints by an exception."""
    data = tiny_text_config(tmp_path, examples=8, evaluations_per_epoch=2, accumulation=2, checkpoint_updates=2)
    tiny_t5(tmp_path / "model", dropout=0.1)
    config = Config.parse(data)

    assert_resumes(config, tmp_path)


class TestLearning:
    @pytest.fixture(scope="class")
    @classmethod
    def loop(cls, tmp_path_factory: pytest.TempPathFactory) -> Any:
        folder = tmp_path_factory.mktemp("loop")
        return make_loop(Config.parse(tiny_text_config(folder, examples=6, clip_norm=1e9)), folder / "run")

    def test_a_row_for_each_task_of_each_example(self, loop: Any) -> None:
        rows = [row for step in loop._plan(0) for row in step.rows]
        expected = [(n, task) for n, example in enumerate(loop.train_examples) for task in example.labels]
        assert sorted((row.example, row.task) for row in rows) == sorted(expected)

    def test_tasks_meet_in_an_update(self, tmp_path: Path) -> None:
        loop = make_loop(Config.parse(tiny_text_config(tmp_path, examples=24, batch_tokens=256)), tmp_path / "run")
        met = [len({row.task for row in step.rows}) for step in loop._plan(0)]
        assert len(met) > 8
        assert np.mean(met) > 3

    def test_parts_add_up_to_the_whole(self, loop: Any) -> None:
        def gradients(accumulation: int) -> dict[str, torch.Tensor]:
            found: dict[str, torch.Tensor] = {}

            def step() -> None:
                found.update({n: p.grad.clone() for n, p in loop.bare.named_parameters()})

            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(loop.optimizer, "step", step)
                patch.setattr(loop, "training", loop.training.model_copy(update={"accumulation": accumulation}))
                loop._step(rows, 1.0, _Tally())
            return found

        rows = sorted(loop.learner.rows(range(len(loop.train_examples))), key=lambda row: -len(row))
        whole, parts = gradients(1), gradients(3)
        for name, gradient in whole.items():
            torch.testing.assert_close(parts[name], gradient, rtol=1e-3, atol=1e-6)

    def test_the_loss_is_a_mean_over_the_tokens_of_a_task(self, loop: Any) -> None:
        learner = loop.learner
        rows = learner.rows(range(len(loop.train_examples)))
        batch = learner.collate(rows)
        units = learner.units(batch)
        assert units == {task: sum(len(row.target) for row in rows if row.task == task) for task in sorted(TEXT_TASKS)}
        together = learner.losses(learner.model, batch, units)
        for task, loss in together.items():
            sums = 0.0
            for row in rows:
                if row.task == task:
                    alone = learner.collate([row])
                    sums += learner.losses(learner.model, alone, {task: 1.0})[task].item()
            assert loss.item() == pytest.approx(sums / units[task], rel=1e-4)

    def test_batches_keep_their_budget(self, loop: Any) -> None:
        rows, sizes = loop.learner.rows(range(len(loop.train_examples))), loop.learner.sizes
        for batch in plan_updates(rows, batch_tokens=200, rng=np.random.default_rng(0), sizes=sizes):
            padded = sum(max(part) for part in zip(*map(sizes, batch), strict=True)) * len(batch)
            assert padded <= 200 or len(batch) == 1

    def test_what_is_new_learns_at_its_own_rate(self, tmp_path: Path) -> None:
        data = tiny_text_config(tmp_path, model="warm start", examples=4, head_learning_rate=5e-3)
        loop = make_loop(Config.parse(data), tmp_path / "run")
        names = {id(parameter): name for name, parameter in loop.bare.named_parameters()}
        peaks = {names[id(p)]: group["peak"] for group in loop.optimizer.param_groups for p in group["params"]}
        assert peaks.keys() == set(names.values())
        assert {name for name, peak in peaks.items() if peak == 5e-3} == loop.bare.new != set()

    def test_long_inputs_are_counted(self, tmp_path: Path) -> None:
        data = tiny_text_config(tmp_path, model="bart", examples=6, long=1, epochs=1)
        kept = train_and_keep(Config.parse(data), tmp_path / "run")
        (epoch,) = [event for event in kept.events if event["event"] == "epoch"]
        assert epoch["tasks"]["tone"]["truncated"] >= 1
        assert epoch["tasks"]["summary"]["truncated"] == 0


def test_examples_spread_over_tasks(written: Trained) -> None:
    dev = written.loop.corpus.splits["dev"]
    for most in (1, 3, 100):
        found = spread(dev, TEXT_TASKS, most)
        for task in TEXT_TASKS:
            assert sum(task in example.labels for example in found) == min(most, 8)
        assert all(example.labels for example in found)
    assert spread(dev, TEXT_TASKS, None) == dev
    assert spread(dev, TEXT_TASKS, 100) == dev


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"training": {"probes": 3}}, r"training\.probes: goes with family: heads"),
        ({"training": {"dev_examples": 0}}, r"training\.dev_examples"),
        ({"trunk": {"name": "no/such-model"}}, "trunk: no/such-model cannot be loaded"),
        ({"trunk": {"max_length": 9999, "name": "BART"}}, r"trunk\.max_length: the model has positions for 48"),
        ({"writing": {"beams": 0}}, r"writing\.beams"),
        ({"family": "heads"}, r"tasks\.summary\.kind: generation is for models that write"),
    ],
)
def test_bad_configurations(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    data = tiny_text_config(tmp_path, model="bart", examples=4)
    if changes.get("trunk", {}).get("name") == "BART":
        changes = {"trunk": changes["trunk"] | data["trunk"]}
    with pytest.raises(ConfigError, match=message):
        trainer.train(Config.parse(data | changes), tmp_path / "run")
    assert not RunFolder(tmp_path / "run").config.exists()
