"""The spaCy component: a Doc gets what the model says of its own tokens, from code, from a config file, from disk."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import spacy
from spacy import displacy
from spacy.tokens import Doc, Span

from conftest import Trained, train_and_keep
from fakes import WORDS, tiny_config
from palmette.config import Config, TaskConfig
from palmette.errors import RunError
from palmette.kinds import KINDS
from palmette.pipelines import make_pipeline
from palmette.run import Run
from palmette.spacy_component import Component, place_tasks

TEXT = "Anna sat in Paris.  Tom\n runs fast "


@pytest.fixture(scope="module")
def run(trained: Trained) -> Run:
    return Run.load(trained.folder)


def pipeline(path: Path, **config: Any) -> Any:
    nlp = spacy.blank("en")
    nlp.add_pipe("palmette", config={"path": str(path), **config})
    return nlp


def test_a_doc_is_filled_by_kind(trained: Trained, run: Run) -> None:
    nlp = pipeline(trained.folder)
    doc = nlp(TEXT)
    words = [token for token in doc if not token.is_space]
    (expected,) = run.predict([[token.text for token in words]])
    tasks = expected["tasks"]
    assert [token.tag_ for token in words] == tasks["pos"]["tags"]
    assert [(ent.label_, ent.text) for ent in doc.ents] == [
        (span["label"], doc[words[span["words"][0]].i : words[span["words"][1] - 1].i + 1].text)
        for span in tasks["ner"]["spans"]
    ]
    assert doc.ents
    # Two tasks give classes: the labels say whose they are.
    assert set(doc.cats) == {"tone:up", "tone:down", "topics:cat", "topics:dog", "topics:film"}
    every = make_pipeline(run, "tone", top_k=None)([[token.text for token in words]])[0]
    assert {name[5:]: score for name, score in doc.cats.items() if name.startswith("tone:")} == pytest.approx(
        {one["label"]: one["score"] for one in every}
    )


@pytest.mark.parametrize(
    "text", ["", " ", "\n\n  \n", "  anna", "anna  ", "anna \n\n paris", "tom\t\ttom", "\u200banna \xa0 paris\u3000"]
)
def test_white_space_does_not_shift_anything(trained: Trained, run: Run, text: str) -> None:
    doc = pipeline(trained.folder)(text)
    words = [token for token in doc if not token.is_space]
    tasks = run.predict([[token.text for token in words]])[0]["tasks"]
    assert [token.tag_ for token in words] == tasks["pos"]["tags"]
    assert all(token.tag_ == "_SP" for token in doc if token.is_space)
    starts = [words[span["words"][0]].idx for span in tasks["ner"]["spans"]]
    assert [ent.start_char for ent in doc.ents] == starts
    assert not any(ent[0].is_space or ent[-1].is_space for ent in doc.ents)


def test_many_docs_in_batches_are_the_same_in_order(trained: Trained) -> None:
    nlp = pipeline(trained.folder)
    texts = [f"{' '.join(WORDS[: number % 7])} anna {number}" for number in range(30)]
    for batch_size in (1, 7, 100):
        docs = list(nlp.pipe(texts, batch_size=batch_size))
        assert [doc.text for doc in docs] == texts
        for doc, text in zip(docs, texts, strict=True):
            alone = nlp(text)
            assert [token.tag_ for token in doc] == [token.tag_ for token in alone]
            assert [str(ent) for ent in doc.ents] == [str(ent) for ent in alone.ents]
            assert doc.cats == pytest.approx(alone.cats, abs=1e-5)


def test_a_batch_is_one_pass(trained: Trained, monkeypatch: pytest.MonkeyPatch) -> None:
    nlp = pipeline(trained.folder)
    component = nlp.get_pipe("palmette")
    engine, batches = component.answerer.predictor.engine, []

    def counted(batch: Any) -> Any:
        batches.append(len(batch.rows))
        return engine(batch)

    monkeypatch.setattr(component.answerer.predictor, "engine", counted)
    list(nlp.pipe(["anna sat"] * 20, batch_size=10))
    assert batches == [10, 10]


CONFIG = """
[nlp]
lang = "en"
pipeline = ["answers"]

[components]

[components.answers]
factory = "palmette"
path = "{path}"

[components.answers.tasks]
spans = ["ner"]
tag_ = "pos"
cats = "tone"
"""


def test_from_a_config_to_disk_and_back(trained: Trained, tmp_path: Path) -> None:
    path = tmp_path / "config.cfg"
    path.write_text(CONFIG.format(path=trained.folder))
    nlp = spacy.util.load_model_from_config(spacy.util.load_config(path), auto_fill=True)
    doc = nlp("Anna sat in Paris.")
    assert [span.text for span in doc.spans["ner"]]
    assert not doc.ents
    assert set(doc.cats) == {"up", "down"}
    nlp.to_disk(tmp_path / "saved")
    other = spacy.load(tmp_path / "saved")
    assert other.config["components"]["answers"]["path"] == str(trained.folder)
    assert other("Anna sat in Paris.").to_json() == doc.to_json()
    assert spacy.blank("en").from_config(nlp.config)("Anna sat in Paris.").to_json() == doc.to_json()
    moved = tmp_path / "moved"
    moved.symlink_to(trained.folder)
    again = spacy.load(tmp_path / "saved", config={"components.answers.path": str(moved)})
    assert again.config["components"]["answers"]["path"] == str(moved)


def test_displacy_draws_the_entities(trained: Trained) -> None:
    doc = pipeline(trained.folder)("Anna sat in Paris with Tom.")
    html = displacy.render(doc, style="ent", jupyter=False)
    assert doc.ents
    for ent in doc.ents:
        assert ent.label_ in html
        before, _, after = html.partition(ent.text)
        assert before.rstrip().endswith(">")
        assert "<mark" in before
        assert f">{ent.label_}<" in after
    assert html.count("<mark") == len(doc.ents)


def test_displacy_draws_spans(trained: Trained) -> None:
    doc = pipeline(trained.folder, tasks={"spans": "ner"})("Anna sat in Paris.")
    html = displacy.render(doc, style="span", jupyter=False, options={"spans_key": "ner"})
    assert all(span.label_ in html for span in doc.spans["ner"])


def test_entities_of_others_are_kept(trained: Trained) -> None:
    def nlp_with(pattern: str) -> Any:
        nlp = pipeline(trained.folder)
        nlp.add_pipe("entity_ruler", before="palmette").add_patterns([{"label": "RULE", "pattern": pattern}])
        return nlp

    text = "Anna sat in Paris"
    found = [(ent.label_, ent.text) for ent in pipeline(trained.folder)(text).ents]
    assert "Anna" in [text for _, text in found]
    beside = nlp_with("sat")(text)
    assert [(ent.label_, ent.text) for ent in beside.ents] == sorted(
        [*found, ("RULE", "sat")], key=lambda ent: text.index(ent[1])
    )
    over = nlp_with("Anna sat")(text)
    assert [(ent.label_, ent.text) for ent in over.ents] == [("RULE", "Anna sat")]
    assert [(span.label_, span.text) for span in over.spans["ner"]] == found


def kinds_of(**tasks: tuple[str, list[str], bool]) -> dict[str, Any]:
    return {
        task: KINDS[kind](
            task,
            TaskConfig(kind=kind, scheme="iob2" if task.startswith("ner") else None),
            {"labels": labels, "paired": paired, "mean": 0.0, "deviation": 1.0},
        )
        for task, (kind, labels, paired) in tasks.items()
    }


MANY = kinds_of(
    upos=("sequence_labeling", ["NOUN", "VERB"], False),
    xpos=("sequence_labeling", ["NN", "VB"], False),
    chunks=("sequence_labeling", ["NP", "VP"], False),
    ner=("sequence_labeling", ["B-PER", "I-PER", "O"], False),
    ner_fine=("sequence_labeling", ["B-PER", "I-PER", "O"], False),
    tone=("text_classification", ["up"], False),
    stars=("regression", [], False),
    same=("pair_classification", ["no", "yes"], True),
    answer=("extractive_qa", [], True),
)


def test_places_by_kind() -> None:
    assert place_tasks(MANY) == {
        "pos_": ["upos"],
        "tag_": ["xpos"],
        "ents": ["ner"],
        "spans": ["ner_fine"],
        "cats": ["tone", "stars"],
    }


@pytest.mark.parametrize(
    ("tasks", "message"),
    [
        ({"lemma_": "upos"}, r"tasks\.lemma_: not one of pos_, tag_, ents, spans, cats"),
        ({"tag_": "nonsense"}, r"tasks\.tag_: no task 'nonsense' in this model; it has upos"),
        ({"pos_": "xpos"}, r"tasks\.pos_: task 'xpos' \(sequence_labeling\) can fill tag_"),
        ({"ents": "tone"}, r"tasks\.ents: task 'tone' \(text_classification\) can fill cats"),
        ({"cats": ["same"]}, r"tasks\.cats: task 'same' \(pair_classification\) can fill nothing of a Doc"),
        ({"ents": ["ner", "ner_fine"]}, r"tasks\.ents: expected one task, found ner, ner_fine"),
        ({"tag_": []}, r"tasks\.tag_: expected one task, found none"),
    ],
)
def test_what_does_not_fit_is_refused(tasks: Any, message: str) -> None:
    with pytest.raises(RunError, match=message):
        place_tasks(MANY, tasks)


def test_universal_tags_fill_pos(tmp_path: Path) -> None:
    """A model whose plain tags are Universal POS, and one that finds spans twice."""
    data = tiny_config(tmp_path, epochs=1)
    source = data["sources"][0]
    for split in ("train", "dev", "test"):
        path = Path(source[split])
        path.write_text(path.read_text().replace('"N"', '"NOUN"').replace('"D"', '"DET"'))
    data["tasks"] = {"pos": {"kind": "sequence_labeling"}} | {
        name: {"kind": "sequence_labeling", "scheme": "iob2"} for name in ("ner", "names")
    }
    data["sources"] = [source | {"labels": {"pos": "pos", "ner": "ner", "names": "ner"}}]
    kept = train_and_keep(Config.parse(data), tmp_path / "run")
    doc = pipeline(kept.folder)("anna sat  in paris")
    assert {token.pos_ for token in doc if not token.is_space} <= {"NOUN", "DET"}
    assert [token.pos_ for token in doc if token.is_space] == ["SPACE"]
    assert not any(token.tag_ for token in doc)
    assert "names" in doc.spans
    assert "ner" not in doc.spans


def test_a_model_without_a_fitting_task_leaves_docs_as_they_are(run: Run) -> None:
    doc = spacy.blank("en")("Anna sat.")
    assert Component(run, {})(doc) is doc
    assert not doc.ents
    assert not doc.cats


def test_the_same_doc_may_be_filled_again(trained: Trained) -> None:
    nlp = pipeline(trained.folder)
    doc = nlp("Anna sat in Paris")
    before = doc.to_json()
    again = Doc(nlp.vocab, words=[token.text for token in doc], spaces=[bool(token.whitespace_) for token in doc])
    again.ents = [Span(again, ent.start, ent.end, label=ent.label_) for ent in doc.ents]
    assert [ent.text for ent in nlp.get_pipe("palmette")(again).ents] == [ent.text for ent in doc.ents]
    assert nlp(nlp.make_doc("Anna sat in Paris")).to_json() == before


def test_a_path_that_is_no_model(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="is not a run folder"):
        pipeline(tmp_path)


@pytest.mark.parametrize("first", ["", "import palmette.spacy_component; "])
def test_spacy_finds_the_component_by_its_entry_point(trained: Trained, tmp_path: Path, first: str) -> None:
    """As installed: nobody but spaCy need import the component."""
    declared = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())
    points = declared["project"]["entry-points"]["spacy_factories"]
    information = tmp_path / "palmette_spacy-1.0.dist-info"
    information.mkdir()
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: palmette-spacy\nVersion: 1.0\n")
    lines = [f"{name} = {target}\n" for name, target in points.items()]
    (information / "entry_points.txt").write_text("".join(["[spacy_factories]\n", *lines]))
    code = (
        f"import spacy, sys; assert 'palmette' not in sys.modules; {first}nlp = spacy.blank('en'); "
        "nlp.add_pipe('palmette', config={'path': sys.argv[1]}); print(nlp('Anna sat')[0].tag_)"
    )
    path = os.pathsep.join([str(tmp_path), os.environ["PYTHONPATH"]])
    done = subprocess.run(
        [sys.executable, "-c", code, str(trained.folder)],
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() in ("N", "D")


def test_without_spacy_the_extra_is_named() -> None:
    code = "import sys; sys.modules['spacy'] = None; import palmette.spacy_component"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "spacy is not installed: pip install 'palmette[spacy]'" in done.stderr
