"""A bundle that answers, through ONNX Runtime: no torch, and around the graph the code that the run uses."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
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
from palmette.errors import BundleError, ConfigError, MissingExtraError
from palmette.kinds import AnyKind, find_kind
from palmette.machine import cores, keep_quiet
from palmette.predictor import Engine, Predictor
from palmette.text import TextEncoder
from palmette.words import WordFinder, WordRules

# Padded tokens in a pass: what a pass touches then stays in the cores' caches. With 4,096, a file of sentences took 1.5
# times as long (two cores, int8 and fp32 alike; LOG.md, 2026-11-24).
_BATCH_TOKENS = 512

_LONGEST = 65_536  # subwords of a window: more than trunks have places for

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
            max_length, pad = described["max_length"], described["pad"]
        except (KeyError, TypeError, ValueError, AttributeError, ValidationError) as error:
            raise BundleError(f"{bundle.folder / TASKS}: is damaged: {error!r}") from error
        encoder = _encoder(bundle, max_length, pad)
        try:
            words = WordFinder(WordRules.from_json(bundle.read_json(WORDS)))
        except ValueError as error:
            raise BundleError(f"{bundle.folder / WORDS}: is damaged: {error}") from error
        where = str(bundle.folder / GRAPH)
        session = open_session(bundle.read(GRAPH), threads=threads, where=where)
        check_graph(session, kinds, where=where)

        @cache
        def divide(parts: int) -> Engine | None:
            """A second session, with weights of its own in memory."""
            part = (threads or cores()) // parts
            return onnx_engine(open_session(bundle.read(GRAPH), threads=part, where=where)) if part else None

        predictor = Predictor(
            kinds,
            encoder,
            onnx_engine(session),
            pad=pad,
            find_words=words,
            batch_tokens=_BATCH_TOKENS,
            divide=divide,
        )
        return cls(kinds, predictor, bundle, session)


def _encoder(bundle: Bundle, max_length: Any, pad: Any) -> TextEncoder:
    """The tokenizer's encoder, if the numbers that tasks.json has for it fit."""
    try:
        tokenizer = Tokenizer.from_buffer(bundle.read(TOKENIZER))
    except (ValueError, TypeError) as error:
        raise BundleError(f"{bundle.folder / TOKENIZER}: is damaged: {error}") from error
    where, vocabulary = bundle.folder / TASKS, tokenizer.get_vocab_size()
    if type(pad) is not int or not 0 <= pad < vocabulary:
        raise BundleError(f"{where}: pad: expected a number below {vocabulary}, the size of {TOKENIZER}, found {pad!r}")
    if type(max_length) is not int or not 0 < max_length <= _LONGEST:
        raise BundleError(f"{where}: max_length: expected a number up to {_LONGEST}, found {max_length!r}")
    try:
        return TextEncoder(tokenizer, max_length=max_length)
    except ConfigError as error:
        raise BundleError(f"{where}: max_length: {max_length} leaves no room for a pair in {TOKENIZER}") from error


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


def check_graph(session: Any, kinds: Mapping[str, AnyKind], *, where: str) -> None:
    """Refuse a graph whose inputs and outputs are not those of its tasks.

    Raises:
        BundleError: naming the first that is unknown, missing or of another type or size.
    """
    inputs = {found.name: found.type for found in session.get_inputs()}
    shapes = {found.name: found.shape for found in session.get_outputs()}
    outputs = set(shapes)
    if EMBEDDED in inputs and EMBEDDINGS in outputs:  # bundles of earlier versions have neither
        inputs.pop(EMBEDDED)
        outputs.remove(EMBEDDINGS)
    for name in sorted(inputs.keys() - {*INPUTS, *map(index_name, kinds)}):
        raise BundleError(f"{where}: has an unknown input {name!r}: refused")
    for name in sorted({*INPUTS, *map(index_name, kinds)} - inputs.keys()):
        raise BundleError(f"{where}: lacks the input {name!r}")
    for name, kind in inputs.items():
        if kind != "tensor(int64)":
            raise BundleError(f"{where}: input {name!r} is a {kind}, expected tensor(int64)")
    for name in sorted(outputs ^ set(map(output_name, kinds))):
        raise BundleError(f"{where}: the output {name!r} is not in both the graph and {TASKS}")
    for task, kind in kinds.items():
        found = shapes[output_name(task)][-1:]
        if kind.outputs is not None and found and isinstance(found[0], int) and found[0] != kind.outputs:
            name, told = output_name(task), f"the {kind.config.kind} of {TASKS} needs {kind.outputs}"
            raise BundleError(f"{where}: the output {name!r} has {found[0]} numbers a unit; {told}")


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
