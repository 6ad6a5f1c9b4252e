"""What the server costs, carries and survives: `palmette serve` of an int8 bundle on the loopback, texts of EWT test.

- latency: what HTTP adds to `predict` of one text, over a connection that is kept alive.
- throughput: texts a second under closed-loop load by wrk, which shares the cores, against `Runtime.stream` over the
  same texts; with --peer, LitServe around the same runtime too. They alternate.
- overload: four times the requests that the server can answer; memory, refusals, waiting.
- losses: accepted requests that were not answered, over reloads and over SIGTERM, under load.
- start: seconds from the start of the process until it is ready.

    python benchmarks/load.py latency                          # a minute; the first time five more, for the bundle
    python benchmarks/load.py throughput --texts 16 --peer     # 3 minutes
    python benchmarks/load.py overload                         # 2 minutes
    python benchmarks/load.py losses                           # a minute
    python benchmarks/load.py start                            # seconds
"""

from __future__ import annotations

import argparse
import json
import shutil
import signal
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import common
import servers

if TYPE_CHECKING:
    from palmette.runtime import Runtime

_SHARES = {1: 0.5, 16: 0.85}  # of the runtime's own throughput that the server is to reach, by texts in a request
_CONNECTIONS = {1: 64, 16: 16}
_PEER_BATCHES = {1: (8, 32, 64), 16: (2, 4, 8)}  # requests that LitServe may join: the fastest is measured
_TIMES = 4  # the load that the server can answer
_LONGEST_PAUSE = 2.0  # seconds on average; the server closes connections that say nothing for 5


def main() -> None:
    """Measure one thing and report."""
    parser = common.parser(__doc__)
    parser.add_argument("what", choices=list(_MEASURES))
    parser.add_argument("--texts", type=int, choices=list(_SHARES), default=16, help="in a request (default 16)")
    parser.add_argument("--seconds", type=float, default=60, help="of load (default 60)")
    parser.add_argument("--slices", type=int, default=6, help="that those of throughput are cut into (default 6)")
    parser.add_argument("--rounds", type=int, default=7, help="of latency (default 7)")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="setting of the server")
    parser.add_argument("--peer", action="store_true", help="measure LitServe's throughput too")
    arguments = parser.parse_args()
    common.use_threads(arguments.threads)
    _MEASURES[arguments.what](servers.bundle(), arguments)


def _load(bundle: Path) -> Runtime:
    from palmette.runtime import Runtime

    return Runtime.load(bundle)  # as many threads as the server takes


def _latency(bundle: Path, arguments: argparse.Namespace) -> None:
    """Text by text, whole rounds in turn, so that the two do not compute at once."""
    texts = servers.texts()[:200]
    asked = servers.bodies(texts, 1)
    model = _load(bundle)
    http_times: list[list[float]] = [[] for _ in texts]
    own_times: list[list[float]] = [[] for _ in texts]
    inside: dict[str, list[float]] = {"queue": [], "compute": [], "total": []}
    with servers.running(servers.palmette(bundle, *arguments.set)) as server:
        connection = server.connect()
        for turn in range(arguments.rounds + 1):  # the first warms
            for number, body in enumerate(asked):
                begun = time.perf_counter()
                status, content = server.ask(connection, body)
                answer = json.loads(content)
                taken = time.perf_counter() - begun
                if status != 200:
                    raise SystemExit(f"{status}: {content[:300]!r}")
                if turn:
                    http_times[number].append(taken)
                    for name, found in inside.items():
                        found.append(answer["milliseconds"][name])
            for number, text in enumerate(texts):
                begun = time.perf_counter()
                model.predict(text)
                if turn:
                    own_times[number].append(time.perf_counter() - begun)
        connection.close()
    pairs = [(statistics.median(a), statistics.median(b)) for a, b in zip(http_times, own_times, strict=True)]
    added = round(1000 * statistics.median(a - b for a, b in pairs), 3)
    common.report(
        "load",
        "latency of one text",
        arguments=arguments,
        headline={
            "HTTP adds, ms": added,
            "HTTP, ms": round(1000 * statistics.median(a for a, _ in pairs), 3),
            "predict, ms": round(1000 * statistics.median(b for _, b in pairs), 3),
        },
        targets={"HTTP adds, ms": common.Target(added, 2, at_most=True)},
        details={
            "texts": len(texts),
            "rounds": arguments.rounds,
            "inside the server, ms": {name: statistics.median(found) for name, found in inside.items()},
        },
    )


def _throughput(bundle: Path, arguments: argparse.Namespace) -> None:
    texts = servers.texts()
    size: int = arguments.texts
    asked, connections = servers.bodies(texts, size), _CONNECTIONS[size]
    seconds = arguments.seconds / arguments.slices
    model = _load(bundle)
    errors = {"server": 0.0}

    def stream() -> float:
        begun = time.perf_counter()
        count = sum(1 for _ in model.stream(texts))
        return count / (time.perf_counter() - begun)

    def load(name: str, server: servers.Server, seconds: float) -> float:
        found = servers.wrk(server, asked, connections=connections, seconds=seconds)
        time.sleep(0.5)  # what wrk left unread
        errors[name] = errors.get(name, 0) + found.not_2xx + found.lost
        return size * (found.requests - found.not_2xx) / found.seconds

    with servers.running(servers.palmette(bundle, *arguments.set)) as server:
        systems: dict[str, Callable[[], float]] = {"stream": stream, "server": lambda: load("server", server, seconds)}
        tried: dict[int, float] = {}
        if arguments.peer:
            for batch in _PEER_BATCHES[size]:
                with servers.running(servers.litserve(bundle, batch=batch)) as peer:
                    tried[batch] = max(load("peer", peer, 3) for _ in range(2))
            with servers.running(servers.litserve(bundle, batch=max(tried, key=lambda n: tried[n]))) as peer:
                rates = _alternate({**systems, "peer": lambda: load("peer", peer, seconds)}, arguments.slices)
        else:
            rates = _alternate(systems, arguments.slices)
    if errors.get("peer"):
        raise SystemExit(f"the peer refused or lost {errors['peer']:g} requests: nothing to compare with")
    median = {name: statistics.median(found) for name, found in rates.items()}
    ratio = round(statistics.median(a / b for a, b in zip(rates["server"], rates["stream"], strict=True)), 3)
    common.report(
        "load",
        f"throughput, {_of(size)}",
        arguments=arguments,
        headline={
            "server / stream": ratio,
            **({"server / LitServe": round(median["server"] / median["peer"], 3)} if "peer" in median else {}),
            **{f"{name} texts/s": round(found, 1) for name, found in median.items()},
            "errors": errors["server"],
        },
        targets={
            "server / stream": common.Target(ratio, _SHARES[size]),
            "errors": common.Target(errors["server"], 0, at_most=True),
        },
        details={
            "connections": connections,
            "rates": {name: [round(rate, 1) for rate in found] for name, found in rates.items()},
            "peer batches": tried,
            "errors": errors,
        },
    )


def _of(size: int) -> str:
    return f"{size} texts a request" if size > 1 else "1 text a request"


def _alternate(systems: Mapping[str, Callable[[], float]], slices: int) -> dict[str, list[float]]:
    """Rates of each slice; the systems in turn. A first slice warms and does not count."""
    rates: dict[str, list[float]] = {name: [] for name in systems}
    for number in range(slices + 1):
        for name, run in systems.items():
            rate = run()
            common.log(f"slice {number}: {name}: {rate:.1f} texts/s")
            if number:
                rates[name].append(rate)
    return rates


def _overload(bundle: Path, arguments: argparse.Namespace) -> None:
    """Connections that each wait before they ask again, so many that the queue is always full.

    What wrk sends is hardly slowed down by what it gets: there are connections for all that can wait, and others.
    """
    from palmette.serving.batcher import cost
    from palmette.serving.settings import ServerSettings

    texts = servers.texts()
    size: int = arguments.texts
    asked = servers.bodies(texts, size)
    settings = ServerSettings.read(arguments.set)
    with servers.running(servers.palmette(bundle, *arguments.set)) as server:
        with _Memory(server) as steady:
            calm = servers.wrk(server, asked, connections=_CONNECTIONS[size], seconds=arguments.seconds / 3)
        rate = calm.requests / calm.seconds
        # Requests that fit into the queue, bounded as it is in subwords and in seconds.
        room = settings.queue_tokens / (size * statistics.mean(map(cost, texts)))
        waiting = int(min(room, settings.queue_seconds * rate))
        before = {
            status: server.counted("palmette_responses_total", status=status) for status in ("200", "429", "500", "504")
        }
        with _Memory(server) as high, servers.Callers(server, texts, 16, sizes=[size], pause=0.1) as callers:
            pause = min(waiting / (_TIMES * rate), _LONGEST_PAUSE)
            connections = waiting + int(_TIMES * rate * pause)
            found = servers.wrk(server, asked, connections=connections, seconds=arguments.seconds, pause=pause)
        counts = {
            status: server.counted("palmette_responses_total", status=status) - value
            for status, value in before.items()
        }
        alive = server.status("/readyz") == 200
    refused = sorted(1000 * seconds for status, seconds in callers.answers if status == 429)
    accepted = sorted(seconds for status, seconds in callers.answers if status == 200)
    drained = waiting / rate  # seconds that a full queue takes
    growth = round(max(high.seen) / max(steady.seen), 3)
    lost = found.lost + len(callers.lost) + counts["500"] + counts["504"]
    values = {
        "memory / steady": common.Target(growth, 1.3, at_most=True),
        "refused, p99 ms": common.Target(round(_quantile(refused, 0.99), 1), 50, at_most=True),
        "accepted, p99 s": common.Target(round(_quantile(accepted, 0.99), 2), settings.request_timeout, at_most=True),
        "crashed, lost, late": common.Target(lost + (not alive), 0, at_most=True),
    }
    common.report(
        "load",
        f"overload, {_of(size)}",
        arguments=arguments,
        headline={
            "asked / answered when calm": round(found.requests / found.seconds / rate, 2),
            "answered / answered when calm": round(counts["200"] / found.seconds / rate, 3),
            **{name: target.value for name, target in values.items()},
        },
        targets=values,
        details={
            "requests/s when calm": round(rate, 1),
            "connections": connections,
            "pause": round(pause, 3),
            "full queue, s": round(drained, 2),
            "responses": counts,
            "memory, MB": {"steady": round(max(steady.seen), 1), "most": round(max(high.seen), 1)},
            "refused, ms": {f"p{q}": round(_quantile(refused, q / 100), 2) for q in (50, 90, 99, 100)},
            "accepted, s": {f"p{q}": round(_quantile(accepted, q / 100), 2) for q in (50, 90, 99, 100)},
            "probes": {"refused": len(refused), "accepted": len(accepted)},
        },
    )


def _quantile(ordered: Sequence[float], share: float) -> float:
    if not ordered:
        raise SystemExit("no such response among the probes: not enough load, or too much")
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


class _Memory:
    """What a server holds, four times a second, in MB, while the block lasts."""

    def __init__(self, server: servers.Server) -> None:
        self._server = server
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._look)
        self.seen: list[float] = []

    def __enter__(self) -> _Memory:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._ended.wait(0.25):
            self.seen.append(self._server.resident_mb())


def _losses(bundle: Path, arguments: argparse.Namespace) -> None:
    texts = servers.texts()
    with tempfile.TemporaryDirectory() as folder:
        model = Path(folder) / "bundle"
        shutil.copytree(bundle, model)
        with servers.running(servers.palmette(model, *arguments.set)) as server:
            with servers.Callers(server, texts, 16) as callers:
                reloads = [_reload(server, model, number) for number in range(20)]
            lost = [*callers.lost, *(f"status {status}" for status, _ in callers.answers if status != 200)]
    answered, models = len(callers.answers), len(callers.digests)
    ends: list[dict[str, Any]] = []
    for _ in range(5):
        server = servers.palmette(bundle, *arguments.set)
        server.start()
        with servers.Callers(server, texts, 16) as callers:
            time.sleep(2)
            begun = time.perf_counter()
            code = server.stop()
            ends.append({"code": code, "seconds": round(time.perf_counter() - begun, 2), "lost": callers.lost})
        ends[-1] |= {"answered": len(callers.answers)}
        ends[-1]["lost"] += [f"status {status}" for status, _ in callers.answers if status != 200]
    values = {
        "lost over 20 reloads": common.Target(len(lost), 0, at_most=True),
        "lost over 5 SIGTERM": common.Target(sum(len(end["lost"]) for end in ends), 0, at_most=True),
    }
    common.report(
        "load",
        "losses",
        arguments=arguments,
        headline={
            **{name: target.value for name, target in values.items()},
            "answered": answered + sum(end["answered"] for end in ends),
            "exit codes": ", ".join(str(end["code"]) for end in ends),
        },
        targets=values,
        details={"reload seconds": reloads, "models": models, "lost": lost, "ends": ends},
    )


def _reload(server: servers.Server, model: Path, number: int) -> float:
    """Another manifest, so another digest; asked for over HTTP or by a signal. -> seconds until it was there."""
    manifest = model / "manifest.json"
    manifest.write_text(manifest.read_text(encoding="utf-8") + "\n", encoding="utf-8")
    begun = time.perf_counter()
    if number % 2:
        server.status("/v1/admin/reload", method="POST")
    else:
        server.process.send_signal(signal.SIGHUP)
    while server.counted("palmette_reloads_total", result="done") <= number:
        if time.perf_counter() - begun > 60:
            raise SystemExit(f"reload {number} did not come to its end")
        time.sleep(0.05)
    return round(time.perf_counter() - begun, 2)


def _start(bundle: Path, arguments: argparse.Namespace) -> None:
    seconds = []
    for number in range(6):
        server = servers.palmette(bundle, *arguments.set)
        taken = server.start()
        server.process.kill()
        server.stop()
        if number:  # the first fills the file cache
            seconds.append(round(taken, 3))
    median = statistics.median(seconds)
    common.report(
        "load",
        "start until ready",
        arguments=arguments,
        headline={"seconds": median},
        targets={"seconds": common.Target(median, 2, at_most=True)},
        details={"seconds": seconds},
    )


_MEASURES: dict[str, Callable[[Path, argparse.Namespace], Any]] = {
    "latency": _latency,
    "throughput": _throughput,
    "overload": _overload,
    "losses": _losses,
    "start": _start,
}


if __name__ == "__main__":
    main()
