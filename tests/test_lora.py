"""Adapters of a language model, from a configuration to answers: every kind, learning, resuming, what is refused."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from conftest import Trained, assert_resumes, make_loop, train_and_keep
from fakes import TEXT_TASKS, tiny_language_model, tiny_text_config, write_jsonl
from palmette import trainer
from palmette.checkpoint import RunFolder
from palmette.config import Config
from palmette.errors import ConfigError, RunError
from palmette.run import Run
from palmette.trainer import _Tally
from palmette.writing import prompted
from palmette.writing.language_model import LanguageModel
from test_text2text import INPUTS, toy

causal = partial(tiny_text_config, model="language model")


def is_adapter(name: str) -> bool:
    return ".lora_A." in name or ".lora_B." in name


@pytest.fixture(scope="module", params=["shared", "per_task"])
def tuned(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """A short run over every kind, with one adapter or with one for each task."""
    folder = tmp_path_factory.mktemp(request.param)
    data = causal(folder, examples=6, epochs=1, head_learning_rate=1e-2, dev_examples=2)
    return train_and_keep(Config.parse(data | {"lora": {"rank": 4, "adapters": request.param}}), folder / "run")


@pytest.fixture(scope="module")
def run(tuned: Trained) -> Run:
    return Run.load(tuned.folder)


class TestAFinishedRun:
    def test_it_holds_the_adapters_and_which_model_they_belong_to(self, tuned: Trained) -> None:
        assert sorted(path.name for path in tuned.folder.iterdir()) == [
            "config.yaml",
            "data.json",
            "history.jsonl",
            "labels.json",
            "metrics.json",
            "model.safetensors",
            "trunk.json",
        ]
        kept = load_file(tuned.folder / "model.safetensors")
        assert all(map(is_adapter, kept))
        adapters = len(TEXT_TASKS) if tuned.config.lora and tuned.config.lora.adapters == "per_task" else 1
        assert len(kept) == 2 * 2 * 7 * adapters, "two matrices for each of seven layers in two blocks"
        base = json.loads((tuned.folder / "trunk.json").read_text())["base"]
        assert base["name"] == tuned.config.trunk.name
        trained = sum(tensor.numel() for tensor in kept.values())
        assert tuned.events[0]["trained"] == trained < tuned.events[0]["parameters"]

    def test_nothing_but_the_adapters_has_changed(self, tuned: Trained) -> None:
        original = LanguageModel.load(tuned.config.trunk.name).model.state_dict()
        found = tuned.loop.learner.writer.model.state_dict()
        weights = {name.replace(".base_layer", ""): tensor for name, tensor in found.items() if not is_adapter(name)}
        assert weights.keys() == original.keys()
        assert all(torch.equal(tensor, original[name]) for name, tensor in weights.items())
        assert all(tensor.any() for name, tensor in found.items() if ".lora_B." in name), "each began at zero"

    def test_every_example_and_task_is_trained_on(self, tuned: Trained) -> None:
        (epoch,) = [event for event in tuned.events if event["event"] == "epoch"]
        assert epoch["tasks"].keys() == TEXT_TASKS.keys()
        for counts in epoch["tasks"].values():
            assert counts == {"draws": 6, "seen": 6, "never_seen": 0, "truncated": 0}

    def test_the_loaded_run_answers_as_the_trained_model(self, tuned: Trained, run: Run) -> None:
        examples = [*map(run.predictor.example, INPUTS), *tuned.loop.corpus.splits["test"]]
        tuned.loop.bare.eval()
        assert repr(run.answer(examples)) == repr(tuned.loop.learner.predictor.answer(examples))

    def test_evaluated_again(self, tuned: Trained, run: Run) -> None:
        found = run.evaluate("test")
        assert found["tasks"] == json.loads((tuned.folder / "metrics.json").read_text())["test"]
        assert found["usage"]["pos"]["examples"] == 6
        assert found["tasks"]["pos"]["unparseable"] == 0, "tags are constrained"

    def test_its_answers_have_confidences_where_labels_are_compared(self, run: Run) -> None:
        found = run.predict(INPUTS)
        assert json.loads(json.dumps(found, allow_nan=False)) == found
        assert found[0]["tasks"].keys() == {"pos", "ner", "tone", "topics", "summary"}
        assert 0.5 <= found[0]["tasks"]["tone"]["confidence"] <= 1

    def test_damaged_adapters_are_refused(self, tuned: Trained, tmp_path: Path) -> None:
        for file in tuned.folder.iterdir():
            (tmp_path / file.name).write_bytes(file.read_bytes())
        kept = load_file(tuned.folder / "model.safetensors")
        lost = min(kept)
        save_file({name: tensor for name, tensor in kept.items() if name != lost}, tmp_path / "model.safetensors")
        with pytest.raises(RunError, match=f"1 tensors are missing, 0 are unknown, e.g. {lost}"):
            Run.load(tmp_path)
        save_file(kept | {"network.model.norm.weight": torch.ones(32)}, tmp_path / "model.safetensors")
        with pytest.raises(RunError, match="0 tensors are missing, 1 are unknown"):
            Run.load(tmp_path)

    @pytest.mark.parametrize("what", ["weights", "template"])
    def test_another_model_under_the_same_name_is_refused(self, tuned: Trained, what: str) -> None:
        folder = Path(tuned.config.trunk.name)
        try:
            if what == "weights":
                tiny_language_model(folder, chat=True, spread=0.2, seed=1)
            else:
                (folder / "chat_template.jinja").write_text("{{ messages }}")
            with pytest.raises(RunError, match=r"adapters were trained on .* with sha256 .*; .* now has .*: put the"):
                Run.load(tuned.folder)
        finally:
            tiny_language_model(folder, chat=True, spread=0.2)
        Run.load(tuned.folder)


class TestARunAsAStart:
    def trained_on(self, tuned: Trained, out: Path, **changes: Any) -> Run:
        """From a run's adapters, which move by next to nothing."""
        data = tuned.config.model_dump(mode="json", exclude_none=True)
        data["trunk"]["name"] = str(tuned.folder)
        data["training"] |= {"head_learning_rate": 1e-12}
        trainer.train(Config.parse(data | changes), out)
        return Run.load(out)

    def test_it_goes_on_from_the_adapters(self, tuned: Trained, tmp_path: Path) -> None:
        self.trained_on(tuned, tmp_path / "out")
        one, two = (load_file(folder / "model.safetensors") for folder in (tuned.folder, tmp_path / "out"))
        assert one.keys() == two.keys()
        assert all(torch.allclose(one[name], two[name], atol=1e-6) for name in one)

    def test_the_new_run_needs_the_model_and_not_the_run(self, tuned: Trained, tmp_path: Path) -> None:
        self.trained_on(tuned, tmp_path / "out")
        assert (tmp_path / "out" / "trunk.json").read_text() == (tuned.folder / "trunk.json").read_text()
        config = (tmp_path / "out" / "config.yaml").read_text()
        (tmp_path / "out" / "config.yaml").write_text(config.replace(str(tuned.folder), str(tmp_path / "gone")))
        assert Run.load(tmp_path / "out").predict(INPUTS)

    def test_adapters_that_do_not_fit_are_refused(self, tuned: Trained, tmp_path: Path) -> None:
        lora = {"rank": 2, "adapters": tuned.config.lora.adapters if tuned.config.lora else ""}
        with pytest.raises(ConfigError, match=r"trunk: the adapters of .* do not fit"):
            self.trained_on(tuned, tmp_path / "out", lora=lora)


@pytest.mark.parametrize("adapters", ["shared", "per_task"])
def test_it_learns(tmp_path: Path, adapters: str) -> None:
    data = toy(tmp_path, model="language model", words=1, rate=5e-3)
    data["training"] |= {"batch_tokens": 256, "dev_examples": 8, "epochs": 3}
    prompts = {"pos": {"instruction": "tags"}, "first": {"instruction": "class"}}
    data |= {"lora": {"dropout": 0, "adapters": adapters}, "prompting": {"prompts": prompts}}
    trainer.train(Config.parse(data), tmp_path / "run")
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())["test"]
    assert metrics["pos"]["accuracy"] > 0.9
    assert metrics["first"]["accuracy"] > 0.9


def test_new_adapters_change_no_answer(tmp_path: Path) -> None:
    data = causal(tmp_path, examples=4)
    loop = make_loop(Config.parse(data), tmp_path / "run")
    loop.bare.eval()
    asked = prompted.open_predictor(Config.parse(data | {"lora": None}), loop.kinds, (), loop.folder)
    examples = loop.corpus.splits["test"]
    assert repr(loop.learner.predictor.answer(examples)) == repr(asked.answer(examples))


@pytest.mark.parametrize("adapters", ["shared", "per_task"])
def test_resumed_is_uninterrupted(tmp_path: Path, adapters: str) -> None:
    """Dropout, two evaluations an epoch, parts of updates; killed between checkpoints by an exception."""
    settings = {"evaluations_per_epoch": 2, "accumulation": 2, "checkpoint_updates": 2, "batch_tokens": 400}
    data = causal(tmp_path, examples=4, dev_examples=1, **settings)  # type: ignore[arg-type]
    tasks = {task: TEXT_TASKS[task] for task in ("tone", "same", "summary")}
    labels = [{task: label for task, label in source["labels"].items() if task in tasks} for source in data["sources"]]
    sources = [source | {"labels": kept} for source, kept in zip(data["sources"], labels, strict=True) if kept]
    lora = {"adapters": adapters, "dropout": 0.2}
    config = Config.parse(data | {"tasks": tasks, "sources": sources, "lora": lora})

    assert_resumes(config, tmp_path)


class TestLearning:
    @pytest.fixture(scope="class", params=["shared", "per_task"])
    @classmethod
    def loop(cls, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
        folder = tmp_path_factory.mktemp("loop")
        lora = {"dropout": 0.0, "adapters": request.param}
        loop = make_loop(Config.parse(causal(folder, examples=5, clip_norm=1e9) | {"lora": lora}), folder / "run")
        generator = torch.Generator().manual_seed(5)
        with torch.no_grad():  # as if they had learnt something
            for name, parameter in loop.bare.named_parameters():
                if ".lora_B." in name:
                    parameter.normal_(std=0.1, generator=generator)
        return loop

    def gradients(self, loop: Any, rows: Any, *, accumulation: int = 1) -> dict[str, Any]:
        found: dict[str, Any] = {}

        def step() -> None:
            found.update({n: p.grad.clone() for n, p in loop.bare.named_parameters() if p.grad is not None})

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(loop.optimizer, "step", step)
            patch.setattr(loop, "training", loop.training.model_copy(update={"accumulation": accumulation}))
            loop._step(rows, 1.0, _Tally())
        return found

    def test_a_row_for_each_task_of_each_example(self, loop: Any) -> None:
        rows = [row for step in loop._plan(0) for row in step.rows]
        expected = [(n, task) for n, example in enumerate(loop.train_examples) for task in example.labels]
        assert sorted((row.example, row.task) for row in rows) == sorted(expected)

    def test_a_row_is_the_prompt_that_is_asked_and_its_answer(self, loop: Any) -> None:
        learner = loop.learner
        for row in learner.rows(range(len(loop.train_examples))):
            example, kind = loop.train_examples[row.example], loop.kinds[row.task]
            prompt = learner.writer.render(learner.predictor.prompt(row.task, example))
            answer = learner.writer.answer_ids(kind.target_text(example.labels[row.task], example))
            assert (row.ids, row.prompt, row.truncated) == (prompt + answer, len(prompt), False)

    def test_parts_add_up_to_the_whole(self, loop: Any) -> None:
        rows = sorted(loop.learner.rows(range(len(loop.train_examples))), key=lambda row: -len(row))
        whole, parts = self.gradients(loop, rows), self.gradients(loop, rows, accumulation=3)
        assert whole.keys() == parts.keys() == loop.bare.trained
        for name, gradient in whole.items():
            torch.testing.assert_close(parts[name], gradient, rtol=1e-3, atol=1e-5)

    def test_the_loss_is_a_mean_over_the_tokens_of_a_tasks_answers(self, loop: Any) -> None:
        """The likelihood of the answers, as the model itself says it when it is asked: without padding, one by one."""
        learner = loop.learner
        loop.bare.eval()
        rows = learner.rows(range(len(loop.train_examples)))
        batch = learner.collate(rows)
        units = learner.units(batch)
        assert units == {
            task: sum(len(row) - row.prompt for row in rows if row.task == task) for task in sorted(TEXT_TASKS)
        }
        losses = learner.losses(learner.model, batch, units)
        for task, kind in loop.kinds.items():
            learner.model.use(task)
            total = 0.0
            for row in rows:
                if row.task == task:
                    example = loop.train_examples[row.example]
                    answer = kind.target_text(example.labels[task], example)
                    asked = learner.predictor.prompt(task, example)
                    total += learner.writer.likelihoods([asked], [answer])[0].values[0]
            assert losses[task].item() == pytest.approx(-total / units[task], rel=1e-3)

    def test_a_task_teaches_its_own_adapter_only(self, loop: Any) -> None:
        rows = loop.learner.rows(range(len(loop.train_examples)))
        for task in ("tone", "answer"):
            found = self.gradients(loop, [row for row in rows if row.task == task])
            own = loop.bare.adapter_of(task)
            assert found.keys() == {name for name in loop.bare.trained if f".{own}." in name}
            assert all(gradient.any() for gradient in found.values())

    def test_a_task_is_answered_by_its_own_adapter_only(self, loop: Any) -> None:
        loop.bare.eval()
        examples = loop.corpus.splits["test"][:5]
        before = loop.learner.predictor.answer_labelled(examples)
        state = {name: tensor.clone() for name, tensor in loop.bare.state_dict().items()}
        own = loop.bare.adapter_of("tone")
        loop.bare.load_state_dict({n: t if f".{own}." in n else torch.randn_like(t) for n, t in state.items()})
        after = loop.learner.predictor.answer_labelled(examples)
        loop.bare.load_state_dict(state)
        assert [answer["tone"] for answer in before] == [answer["tone"] for answer in after]
        if own != "shared":
            assert [answer["pos"] for answer in before] != [answer["pos"] for answer in after]
        again = loop.learner.predictor.answer_labelled(examples)
        assert repr(again) == repr(before)

    def test_adapters_learn_at_the_rate_of_what_is_new(self, loop: Any) -> None:
        names = {id(parameter): name for name, parameter in loop.bare.named_parameters()}
        (only,) = loop.optimizer.param_groups
        assert {names[id(parameter)] for parameter in only["params"]} == loop.bare.trained
        assert only["peak"] == loop.training.head_learning_rate


def test_what_is_too_long_is_cut_and_counted(tmp_path: Path) -> None:
    texts = [("a cat sat", "good " * 40), ("a dog runs " * 40, "bad"), ("a", "b")]
    lines = [{"text": text, "said": said} for text, said in texts]
    files = {split: write_jsonl(tmp_path / f"{split}.jsonl", lines) for split in ("train", "dev", "test")}
    source = {"format": "jsonl", **files, "text": "text", "labels": {"said": "said"}}
    trunk = {"name": str(tiny_language_model(tmp_path / "lm", chat=True)), "max_length": 128}
    data = {"family": "causal_lm", "trunk": trunk, "lora": {}, "sources": [source]}
    loop = make_loop(Config.parse(data | {"tasks": {"said": {"kind": "generation"}}}), tmp_path / "run")
    answer, prompt, neither = loop.learner.rows(range(3))
    end = loop.learner.writer.answer_ids("")[-1:]
    assert [row.truncated for row in (answer, prompt, neither)] == [True, True, False]
    assert len(prompt) == 128
    assert prompt.ids[-1:] == end == neither.ids[-1:]
    assert len(answer) - answer.prompt == 64
    assert answer.ids[-1:] != end, "it goes on"
    assert loop.learner.counts("said", range(3)) == {"truncated": 2}


def test_the_bias_of_a_prompt_is_that_of_the_adapter_as_it_is(tmp_path: Path) -> None:
    data = causal(tmp_path, examples=4) | {"prompting": {"calibrated": True}}
    loop = make_loop(Config.parse(data), tmp_path / "run")
    loop.bare.eval()
    example = loop.corpus.splits["test"][:1]
    before = loop.learner.predictor.answer(example)[0]["tone"].confidence
    state = loop.bare.state_dict()
    loop.bare.load_state_dict({name: tensor + 0.05 for name, tensor in state.items()})
    once = loop.learner.predictor.answer(example)[0]["tone"].confidence
    fresh = make_loop(Config.parse(data), tmp_path / "other")
    fresh.bare.load_state_dict(loop.bare.state_dict())
    fresh.bare.eval()
    assert once == fresh.learner.predictor.answer(example)[0]["tone"].confidence != before


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"lora": {"rank": 0}}, r"lora\.rank"),
        ({"lora": {"layers": ["q_proj", "query"]}}, r"lora\.layers: .* has no linear layer 'query'; it has .*'q_proj'"),
        ({"prompting": {"shots": 2}}, r"prompting\.shots: adapters learn from all training examples"),
        ({"prompting": {"prompts": {"tone": {"input": "{words}"}}}}, r"prompting\.prompts\.tone\.input: .*'words'"),
        ({"endpoint": {"base_url": "x", "model": "y", "token_budget": 1}}, "lora: a remote model cannot be tuned"),
        ({"family": "text2text"}, "lora: goes with family: causal_lm"),
        ({"trunk": {"name": "no/such-model"}}, r"trunk\.name: no/such-model: no causal language model"),
    ],
)
def test_bad_configurations(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    data = causal(tmp_path, examples=4)
    with pytest.raises(ConfigError, match=message):
        trainer.train(Config.parse(data | changes), tmp_path / "run")
    assert not RunFolder(tmp_path / "run").config.exists()


def test_only_some_layers(tmp_path: Path) -> None:
    data = causal(tmp_path, examples=4) | {"lora": {"layers": ["q_proj", "v_proj"]}}
    loop = make_loop(Config.parse(data), tmp_path / "run")
    assert {name.split(".lora_")[0].rpartition(".")[2] for name in loop.bare.trained} == {"q_proj", "v_proj"}
    assert np.isfinite(sum(float(tensor.sum()) for tensor in loop.bare.state_dict().values()))
