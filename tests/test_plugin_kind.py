"""A kind from another package: a subclass and an entry point, and nothing of Palmette is touched."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

import palmette
from fakes import tiny_trunk, write_jsonl
from palmette.config import Config
from palmette.errors import ConfigError, ReadError
from palmette.kinds import find_kind

# What a user writes: grades in an order, learned as "is it above grade k?" for every k (Frank & Hall 2001).
MODULE = '''
"""Ordinal classification for Palmette."""

import numpy as np

from palmette.kinds import Kind
from palmette.kinds.base import LabelError, expect_string, share
from palmette.types import Prediction


class Ordinal(Kind):
    inputs = "text"
    metrics = ("within_one", "accuracy")
    settings = frozenset({"options"})

    @classmethod
    def parse(cls, raw, config, example):
        grade = expect_string(raw)
        if grade not in config.options["order"]:
            raise LabelError(f"{grade!r} is not one of {config.options['order']}")
        return grade

    @classmethod
    def fit(cls, labels):
        return {"seen": sorted(set(labels))}

    @property
    def order(self):
        return self.config.options["order"]

    def targets(self, label, row, spans):
        above = np.arange(len(self.order) - 1) < self.order.index(label)
        return {"target": above[None].astype(np.float32), "weight": share(row)}

    def head(self, width, dropout):
        from palmette.heads import TextHead

        return TextHead(width, len(self.order) - 1, dropout=dropout)

    def loss(self, outputs, targets):
        from torch.nn.functional import binary_cross_entropy_with_logits

        losses = binary_cross_entropy_with_logits(outputs.float(), targets["target"], reduction="none").sum(-1)
        return (losses * targets["weight"]).sum()

    def decode(self, windows, example, spans):
        logits = np.concatenate([outputs for _, outputs in windows]).mean(axis=0)
        above = 1 / (1 + np.exp(-logits.astype(np.float64)))
        return Prediction(self.order[int((above > 0.5).sum())], float(np.maximum(above, 1 - above).min()))

    def score(self, gold, predicted):
        steps = [abs(self.order.index(g) - self.order.index(p)) for g, p in zip(gold, predicted, strict=True)]
        return {
            "within_one": float(np.mean([s <= 1 for s in steps])),
            "accuracy": float(np.mean([s == 0 for s in steps])),
        }

    def render(self, prediction, example):
        return {"grade": prediction.label, "confidence": round(prediction.confidence, 4)}


NOT_A_KIND = object()
'''

GRADES = ["awful", "bad", "good", "great"]


@pytest.fixture
def distribution(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Installs a package, as far as Python can tell."""
    site = tmp_path / "site"
    information = site / "palmette_ordinal-1.0.dist-info"
    information.mkdir(parents=True)
    (site / "palmette_ordinal.py").write_text(MODULE)
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: palmette-ordinal\nVersion: 1.0\n")
    (information / "entry_points.txt").write_text(
        "[palmette.kinds]\nordinal = palmette_ordinal:Ordinal\nbroken = palmette_ordinal:NOT_A_KIND\n"
    )
    monkeypatch.syspath_prepend(site)
    find_kind.cache_clear()
    yield
    find_kind.cache_clear()
    sys.modules.pop("palmette_ordinal", None)


def config_of(folder: Path, *, kind: str = "ordinal", grades: list[str] | None = None) -> dict[str, Any]:
    """Texts that contain their grade, at times one so long that it is windowed."""
    texts = [
        {"text": f"the film is {grade} {'and ' * (80 if number % 8 == 0 else number % 3)}", "grade": grade}
        for number, grade in enumerate((grades or GRADES) * 10)
    ]
    files = {split: write_jsonl(folder / f"{split}.jsonl", texts) for split in ("train", "dev", "test")}
    return {
        "trunk": str(tiny_trunk(folder / "trunk")),
        "tasks": {
            "grade": {"kind": kind, "metric": "accuracy", "options": {"order": GRADES}},
            "tone": {"kind": "text_classification"},
        },
        "sources": [{"format": "jsonl", **files, "text": "text", "labels": {"grade": "grade", "tone": "grade"}}],
        "training": {"epochs": 12, "learning_rate": 3e-3, "head_learning_rate": 1e-2, "precision": "fp32"}
        | {"batch_tokens": 256},
        "withhold_leaks": False,
    }


@pytest.mark.usefixtures("distribution")
class TestOrdinal:
    def test_it_is_trained_measured_saved_loaded_and_predicted(self, tmp_path: Path) -> None:
        path = tmp_path / "tasks.yaml"
        path.write_text(yaml.safe_dump(config_of(tmp_path)))
        run = palmette.train(path, tmp_path / "run")
        stored = json.loads((tmp_path / "run" / "metrics.json").read_text())["test"]["grade"]
        assert stored.keys() == {"within_one", "accuracy", "examples"}
        assert stored["accuracy"] > 0.4  # a guess is right once in four
        assert run.evaluate("test")["tasks"]["grade"] == stored
        labels = json.loads((tmp_path / "run" / "labels.json").read_text())["tasks"]["grade"]
        assert labels == {"kind": "ordinal", "seen": sorted(GRADES), "paired": False}
        texts = ["the film is great", "the film is awful", "", "the film is bad " * 60]
        answers = run.predict(texts)
        assert answers == palmette.load(tmp_path / "run").predict(texts)
        assert all(answer["tasks"]["grade"]["grade"] in GRADES for answer in answers)

    def test_its_label_errors_name_file_and_line(self, tmp_path: Path) -> None:
        data = config_of(tmp_path, grades=[*GRADES, "so-so"])
        with pytest.raises(ReadError, match=r"train\.jsonl:5: task grade: 'so-so' is not one of"):
            palmette.train(data, tmp_path / "run")
        assert not (tmp_path / "run").exists()

    def test_its_metrics_are_checked(self, tmp_path: Path) -> None:
        data = config_of(tmp_path)
        data["tasks"]["grade"]["metric"] = "span_f1"
        with pytest.raises(ConfigError, match=r"tasks\.grade\.metric: 'span_f1' is not one of within_one, accuracy"):
            palmette.train(data, tmp_path / "run")

    def test_an_entry_point_that_is_no_kind(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match=r"tasks\.grade\.kind: .*NOT_A_KIND is not a subclass"):
            palmette.train(config_of(tmp_path, kind="broken"), tmp_path / "run")


def test_without_the_package_the_kind_is_unknown(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"tasks\.grade\.kind: 'ordinal' is not one of sequence_labeling"):
        palmette.train(Config.parse(config_of(tmp_path)), tmp_path / "run")
