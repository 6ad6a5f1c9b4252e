"""A model that writes, in a process of its own: the server's other tasks share neither interpreter nor turns with it.

The process is asked over a socket, with pickles: both ends are ours. It runs at the lowest priority, so that on shared
cores whatever else the server computes comes first, and ends when its standard input does.
"""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.connection import Connection, Pipe
from pathlib import Path
from typing import Any

from palmette.answering import Answerer
from palmette.errors import PalmetteError, RunError
from palmette.kinds import AnyKind
from palmette.serving import logs
from palmette.serving.model import digests
from palmette.types import Example, Prediction, Text
from palmette.writing.predictor import Aloud, Told, WritingPredictor

_PROGRAM = "from palmette.serving.writer import answer; answer()"
_LOWEST = 19  # niceness
_PATIENCE = 10.0  # seconds for the process to leave; it does so at once


class WriterProcess(Aloud):
    """Answers by the model of a run folder, in a process that is started anew if it dies.

    The process ends when nobody holds this any more.

    Args:
        load: path -> answerer; pickled, and called there.
        path: of a run whose model writes.
        log_text: texts may stand in the log.

    Raises:
        RunError: it cannot be loaded, or its model does not write.
    """

    def __init__(self, load: Callable[[Path], Answerer], path: Path, *, log_text: bool = False) -> None:
        self._child = _Child(load, path, log_text=log_text)
        weakref.finalize(self, self._child.end)
        # A method of its own here would keep it alive.
        super().__init__(self._child.start(), self._child.words)

    def _run(
        self, examples: Sequence[Example], wanted: Sequence[Sequence[str]], heard: Told | None = None
    ) -> list[dict[str, Prediction]]:
        found: list[dict[str, Prediction]] = self._child.ask("answer", (examples, wanted, heard is not None), heard)
        return found


class _Child:
    """The process, asked for one thing at a time."""

    def __init__(self, load: Callable[[Path], Answerer], path: Path, *, log_text: bool) -> None:
        self._work = load, path, log_text
        self._digests = digests(path)
        self._asking = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._connection: Connection[Any, Any] | None = None

    def start(self) -> Mapping[str, AnyKind]:
        """Begin; its tasks.

        Raises:
            RunError: the model cannot be loaded, or does not write.
        """
        ours, theirs = Pipe()
        with theirs:
            command = [sys.executable, "-c", _PROGRAM, str(theirs.fileno())]
            self._process = subprocess.Popen(command, stdin=subprocess.PIPE, pass_fds=[theirs.fileno()])  # noqa: S603
        self._connection = ours
        try:
            ours.send(self._work)
            kinds: Mapping[str, AnyKind] = self._receive(ours, None)
        except BaseException:
            self.end()
            raise
        logs.log("writer started", process=self._process.pid)
        return kinds

    def words(self, raw: str) -> Text:
        """The words of a text, by the rules of the model's language."""
        found: Text = self.ask("words", raw)
        return found

    def ask(self, what: str, given: Any, heard: Told | None = None) -> Any:
        """Its answer, and meanwhile what is being written.

        Raises:
            RunError: it failed, or died; the next question starts it anew.
        """
        with self._asking:
            if self._connection is None:
                if digests(self._work[1]) != self._digests:
                    raise RunError(f"{self._work[1]}: changed since it was loaded: reload the server")
                self.start()
            connection = self._connection
            if connection is None:
                raise RunError("the writer has not started")
            try:
                connection.send((what, given))
                return self._receive(connection, heard)
            except (EOFError, OSError) as error:
                code = self.end()
                logs.log("writer died", level=logging.ERROR, code=code)
                raise RunError(f"the writer's process ended with code {code}") from error

    @staticmethod
    def _receive(connection: Connection[Any, Any], heard: Told | None) -> Any:
        while True:
            what, *found = connection.recv()
            if what == "grown" and heard is not None:
                heard(*found)
            elif what == "failed":
                raise RunError(found[0])
            elif what == "done":
                return found[0]

    def end(self) -> int | None:
        """Let it leave, whatever it does; its exit code."""
        process, connection, self._process, self._connection = self._process, self._connection, None, None
        if connection is not None:
            connection.close()
        if process is None or process.stdin is None:
            return None
        process.stdin.close()
        try:
            return process.wait(_PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            return process.wait()


def answer() -> None:
    """Be that process: answer what the socket asks, until it closes."""
    # A terminal or a service manager sends these to all: the server ends this process.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    threading.Thread(target=_leave_with_parent, daemon=True).start()
    connection: Connection[Any, Any] = Connection(int(sys.argv[1]))
    load, path, log_text = connection.recv()
    logs.configure(log_text=log_text)
    try:
        predictor = load(path).predictor
        if not isinstance(predictor, WritingPredictor):
            raise RunError(f"{path}: its model has heads and does not write: serve it without --writer")
    except PalmetteError as error:
        connection.send(("failed", str(error)))
        return
    os.nice(_LOWEST)  # behind the loading, which somebody waits for
    connection.send(("done", predictor.kinds))
    while True:
        try:
            what, given = connection.recv()
        except EOFError:
            return
        try:
            connection.send(("done", _answer(predictor, connection, what, given)))
        except Exception as error:  # noqa: BLE001 - whatever it is, the next question may be a better one
            logs.log("writing failed", level=logging.ERROR, error=error)
            connection.send(("failed", f"{type(error).__name__}: {error}"))


def _answer(predictor: WritingPredictor, connection: Connection[Any, Any], what: str, given: Any) -> Any:
    if what == "words":
        return predictor.find_words(given)
    examples, wanted, aloud = given

    def heard(number: int, task: str, text: str) -> None:
        connection.send(("grown", number, task, text))

    return predictor.answer_aloud(examples, wanted, heard) if aloud else predictor.answer_each(examples, wanted)


def _leave_with_parent() -> None:
    while os.read(0, 1024):
        pass
    os._exit(3)
