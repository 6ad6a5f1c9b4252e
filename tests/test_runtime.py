"""A bundle answers as its run does, for every kind and any input, without torch."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import palmette
from conftest import Trained
from fakes import ALL_TASKS, WORDS
from palmette.batching import Batch
from palmette.errors import RunError
from palmette.predictor import Input
from palmette.run import Run
from palmette.runtime import EMBEDDINGS, Runtime, output_name
from palmette.types import Prediction

LONG = [WORDS[number % len(WORDS)] for number in range(300)]

AWKWARD: list[Input] = [
    "",
    " ",
    [],
    [""],
    "Anna sat in Paris.",
    "😀 Anna 👩‍👩‍👧‍👦 in 🇫🇷 Paris ❤️",
    "Zoë e\u0301te\u0301 Å ﬁ n\u0303",
    "آنا في باريس שלום עולם",
    "\u202eAnna\u202c in \u200bParis\ufeff",
    "x" * 100_000,
    "\x00\x01 Anna \ud83d",
    "安娜在巴黎。",
    " ".join(LONG),
    LONG,
    ["don't", "New York", "…"],
    ("where is anna", "anna sat in paris 3"),
    ("", ""),
    ("wo 😀", "آنا في باريس 😀 anna"),
    ("where is tom", " ".join([*LONG, "tom", "is", "in", "london"])),
    (LONG, LONG),
]


@pytest.fixture(scope="module")
def runtime(bundled: Path) -> Runtime:
    loaded = palmette.load(bundled)
    assert isinstance(loaded, Runtime)
    return loaded


@pytest.fixture(scope="module")
def run(trained: Trained, runtime: Runtime) -> Run:
    """The run, with the calibration that its export found: a run by itself is as sure as the model is."""
    loaded = Run.load(trained.folder)
    predictor: Any = loaded.predictor
    loaded.kinds.update(runtime.kinds)
    predictor.kinds = loaded.kinds
    return loaded


def assert_same(one: Prediction, other: Prediction) -> None:
    if isinstance(one.label, float):
        assert one.label == pytest.approx(other.label, abs=1e-4)
        assert math.isnan(float(other.confidence))  # type: ignore[arg-type]
        return
    assert one.label == other.label
    assert one.confidence == pytest.approx(other.confidence, abs=1e-4)


@pytest.mark.parametrize("task", ALL_TASKS)
def test_it_answers_as_the_run_does(trained: Trained, run: Run, runtime: Runtime, task: str) -> None:
    examples = [run.predictor.example(given) for given in AWKWARD] + trained.loop.corpus.splits["test"]
    assert [runtime.predictor.example(given) for given in AWKWARD] == examples[: len(AWKWARD)]
    answered = 0
    for one, other in zip(run.answer(examples, [task]), runtime.answer(examples, [task]), strict=True):
        assert one.keys() == other.keys()
        for name in one:
            assert_same(one[name], other[name])
            answered += 1
    assert answered > 20


def test_rendered_answers_are_the_runs(run: Run, runtime: Runtime) -> None:
    """As a caller sees them, up to the fourth digit of a confidence."""
    for one, other in zip(run.predict(AWKWARD), runtime.predict(AWKWARD), strict=True):
        assert rounded(one) == rounded(other)


def test_explanations_are_the_runs(run: Run, runtime: Runtime) -> None:
    inputs: list[Input] = ["Anna sat in Paris.", ("where is anna", "anna sat in paris 3")]
    for one, other in zip(run.predict(inputs, explain=True), runtime.predict(inputs, explain=True), strict=True):
        assert rounded(one) == rounded(other)
    assert any("explanation" in found for found in runtime.predict(inputs[1], explain=True)["tasks"].values())


def rounded(found: Any) -> Any:
    if isinstance(found, float):
        return pytest.approx(found, abs=2e-4)
    if isinstance(found, dict):
        return {key: rounded(value) for key, value in found.items()}
    return [rounded(value) for value in found] if isinstance(found, list) else found


def test_only_the_heads_that_are_asked_for_are_computed(bundled: Path) -> None:
    runtime = Runtime.load(bundled)
    asked: list[set[str]] = []
    engine = runtime.predictor.engine

    def watched(batch: Batch) -> Any:
        found = engine(batch)
        asked.append(set(found))
        return found

    runtime.predictor.engine = watched
    runtime.predict("Anna sat in Paris.", tasks=["tone"])
    runtime.predict(["Anna sat in Paris.", ("where is anna", "in paris")], tasks=["tone", "answer"])
    assert asked == [{"tone"}, {"tone", "answer"}]


def test_a_head_that_is_not_asked_for_costs_nothing(bundled: Path, tmp_path: Path) -> None:
    """ONNX Runtime runs every node: those of a head that is not asked for must have nothing to compute."""
    import onnxruntime

    from palmette.deploy.bundle import GRAPH
    from palmette.runtime import onnx_engine

    def ran(tasks: list[str]) -> int:
        options = onnxruntime.SessionOptions()
        options.enable_profiling, options.profile_file_prefix = True, str(tmp_path / "profile")
        session = onnxruntime.InferenceSession((bundled / GRAPH).read_bytes(), options)
        runtime = Runtime.load(bundled)
        runtime.predictor.engine = onnx_engine(session)
        runtime.predict("Anna sat in Paris.", tasks=tasks)
        events = json.loads(Path(session.end_profiling()).read_text())
        kernels = [event["args"] for event in events if event.get("name", "").endswith("kernel_time")]
        return sum(int(found["output_size"]) for found in kernels)

    assert ran(["tone"]) < ran(["tone", "topics"]) < ran(["tone", "topics", "pos", "ner"])


def test_threads_do_not_change_answers(bundled: Path) -> None:
    one, two = (Runtime.load(bundled, threads=threads).predict("Anna sat in Paris.") for threads in (1, 2))
    assert rounded(one) == rounded(two)


def test_divided_it_answers_the_same_for_several_at_once(runtime: Runtime) -> None:
    beside = Runtime.load(runtime.bundle.folder, threads=2).predictor.divided(2)
    assert beside is not None
    examples = [beside.example(given) for given in AWKWARD]
    expected = runtime.answer(examples)
    with ThreadPoolExecutor(4) as pool:
        predictors = [beside, runtime.predictor] * 4
        for answers in pool.map(lambda predictor: predictor.answer(examples), predictors):
            for found, wanted in zip(answers, expected, strict=True):
                assert found.keys() == wanted.keys()
                for task, prediction in wanted.items():
                    assert_same(found[task], prediction)


@pytest.mark.parametrize(("threads", "parts"), [(1, 2), (2, 3), (2, 1)])
def test_threads_that_are_too_few_are_not_divided(bundled: Path, threads: int, parts: int) -> None:
    assert Runtime.load(bundled, threads=threads).predictor.divided(parts) is None


def test_a_run_is_not_divided(run: Run) -> None:
    assert run.predictor.divided(2) is None


def test_an_unknown_task_is_named(runtime: Runtime) -> None:
    with pytest.raises(RunError, match="no task 'parse' in this model"):
        runtime.predict("tom", tasks=["parse"])


def test_outputs_are_named_after_tasks(runtime: Runtime) -> None:
    assert [found.name for found in runtime.session.get_outputs()] == [
        *map(output_name, ALL_TASKS),
        EMBEDDINGS,
    ]


_WITHOUT = """
import json
import sys

class Forbidden:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {forbidden}:
            raise ImportError("must not be imported: " + name)

sys.meta_path.insert(0, Forbidden())
import palmette

model = palmette.load(sys.argv[1])
print(json.dumps(model.predict("Anna sat in Paris.")))
"""


def test_it_imports_neither_torch_nor_transformers(bundled: Path, runtime: Runtime) -> None:
    forbidden = {
        "torch",
        "spacy",
        "transformers",
        "accelerate",
        "safetensors",
        "sklearn",
        "scipy",
        "datasets",
        "pyarrow",
        "onnx",
    }
    done = subprocess.run(
        [sys.executable, "-c", _WITHOUT.replace("{forbidden}", repr(forbidden)), str(bundled)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == rounded(runtime.predict("Anna sat in Paris."))
