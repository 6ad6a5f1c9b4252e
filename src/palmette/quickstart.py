"""The first five minutes: train on the embedded sample, evaluate, predict. No network."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import Any

from palmette.config import Config

SENTENCES = (
    "Maria Okafor moved from Lagos to Oslo to join Nordlys Energy, and she loves it.",
    "The update broke my printer again, and Acme Support still does not answer.",
    "The train to Kyoto leaves at nine from platform four.",
)


def config() -> Config:
    """Part-of-speech tags, entities and sentiment over the embedded sample."""
    sample = Path(str(files("palmette.data") / "sample"))
    return Config.parse(
        {
            "trunk": "all-minilm-l6-v2",
            "tasks": {
                "pos": {"kind": "sequence_labeling", "metric": "accuracy"},
                "ner": {"kind": "sequence_labeling", "scheme": "iob2", "metric": "span_f1"},
                "sentiment": {"kind": "text_classification", "metric": "accuracy"},
            },
            "sources": [
                {
                    "format": "conllu",
                    "name": "sample",
                    **{split: str(sample / f"{split}.conllu") for split in ("train", "dev", "test")},
                    "labels": {"pos": "upos", "ner": "misc.NER", "sentiment": "comment.sentiment"},
                    "license": "Apache-2.0",
                }
            ],
            "training": TRAINING,
        }
    )


# The sample is small: smaller updates and a higher rate than the defaults, chosen on its dev split (LOG.md). fp32, so
# that the scores in the documentation hold on any machine.
TRAINING: dict[str, Any] = {"epochs": 4, "batch_tokens": 256, "learning_rate": 2.0e-4, "precision": "fp32"}
