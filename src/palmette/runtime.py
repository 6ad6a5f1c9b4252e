"""A bundle that answers, through ONNX Runtime: no torch, and around the graph the code that the run uses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError
from tokenizers import Tokenizer

from palmette.answering import Answerer
from palmette.batching import EMBEDDING, Batch
from palmette.config import TaskConfig
from palmette.deploy.bundle import GRAPH, TASKS, TOKENIZER, WORDS, Bundle
from palmette.errors import BundleError, MissingExtraError
from palmette.kinds import find_kind
from palmette.machine import cores, keep_quiet
from palmette.predictor import Engine, Predictor
from palmette.text import TextEncoder
from palmette.words import WordFinder, WordRules

# Padded tokens in a pass: what a pass touches then stays in the cores' caches. With 4,096, a file of sentences took 1.5
# times as long (two cores, int8 and fp32 alike; LOG.md, 2026-11-24).
_BATCH_TOKENS = 512

INPUTS = ("input_ids", "attention_mask", "token_type_ids", "casing")
EMBEDDED, EMBEDDINGS = "embedded", "embeddings"  # input: numbers of rows; output: the mean vector of each


NO_EMBEDDINGS = "the bundle is of an earlier version, without embeddings of texts: export it again to watch its answers"


def index_name(task: str) -> str:
    """Name of the graph's input that says which hidden vectors a task's head reads."""
    return f"index.{task}"


def output_name(task: str) -> str:
    """Name of the graph's output with a task's scores."""
    return f"scores.{task}"


@dataclass(frozen=True)
class Runtime(Answerer):
    """A loaded bundle, ready to answer."""

    predictor: Predictor
    bundle: Bundle
    session: Any

    @classmethod
    def load(cls, path: str | Path, *, threads: int | None = None) -> Runtime:
        """Load a bundle, every file of it checked.

        Args:
            path: the bundle's folder.
            threads: that a pass computes with; by default, one for each core that the process may use.

        Raises:
            BundleError: it is not a bundle, was changed, or its parts do not fit each other.
            MissingExtraError: ONNX Runtime, or the package that brings a task's kind, is not installed.
        """
        bundle = Bundle.open(path)
        described = bundle.read_json(TASKS)
        try:
            kinds = {
                task: find_kind(found["config"]["kind"])(task, TaskConfig(**found["config"]), found["state"])
                for task, found in described["tasks"].items()
            }
            encoder = TextEncoder(
                Tokenizer.from_buffer(bundle.read(TOKENIZER)), max_length=int(described["max_length"])
            )
            pad = int(described["pad"])
        except (KeyError, TypeError, ValueError, AttributeError, ValidationError) as error:
            raise BundleError(f"{bundle.folder / TASKS}: is damaged: {error!r}") from error
        try:
            words = WordFinder(WordRules.from_json(bundle.read_json(WORDS)))
        except ValueError as error:
            raise BundleError(f"{bundle.folder / WORDS}: is damaged: {error}") from error
        session = open_session(bundle.read(GRAPH), threads=threads, where=str(bundle.folder / GRAPH))
        check_graph(session, list(kinds), where=str(bundle.folder / GRAPH))
        engine = onnx_engine(session)
        predictor = Predictor(kinds, encoder, engine, pad=pad, find_words=words, batch_tokens=_BATCH_TOKENS)
        return cls(kinds, predictor, bundle, session)


def open_session(graph: bytes, *, threads: int | None, where: str) -> Any:
    """An ONNX Runtime session of a graph in memory.

    Raises:
        BundleError: ONNX Runtime cannot make one of it.
        MissingExtraError: it is not installed.
    """
    keep_quiet()
    try:
        import onnxruntime
    except ImportError as error:
        raise MissingExtraError("onnxruntime", "serve") from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or cores()
    options.inter_op_num_threads = 1
    # Between two passes the engine's threads shall not wait on a core that words, decoding and the server's event loop
    # could use: a server of two cores answers a quarter more that way, and a pass takes no longer (LOG.md, 2026-11-24).
    options.add_session_config_entry("session.force_spinning_stop", "1")
    options.log_severity_level = 3
    try:
        return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # the library raises nothing narrower that they share
        raise BundleError(f"{where}: is not a graph that ONNX Runtime can run: {str(error)[:300]}") from error


def check_graph(session: Any, tasks: Sequence[str], *, where: str) -> None:
    """Refuse a graph whose inputs and outputs are not those of its tasks.

    Raises:
        BundleError: naming the first that is unknown, missing or of another type.
    """
    inputs = {found.name: found.type for found in session.get_inputs()}
    outputs = {found.name for found in session.get_outputs()}
    if EMBEDDED in inputs and EMBEDDINGS in outputs:  # bundles of earlier versions have neither
        inputs.pop(EMBEDDED)
        outputs.remove(EMBEDDINGS)
    for name in sorted(inputs.keys() - {*INPUTS, *map(index_name, tasks)}):
        raise BundleError(f"{where}: has an unknown input {name!r}: refused")
    for name in sorted({*INPUTS, *map(index_name, tasks)} - inputs.keys()):
        raise BundleError(f"{where}: lacks the input {name!r}")
    for name, kind in inputs.items():
        if kind != "tensor(int64)":
            raise BundleError(f"{where}: input {name!r} is a {kind}, expected tensor(int64)")
    for name in sorted(outputs ^ set(map(output_name, tasks))):
        raise BundleError(f"{where}: the output {name!r} is not in both the graph and {TASKS}")


def onnx_engine(session: Any) -> Engine:
    """The graph as a predictor calls it: batch -> outputs as arrays.

    ONNX Runtime computes every output, whichever are asked for. So a head that is not asked for is given no vectors to
    read: its layers then compute on nothing.
    """
    indexes = [found.name for found in session.get_inputs() if found.name not in INPUTS]
    nothing = np.zeros(0, dtype=np.int64)

    def engine(batch: Batch) -> Mapping[str, NDArray[Any]]:
        feeds = dict(batch.inputs) | dict.fromkeys(indexes, nothing)
        feeds |= {index_name(task): part.index for task, part in batch.tasks.items()}
        wanted = {task: output_name(task) for task in batch.tasks}
        if batch.embed:
            if EMBEDDED not in indexes:
                raise BundleError(NO_EMBEDDINGS)
            feeds[EMBEDDED] = np.arange(len(batch.rows), dtype=np.int64)
            wanted[EMBEDDING] = EMBEDDINGS
        outputs = session.run(list(wanted.values()), feeds)
        return dict(zip(wanted, outputs, strict=True))

    return engine
