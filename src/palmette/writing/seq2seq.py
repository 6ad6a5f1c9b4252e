"""Encoder-decoders: loaded or warm-started, what they read and write in tokens, and writing with them."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from tokenizers import Tokenizer
from torch import Tensor, nn

from palmette import checkpoint
from palmette.config import TrunkConfig
from palmette.errors import ConfigError, RunError
from palmette.model import autocast
from palmette.trunk import attention_for, locate, quiet, read_tokenizer
from palmette.writing import warm_start
from palmette.writing.constraints import Constraint, PieceTokens
from palmette.writing.padding import mask_of, padded
from palmette.writing.writer import Heard, Request, Writer, Written

_DESCRIPTION = "trunk.json"
_ENDING = 4  # of an input that is too long, its last quarter is kept


@dataclass(frozen=True)
class Tokens:
    """What a model reads and writes, in tokens.

    Attributes:
        tokenizer: without truncation and padding.
        longest_source, longest_target: most tokens that the model takes, special ones included.
        start, end, pad: what a decoder begins with, ends with and is padded with.
        lead: special tokens that an output begins with, behind `start`.
        before, after: special tokens around a source.
    """

    tokenizer: Tokenizer
    longest_source: int
    longest_target: int
    start: int
    end: int
    pad: int
    lead: tuple[int, ...]
    before: tuple[int, ...]
    after: tuple[int, ...]

    @classmethod
    def of(cls, tokenizer: Tokenizer, settings: Any, *, longest: int | None) -> Tokens:
        """Read special tokens off the model's description and its tokenizer.

        Raises:
            ConfigError: one of them is nowhere, or `longest` is more than the model has positions for.
        """
        start, end, pad = settings.decoder_start_token_id, settings.eos_token_id, settings.pad_token_id
        end = end[0] if isinstance(end, list) else end
        for name, found in (("decoder_start_token_id", start), ("eos_token_id", end), ("pad_token_id", pad)):
            if found is None:
                raise ConfigError(f"trunk: the model's config.json has no {name}")
        probe = tokenizer.encode("a")
        ordinary = [place for place, special in enumerate(probe.special_tokens_mask) if not special]
        before, after = tuple(probe.ids[: ordinary[0]]), tuple(probe.ids[ordinary[-1] + 1 :])
        reads = _positions(getattr(settings, "encoder", settings))
        writes = _positions(getattr(settings, "decoder", settings))
        if longest is not None and reads is not None and longest > reads:
            raise ConfigError(f"trunk.max_length: the model has positions for {reads} subwords only")
        # Longer contexts exist, but attention is quadratic: a user asks for them by max_length.
        source = longest or min(reads or 512, 512)
        lead = before[1:] if before[:1] == (start,) else before
        return cls(tokenizer, source, min(writes or 1024, 1024), start, end, pad, lead, before, after)

    def plain(self, text: str) -> list[int]:
        """A text's ids, without special tokens."""
        return list(self.tokenizer.encode(text, add_special_tokens=False).ids)

    def sources(self, texts: Sequence[str]) -> list[tuple[list[int], bool]]:
        """The ids of inputs, and whether each was cut.

        Cut in the middle: the task's name stands in front, the question about a passage behind it.
        """
        room = self.longest_source - len(self.before) - len(self.after)
        found = []
        for encoding in self.tokenizer.encode_batch(list(texts), add_special_tokens=False):
            ids, cut = list(encoding.ids), len(encoding.ids) > room
            if cut:
                ending = room // _ENDING
                ids = ids[: room - ending] + ids[len(ids) - ending :]
            found.append(([*self.before, *ids, *self.after], cut))
        return found

    def targets(self, texts: Sequence[str]) -> list[tuple[list[int], bool]]:
        """The ids that a decoder is to write, its end included, and whether each was cut (then it has no end)."""
        found = []
        for encoding in self.tokenizer.encode_batch(list(texts), add_special_tokens=False):
            ids = [*self.lead, *encoding.ids, self.end]
            found.append((ids[: self.longest_target], len(ids) > self.longest_target))
        return found

    def text(self, ids: Sequence[int]) -> str:
        """What was written: without special tokens, up to the end."""
        kept = list(itertools.takewhile(lambda token: token != self.end, ids))
        return str(self.tokenizer.decode(kept, skip_special_tokens=True)).strip()


class Seq2Seq(nn.Module):
    """An encoder-decoder of transformers.

    Args:
        network: the model.
        shared: tie the decoder's word embeddings to the encoder's, as T5 and BART have it.
        new: names of the network's parameters that no pretraining has seen.
    """

    def __init__(self, network: Any, *, shared: bool = False, new: frozenset[str] = frozenset()) -> None:
        super().__init__()
        self.network = network
        self.shared = shared
        if getattr(getattr(network, "encoder", None), "pooler", None) is not None:
            network.encoder.pooler = None  # nothing reads it
        if shared:
            network.decoder.set_input_embeddings(network.encoder.get_input_embeddings())
            network.decoder.tie_weights()
        self.new = frozenset(f"network.{name}" for name in new) & dict(self.named_parameters()).keys()
        _plain_decoding(network)

    def forward(self, source: Tensor, source_mask: Tensor, given: Tensor) -> Tensor:
        """Scores of every next token.

        Args:
            source: [rows, source tokens].
            source_mask: [rows, source tokens] which of them are real.
            given: [rows, target tokens] what stands in front of each token to be written.

        Returns:
            [rows, target tokens, vocabulary]
        """
        output = self.network(
            input_ids=source, attention_mask=source_mask, decoder_input_ids=given, use_cache=False, return_dict=True
        )
        logits: Tensor = output.logits
        return logits


def _plain_decoding(network: Any) -> None:
    """Nothing of how the published model is meant to be decoded: shortest length, forced tokens, penalties."""
    from transformers import GenerationConfig

    settings = network.config
    network.generation_config = GenerationConfig(
        decoder_start_token_id=settings.decoder_start_token_id,
        eos_token_id=settings.eos_token_id,
        pad_token_id=settings.pad_token_id,
    )


def _positions(settings: Any) -> int | None:
    """How many positions a model has; None where they are relative."""
    found = getattr(settings, "max_position_embeddings", None)
    return int(found) if found else None


def load_pretrained(config: TrunkConfig, *, device: str = "cpu") -> tuple[Seq2Seq, Tokens]:
    """The model that training starts from.

    An encoder-decoder is taken as it is. An encoder becomes the start of both sides, with cross-attention and the
    layer in front of the output new (Rothe, Narayan & Severyn 2020, TACL); one table of word embeddings serves the
    encoder, the decoder and the output. The run of such a model goes on from where it ended.

    Raises:
        ConfigError: it cannot be loaded, or is neither.
        MissingExtraError: the offline weights are not installed.
    """
    from transformers import AutoConfig, AutoTokenizer

    if checkpoint.is_run(Path(config.name), "seq2seq"):
        return _load_run(config, device)
    place = locate(config.name)
    try:
        settings = AutoConfig.from_pretrained(place)
        file = Path(place) / "tokenizer.json"
        tokenizer = read_tokenizer(file) if file.exists() else AutoTokenizer.from_pretrained(place).backend_tokenizer
        tokenizer.no_truncation()
        tokenizer.no_padding()
        with quiet():
            if settings.is_encoder_decoder:
                model = _load_whole(place, settings, device)
            else:
                network, new = warm_start.load(config.name, place, tokenizer, device)
                model = Seq2Seq(network, shared=True, new=new)
    except (OSError, ValueError, AttributeError, KeyError, SafetensorError) as error:
        raise ConfigError(f"trunk: {config.name} cannot be loaded: {error}") from error
    return model, Tokens.of(tokenizer, model.network.config, longest=config.max_length)


def _load_whole(place: str, settings: Any, device: str) -> Seq2Seq:
    from transformers import AutoModelForSeq2SeqLM

    network, found = AutoModelForSeq2SeqLM.from_pretrained(
        place, config=settings, attn_implementation=attention_for(device), output_loading_info=True
    )
    if missing := sorted(found["missing_keys"]):
        raise ValueError(f"it lacks weights: {', '.join(missing[:5])}")
    return Seq2Seq(network.float())


def save_architecture(model: Seq2Seq, tokens: Tokens, folder: Path) -> None:
    """Write what `load_architecture` rebuilds the model from: `trunk.json` and `tokenizer.json`."""
    described = {
        "version": 1,
        "seq2seq": model.network.config.to_dict(),
        "shared": model.shared,
        "max_length": tokens.longest_source,
    }
    (folder / _DESCRIPTION).write_text(json.dumps(described, indent=2, default=str) + "\n", encoding="utf-8")
    tokens.tokenizer.save(str(folder / "tokenizer.json"))


def load_architecture(folder: Path, *, device: str = "cpu") -> tuple[Seq2Seq, Tokens]:
    """The model of a run folder, its weights still to be loaded."""
    from transformers import AutoConfig, AutoModelForSeq2SeqLM

    described = json.loads((folder / _DESCRIPTION).read_text(encoding="utf-8"))
    rest = dict(described["seq2seq"])
    settings = AutoConfig.for_model(rest.pop("model_type"), **rest)
    with quiet():
        network = AutoModelForSeq2SeqLM.from_config(settings, attn_implementation=attention_for(device))
        # The description may name the format of the published weights (bf16); a run's own are fp32.
        model = Seq2Seq(network.float(), shared=described["shared"])
    tokens = Tokens.of(read_tokenizer(folder / "tokenizer.json"), settings, longest=described["max_length"])
    return model, tokens


def _load_run(config: TrunkConfig, device: str) -> tuple[Seq2Seq, Tokens]:
    folder = Path(config.name)
    if not (folder / "model.safetensors").exists():
        raise ConfigError(f"trunk: {folder} is a run that has not finished: palmette train … --out {folder} --resume")
    try:
        model, tokens = load_architecture(folder, device=device)
        checkpoint.load_weights(model, folder / "model.safetensors")
    except (OSError, ValueError, KeyError, TypeError, RunError) as error:
        raise ConfigError(f"trunk: the run {folder} is damaged: {error}") from error
    longest = config.max_length or tokens.longest_source
    return model, Tokens.of(tokens.tokenizer, model.network.config, longest=longest)


@dataclass(frozen=True, slots=True)
class _Job:
    """A request in tokens."""

    number: int
    request: Request
    source: list[int]
    cut: bool
    longest: int


class _Listener:
    """What transformers calls a streamer, for a batch: passes on each row's tokens as they grow.

    Args:
        begin: how many tokens of each row are given.
        grown: is told the row's number and its tokens behind them.
    """

    def __init__(self, begin: int, grown: Callable[[int, list[int]], None]) -> None:
        self._given = begin
        self._grown = grown
        self._rows: list[list[int]] = []

    def put(self, tokens: Tensor) -> None:
        """First what is given, [rows, given]; then the next token of every row, [rows]."""
        if not self._rows:
            self._rows = [[] for _ in tokens.reshape(-1, self._given)]
            return
        for number, (row, token) in enumerate(zip(self._rows, tokens.tolist(), strict=True)):
            row.append(token)
            self._grown(number, row)

    def end(self) -> None:
        """Nothing is left over."""


class Seq2SeqWriter(Writer):
    """Writes with an encoder-decoder.

    Args:
        model: it.
        tokens: what it reads and writes.
        device: where it is.
        precision: what it computes in.
        beams: of the search; 1 is greedy.
        batch_tokens: most tokens in a batch, read and, at most, written; padding and all beams included.
    """

    def __init__(
        self,
        model: Seq2Seq,
        tokens: Tokens,
        device: torch.device,
        *,
        precision: str = "fp32",
        beams: int = 1,
        batch_tokens: int = 16384,
    ) -> None:
        self.model = model
        self.tokens = tokens
        self.device = device
        self.precision = precision
        self.beams = beams
        self.batch_tokens = batch_tokens
        self._pieces = PieceTokens(tokens.plain, tokens.end)

    def write(self, requests: Sequence[Request], heard: Heard | None = None) -> list[Written]:
        """An answer to each request, in order: of its source text, the last turn of the user; see `Writer`."""
        sources = self.tokens.sources([request.prompt[-1]["content"] for request in requests])
        room = self.tokens.longest_target - len(self.tokens.lead) - 1
        jobs = [
            _Job(number, request, ids, cut, min(request.longest, room))
            for number, (request, (ids, cut)) in enumerate(zip(requests, sources, strict=True))
        ]
        found: dict[int, Written] = {}
        for batch in self._batches(jobs):
            nexts = [job.request.next_pieces for job in batch]
            constraints = [Constraint(self._pieces, following) for following in nexts if following is not None]
            pairs = list(itertools.zip_longest(batch, constraints))

            def grown(place: int, ids: list[int], pairs: list[tuple[_Job, Constraint | None]] = pairs) -> None:
                if heard is not None:
                    job, constraint = pairs[place]
                    heard(job.number, self._written(job, ids, constraint).text)

            # A search with beams knows no answer before its end.
            outputs = self._generate(batch, constraints, grown if heard is not None and self.beams == 1 else None)
            for (job, constraint), ids in zip(pairs, outputs, strict=True):
                found[job.number] = self._written(job, ids, constraint)
        return [found[number] for number in range(len(requests))]

    def _batches(self, jobs: Sequence[_Job]) -> Iterator[list[_Job]]:
        """Jobs of about the same lengths, longest first; constrained ones apart."""
        order = sorted(jobs, key=lambda job: (job.request.next_pieces is None, -job.longest, -len(job.source)))
        batch: list[_Job] = []
        widest = 0
        for job in order:
            wider = max(widest, len(job.source))
            # The first job of a batch is the one that may write longest.
            width = wider + (batch[0] if batch else job).longest
            alike = not batch or (job.request.next_pieces is None) == (batch[0].request.next_pieces is None)
            if batch and (not alike or width * self.beams * (len(batch) + 1) > self.batch_tokens):
                yield batch
                batch, wider = [], len(job.source)
            batch.append(job)
            widest = wider
        if batch:
            yield batch

    def _generate(
        self,
        batch: Sequence[_Job],
        constraints: Sequence[Constraint],
        grown: Callable[[int, list[int]], None] | None,
    ) -> list[list[int]]:
        """The tokens of each job, special ones in front left out; a constraint for each job, or none at all."""
        sources = [job.source for job in batch]
        lead = self.tokens.lead
        given = torch.tensor([[self.tokens.start, *lead]] * len(batch))  # [jobs, 1 + lead]
        begin = given.shape[1]

        def allowed(number: int, ids: Tensor) -> list[int]:
            return constraints[number].allowed(ids[begin:].tolist())

        with torch.inference_mode(), autocast(self.device, self.precision):
            output = self.model.network.generate(
                input_ids=padded(sources, self.tokens.pad).to(self.device),
                attention_mask=mask_of(sources).to(self.device),
                decoder_input_ids=given.to(self.device),
                max_new_tokens=max(job.longest for job in batch) + 1,
                num_beams=self.beams,
                do_sample=False,
                prefix_allowed_tokens_fn=allowed if constraints else None,
                streamer=_Listener(begin, grown) if grown is not None else None,
            )
        return [ids[begin:] for ids in output.tolist()]

    def _written(self, job: _Job, ids: Sequence[int], constraint: Constraint | None) -> Written:
        end = self.tokens.end
        ended = end in ids[: job.longest + 1]
        kept = list(ids[: ids.index(end)] if ended else ids[: job.longest])
        # What the pieces say, not what their tokens do: a tokenizer may not know their letters.
        text = self.tokens.text(kept) if constraint is None else constraint.text(kept)
        return Written(text, len(job.source), len(kept) + ended, truncated=job.cut or not ended)
