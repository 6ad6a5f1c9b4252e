"""spaCy's small English pipeline over raw texts. Run by the python of its own environment.

Requests come as JSON lines on standard input: first the job, then one for each pass over its texts; each is answered by
a JSON line. Only what tags and entities need is loaded: tok2vec, tagger, attribute_ruler (which makes the universal
tags of the tagger's), ner.
"""

from __future__ import annotations

import json
import os
import sys
import time
import warnings
from importlib.metadata import version
from pathlib import Path
from typing import Any

import en_core_web_sm  # type: ignore[import-not-found]
import spacy

# OntoNotes' types that UNER's annotators call by its three; all others are none of them.
TYPES = {"PERSON": "PER", "ORG": "ORG", "GPE": "LOC", "LOC": "LOC", "FAC": "LOC"}


def main() -> None:
    """Serve one parent."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8", buffering=1)
    os.dup2(2, 1)
    job = json.loads(sys.stdin.readline())
    warnings.simplefilter("ignore")  # the pipeline was made by an earlier spaCy
    (model,) = Path(en_core_web_sm.__file__).parent.glob("en_core_web_sm-*")
    nlp = spacy.load(model, exclude=["parser", "senter", "lemmatizer"])
    texts = json.loads(Path(job["texts"]).read_text(encoding="utf-8"))
    answers.write(json.dumps({"versions": {"spacy": version("spacy"), "pipeline": nlp.meta["version"]}}) + "\n")
    for line in sys.stdin:
        request = json.loads(line)
        started = time.perf_counter()
        found = [_plain(doc) for doc in nlp.pipe(texts, batch_size=job["batch_size"], n_process=job["processes"])]
        answer: dict[str, Any] = {"seconds": time.perf_counter() - started}
        answers.write(json.dumps(answer | ({"found": found} if request["answers"] else {})) + "\n")


def _plain(doc: Any) -> dict[str, Any]:
    return {
        "tags": [(token.idx, token.idx + len(token), token.pos_) for token in doc],
        "entities": [(e.start_char, e.end_char, TYPES[e.label_]) for e in doc.ents if e.label_ in TYPES],
    }


if __name__ == "__main__":
    main()
