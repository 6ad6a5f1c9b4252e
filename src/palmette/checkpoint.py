"""The run folder on disk: written whole or not at all, and nothing in it is pickled."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from palmette.alarms import Floats, State
from palmette.config import Config
from palmette.errors import ConfigError, RunError
from palmette.kinds import AnyKind, find_kind

_BEST = "best.safetensors"


@dataclass(frozen=True)
class RunFolder:
    """Names of everything in a run folder."""

    path: Path

    @property
    def config(self) -> Path:
        """The resolved configuration."""
        return self.path / "config.yaml"

    @property
    def weights(self) -> Path:
        """The selected model."""
        return self.path / "model.safetensors"

    @property
    def labels(self) -> Path:
        """Kind and state of each task."""
        return self.path / "labels.json"

    @property
    def history(self) -> Path:
        """A JSON line for each logging step, evaluation and epoch."""
        return self.path / "history.jsonl"

    @property
    def metrics(self) -> Path:
        """{split: {task: {metric: value, "examples": n}}} of the selected model."""
        return self.path / "metrics.json"

    @property
    def data(self) -> Path:
        """What was read, fused, withheld and repaired."""
        return self.path / "data.json"

    @property
    def prompted(self) -> Path:
        """What a language model was asked and what it cost; instead of weights, where nothing was trained."""
        return self.path / "prompted.json"

    @property
    def answers(self) -> Path:
        """What a remote model answered and the tokens spent on it, unless `endpoint.cache` names another file."""
        return self.path / "answers.sqlite"

    @property
    def checkpoints(self) -> Path:
        """What --resume starts from, and the evaluated candidates."""
        return self.path / "checkpoints"

    def candidate(self, update: int) -> Path:
        """The weights that were evaluated after an update."""
        return self.checkpoints / f"candidate-{update:07d}.safetensors"

    @property
    def complete(self) -> bool:
        """Whether training ended and a model was selected."""
        return self.weights.exists() or self.prompted.exists()


def write_atomically(path: Path, content: str) -> None:
    """Write a text file so that a reader sees the old one or the new one, whenever the process dies."""
    temporary = path.with_name(f".{path.name}.tmp")
    with temporary.open("w", encoding="utf-8", newline="\n") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def save_tensors(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Write tensors to a safetensors file, whole or not at all."""
    temporary = path.with_name(f".{path.name}.tmp")
    save_file({name: tensor.detach().contiguous().cpu() for name, tensor in tensors.items()}, temporary)
    _flush(temporary)
    temporary.replace(path)


def own_tensors(model: nn.Module) -> dict[str, Tensor]:
    """A model's state, each tensor under one name only: tied ones are stored once."""
    state = model.state_dict()
    ties = _ties(state)
    return {name: tensor for name, tensor in state.items() if name not in ties}


def _ties(state: Mapping[str, Tensor]) -> dict[str, str]:
    """The names of a state whose tensor is another one's: {name: the first name of the same tensor}."""
    first: dict[tuple[int, tuple[int, ...]], str] = {}
    ties = {}
    for name, tensor in state.items():
        owner = first.setdefault((tensor.data_ptr(), tuple(tensor.shape)), name) if tensor.numel() else name
        if owner != name:
            ties[name] = owner
    return ties


def write_labels(kinds: Mapping[str, AnyKind], folder: RunFolder) -> None:
    """Write each task's kind and state."""
    content = {"version": 1, "tasks": {task: {"kind": kind.config.kind, **kind.state} for task, kind in kinds.items()}}
    write_atomically(folder.labels, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def read_labels(config: Config, folder: RunFolder) -> dict[str, AnyKind]:
    """The kinds of a run, as they were fitted."""
    content = json.loads(folder.labels.read_text(encoding="utf-8"))["tasks"]
    kinds = {}
    for task, declared in config.tasks.items():
        state = {key: value for key, value in content[task].items() if key != "kind"}
        kinds[task] = find_kind(declared.kind)(task, declared, state)
    return kinds


def load_weights(model: nn.Module, path: Path) -> None:
    """Load a safetensors file into a model, every tensor of both accounted for.

    Raises:
        RunError: the file is damaged or is of another model.
    """
    try:
        stored = load_file(path)
        ties = _ties(model.state_dict())
        model.load_state_dict(stored | {name: stored[owner] for name, owner in ties.items() if owner in stored})
    except (SafetensorError, RuntimeError, OSError) as error:
        raise RunError(f"{path}: does not hold this model's weights: {error}") from error


def is_run(folder: Path, description: str) -> bool:
    """Whether a folder is a run of a model that writes, whose trunk.json has this description."""
    if not (folder / "config.yaml").is_file() or (folder / "config.json").exists():
        return False
    try:
        return description in json.loads((folder / "trunk.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False


def load_heads(model: nn.Module, kinds: Mapping[str, AnyKind], path: str | Path) -> None:
    """Start a model's heads from those of a finished run; the head of a task that the run does not have stays new.

    Raises:
        ConfigError: it is no finished run, or a task of it had other labels (or another scale) or is of another kind.
    """
    folder = RunFolder(Path(path))
    try:
        states = json.loads(folder.labels.read_text(encoding="utf-8"))["tasks"]
        stored = load_file(folder.weights)
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise ConfigError(f"trunk.heads: kept needs a finished run as trunk.name, found {path}: {error}") from error
    own = model.state_dict()
    for task, kind in kinds.items():
        if task not in states:
            continue
        if states[task] != {"kind": kind.config.kind, **kind.state}:
            raise ConfigError(
                f"trunk.heads: task {task} has other labels, another scale or another kind in {path}: heads: new"
            )
        prefix = f"heads.task_{task}."
        found = {name: tensor for name, tensor in stored.items() if name.startswith(prefix)}
        if {name: t.shape for name, t in own.items() if name.startswith(prefix)} != {
            n: t.shape for n, t in found.items()
        }:
            raise ConfigError(f"trunk.heads: {path} does not hold a head of task {task} that fits: heads: new")
        model.load_state_dict(found, strict=False)


@dataclass(frozen=True)
class Progress:
    """Where a run stands between two updates.

    Attributes:
        update: updates done.
        history_bytes: length of history.jsonl then; what was written later is done again.
        evaluations: (update, {task: metric}) of each evaluation so far.
        alarms: what the alarms remember.
        best: parts [examples, parts] of each task's best evaluation, for the alarms.
    """

    update: int
    history_bytes: int
    evaluations: list[tuple[int, dict[str, float]]]
    alarms: State
    best: Mapping[str, Floats]


def save_progress(
    folder: RunFolder,
    progress: Progress,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    *,
    rank: int,
    wait: Any,
) -> None:
    """Write a checkpoint that training continues from bit for bit; the previous one goes only when this is whole.

    Args:
        folder: the run.
        progress: where it stands.
        model: unwrapped.
        optimizer: its moments are stored by parameter name.
        rank: this process; each stores its own random state, the first one everything else.
        wait: called to let all processes arrive.
    """
    final = folder.checkpoints / f"update-{progress.update:07d}"
    temporary = folder.checkpoints / f".update-{progress.update:07d}.tmp"
    if rank == 0:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
    wait()
    save_file(_random_state(), temporary / f"random-{rank}.safetensors")
    if rank == 0:
        save_file(
            {k: v.detach().contiguous().cpu() for k, v in own_tensors(model).items()}, temporary / "model.safetensors"
        )
        save_file(_moments(model, optimizer), temporary / "optimizer.safetensors")
        state = {
            "update": progress.update,
            "history_bytes": progress.history_bytes,
            "evaluations": progress.evaluations,
            "alarms": asdict(progress.alarms),
        }
        save_file({task: torch.from_numpy(parts) for task, parts in progress.best.items()}, temporary / _BEST)
        (temporary / "progress.json").write_text(json.dumps(state) + "\n", encoding="utf-8")
    wait()
    if rank == 0:
        for file in temporary.iterdir():
            _flush(file)
        if final.exists():  # an earlier life of this run came this far
            shutil.rmtree(final)
        temporary.rename(final)
        _flush(folder.checkpoints)
        for other in folder.checkpoints.glob("*update-*"):
            if other != final:
                shutil.rmtree(other)
    wait()


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def latest_progress(folder: RunFolder) -> Path | None:
    """The newest whole checkpoint."""
    found = sorted(folder.checkpoints.glob("update-*"))
    return found[-1] if found else None


def load_progress(
    checkpoint: Path,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    *,
    rank: int,
    processes: int,
) -> Progress:
    """Put a checkpoint back: weights, moments and this process's random state. -> where it stands.

    Raises:
        RunError: it is damaged, or was written by another number of processes.
    """
    states = len(list(checkpoint.glob("random-*.safetensors")))
    if states != processes:
        raise RunError(f"{checkpoint}: was written by {states} processes; resume it with as many, not {processes}")
    state = json.loads((checkpoint / "progress.json").read_text(encoding="utf-8"))
    load_weights(model, checkpoint / "model.safetensors")
    moments = load_file(checkpoint / "optimizer.safetensors")
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            prefix = f"{names[id(parameter)]}/"
            own = {k.removeprefix(prefix): v for k, v in moments.items() if k.startswith(prefix)}
            if own:
                # Fused AdamW wants its step counts on the device too.
                optimizer.state[parameter] = {key: value.to(parameter.device) for key, value in own.items()}
    _set_random_state(load_file(checkpoint / f"random-{rank}.safetensors"))
    evaluations = [(int(update), dict(values)) for update, values in state["evaluations"]]
    best = {task: parts.numpy() for task, parts in load_file(checkpoint / _BEST).items()}
    return Progress(state["update"], state["history_bytes"], evaluations, State.parse(state["alarms"]), best)


def _moments(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return {
        f"{names[id(parameter)]}/{key}": value.detach().contiguous().cpu()
        for parameter, state in optimizer.state.items()
        for key, value in state.items()
    }


def _random_state() -> dict[str, Tensor]:
    state = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def _set_random_state(state: Mapping[str, Tensor]) -> None:
    torch.set_rng_state(state["cpu"])
    if "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"])
