"""A language model that is asked and not trained: its run folder holds what was asked, and how it did."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from palmette import checkpoint, evaluation
from palmette.checkpoint import RunFolder
from palmette.config import Config
from palmette.corpus import Corpus, load_corpus
from palmette.kinds import AnyKind
from palmette.types import Example, Split
from palmette.words import find_words
from palmette.writing.predictor import WritingPredictor
from palmette.writing.prompts import Embed, Prompter, check_prompts, choose_shots
from palmette.writing.writer import Scorer, Writer


def open_predictor(
    config: Config, kinds: Mapping[str, AnyKind], train: Sequence[Example], folder: RunFolder
) -> WritingPredictor:
    """What answers by asking the configuration's language model.

    Args:
        config: of family causal_lm.
        kinds: its tasks.
        train: where shots are taken from; may be empty without shots.
        folder: the run, where a remote model's answers are kept.

    Raises:
        ConfigError: there is no such model, a template is wrong, or there are too few examples for the shots.
        RunError: a remote model's answers cannot be kept.
    """
    check_prompts(config)
    asking = config.prompting
    nearest = asking.shots > 0 and asking.selection == "nearest"
    choose = choose_shots(config, kinds, train, _embedder() if nearest else None)
    prompter = Prompter(kinds, asking.prompts, choose)
    writer, scorer = _writer(config, folder)  # last: a remote model's begins the file of its answers
    return WritingPredictor(
        kinds,
        partial(find_words, language=config.language),
        writer,
        prompter.prompt,
        constrained=config.writing.constrained,
        longest=config.writing.longest,
        scorer=scorer if asking.scoring == "likelihood" else None,
        neutral=prompter.neutral if asking.calibrated else None,
    )


def _writer(config: Config, folder: RunFolder) -> tuple[Writer, Scorer | None]:
    """The model, and itself again if it gives likelihoods."""
    if config.endpoint is not None:
        from palmette.writing.remote import RemoteWriter

        return RemoteWriter(config.endpoint, folder.answers), None
    from palmette.writing.language_model import load_configured

    model = load_configured(config, device="cuda" if torch.cuda.is_available() else "cpu")
    return model, model


def _embedder() -> Embed:
    """Mean hidden vectors of the offline trunk, of length 1: what likeness is measured by."""
    from palmette.config import TrunkConfig
    from palmette.trunk import load_pretrained

    trunk, encoder = load_pretrained(TrunkConfig(casing=False), device="cpu")
    trunk.eval()

    @torch.inference_mode()
    def embed(examples: Sequence[Example]) -> NDArray[np.float32]:
        vectors = []
        for encoded in encoder.encode(examples):
            row = encoded.rows[0]
            inputs = {
                "input_ids": torch.tensor(row.ids)[None],
                "attention_mask": torch.ones(1, len(row), dtype=torch.long),
                "token_type_ids": torch.tensor(row.types)[None],
                "casing": torch.tensor(row.casing)[None],
            }
            vector = trunk(inputs)[0].mean(0)  # [width]
            vectors.append((vector / vector.norm()).numpy())
        return np.stack(vectors)

    return embed


def ask(
    predictor: WritingPredictor,
    config: Config,
    folder: RunFolder,
    corpus: Corpus,
    *,
    splits: Sequence[Split],
    write: Any,
) -> dict[str, evaluation.Scores]:
    """Answer splits, score them, and leave the run folder complete.

    Args:
        predictor: of the configuration (see `open_predictor`).
        config: of family causal_lm.
        folder: the run; exists.
        corpus: the data.
        splits: which are answered.
        write: called with each event of the history.

    Returns:
        {split: scores}.
    """
    name = config.trunk.name if config.endpoint is None else config.endpoint.model
    write(
        {
            "event": "asking",
            "model": name,
            "shots": config.prompting.shots,
            "threads": torch.get_num_threads(),
        }
    )
    scores: dict[str, evaluation.Scores] = {}
    usage = {}
    for split in splits:
        examples = corpus.splits[split]
        if not examples:
            continue
        before = {task: spent.as_json() for task, spent in predictor.usage.items()}
        started = time.perf_counter()
        scores[split] = evaluation.score(examples, predictor.answer_labelled(examples), corpus.kinds)
        usage[split] = {
            task: {name: value - before[task][name] for name, value in spent.as_json().items()}
            for task, spent in predictor.usage.items()
        }
        seconds = round(time.perf_counter() - started, 1)
        write({"event": "answered", "split": split, "seconds": seconds, "usage": usage[split], split: scores[split]})
    checkpoint.write_atomically(folder.metrics, json.dumps(scores, indent=2) + "\n")
    content = {"model": name, "prompting": config.prompting.model_dump(mode="json"), "usage": usage}
    checkpoint.write_atomically(folder.prompted, json.dumps(content, indent=2, ensure_ascii=False) + "\n")
    return scores


def reopen(config: Config, kinds: Mapping[str, AnyKind], folder: RunFolder) -> WritingPredictor:
    """The predictor of a finished run; with shots, its training data is read again."""
    train: Sequence[Example] = ()
    if config.prompting.shots:
        train = load_corpus(config, fitted=kinds).splits["train"]
    return open_predictor(config, kinds, train, folder)
