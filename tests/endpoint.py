"""A server that speaks the protocol of OpenAI's chat completions, in a thread, and fails as it is told."""

from __future__ import annotations

import json
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Reply:
    """What the server does with a request.

    Attributes:
        status, headers: of the response.
        body: bytes instead of an answer.
        text: the answer; None: the last message, in capitals.
        change: made to the answer's JSON.
        seconds: waited before.
        drip: seconds between single bytes of the body.
        cut: close the connection: before the response, or in the middle of its body.
    """

    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes | None = None
    text: str | None = None
    change: Callable[[dict[str, Any]], Any] | None = None
    seconds: float = 0.0
    drip: float = 0.0
    cut: str = ""


class Endpoint:
    """Counts what it gives out.

    Attributes:
        replies: for the next requests, in order; behind them, `otherwise`.
        seen: bodies of requests.
        times: of their arrival.
        given: tokens of prompts and answers given out, whether the client got them or not.
        most: requests at once.
    """

    def __init__(self, address: str) -> None:
        self.url = address
        self.replies: list[Reply] = []
        self.otherwise: Callable[[dict[str, Any]], Reply] = lambda _: Reply()
        self.seen: list[dict[str, Any]] = []
        self.keys: set[str | None] = set()
        self.times: list[float] = []
        self.given = 0
        self.most = 0
        self.open = 0
        self.lock = threading.Lock()

    def take(self, asked: dict[str, Any], key: str | None) -> Reply:
        with self.lock:
            self.seen.append(asked)
            self.keys.add(key)
            self.times.append(time.monotonic())
            self.open += 1
            self.most = max(self.most, self.open)
            return self.replies.pop(0) if self.replies else self.otherwise(asked)

    def leave(self) -> None:
        with self.lock:
            self.open -= 1

    def answer(self, asked: dict[str, Any], reply: Reply) -> bytes:
        """The body of an answer; a token is a byte, and each message takes four more."""
        last = asked["messages"][-1]["content"]
        text = (reply.text if reply.text is not None else last.upper()).encode("utf-8", "replace")
        written = min(len(text), asked["max_tokens"])
        read = sum(4 + len(message["content"].encode("utf-8", "replace")) for message in asked["messages"])
        with self.lock:
            self.given += read + written
        content: dict[str, Any] = {
            "choices": [
                {
                    "message": {"role": "assistant", "content": text[:written].decode("utf-8", "ignore")},
                    "finish_reason": "stop" if written == len(text) else "length",
                }
            ],
            "usage": {"prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written},
        }
        if reply.change is not None:
            content = reply.change(content) or content
        return json.dumps(content).encode()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    endpoint: Endpoint

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        reply = self.endpoint.take(asked, self.headers["Authorization"])
        try:
            self._reply(asked, reply)
        except OSError:
            self.close_connection = True  # The client has given up.
        finally:
            self.endpoint.leave()

    def _reply(self, asked: dict[str, Any], reply: Reply) -> None:
        time.sleep(reply.seconds)
        if reply.cut == "before":
            # Reset, as a crashed server's connection is.
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.close_connection = True
            return
        body = reply.body if reply.body is not None else b"{}"
        if reply.body is None and reply.status == 200:
            body = self.endpoint.answer(asked, reply)
        self.send_response(reply.status)
        for name, value in {"Content-Length": str(len(body)), **reply.headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if reply.cut == "within":
            self.wfile.write(body[: len(body) // 2])
            self.close_connection = True
        elif reply.drip:
            for number in range(len(body)):
                self.wfile.write(body[number : number + 1])
                time.sleep(reply.drip)
        else:
            self.wfile.write(body)

    def log_message(self, format: str, *arguments: Any) -> None:  # noqa: A002 - its name there
        pass


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass  # A client that hangs up is part of the tests.


@contextmanager
def served() -> Iterator[Endpoint]:
    """An endpoint on a free port of this machine."""

    class Handler(_Handler):
        pass

    server = _Server(("127.0.0.1", 0), Handler)
    Handler.endpoint = Endpoint(f"http://127.0.0.1:{server.server_port}/v1")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield Handler.endpoint
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
