"""Adapters of a language model: low-rank additions to its layers that learn, while its own weights stay as they are.

Hu et al. 2022, "LoRA: Low-Rank Adaptation of Large Language Models" (ICLR); the layers are PEFT's. A run folder holds
the adapters only, and which model they belong to.
"""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from palmette import checkpoint
from palmette.config import Config
from palmette.errors import ConfigError, MissingExtraError, RunError

if TYPE_CHECKING:
    from palmette.writing.language_model import LanguageModel

_DESCRIPTION = "trunk.json"
_SHARED = "shared"  # no task's adapter is called so: they begin with task_


class Adapted(nn.Module):
    """A language model with adapters. Its state is theirs alone.

    Args:
        network: a causal model of transformers. It gets the adapters as well: whoever holds it computes with the one
            in use.
        config: whose `lora` says what they are like.
        tasks: that they are for.

    Raises:
        MissingExtraError: PEFT is not installed.
        ConfigError: the model has no such layers.
    """

    def __init__(self, network: Any, config: Config, tasks: Iterable[str]) -> None:
        super().__init__()
        try:
            import peft
        except ImportError as error:
            raise MissingExtraError("peft", "text") from error
        if config.lora is None:
            raise ValueError("no adapters are configured")
        settings = config.lora
        _check_layers(network, config)
        own = {id(parameter) for parameter in network.parameters()}
        self._adapter_of = {task: f"task_{task}" if settings.adapters == "per_task" else _SHARED for task in tasks}
        adapters = {
            name: peft.LoraConfig(
                r=settings.rank,
                lora_alpha=settings.alpha,
                lora_dropout=settings.dropout,
                target_modules=list(settings.layers) or "all-linear",
            )
            for name in sorted(set(self._adapter_of.values()))
        }
        first, *others = adapters
        # Not a PeftModel, which asks transformers what it warns of; nor inject_adapter_in_model, which warns itself of
        # a second adapter.
        self.network = peft.LoraModel(network, adapters, first)
        for name in others:
            self.network.inject_adapter(network, name)
        self.trained = frozenset(name for name, parameter in self.named_parameters() if id(parameter) not in own)
        # Not all models can leave out the logits of tokens that nobody asks about.
        self._keeps = "logits_to_keep" in inspect.signature(network.forward).parameters
        self._in_use = ""
        self.use(next(iter(self._adapter_of)))

    def adapter_of(self, task: str) -> str:
        """The name of a task's adapter."""
        return self._adapter_of[task]

    def own_parameters(self) -> dict[str, int]:
        """How many parameters belong to each task alone: none where they share an adapter."""
        sizes = {name: parameter.numel() for name, parameter in self.named_parameters() if name in self.trained}
        return {
            task: 0 if adapter == _SHARED else sum(size for name, size in sizes.items() if f".{adapter}." in name)
            for task, adapter in self._adapter_of.items()
        }

    def use(self, task: str) -> None:
        """Compute with a task's adapter from now on."""
        self._switch(self._adapter_of[task])

    def _switch(self, adapter: str) -> None:
        if adapter == self._in_use:
            return
        self.network.set_adapter(adapter)
        self._in_use = adapter
        for name, parameter in self.named_parameters():  # PEFT lets only the one in use learn
            parameter.requires_grad_(name in self.trained)

    def forward(self, rows: Mapping[str, tuple[Tensor, int]]) -> dict[str, Tensor]:
        """Scores of next tokens, by the adapter that computes them.

        Args:
            rows: for each adapter, tokens [rows, tokens], padded on the right, and how many places at their end are
                asked about. A causal model does not see what stands behind a token: padding needs no mask.

        Returns:
            {adapter: [rows, places, vocabulary]}
        """
        logits = {}
        for adapter, (ids, places) in rows.items():
            self._switch(adapter)
            options = {"logits_to_keep": places} if self._keeps else {}
            output = self.network(input_ids=ids, use_cache=False, **options)
            logits[adapter] = output.logits[:, -places:]
        return logits

    def state_dict(self, *arguments: Any, **options: Any) -> dict[str, Any]:  # type: ignore[override]
        """The adapters' tensors."""
        return {
            name: tensor for name, tensor in super().state_dict(*arguments, **options).items() if name in self.trained
        }

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """Put the adapters' tensors in place.

        Raises:
            RuntimeError: there are others, or, being strict, one is missing.
        """
        missing, unknown = self.trained - state_dict.keys(), state_dict.keys() - self.trained
        if unknown or (strict and missing):
            found = f"{len(missing)} tensors are missing, {len(unknown)} are unknown"
            raise RuntimeError(f"{found}, e.g. {min(missing | unknown)}")
        return super().load_state_dict(state_dict, strict=False, assign=assign)


def _check_layers(network: Any, config: Config) -> None:
    """PEFT takes a name that is nowhere for good as long as another one is somewhere."""
    known = {name.rpartition(".")[2] for name, module in network.named_modules() if isinstance(module, nn.Linear)}
    for layer in config.lora.layers if config.lora is not None else ():
        if layer not in known:
            where = config.where("lora", "layers")
            raise ConfigError(f"{where}: {config.trunk.name} has no linear layer {layer!r}; it has {sorted(known)}")


@dataclass(frozen=True, slots=True)
class Base:
    """The model that adapters belong to.

    Attributes:
        name: by which it is loaded.
        sha256: see `digest_of`.
    """

    name: str
    sha256: str


def load_pretrained(config: Config, tasks: Iterable[str], *, device: str) -> tuple[LanguageModel, Adapted, Base]:
    """The configuration's model with adapters: new ones, or, where the trunk is a run, those of that run.

    Raises:
        ConfigError: there is no such model, it has no such layers, or the run's adapters do not fit.
        MissingExtraError: PEFT is not installed.
        RunError: the model of the run is no longer the one that its adapters were trained on.
    """
    start = Path(config.trunk.name)
    if not checkpoint.is_run(start, "base"):
        return _load(config, config.trunk.name, tasks, device)
    if not (start / "model.safetensors").exists():
        raise ConfigError(f"trunk: {start} is a run that has not finished: palmette train … --out {start} --resume")
    model, adapted, base = _load_base(start, config, tasks, device)
    try:
        checkpoint.load_weights(adapted, start / "model.safetensors")
    except RunError as error:
        raise ConfigError(f"trunk: the adapters of {start} do not fit `lora` or the tasks: {error}") from error
    return model, adapted, base


def load_architecture(
    folder: Path, config: Config, tasks: Iterable[str], *, device: str
) -> tuple[LanguageModel, Adapted]:
    """The model of a run folder, its adapters still to be loaded.

    Raises:
        RunError: the model is not the one that the adapters were trained on.
        ConfigError: it cannot be loaded.
    """
    model, adapted, _ = _load_base(folder, config, tasks, device)
    return model, adapted


def _load_base(folder: Path, config: Config, tasks: Iterable[str], device: str) -> tuple[LanguageModel, Adapted, Base]:
    """The model that a run's adapters belong to."""
    known = Base(**json.loads((folder / _DESCRIPTION).read_text(encoding="utf-8"))["base"])
    model, adapted, base = _load(config, known.name, tasks, device)
    if base != known:
        raise RunError(
            f"{folder}: its adapters were trained on {known.name} with sha256 {known.sha256}; "
            f"{known.name} now has {base.sha256}: put the former model back, or train again"
        )
    return model, adapted, base


def _load(config: Config, name: str, tasks: Iterable[str], device: str) -> tuple[LanguageModel, Adapted, Base]:
    from palmette.writing.language_model import load_configured

    config = config.model_copy(update={"trunk": config.trunk.model_copy(update={"name": name})})
    model = load_configured(config, device=device)
    digest = digest_of(model)
    adapted = Adapted(model.model, config, tasks)
    return model, adapted.to(device).eval(), Base(name, digest)


def save_architecture(folder: Path, base: Base) -> None:
    """Write what `load_architecture` compares with: `trunk.json`."""
    described = {"version": 1, "base": asdict(base)}
    (folder / _DESCRIPTION).write_text(json.dumps(described, indent=2) + "\n", encoding="utf-8")


def digest_of(model: LanguageModel) -> str:
    """The sha256 of all that an adapter is trained on: the weights as they are computed with, vocabulary, template.

    Of tensors, not of files: the same weights come in one file or in several, from a folder or from a hub.
    """
    found = hashlib.sha256()
    for name, parameter in sorted(model.model.named_parameters()):
        found.update(f"{name} {tuple(parameter.shape)} {parameter.dtype}\n".encode())
        found.update(parameter.detach().cpu().contiguous().numpy())
    vocabulary = sorted(model.tokenizer.get_vocab().items())
    found.update(json.dumps([vocabulary, model.tokenizer.chat_template]).encode())
    return found.hexdigest()
