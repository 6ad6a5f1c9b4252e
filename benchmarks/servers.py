"""Servers under measurement: started, asked, loaded by wrk, ended. Real texts: EWT test."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path

import common

TASKS = ["pos", "ner", "sentiment"]
SCRIPT = common.HERE / "load.lua"
HEADERS = {"Content-Type": "application/json"}
_PAGE = os.sysconf("SC_PAGE_SIZE")


def bundle() -> Path:
    """An int8 bundle of tags, entities and sentiment; speed does not depend on how well it was trained."""
    # In a process of its own, so that this one never imports torch.
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(_bundle).result()


def _bundle() -> Path:
    from one_pass import bundle as make

    with common.only_errors_on_stdout():
        return make(TASKS, quantize="int8")


def texts() -> list[str]:
    """The raw sentences of EWT test."""
    file = common.data_folder() / "ud_english_ewt" / "en_ewt-ud-test.conllu"
    lines = file.read_text(encoding="utf-8").splitlines()
    return [line.removeprefix("# text = ") for line in lines if line.startswith("# text = ")]


def free_port() -> int:
    """A port of the loopback that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as found:
        return int(found.getsockname()[1])


@dataclass
class Server:
    """A server process on the loopback."""

    command: Sequence[str | Path]
    port: int = field(default_factory=free_port)
    ready: str = "/readyz"
    path: str = "/v1/predict"

    def start(self, *, seconds: float = 60) -> float:
        """Start it; -> seconds until it said that it is ready."""
        command = [str(part).replace("{port}", str(self.port)) for part in self.command]
        begun = time.perf_counter()
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed by `stop`
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=self._errors, start_new_session=True)
        while self.status(self.ready) != 200:
            if self.process.poll() is not None or time.perf_counter() - begun > seconds:
                self._errors.seek(0)
                said = self._errors.read().decode()[-3000:]
                self.stop()
                raise SystemExit(f"{command}: not ready\n{said}")
            time.sleep(0.005)
        return time.perf_counter() - begun

    def stop(self) -> int:
        """End it as an operator does, and whatever it leaves behind; -> its exit code."""
        self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(30)
        except subprocess.TimeoutExpired:
            return -signal.SIGKILL
        finally:
            with contextlib.suppress(ProcessLookupError):  # LitServe leaves its workers
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self._errors.close()

    def connect(self, *, timeout: float = 60) -> http.client.HTTPConnection:
        """A connection that is kept alive."""
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)

    def ask(self, connection: http.client.HTTPConnection, body: bytes) -> tuple[int, bytes]:
        """Send a request for answers and read the whole response."""
        connection.request("POST", self.path, body, HEADERS)
        response = connection.getresponse()
        return response.status, response.read()

    def status(self, path: str, *, method: str = "GET") -> int | None:
        """The status of a request without a body; None if nobody listens."""
        connection = self.connect()
        try:
            connection.request(method, path)
            return connection.getresponse().status
        except OSError:
            return None
        finally:
            connection.close()

    def counted(self, name: str, **labels: str) -> float:
        """A metric's value, summed over the labels that are not named."""
        connection = self.connect()
        connection.request("GET", "/metrics")
        lines = connection.getresponse().read().decode().splitlines()
        connection.close()
        wanted = [f'{key}="{value}"' for key, value in labels.items()]
        return sum(
            float(line.rpartition(" ")[2])
            for line in lines
            if line.startswith((f"{name} ", f"{name}{{")) and all(label in line for label in wanted)
        )

    def resident_mb(self) -> float:
        """Memory that it holds now, in MB (10^6 bytes). Linux only."""
        pages = Path(f"/proc/{self.process.pid}/statm").read_text(encoding="ascii").split()[1]
        return int(pages) * _PAGE / 1e6


def palmette(model: Path, *settings: str) -> Server:
    """`palmette serve` of a bundle."""
    options = [part for setting in settings for part in ("--set", setting)]
    return Server([sys.executable, "-m", "palmette.cli", "serve", model, "--port", "{port}", *options])


def litserve(model: Path, *, batch: int) -> Server:
    """LitServe with batches of so many requests, around the same runtime."""
    import environments

    script = environments.PEERS / "litserve_server.py"
    command: list[str | Path] = [environments.environment("litserve"), script, model, "{port}", str(batch)]
    return Server(command, ready="/health", path="/predict")


@contextlib.contextmanager
def running(server: Server) -> Iterator[Server]:
    """The server, from its start to its end."""
    server.start()
    try:
        yield server
    finally:
        server.stop()


def bodies(found: Sequence[str], size: int) -> list[bytes]:
    """Request bodies of `size` texts each; an incomplete last one is left out."""
    parts = [found[start : start + size] for start in range(0, len(found) - size + 1, size)]
    return [json.dumps({"texts": part}, ensure_ascii=False).encode() for part in parts]


@dataclass(frozen=True, slots=True)
class Load:
    """What wrk saw: responses, seconds, those that were no success, broken connections; milliseconds of responses."""

    requests: int
    seconds: float
    not_2xx: int
    lost: int
    p50: float
    p99: float


def wrk(
    server: Server, asked: Sequence[bytes], *, connections: int, seconds: float, pause: float | None = None
) -> Load:
    """Load a server; with `pause`, each connection waits before each request, so many seconds on average."""
    program = shutil.which("wrk")
    if program is None:
        raise SystemExit("needs wrk: apt-get install wrk")
    with tempfile.NamedTemporaryFile(suffix=".jsonl") as file:
        file.write(b"\n".join(asked) + b"\n")
        file.flush()
        address = f"http://127.0.0.1:{server.port}{server.path}"
        command = [
            program,
            "-t1",
            f"-c{connections}",
            f"-d{max(1, round(seconds))}s",
            "--timeout",
            "60s",
            "-s",
            str(SCRIPT),
        ]
        command += [address, "--", file.name] + ([f"{1000 * pause:.0f}"] if pause is not None else [])
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    return Load(**json.loads(done.stdout.splitlines()[-1]))


@dataclass
class Callers:
    """Threads that ask one thing after the other, each on a connection of its own, and look at every answer.

    Args:
        sizes: texts in a request, in turn.
        pause: seconds between an answer and the next request.

    Attributes:
        answers: (status, seconds) of each response.
        lost: what went wrong with requests that may have been accepted.
        digests: of the models that answered.
    """

    server: Server
    texts: Sequence[str]
    count: int
    sizes: Sequence[int] = tuple(range(1, 17))
    pause: float = 0.0
    answers: list[tuple[int, float]] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)
    digests: set[str] = field(default_factory=set)

    def __enter__(self) -> Callers:
        self._ended = threading.Event()
        self._threads = [threading.Thread(target=self._call, args=(number,)) for number in range(self.count)]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        for thread in self._threads:
            thread.join()

    def _call(self, number: int) -> None:
        connection = self.server.connect()
        turn = number
        while not self._ended.is_set():
            asked = [self.texts[(turn + n) % len(self.texts)] for n in range(self.sizes[turn % len(self.sizes)])]
            turn += self.count
            try:
                if connection.sock is None:
                    connection.connect()
            except ConnectionRefusedError:
                return  # the socket is closed: nothing was accepted
            begun = time.perf_counter()
            try:
                status, content = self.server.ask(connection, json.dumps({"texts": asked}).encode())
            except (OSError, http.client.HTTPException) as error:
                self.lost.append(repr(error))
                return
            self.answers.append((status, time.perf_counter() - begun))
            if status == 200:
                answer = json.loads(content)
                self.digests.add(answer["model"]["digest"])
                if [found["text"] for found in answer["answers"]] != asked:
                    self.lost.append(f"other texts than {asked}")
            self._ended.wait(self.pause)
        connection.close()
