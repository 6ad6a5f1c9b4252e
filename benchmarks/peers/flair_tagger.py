"""Flair's MultitaskModel over raw texts: tags and entities on one trunk. Run by the python of Flair's own environment.

Requests come as JSON lines on standard input: first the job, then one for each pass over its texts; each is answered by
a JSON line. The heads are untrained, which no speed depends on, except by the number of entities found: a large bias
lets the entity head find none, in Flair's favour.
"""

from __future__ import annotations

import json
import os
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import flair  # type: ignore[import-not-found]
import torch
from flair.data import Dictionary, Sentence  # type: ignore[import-not-found]
from flair.embeddings import TransformerWordEmbeddings  # type: ignore[import-not-found]
from flair.models import MultitaskModel, TokenClassifier  # type: ignore[import-not-found]


def build(trunk: str, tags: list[str], types: list[str]) -> Any:
    """The model: one embedding object, so that both tasks share one encoder."""
    embeddings = TransformerWordEmbeddings(trunk, fine_tune=True, subtoken_pooling="first")
    heads = []
    for task, labels in (("pos", tags), ("ner", types)):
        dictionary = Dictionary(add_unk=False)
        for label in labels:
            dictionary.add_item(label)
        dictionary.span_labels = task == "ner"
        heads.append(TokenClassifier(embeddings, label_dictionary=dictionary, label_type=task))
    with torch.no_grad():
        heads[1].decoder.bias[heads[1].label_dictionary.get_idx_for_item("O")] = 1000.0
    return MultitaskModel(heads, task_ids=["pos", "ner"], use_all_tasks=True)


def main() -> None:
    """Serve one parent."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8", buffering=1)
    os.dup2(2, 1)
    job = json.loads(sys.stdin.readline())
    torch.set_num_threads(job["threads"])
    flair.set_seed(13)
    flair.device = torch.device("cpu")
    model = build(job["trunk"], job["tags"], job["types"])
    model.eval()
    texts = json.loads(Path(job["texts"]).read_text(encoding="utf-8"))
    versions = {name: version(name) for name in ("flair", "torch", "transformers")}
    answers.write(json.dumps({"versions": versions}) + "\n")
    for _ in sys.stdin:
        started = time.perf_counter()
        sentences = [Sentence(text) for text in texts]
        model.predict(sentences, mini_batch_size=job["batch_size"])
        found = sum(len([token.get_label("pos").value for token in sentence]) for sentence in sentences)
        answers.write(json.dumps({"seconds": time.perf_counter() - started, "tags": found}) + "\n")


if __name__ == "__main__":
    main()
