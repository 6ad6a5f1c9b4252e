"""The two models of a gate: a bundle or a run folder each."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import palmette
from palmette.answering import Answerer
from palmette.config import Config
from palmette.deploy.bundle import is_bundle
from palmette.errors import RunError

if TYPE_CHECKING:
    from palmette.run import Run

# What of a run folder answers; the rest is its history.
_ANSWERING = ("model.safetensors", "tokenizer.json", "trunk.json", "labels.json", "config.yaml")


@dataclass(frozen=True)
class Side:
    """A model.

    Attributes:
        path: its folder.
        model: what answers.
        about: form, precision, digest, bytes, tasks: as JSON.
        config: of a run, its own; a bundle's names its data without their place.
    """

    path: Path
    model: Answerer
    about: dict[str, Any]
    config: Config | None

    @classmethod
    def load(cls, path: str | Path, *, threads: int | None = None) -> Side:
        """Load a bundle or a run.

        Raises:
            BundleError, RunError: it is neither, or damaged.
        """
        folder = Path(path)
        model: Any = palmette.load(folder, threads=threads)
        tasks = {task: kind.config.kind for task, kind in model.kinds.items()}
        if is_bundle(folder):
            about = {"form": "bundle", "precision": model.bundle.manifest["precision"], "digest": model.bundle.digest}
            return cls(folder, model, {**about, "bytes": model.bundle.bytes, "tasks": tasks}, None)
        about = {"form": "run", "precision": model.config.training.precision, "digest": _digest(folder)}
        return cls(folder, model, {**about, "bytes": _bytes(model), "tasks": tasks}, model.config)


def _bytes(run: Run) -> int:
    return sum((run.folder.path / name).stat().st_size for name in _ANSWERING if (run.folder.path / name).exists())


def _digest(folder: Path) -> str:
    weights = folder / "model.safetensors"
    if not weights.exists():  # a remote model, or one that was not trained
        return hashlib.sha256((folder / "config.yaml").read_bytes()).hexdigest()
    with weights.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def data_config(old: Side, new: Side, given: Path | None) -> Config:
    """Where the labelled data are: as given, else those of the new run, else those of the old one.

    Raises:
        RunError: none says so.
        ConfigError: the file is no configuration.
    """
    if given is not None:
        return Config.load(given)
    config = new.config or old.config
    if config is None:
        raise RunError(
            f"{new.path}: a bundle does not know where its data lie: --data CONFIG (the one it was trained with)"
        )
    return config
