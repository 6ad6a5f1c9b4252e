"""Does watching keep its promises on real texts? Windows of a bundle's answers against the profile in the bundle.

Each text is answered once, and looked at as `palmette serve --set watch=true` looks at it. Windows are drawn from these
looks, with replacement, and given to the server's own `TaskWatch`: the same traffic (test of EWT for tags and entities,
of SST-2 for sentiment); the same with a label as the main one of 20 points more, or fewer, of the texts; the same with
a fifth of the words glued or split, as a broken tokeniser does; and tweets (Broad Twitter Corpus).

    python benchmarks/drift.py BUNDLE            # 10 minutes on one core
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import common

if TYPE_CHECKING:
    import numpy as np

    from palmette.operate.watch.looks import Look
    from palmette.operate.watch.windows import TaskWatch
    from palmette.predictor import Predictor
    from palmette.types import Example

_WITHIN = 10  # windows in which an alarm is due
_MOVED = 0.2  # of the texts get, or lose, a main label
_EXTREME = 0.1  # least share of texts with a main label, and without, before and after
_BROKEN = 0.2  # of the words are hit by a fault
_FALSE = 0.01  # share of windows of the same traffic that may be in alarm
_POINTS = 3.0  # that an estimate may be off
_NEAR = 0.95  # of the windows are to have an estimate that is no further off
_NOW = datetime(2026, 1, 1, tzinfo=UTC)
_TWEETS = "btc/dev.conll"


@dataclass(frozen=True)
class Traffic:
    """Texts of a task, as they are answered.

    Attributes:
        looks: at each.
        right: how many of its claims are right; empty where texts are not annotated.
        label: that it is annotated with most often (its class, most of its tags, most of its entities or none).
    """

    looks: list[Look] = field(default_factory=list)
    right: list[int] = field(default_factory=list)
    label: list[str] = field(default_factory=list)

    def accuracy(self, weights: np.ndarray[Any, Any]) -> float:
        """Share of the claims that are right, where each text occurs so often."""
        claims = sum(weight * len(one.claims) for weight, one in zip(weights, self.looks, strict=True))
        return float(weights @ self.right / claims)


@dataclass
class Shown:
    """What streams of windows showed.

    Attributes:
        windows: how many there were.
        alarmed: how many of them were in alarm.
        after: how many windows each stream took to an alarm; one more than there were if there was none.
        signals: that raised alarms, and how often.
        numbers: how many windows had an estimate.
        off: by how many points each estimate missed the traffic's accuracy.
        off_own: by how many it missed the accuracy of the very texts it is of, which varies by chance.
        covered: how many of their intervals hold that.
    """

    windows: int = 0
    alarmed: int = 0
    after: list[int] = field(default_factory=list)
    signals: dict[str, int] = field(default_factory=dict)
    numbers: int = 0
    off: list[float] = field(default_factory=list)
    off_own: list[float] = field(default_factory=list)
    covered: int = 0

    @property
    def near(self) -> int:
        """How many windows had an estimate that was off by 3 points at most."""
        return sum(points <= _POINTS for points in self.off)

    def join(self, other: Shown) -> None:
        """Add another's."""
        self.windows += other.windows
        self.alarmed += other.alarmed
        self.after += other.after
        self.numbers += other.numbers
        self.off += other.off
        self.off_own += other.off_own
        self.covered += other.covered
        for signal, count in other.signals.items():
            self.signals[signal] = self.signals.get(signal, 0) + count

    def as_json(self) -> dict[str, Any]:
        """Its figures."""
        found: dict[str, Any] = {
            "windows": self.windows,
            "in alarm": self.alarmed,
            "alarm after": max(self.after),
            "signals": dict(sorted(self.signals.items())),
            "with an estimate": self.numbers,
            "within 3 points": self.near,
        }
        if self.off:
            found |= {
                "estimate off, points": [_mean(self.off), _most(self.off)],
                "of these texts' own": [_mean(self.off_own), _most(self.off_own)],
                "intervals that hold it": round(self.covered / self.numbers, 3),
            }
        return found


def _mean(values: Sequence[float]) -> float:
    return round(sum(values) / len(values), 2)


def _most(values: Sequence[float]) -> float:
    """What 95 % of the values stay below."""
    return round(sorted(values)[int(0.95 * (len(values) - 1))], 2)


def main() -> None:
    """Answer, draw windows, report."""
    parser = common.parser(__doc__)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--window", type=int, default=500, help="texts in a window")
    parser.add_argument("--windows", type=int, default=300, help="of the same traffic, for each task")
    parser.add_argument("--streams", type=int, default=10, help=f"of {_WITHIN} windows, for each change")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--name", default="", help="of the bundle, in the table; default: its folder's")
    arguments = parser.parse_args()
    common.use_threads(arguments.threads)
    from palmette.deploy.bundle import PROFILE
    from palmette.operate.watch.profile import from_json
    from palmette.operate.watch.windows import TaskWatch
    from palmette.runtime import Runtime

    model = Runtime.load(arguments.bundle, threads=arguments.threads)
    profile = from_json(model.bundle.read_json(PROFILE), where=str(arguments.bundle))
    same, changed = _answered(model.predictor, seed=arguments.seed)
    headline: dict[str, float | str] = {}
    targets: dict[str, common.Target] = {}
    details: dict[str, Any] = {"window": arguments.window, "precision": model.bundle.manifest["precision"]}
    for task, one in profile.items():
        watch = TaskWatch(task, one, window=arguments.window, tasks=len(profile), seed=arguments.seed)
        found = _shown(watch, same[task], changed[task], arguments.windows, arguments.streams, arguments.seed)
        details[task] = {name: shown.as_json() for name, shown in found.items()}
        common.log(f"{task}: {details[task]}")
        calm, tweets = found.pop("same"), found["tweets"]
        moved = Shown()
        for name in [name for name in found if name.startswith("label ")]:
            moved.join(found.pop(name))
        alarms = {name: max(shown.after) for name, shown in {**found, "label": moved}.items()}
        off = {name: _most(shown.off) for name, shown in {"same": calm, "label": moved}.items()}
        near = {name: shown.near / shown.windows for name, shown in {"same": calm, "label": moved}.items()}
        headline |= {
            f"{task}: windows of the same traffic in alarm": f"{calm.alarmed} of {calm.windows}",
            f"{task}: windows to the alarm": _listed(alarms),
            f"{task}: estimate off, points (95 %)": _listed(off),
            f"{task}: windows with an estimate within {_POINTS:g} points": _listed(
                {name: f"{value:.1%}" for name, value in near.items()}
            ),
            f"{task}: tweets with an estimate": f"{tweets.numbers} of {tweets.windows}",
        }
        targets |= {
            f"{task}: false alarms": common.Target(round(calm.alarmed / calm.windows, 4), _FALSE, at_most=True),
            f"{task}: windows to the alarm": common.Target(max(alarms.values()), _WITHIN, at_most=True),
            f"{task}: windows with an estimate within {_POINTS:g} points": common.Target(
                round(min(near.values()), 4), _NEAR
            ),
            f"{task}: tweets with an estimate": common.Target(tweets.numbers, 0, at_most=True),
        }
    common.report(
        "drift",
        arguments.name or arguments.bundle.name,
        arguments=arguments,
        headline=headline,
        targets=targets,
        details=details,
    )


def _listed(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in values.items())


def _answered(predictor: Predictor, *, seed: int) -> tuple[dict[str, Traffic], dict[str, dict[str, Traffic]]]:
    """Each task's usual traffic, and that of each change: {task: {change: traffic}}."""
    from palmette.config import ColumnsSource, Config
    from palmette.corpus import load_corpus
    from palmette.data.readers import read
    from palmette.types import Example, Text

    test = load_corpus(Config.load(common.REFERENCE), fitted=predictor.kinds).splits["test"]
    source = ColumnsSource(format="columns", train=str(common.data_folder() / _TWEETS), labels={"ner": 1})
    tweets = [Example(Text(tuple(record.text)), {}) for record in read(source, "train")]
    common.log(f"answering {len(tweets)} tweets")
    same: dict[str, Traffic] = {}
    changed = {task: {"tweets": traffic} for task, traffic in _looked(predictor, tweets, list(predictor.kinds)).items()}
    for tasks in [("pos", "ner"), ("sentiment",)]:
        usual = [example for example in test if all(task in example.labels for task in tasks)]
        common.log(f"{', '.join(tasks)}: answering {len(usual)} texts, as they are and broken in two ways")
        same |= _looked(predictor, usual, tasks)
        for name, fault in {"glued": _glued, "split": _split}.items():
            for task, traffic in _looked(predictor, _broken(usual, fault, seed), tasks).items():
                changed[task][name] = traffic
    return same, changed


def _looked(predictor: Predictor, examples: Sequence[Example], tasks: Sequence[str]) -> dict[str, Traffic]:
    """What a server's watcher sees of some texts, and what is right where they are annotated."""
    from palmette.operate.watch.looks import count_words, look, marks, own_subwords
    from palmette.operate.watch.profile import unknown_token

    unknown = unknown_token(predictor)
    found = {task: Traffic() for task in tasks}
    readings, answers = predictor.embedded(examples, [tasks] * len(examples))
    for example, reading, answer in zip(examples, readings, answers, strict=True):
        subwords, words = own_subwords(predictor.encoder, example), count_words(example)
        for task, prediction in answer.items():
            kind, traffic = predictor.kinds[task], found[task]
            traffic.looks.append(
                look(kind, prediction, subwords, reading.embedding, words=words, unknown=unknown)  # type: ignore[arg-type]
            )
            if task in example.labels:
                gold = example.labels[task]
                traffic.right.append(sum(kind.holds(claim.item, gold) for claim in kind.claims(prediction)))
                found_marks = marks(kind, gold)
                traffic.label.append(min(found_marks, key=lambda name: (-found_marks[name], name)))
    return found


def _broken(
    examples: Sequence[Example], fault: Callable[[Sequence[str], np.random.Generator], list[str]], seed: int
) -> list[Example]:
    """The texts with other words, hence without labels."""
    import numpy as np

    from palmette.types import Example, Text

    rng = np.random.default_rng(seed)
    return [Example(Text(tuple(fault(example.text.words, rng))), {}) for example in examples]


def _glued(words: Sequence[str], rng: np.random.Generator) -> list[str]:
    found: list[str] = []
    for word in words:
        if found and rng.random() < _BROKEN:
            found[-1] += word
        else:
            found.append(word)
    return found


def _split(words: Sequence[str], rng: np.random.Generator) -> list[str]:
    found: list[str] = []
    for word in words:
        if len(word) > 1 and rng.random() < _BROKEN:
            place = int(rng.integers(1, len(word)))
            found += [word[:place], word[place:]]
        else:
            found.append(word)
    return found


def _shown(
    prepared: TaskWatch, same: Traffic, changed: Mapping[str, Traffic], windows: int, streams: int, seed: int
) -> dict[str, Shown]:
    """What a task's watch shows of each traffic: {its name: what}."""
    import numpy as np

    rng = np.random.default_rng(seed)
    even = np.full(len(same.looks), 1 / len(same.looks))
    found = {"same": _stream(prepared, same, even, windows, rng)}
    for name, traffic in changed.items():
        weights = np.full(len(traffic.looks), 1 / len(traffic.looks))
        found[name] = _joined(_stream(prepared, traffic, weights, _WITHIN, rng) for _ in range(streams))
    for name, weights in _moved(same).items():
        found[name] = _joined(_stream(prepared, same, weights, _WITHIN, rng) for _ in range(streams))
    return found


def _moved(traffic: Traffic) -> dict[str, np.ndarray[Any, Any]]:
    """How probable each text is where a label is the main one of 20 points more, or fewer, of them: {name: [texts]}."""
    import numpy as np

    found = {}
    for label in sorted(set(traffic.label)):
        has = np.array([main == label for main in traffic.label])
        for sign, wanted in (("+", has.mean() + _MOVED), ("-", has.mean() - _MOVED)):
            if min(wanted, has.mean()) >= _EXTREME and max(wanted, has.mean()) <= 1 - _EXTREME:
                found[f"label {sign}{label}"] = np.where(has, wanted / has.sum(), (1 - wanted) / (~has).sum())
    return found


def _joined(several: Iterable[Shown]) -> Shown:
    found = Shown()
    for one in several:
        found.join(one)
    return found


def _stream(
    prepared: TaskWatch, traffic: Traffic, weights: np.ndarray[Any, Any], windows: int, rng: np.random.Generator
) -> Shown:
    """Give windows to a watch that has seen none yet."""
    import numpy as np

    watch, shown = copy.deepcopy(prepared), Shown()
    truth = traffic.accuracy(weights) if traffic.right else None
    drawn: list[np.ndarray[Any, Any]] = []
    for number in range(1, windows + 1):
        chosen = rng.choice(len(traffic.looks), size=watch.size, p=weights)
        drawn.append(chosen)
        for place in chosen:
            watch.add(traffic.looks[place], now=_NOW)
        shown.windows += 1
        shown.alarmed += bool(watch.alarms)
        if watch.alarms and not shown.after:
            shown.after.append(number)
        estimate = watch.windows[-1].estimate
        shown.numbers += estimate is not None
        if estimate is not None and truth is not None:
            latest = np.concatenate(drawn)[-estimate.texts :]
            own = traffic.accuracy(np.bincount(latest, minlength=len(traffic.looks)))
            shown.off.append(100 * abs(estimate.value - truth))
            shown.off_own.append(100 * abs(estimate.value - own))
            shown.covered += estimate.low <= own <= estimate.high
    shown.after = shown.after or [windows + 1]
    shown.signals = {signal: count for signal, count in watch.raised.items() if count}
    return shown


if __name__ == "__main__":
    main()
