"""The model that is being served, with what the API says about it."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from palmette import __version__
from palmette.answering import Answerer
from palmette.kinds import AnyKind
from palmette.predictor import AnyPredictor
from palmette.types import Example, Text

# What of a run folder makes its answers; history, metrics and checkpoints do not.
_PARTS = ("config.yaml", "labels.json", "model.safetensors", "tokenizer.json", "trunk.json")


@dataclass(frozen=True, eq=False)
class Served:
    """An answerer and its description. A request keeps the one it was accepted for to its end.

    Attributes:
        answerer: the model.
        manifest: the bundle's, or the like of it for a run.
        digest: names the model in answers: the manifest's sha256.
        card: the model card, markdown; empty for a run.
        beside: answers for a worker beside which others answer (`AnyPredictor.divided`); None: as for one alone.
    """

    answerer: Answerer
    manifest: dict[str, Any]
    digest: str
    card: str
    beside: AnyPredictor | None = None

    @classmethod
    def of(cls, answerer: Answerer, path: Path, *, workers: int = 1) -> Served:
        """Describe a model that was loaded from a path, and see that it answers.

        The first answer of a model is slow (word rules are read, buffers made): no caller shall wait for it, and a
        model that fails here must not replace one that works.

        Args:
            answerer: the model.
            path: where it was loaded from.
            workers: that are to answer with it at the same time.
        """
        bundle = getattr(answerer, "bundle", None)
        if bundle is not None:
            manifest, digest, card = dict(bundle.manifest), str(bundle.digest), str(bundle.card)
        else:
            manifest = _describe(answerer, path)
            digest, card = hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest(), ""
        answerer.predict(["a", ("a", "a")])
        beside = answerer.predictor.divided(workers)
        if beside is not None:
            beside.answer([beside.example("a"), beside.example(("a", "a"))])
        return cls(answerer, manifest, digest, card, beside)

    def predictor(self, *, alone: bool) -> AnyPredictor:
        """What answers, for a worker beside which no other one does, or some."""
        return self.answerer.predictor if alone or self.beside is None else self.beside

    @property
    def kinds(self) -> dict[str, AnyKind]:
        """Its tasks."""
        return self.answerer.kinds

    def takes(self, task: str, *, pair: bool) -> bool:
        """Whether a task answers pairs, or single texts."""
        return self.kinds[task].takes(_PAIR if pair else _SINGLE)

    def tasks(self, *, by_writer: bool = False) -> dict[str, Any]:
        """Its tasks as `GET /v1/tasks` shows them."""
        return {
            task: {
                "kind": kind.config.kind,
                "inputs": kind.inputs,
                "metric": kind.metric,
                "labels": list(kind.labels),
                "paired": kind.state.get("paired"),
                "by_writer": by_writer,
            }
            for task, kind in self.kinds.items()
        }


_SINGLE = Example(Text(()), {})
_PAIR = Example(Text(()), {}, pair=Text(()))


def _describe(answerer: Answerer, path: Path) -> dict[str, Any]:
    """The manifest of a run: the same keys as a bundle's, but for the time it was made."""
    return {
        "format": 1,
        "palmette": __version__,
        "tasks": list(answerer.kinds),
        "files": digests(path),
    }


def digests(path: Path) -> dict[str, str]:
    """The sha256 of each file of a run folder that makes its answers."""
    files = [path / name for name in _PARTS]
    return {file.name: _sha256(file) for file in files if file.exists()}


def _sha256(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()
