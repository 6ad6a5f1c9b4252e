"""The commands as a user types them: what they print, write and exit with."""

from __future__ import annotations

import gzip
import io
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner, Result
from rich.console import Console

from fakes import tiny_config, write_jsonl
from palmette.cli import main
from palmette.console import labels_table, slices_table

Invoke = Callable[..., Result]


@pytest.fixture
def invoke() -> Invoke:
    def run(*arguments: object, stdin: str | None = None) -> Result:
        return CliRunner().invoke(main, [str(argument) for argument in arguments], input=stdin)

    return run


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A configuration file and a run trained from it by the command line."""
    folder = tmp_path_factory.mktemp("cli")
    config = tiny_config(folder, epochs=1)
    (folder / "tasks.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    result = CliRunner().invoke(main, ["train", str(folder / "tasks.yaml"), "--out", str(folder / "run")])
    assert result.exit_code == 0, result.output
    assert "training examples" in result.output
    assert "answer" in result.output  # the table names every task
    return folder


def test_help_names_every_command_and_is_light() -> None:
    code = "import sys; from palmette.cli import main; print([m for m in sys.modules if m.split('.')[0] in {heavy}])"
    heavy = {"torch", "transformers", "accelerate", "spacy", "pydantic", "rich", "sklearn", "scipy", "datasets"}
    found = subprocess.run(
        [sys.executable, "-c", code.replace("{heavy}", repr(heavy))], capture_output=True, text=True, check=True
    )
    assert found.stdout.strip() == "[]"
    result = CliRunner().invoke(main, ["--help"])
    for command in ("quickstart", "check", "train", "evaluate", "predict", "schema"):
        assert command in result.output


def test_schema_describes_what_a_config_may_say(invoke: Invoke) -> None:
    schema = json.loads(invoke("schema").output)
    assert {"tasks", "sources", "training", "mixing"} <= schema["properties"].keys()
    assert {"type": "string"} in schema["properties"]["trunk"]["anyOf"]
    assert schema["additionalProperties"] is False


def test_training_refuses_a_folder_with_a_run_and_resuming_it_changes_nothing(folder: Path, invoke: Invoke) -> None:
    before = (folder / "run" / "model.safetensors").read_bytes()
    refused = invoke("train", folder / "tasks.yaml", "--out", folder / "run")
    assert refused.exit_code == 2
    assert "--resume" in refused.output
    again = invoke("train", folder / "tasks.yaml", "--out", folder / "run", "--resume")
    assert again.exit_code == 0, again.output
    assert (folder / "run" / "model.safetensors").read_bytes() == before


def test_evaluate_shows_and_dumps_the_same_numbers_as_training_wrote(folder: Path, invoke: Invoke) -> None:
    result = invoke("evaluate", folder / "run", "--split", "dev", "--json", "--slices", "length")
    assert result.exit_code == 0, result.output
    found = json.loads(result.output)
    assert found["tasks"] == json.loads((folder / "run" / "metrics.json").read_text())["dev"]
    assert sum(scores["pos"]["examples"] for scores in found["slices"]["length"].values() if "pos" in scores) == 24
    shown = invoke("evaluate", folder / "run", "--labels")
    assert "by label" in shown.output


def test_evaluate_on_other_sources(folder: Path, invoke: Invoke) -> None:
    other = {
        "tasks": {"tone": {"kind": "text_classification"}},
        "sources": [
            {
                "format": "jsonl",
                "test": write_jsonl(folder / "other.jsonl", [{"t": "a good cat", "y": "up"}, {"t": "x", "y": "new"}]),
                "text": "t",
                "labels": {"tone": "y"},
            }
        ],
    }
    path = folder / "other.yaml"
    path.write_text(yaml.safe_dump(other), encoding="utf-8")
    result = invoke("evaluate", folder / "run", "--data", path, "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert found["tasks"]["tone"]["examples"] == 2
    (warning,) = found["warnings"]
    assert warning == "tone: 1 labels of test are not in train and count as errors: new (1)"
    assert f"note: {warning}" in result.stderr


def test_names_in_brackets_are_shown_as_they_are() -> None:
    console = Console(width=100, record=True, file=io.StringIO())
    scores = {"precision": 1.0, "recall": 1.0, "f1": 1.0, "support": 3, "accuracy": 1.0, "examples": 3}
    console.print(labels_table("tone", {"[deleted]": scores, "[/b]": scores}))
    places = {"[deleted]": {"tone": scores}, "[/x]": {"tone": scores}}
    console.print(slices_table("author", places, {"tone": "accuracy"}))
    shown = console.export_text()
    assert (shown.count("[deleted]"), shown.count("[/b]"), shown.count("[/x]")) == (2, 1, 1)


def test_a_run_is_no_file(folder: Path, invoke: Invoke, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    result = invoke("train", folder / "tasks.yaml", "--out", tmp_path / "file")
    assert (result.exit_code, "file: is a file; a run is a folder" in result.output) == (2, True), result.output


def test_predict_text_file_and_standard_input_agree(folder: Path, invoke: Invoke) -> None:
    texts = ["Anna sat in Paris.", "", "where is the dog 😀", "a\u2028b"]
    direct = invoke("predict", folder / "run", "--json", *texts)
    assert direct.exit_code == 0, direct.output
    answers = [json.loads(line) for line in direct.output.split("\n") if line]
    assert [answer["text"] for answer in answers] == texts
    source = folder / "texts.txt.gz"
    source.write_bytes(gzip.compress("\n".join(texts).encode() + b"\n"))
    output = folder / "answers.jsonl"
    result = invoke("predict", folder / "run", "--input", source, "--output", output)
    assert result.exit_code == 0, result.output
    assert [json.loads(line) for line in output.read_text(encoding="utf-8").split("\n") if line] == answers
    piped = invoke("predict", folder / "run", "--input", "-", stdin="\n".join(texts) + "\n")
    assert [json.loads(line) for line in piped.output.split("\n") if line] == answers


def test_predict_words_pairs_and_a_subset_of_tasks(folder: Path, invoke: Invoke) -> None:
    records: list[dict[str, object]] = [
        {"text": ["Anna", "sat"]},
        {"text": "where is anna", "text_pair": "anna sat in paris"},
    ]
    source = write_jsonl(folder / "mixed.jsonl", records)
    result = invoke("predict", folder / "run", "--input", source, "--tasks", "pos,answer")
    words, question = (json.loads(line) for line in result.output.split("\n") if line)
    assert words["words"] == ["Anna", "sat"]
    assert list(words["tasks"]) == ["pos"]
    assert list(question["tasks"]) == ["answer"]


def test_predict_shows_marks_tags_and_classes(folder: Path, invoke: Invoke) -> None:
    result = invoke("predict", folder / "run", "Anna sat in Paris.")
    assert result.exit_code == 0
    assert "tone: " in result.output
    assert "%" in result.output


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["predict", "RUN"], "give texts, or --input"),
        (["predict", "RUN", "--tasks", "nope", "x"], "no task 'nope'"),
        (["predict", "RUN", "--input", "FOLDER/absent.txt"], "absent.txt"),
        (["predict", "FOLDER", "x"], "not a run folder"),
        (["evaluate", "RUN", "--slices", "genre"], "--slices genre"),
        (["train", "FOLDER/absent.yaml", "--out", "FOLDER/new"], "absent.yaml"),
        (["train", "FOLDER/tasks.yaml", "--out", "FOLDER/new", "--set", "training.epoch=1"], "training.epoch"),
        (["train", "FOLDER/tasks.yaml", "--out", "FOLDER/new", "--set", "trunk.name=/absent"], "trunk"),
        (["check", "FOLDER/tasks.yaml", "--set", "tasks.pos.kind=nope"], "tasks.pos.kind"),
        (["report", "FOLDER"], "study.json"),
        (["compare", "FOLDER/tasks.yaml", "--out", "FOLDER/new", "--budget", "hours=3"], "--budget: expected trials=N"),
        (["compare", "FOLDER/tasks.yaml", "--out", "FOLDER/new", "--regimes", "lucky"], "regimes"),
        (["compare", "FOLDER/tasks.yaml", "--out", "FOLDER/new", "--support", "nope"], "'nope' is not a task"),
    ],
)
def test_a_users_mistake_is_one_message_and_exit_code_2(
    folder: Path, invoke: Invoke, arguments: list[str], complaint: str
) -> None:
    filled = [argument.replace("RUN", str(folder / "run")).replace("FOLDER", str(folder)) for argument in arguments]
    result = invoke(*filled)
    assert result.exit_code == 2, result.output
    assert complaint in result.output
    assert "Traceback" not in result.output
    assert not (folder / "new").exists(), "a refused run leaves nothing behind"


def test_a_bad_line_in_the_input_loses_nothing_already_written(folder: Path, invoke: Invoke) -> None:
    output = folder / "kept.jsonl"
    output.write_text("earlier answers\n", encoding="utf-8")
    source = folder / "bad.jsonl"
    source.write_text('{"text": "good"}\n{"text": 3}\n', encoding="utf-8")
    result = invoke("predict", folder / "run", "--input", source, "--output", output)
    assert result.exit_code == 2
    assert "bad.jsonl:2" in result.output
    assert output.read_text(encoding="utf-8") == "earlier answers\n"


def test_check_reports_every_task(folder: Path, invoke: Invoke) -> None:
    result = invoke("check", folder / "tasks.yaml")
    assert result.exit_code == 0, result.output
    for task in ("pos", "ner", "tone", "topics", "same", "likeness", "answer"):
        assert task in result.output
    assert json.loads(invoke("check", folder / "tasks.yaml", "--json").output)


def test_quickstart_needs_nothing_but_its_sample(
    tmp_path: Path, invoke: Invoke, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fakes import tiny_trunk
    from palmette import quickstart

    real = quickstart.config()
    tiny = real.model_copy(
        update={
            "trunk": real.trunk.model_copy(update={"name": str(tiny_trunk(tmp_path / "trunk", positions=512))}),
            "training": real.training.model_copy(update={"epochs": 1, "precision": "fp32"}),
        }
    )
    monkeypatch.setattr(quickstart, "config", lambda: tiny)
    result = invoke("quickstart", "--out", tmp_path / "run")
    assert result.exit_code == 0, result.output
    assert "What to type next" in result.output
    for word in ("Maria", "Kyoto", "sentiment", "test", "212"):
        assert word in result.output
