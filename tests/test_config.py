"""A configuration is read as it was meant, or refused with file, line and key path; never in part."""

from __future__ import annotations

import json
import os
import textwrap
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from palmette.config import Config, Cut, LabelField
from palmette.errors import ConfigError

GOOD = """\
trunk: {name: some/encoder, layers: 3}
tasks:
  pos: {kind: sequence_labeling, metric: accuracy}
  tone:
    kind: text_classification
    weight: 2
sources:
  - format: conllu
    train: [a.conllu, sub/b.conllu.gz]
    dev: {fraction: 0.1, group_by: doc, seed: 1}
    labels: {pos: upos, tone: comment.tone}
  - format: table
    train: t.tsv
    text: 0
    labels:
      tone: {column: 1, separator: "#"}
training: {epochs: 2}
"""


def write(folder: Path, content: str) -> Path:
    path = folder / "tasks.yaml"
    path.write_text(textwrap.dedent(content), encoding="utf-8")
    return path


def refused(folder: Path, content: str, *overrides: str) -> list[str]:
    """The lines of the error, without the folder."""
    with pytest.raises(ConfigError) as caught:
        Config.load(write(folder, content), list(overrides))
    return str(caught.value).replace(f"{folder}{os.sep}", "").splitlines()


def changed(old: str, new: str) -> str:
    assert GOOD.count(old) == 1
    return GOOD.replace(old, new)


def test_a_good_file_is_read_as_it_was_meant(tmp_path: Path) -> None:
    config = Config.load(write(tmp_path, GOOD))
    assert list(config.tasks) == ["pos", "tone"]
    assert config.tasks["tone"].weight == 2
    assert (config.trunk.name, config.trunk.layers) == ("some/encoder", 3)
    first, second = config.sources
    assert first.train == [str(tmp_path / "a.conllu"), str(tmp_path / "sub/b.conllu.gz")]
    assert first.dev == Cut(fraction=0.1, group_by="doc", seed=1)
    assert first.label_field("pos") == LabelField(column="upos")
    assert second.label_field("tone") == LabelField(column=1, separator="#")
    assert second.train == str(tmp_path / "t.tsv")
    assert config.training.epochs == 2


@pytest.mark.parametrize(
    ("old", "new", "lines"),
    [
        # unknown keys, at every depth
        ("training: {epochs: 2}", "trainings: {epochs: 2}", ["tasks.yaml:17: trainings: unknown key"]),
        ("training: {epochs: 2}", "training: {epoch: 2}", ["tasks.yaml:17: training.epoch: unknown key"]),
        ("    weight: 2", "    wait: 2", ["tasks.yaml:6: tasks.tone.wait: unknown key"]),
        ("    text: 0", "    text: 0\n    txt: 0", ["tasks.yaml:15: sources[1].txt: unknown key"]),
        ("seed: 1}", "seeds: 1}", ["tasks.yaml:10: sources[0].dev.seeds: unknown key"]),
        ("separator:", "seperator:", ["tasks.yaml:16: sources[1].labels.tone.seperator: unknown key"]),
        # wrong types and values
        (
            "epochs: 2",
            "epochs: many",
            [
                (
                    "tasks.yaml:17: training.epochs: Input should be a valid integer, "
                    "unable to parse string as an integer; found 'many'"
                )
            ],
        ),
        ("epochs: 2", "epochs: on", ["tasks.yaml:17: training.epochs: expected a number, found True"]),
        ("weight: 2", "weight: yes", ["tasks.yaml:6: tasks.tone.weight: expected a number, found True"]),
        ("layers: 3", "layers: no", ["tasks.yaml:1: trunk.layers: expected a number, found False"]),
        (
            "training: {epochs: 2}",
            "baseline: {tone: on}",
            ["tasks.yaml:17: baseline.tone: expected a number, found True"],
        ),
        ("layers: 3", "layers: 0", ["tasks.yaml:1: trunk.layers: Input should be greater than or equal to 1; found 0"]),
        (
            "fraction: 0.1",
            "fraction: 2",
            ["tasks.yaml:10: sources[0].dev.fraction: Input should be less than 1; found 2"],
        ),
        ("sub/b.conllu.gz", "3", ["tasks.yaml:9: sources[0].train[1]: Input should be a valid string; found 3"]),
        (
            "train: t.tsv",
            "train: 3",
            [("tasks.yaml:13: sources[1].train: expected a file or a list of files; found 3")],
        ),
        ("text: 0", "text: [0]", ["tasks.yaml:14: sources[1].text: expected a column's name or number"]),
        (
            "pos: upos",
            "pos: 1.5",
            [
                (
                    "tasks.yaml:11: sources[0].labels.pos: expected a column's name or number, or a mapping with "
                    "column; found 1.5"
                )
            ],
        ),
        ("{column: 1, ", "{", ["tasks.yaml:16: sources[1].labels.tone.column: required, but missing"]),
        ("    text: 0\n", "", ["tasks.yaml:12: sources[1].text: required, but missing"]),
        ("    kind: text_classification\n", "", ["tasks.yaml:4: tasks.tone.kind: required, but missing"]),
        ("training: {epochs: 2}", "training: fast", ["tasks.yaml:17: training: expected a mapping, found 'fast'"]),
        ("training: {epochs: 2}", "training:", ["tasks.yaml:17: training: expected a mapping, found None"]),
        ("{name: some/encoder, layers: 3}", "[a]", ["tasks.yaml:1: trunk: expected a mapping, found ['a']"]),
        (
            "format: table",
            "format: excel",
            [
                (
                    "tasks.yaml:12: sources[1]: format is missing or unknown; known: conllu, columns, table, jsonl, "
                    "parquet, squad, datasets"
                )
            ],
        ),
        # a whole that does not fit together
        (
            "  pos: {",
            "  lost: {kind: regression}\n  pos: {",
            ["tasks.yaml:3: tasks.lost: no source labels it"],
        ),
        (
            "pos: upos,",
            "pos: upos, ner: misc.NER,",
            ["tasks.yaml:11: sources[0].labels.ner: no task 'ner' is declared under tasks"],
        ),
        (
            "  tone:\n    kind",
            "  2tone:\n    kind",
            ["tasks.yaml:11: sources[0].labels.tone: no task 'tone' is declared under tasks"],
        ),
        (
            "train: t.tsv",
            "train: {fraction: 0.5}",
            ["tasks.yaml:13: sources[1].train: expected a file or a list of files"],
        ),
        (
            "train: t.tsv",
            "test: {fraction: 0.5}",
            ["tasks.yaml:12: sources[1]: test is cut from train, but the source has no train"],
        ),
        ("    train: t.tsv\n", "", ["tasks.yaml:12: sources[1]: a source needs at least one of train, dev, test"]),
        (
            'separator: "#"',
            "rename: {yes: up}",
            ["tasks.yaml:16: sources[1].labels.tone.rename.True: a truth value in YAML, as yes or off: use quotes"],
        ),
        (
            "{epochs: 2}",
            "{select: ner}",
            ["tasks.yaml:17: training.select: neither mean_relative nor a task: 'ner'"],
        ),
        (
            "layers: 3",
            "casing: true, frozen: true",
            [
                (
                    "tasks.yaml:1: trunk: casing: a new embedding would have to be trained, and the trunk is frozen: "
                    "leave it out"
                )
            ],
        ),
        (
            "weight: 2",
            "train_fraction: 0",
            ["tasks.yaml:6: tasks.tone.train_fraction: Input should be greater than 0; found 0"],
        ),
        (
            "training:",
            "baseline: {ner: 0.8}\ntraining:",
            ["tasks.yaml:17: baseline.ner: no task 'ner' is declared under tasks"],
        ),
        (
            "training:",
            "mixing: {kind: weights}\ntraining:",
            ["tasks.yaml:17: mixing: weights and kind: weights go together"],
        ),
        (
            "training:",
            "mixing: {kind: weights, weights: {pos: 1}}\ntraining:",
            ["tasks.yaml:17: mixing.weights: weights must name exactly the tasks; 'tone' is not in both"],
        ),
        (
            "train: t.tsv",
            "train: ${NOT_SET}/t.tsv",
            ["tasks.yaml:13: sources[1].train: ${NOT_SET}/t.tsv: the environment variable NOT_SET is not set"],
        ),
        (
            "sub/b.conllu.gz",
            "'${NOT_SET}/b.conllu.gz'",
            ["tasks.yaml:9: sources[0].train[1]: ${NOT_SET}/b.conllu.gz: the environment variable NOT_SET is not set"],
        ),
        # YAML that says something twice, or nothing
        ("    weight: 2", "    weight: 2\n    weight: 3", ["tasks.yaml:7: weight: given twice, first on line 6"]),
        ("  tone:\n", "  pos:\n", ["tasks.yaml:4: pos: given twice, first on line 3"]),
        ("train: t.tsv", "train: t.tsv\n    train: u.tsv", ["tasks.yaml:14: train: given twice, first on line 13"]),
    ],
)
def test_an_error_names_file_line_and_key_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, old: str, new: str, lines: list[str]
) -> None:
    monkeypatch.delenv("NOT_SET", raising=False)
    assert refused(tmp_path, changed(old, new)) == lines


def test_a_frozen_trunk_cannot_be_probed(tmp_path: Path) -> None:
    content = changed("layers: 3", "frozen: true").replace("epochs: 2", "probes: 2")
    assert refused(tmp_path, content) == ["tasks.yaml:17: training.probes: a frozen trunk has no gradients to compare"]


def test_several_errors_are_all_named(tmp_path: Path) -> None:
    lines = refused(tmp_path, GOOD.replace("epochs: 2", "epochs: 0, speed: 9").replace("layers: 3", "layers: x"))
    assert [line.split(": ")[0] for line in lines] == ["tasks.yaml:1", "tasks.yaml:17", "tasks.yaml:17"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("tasks: [", r"tasks\.yaml:1: not YAML|tasks\.yaml:2: not YAML"),
        ("tasks:\n  a: b: c", r"tasks\.yaml:2: not YAML: mapping values are not allowed here"),
        ("a: \x01", "not YAML"),
        ("? [a]\n: b", r"tasks\.yaml:1: not YAML"),
        ("!!python/object:os.system {}", r"tasks\.yaml:1: not YAML"),
        ("", r"tasks\.yaml:1: expected a mapping with tasks and sources, found NoneType"),
        ("- a", r"tasks\.yaml:1: expected a mapping with tasks and sources, found list"),
        ("tasks: {a: {kind: regression}}", r"tasks\.yaml:1: sources: required, but missing"),
        (
            "tasks: {a: {kind: regression}}\nsources: 5",
            r"tasks\.yaml:2: sources: Input should be a valid list; found 5",
        ),
        ("tasks: {a: {kind: regression}}\nsources: [5]", r"tasks\.yaml:2: sources\[0\]: "),
        ("tasks: 5\nsources: []", r"tasks\.yaml:1: tasks: .*\n.*tasks\.yaml:2: sources: "),
        ("1: 2", r"tasks\.yaml:1: 1: Keys should be strings; found 1"),
    ],
)
def test_what_is_no_configuration_is_one_clear_error(tmp_path: Path, content: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Config.load(write(tmp_path, content))


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"missing\.yaml: cannot be read"):
        Config.load(tmp_path / "missing.yaml")
    (tmp_path / "latin.yaml").write_bytes(b"trunk: caf\xe9")
    with pytest.raises(ConfigError, match=r"latin\.yaml: cannot be read"):
        Config.load(tmp_path / "latin.yaml")


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers(-3, 3) | st.text(max_size=3),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(["tasks", "sources", "format", "train", "labels", "kind", "trunk", "a"]),
                inner,
                max_size=4,
            )
        ),
        max_leaves=12,
    )
)
@settings(max_examples=150)
def test_any_yaml_is_read_or_refused(tmp_path_factory: pytest.TempPathFactory, data: Any) -> None:
    folder = tmp_path_factory.mktemp("any")
    path = folder / "tasks.yaml"
    path.write_text(yaml.safe_dump(data), encoding="utf-8")
    with pytest.raises(ConfigError, match=r"tasks\.yaml"):
        Config.load(path)


@pytest.mark.parametrize("text", ["a: &a [*a]\n", "tasks: " + "9" * 5000 + "\n"])
def test_yaml_that_cannot_be_built_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "tasks.yaml").write_text(text)
    with pytest.raises(ConfigError, match=r"tasks\.yaml: "):
        Config.load(tmp_path / "tasks.yaml")


def test_no_setting_is_infinite(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"training\.learning_rate"):
        Config.load(write(tmp_path, GOOD), ["training.learning_rate=.inf"])


# --- overrides ------------------------------------------------------------------------------------------------------


def test_overrides_win_and_reach_everywhere(tmp_path: Path) -> None:
    config = Config.load(
        write(tmp_path, GOOD),
        [
            "training.epochs=5",
            "training.learning_rate=1.0e-3",
            "trunk.layers=2",
            "sources.1.train=u.tsv",
            "tasks.pos.weight=0.5",
            "mixing={kind: weights, weights: {pos: 1, tone: 2}}",
            "training.epochs=6",
            "language=da",
        ],
    )
    assert (config.training.epochs, config.training.learning_rate) == (6, 1e-3)
    assert (config.trunk.name, config.trunk.layers) == ("some/encoder", 2)
    assert config.sources[1].train == str(tmp_path / "u.tsv")
    assert config.tasks["pos"].weight == 0.5
    assert config.mixing.weights == {"pos": 1, "tone": 2}
    assert config.language == "da"


@pytest.mark.parametrize(
    ("override", "line"),
    [
        ("training.epochs", "--set training.epochs: expected KEY=VALUE, e.g. training.epochs=3"),
        ("=3", "--set =3: expected KEY=VALUE, e.g. training.epochs=3"),
        ("training.epochs.deep=3", "--set training.epochs.deep=3: training.epochs is not a mapping"),
        ("sources.9.train=a", "--set sources.9.train=a: sources.9 is not a mapping"),
        ("sources.train=a", "--set sources.train=a: no such key"),
        ("training.epochs=[", "--set training.epochs=[: the value is not YAML"),
        (
            "training.epochs=few",
            (
                "--set training.epochs=few: training.epochs: Input should be a valid integer, unable to parse "
                "string as an integer; found 'few'"
            ),
        ),
        ("mixing.kinds=uniform", "--set mixing.kinds=uniform: mixing.kinds: unknown key"),
        ("sources.1.txt=a", "--set sources.1.txt=a: sources[1].txt: unknown key"),
        (
            "training={epochs: 0}",
            "--set training={epochs: 0}: training.epochs: Input should be greater than or equal to 1; found 0",
        ),
        ("sources=5", "--set sources=5: sources: Input should be a valid list; found 5"),
    ],
)
def test_an_error_of_an_override_names_the_override(tmp_path: Path, override: str, line: str) -> None:
    assert refused(tmp_path, GOOD, override) == [line]


# --- paths, trunk, round trip ---------------------------------------------------------------------------------------


def test_variables_are_expanded_and_a_caller_s_path_is_the_caller_s(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = changed("train: t.tsv", "train: '${DATA:-../shared}/${NAME:-t}.tsv'")
    monkeypatch.delenv("DATA", raising=False)
    monkeypatch.delenv("NAME", raising=False)
    assert Config.load(write(tmp_path, content)).sources[1].train == str(tmp_path / "../shared/t.tsv")
    monkeypatch.setenv("NAME", "u")
    assert Config.load(write(tmp_path, content)).sources[1].train == str(tmp_path / "../shared/u.tsv")
    monkeypatch.setenv("DATA", "here")
    assert Config.load(write(tmp_path, content)).sources[1].train == str(Path("here/u.tsv"))
    monkeypatch.setenv("DATA", "/data")
    assert Config.load(write(tmp_path, content)).sources[1].train == str(Path("/data/u.tsv"))


def test_a_trunk_is_a_name_a_mapping_or_a_folder_beside_the_file(tmp_path: Path) -> None:
    by_name = Config.load(write(tmp_path, changed("{name: some/encoder, layers: 3}", "some/encoder")))
    assert by_name.trunk.name == "some/encoder"
    assert by_name.trunk.layers is None
    assert (
        Config.load(
            write(tmp_path, changed("{name: some/encoder, layers: 3}", "some/encoder")), ["trunk.layers=2"]
        ).trunk.layers
        == 2
    )
    folder = tmp_path / "some" / "encoder"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    for trunk in ("some/encoder", "{name: some/encoder, layers: 3}"):
        config = Config.load(write(tmp_path, changed("{name: some/encoder, layers: 3}", trunk)))
        assert config.trunk.name == str(folder)
    assert config.trunk.layers == 3
    (folder / "config.json").rename(folder / "config.yaml")  # a run
    assert Config.load(write(tmp_path, GOOD)).trunk.name == str(folder)


def test_a_dataset_is_a_hub_id_unless_the_folder_is_there(tmp_path: Path) -> None:
    content = """\
        tasks: {t: {kind: regression}}
        sources: [{format: datasets, path: owner/set, train: train, text: a, labels: {t: b}}]
        """
    (source,) = Config.load(write(tmp_path, content)).sources
    assert (source.format, source.train) == ("datasets", "train")
    assert source.path == "owner/set"  # type: ignore[union-attr]
    (tmp_path / "owner" / "set").mkdir(parents=True)
    (source,) = Config.load(write(tmp_path, content)).sources
    assert source.path == str(tmp_path / "owner/set")  # type: ignore[union-attr]


FORMATS: list[dict[str, Any]] = [
    {"format": "conllu"},
    {"format": "columns", "text_column": 1, "delimiter": "whitespace", "comments": True},
    {"format": "table", "text": "a", "text_pair": 2, "quoting": False, "header": False},
    {"format": "jsonl", "text": "a.b", "pretokenized": True},
    {"format": "parquet", "text": "a"},
    {"format": "squad"},
    {"format": "datasets", "path": "owner/set", "text": "a", "config": "c"},
]


@st.composite
def configurations(draw: st.DrawFn) -> dict[str, Any]:
    tasks = draw(st.lists(st.sampled_from(["pos", "ner", "tone-2", "T_x"]), min_size=1, unique=True))
    labels = {
        task: draw(st.sampled_from(["upos", 3, {"column": 2, "separator": "#"}, {"column": "ner", "span_types": True}]))
        for task in tasks
    }
    splits = st.sampled_from(["a.txt", ["a.txt", "d/b.gz"], "caf\u00e9 \u4eac.txt", "/abs/a"])
    sources = [
        draw(st.sampled_from(FORMATS))
        | {"train": draw(splits), "labels": labels}
        | draw(st.sampled_from([{}, {"dev": "d.txt"}, {"dev": {"fraction": 0.1}}, {"test": ["t"], "license": "MIT"}]))
        for _ in range(draw(st.integers(1, 3)))
    ]
    return {
        "tasks": {
            task: {"kind": "regression", "weight": draw(st.floats(0.1, 9)), "options": {"x": [1]}} for task in tasks
        },
        "sources": sources,
        "training": {"learning_rate": draw(st.floats(1e-7, 1)), "select": draw(st.sampled_from(tasks))},
        "mixing": draw(
            st.sampled_from([{"kind": "uniform"}, {"kind": "weights", "weights": dict.fromkeys(tasks, 1.5)}])
        ),
        "trunk": draw(st.sampled_from(["some/encoder", {"name": "x", "casing": False, "max_length": 64}])),
    }


@given(configurations())
@settings(max_examples=60)
def test_what_is_dumped_is_loaded_from_anywhere(tmp_path_factory: pytest.TempPathFactory, data: dict[str, Any]) -> None:
    first, second = tmp_path_factory.mktemp("first"), tmp_path_factory.mktemp("second")
    path = first / "tasks.yaml"
    path.write_text(yaml.safe_dump(data, sort_keys=False), encoding="utf-8")
    config = Config.load(path)
    moved = second / "config.yaml"
    moved.write_text(config.dump(), encoding="utf-8")
    again = Config.load(moved)
    assert again == config
    assert again.dump() == config.dump()
    assert list(again.tasks) == list(data["tasks"])  # the order is the user's


def test_python_and_yaml_say_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    data = yaml.safe_load(GOOD)
    parsed = Config.parse(data)
    assert parsed.sources[1].train == "t.tsv"
    assert parsed.dump() == Config.load(write(tmp_path, GOOD)).dump()
    with pytest.raises(ConfigError, match=r"^training\.epochs: "):
        Config.parse(data | {"training": {"epochs": 0}})
    with pytest.raises(ConfigError, match=r"^sources\[1\]\.text: required, but missing$"):
        Config.parse(data | {"sources": [data["sources"][0], without_text(data)]})


def without_text(data: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in data["sources"][1].items() if key != "text"}


def test_settings_cannot_be_changed_after_validation(tmp_path: Path) -> None:
    config = Config.load(write(tmp_path, GOOD))
    with pytest.raises(ValueError, match="frozen"):
        config.training.epochs = 9  # type: ignore[misc]


def test_the_schema_is_json_and_knows_every_format() -> None:
    schema = json.dumps(Config.json_schema())
    for form in FORMATS:
        assert f'"const": "{form["format"]}"' in schema


def test_paths_of_an_endpoint_and_of_families_start_at_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    endpoint = "endpoint: {base_url: 'http://127.0.0.1:1/v1', model: m, token_budget: 9, cache: kept/answers.sqlite}"
    (tmp_path / "t5").mkdir()
    (tmp_path / "t5" / "config.json").touch()
    families = f"families:\n  causal_lm:\n    {endpoint}\n  text2text: {{trunk: t5}}\n"
    asked = Config.load(
        write(tmp_path, changed("trunk: {name: some/encoder, layers: 3}", f"family: causal_lm\n{endpoint}"))
    )
    study = Config.load(write(tmp_path, GOOD + families))
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    again = Config.parse(yaml.safe_load(study.dump()))
    for config in (asked, study.in_family("causal_lm"), again.in_family("causal_lm")):
        assert config.endpoint is not None
        assert config.endpoint.cache == str(tmp_path / "kept" / "answers.sqlite")
    assert study.in_family("text2text").trunk.name == again.in_family("text2text").trunk.name == str(tmp_path / "t5")
