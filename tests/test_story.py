"""The whole story, as docs/operating-tutorial.md tells it: from an alarm, over corrections, to a better model.

Files and commands are read from that page. STORY=docs writes outputs, pictures and figures back into it.
"""

from __future__ import annotations

import base64
import json
import os
import resource
import shlex
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
import httpx2 as httpx
import pytest

from browser import Browser
from palmette.cli import main
from palmette.run import Run
from palmette.serving import ServerSettings
from postgres import new_database
from test_review_page import Page
from test_server import Process, serving, wait_until
from tutorial import Tutorial

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "operating-tutorial.md"
DATA = Path(os.environ.get("PALMETTE_DATA", ROOT.parent / "shared" / "data")).resolve()
NEEDED = ("btc", "sst2", "ud_english_ewt", "uner_english_ewt")
BY_HAND = 40  # items that are corrected in the page
MISSING = [name for name in NEEDED if not (DATA / name).is_dir()]

Sentences = dict[tuple[str, ...], list[str]]


def annotated(file: str, column: int) -> Sentences:
    """{words: tags} of a file with a word a line."""
    found: Sentences = {}
    for block in (DATA / file).read_text(encoding="utf-8").split("\n\n"):
        rows = [line.split("\t") for line in block.split("\n") if line and not line.startswith("# ")]
        if all(row[column].strip() for row in rows):
            found[tuple(row[column] for row in rows)] = [row[column + 1] for row in rows]
    return found


@contextmanager
def tutorial(folder: Path, store: str) -> Iterator[tuple[Tutorial, dict[str, str]]]:
    """The page's run in a folder; its environment may still be changed."""
    tools = folder / "bin"
    tools.mkdir()
    (tools / "python").symlink_to(sys.executable)
    command = tools / "palmette"
    command.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m palmette.cli "$@"\n')
    command.chmod(0o755)
    environment = {
        "PATH": f"{tools}{os.pathsep}{os.environ['PATH']}",
        "PALMETTE_DATA": str(DATA),
        "STORE": store,
        "COLUMNS": "130",  # so that no table of theirs wraps
    }
    yield Tutorial(PAGE, folder, environment), environment


def options_of(command: str, store: str) -> list[str]:
    """What the page's `palmette serve` is given behind the bundle, with this store."""
    return [part.replace("$STORE", store) for part in shlex.split(command)[2:]]


def picture(browser: Browser, name: str, selector: str, *, height: int = 2000) -> None:
    """Keep what the browser shows of an element, where pictures are asked for."""
    if os.environ.get("STORY") == "docs":
        script = "document.querySelector(arguments[0]).getBoundingClientRect()"
        box = browser.ask(f"(({{x, y, width, height}}) => [x, y + scrollY, width, height])({script})", selector)
        x, y, width, tall = box[0] - 12, box[1] - 12, box[2] + 24, min(box[3], height) + 24
        clip = {"x": max(x, 0), "y": max(y, 0), "width": width, "height": tall, "scale": 0.8}
        taken = browser.command("Page.captureScreenshot", format="png", clip=clip, captureBeyondViewport=True)
        (PAGE.parent / "images" / f"tutorial-{name}.png").write_bytes(base64.b64decode(taken["data"]))


def shown(page: Page) -> tuple[tuple[str, ...], list[str]]:
    """The words of the item on the review page, and the tags that they have there."""
    script = (
        "[...document.querySelectorAll('[data-word]')].map(one => [one.querySelector('.word').textContent,"
        " one.classList.contains('inside'), one.classList.contains('first'),"
        " one.querySelector('.label')?.textContent])"
    )
    words, tags, label = [], [], ""
    for word, inside, first, name in page.browser.ask(script):
        label = name or label
        words.append(word)
        tags.append(f"{'B' if first else 'I'}-{label}" if inside else "O")
    return tuple(words), tags


def mark(page: Page, tags: list[str]) -> None:
    """Give the item other tags, by keys alone: everything away, then span by span."""
    page.press("Home", "Shift+End", "Backspace")
    for start, tag in enumerate(tags):
        if not tag.startswith("B-"):
            continue
        length = next(
            (n for n, rest in enumerate(tags[start + 1 :]) if not rest.startswith("I-")), len(tags) - start - 1
        )
        page.press("Home", *["ArrowRight"] * start, *["Shift+ArrowRight"] * length)
        page.press(str(("LOC", "ORG", "PER").index(tag[2:]) + 1))


def review_by_hand(browser: Browser, address: str, gold: Sentences) -> dict[str, int]:
    """Anna's share of the review, in the page."""
    browser.command("Emulation.setEmulatedMedia", features=[{"name": "hover", "value": "hover"}])  # there are keys
    page = Page(browser, f"{address}/", width=1000)
    browser.ask("(document.getElementById('task').value = 'ner', true)")
    browser.ask("document.getElementById('task').dispatchEvent(new Event('change'))")
    page.wait("!document.body.hasAttribute('aria-busy') && !document.getElementById('item').hidden")
    said = {"right": 0, "corrected": 0}
    for number in range(BY_HAND):
        words, tags = shown(page)
        if tags != gold[words]:
            mark(page, gold[words])
            assert shown(page) == (words, gold[words])
            assert page.text("#accept") == "Send correction"
            if gold[words].count("O") < len(words) - 2:
                picture(browser, "review", "main", height=430)
        said["right" if tags == gold[words] else "corrected"] += 1
        page.press("Enter")
        page.done(number + 1)
    assert browser.console() == []
    return said


def watched(address: str) -> dict[str, Any]:
    found: dict[str, Any] = httpx.get(f"{address}/v1/watch").json()["tasks"]
    return found


def all_seen(address: str, texts: dict[str, int]) -> None:
    """Wait until so many texts of each task were looked at: watching runs beside answering."""
    wait_until(lambda: {task: found["texts"] for task, found in watched(address).items()} == texts, seconds=60)


def entities(address: str, gold: Sentences, run: Run) -> tuple[float, set[str]]:
    """Span F1 of what the server answers about annotated texts, and the models that answered."""
    texts, answers, models = [list(words) for words in gold], [], set()
    for start in range(0, len(texts), 100):
        body = {"texts": texts[start : start + 100], "tasks": ["ner"]}
        found = httpx.post(f"{address}/v1/predict", json=body, timeout=60).json()
        answers += [tuple(answer["tasks"]["ner"]["tags"]) for answer in found["answers"]]
        models.add(found["model"]["digest"])
    return float(run.kinds["ner"].score([tuple(tags) for tags in gold.values()], answers)["span_f1"]), models


def test_the_page_types_what_the_commands_take(tmp_path: Path) -> None:
    """What the slow run would notice late: an option that is gone, a setting of another name."""
    story = Tutorial(PAGE, tmp_path, {})
    lines = [
        line[2:] for block in story.blocks.values() for line in block.splitlines() if line.startswith("$ palmette ")
    ]
    lines.append(f"palmette {story.server}")
    for line in lines:
        command: click.Command = main
        _, *words = shlex.split(line)
        while isinstance(command, click.Group):
            command = command.commands[words.pop(0)]
        command.make_context("palmette", words)
    assert len(lines) >= 8
    overrides = [word for word in shlex.split(story.server) if "=" in word]
    assert ServerSettings.read(overrides).rollout.task_disagreement == {"ner": 0.8}
    assert {path.name for path in tmp_path.iterdir()} == {"tasks.yaml", "tweets.yaml", "traffic.py", "colleague.py"}


@pytest.mark.slow
@pytest.mark.skipif(bool(MISSING), reason=f"needs the corpora {', '.join(MISSING)} in {DATA} (PALMETTE_DATA)")
def test_the_whole_story(browser: Browser, postgres_url: str, tmp_path: Path) -> None:
    began = time.monotonic()
    store = new_database(postgres_url, "story")
    with tutorial(tmp_path, store) as (story, environment):
        story.run("train")
        story.run("export")
        command = story.server
        model = tmp_path / shlex.split(command)[1]
        options = options_of(command, store)
        with serving(model, tmp_path / "server.log", arguments=options) as server:
            environment["SERVER"] = server.address
            figures = _tell(story, server, browser)
        took = time.monotonic() - began
        if os.environ.get("STORY") == "docs":
            used = resource.getrusage(resource.RUSAGE_CHILDREN)
            spent = (
                f"{took:.0f} s, of which {used.ru_utime + used.ru_stime:.0f} s of processor time in commands and server"
            )
            story.write({**figures, "all of it": spent})


def _tell(story: Tutorial, server: Process, browser: Browser) -> dict[str, str]:
    folder, figures = story.folder, {}
    kinds = Run.load(folder / "runs" / "first").kinds
    # Traffic like dev: nothing is alarmed.
    story.run("usual")
    all_seen(server.address, {"pos": 501, "ner": 501, "sentiment": 436})
    assert {task: found["raised"] for task, found in watched(server.address).items()} == dict.fromkeys(kinds, 0)
    # The traffic of one task shifts: that task is alarmed, and no other.
    alarms = story.run("shift")
    assert "ner: the texts are of another kind" in alarms
    all_seen(server.address, {"pos": 1001, "ner": 1558, "sentiment": 872})
    found = watched(server.address)
    assert {task for task, one in found.items() if one["alarms"]} == {"ner"}
    assert found["ner"]["windows"][-1]["estimate"] is None
    moved = [alarm["signal"] for alarm in found["ner"]["alarms"]]
    figures["alarm"] = f"of `ner` alone ({', '.join(moved)}), after two windows of 200 tweets"
    browser.open(f"{server.address}/watch", 1000)
    wait_until(lambda: browser.ask("document.querySelectorAll('section.card').length") == 3)
    assert "the texts are of another kind" in browser.ask("document.body.innerText")
    picture(browser, "watch", "section.card:nth-of-type(2)", height=420)
    # What is doubtful is corrected: in the page, and through the API that the page uses.
    gold = annotated("btc/train.conll", 0) | annotated("uner_english_ewt/en_ewt-ud-dev.iob2", 1)
    by_hand = review_by_hand(browser, server.address, gold)
    assert by_hand["corrected"] >= 24
    story.run("colleague")
    tasks = httpx.get(f"{server.address}/v1/review/tasks").json()["tasks"]
    assert tasks["ner"]["waiting"] <= 1  # the one that Anna's page shows
    figures["items reviewed"] = f"{tasks['ner']['decided']}, of which {BY_HAND} in the page by keyboard"
    return {**figures, **_release(story, server, browser)}


def _release(story: Tutorial, server: Process, browser: Browser) -> dict[str, str]:
    folder = story.folder
    # The update passes the gate on the old test data, and is better on held-out corrections and on unreviewed tweets.
    story.run("update")
    record = json.loads((folder / "candidates" / "tweets" / "update.json").read_text())
    assert record["verdict"] == "passed"
    assert {task: found["data"]["verdict"] for task, found in record["bought"].items()} == dict.fromkeys(
        ("pos", "ner", "sentiment"), "passed"
    )
    assert record["bought"]["ner"]["corrections"]["difference"] > 0  # on some sixty, too few for a bound above 0
    assert record["decisions"] == {"ner": {"target": 0.8, "lost": None}}
    browser.open(f"file://{folder / 'candidates' / 'tweets' / 'gate.html'}", 1000)
    picture(browser, "gate", "body", height=880)
    story.run("tweets", codes=(3,))
    compared = json.loads((folder / "gates" / "tweets" / "gate.json").read_text())["tasks"]
    assert compared["ner"]["low"] > 0
    assert compared["pos"]["examples"] == compared["sentiment"]["examples"] == 0
    # The canary answers its share, and stays; promoted, it answers everybody.
    candidate = record["new"]["digest"]
    story.run("release")
    releases = f"{server.address}/v1/releases"
    wait_until(lambda: "candidate" in httpx.get(releases).json()["served"], seconds=60)
    story.run("canary")
    wait_until(lambda: httpx.get(releases).json()["trial"]["disagreement"]["ner"]["requests"] >= 50, seconds=60)
    trial = httpx.get(releases).json()["trial"]
    assert httpx.get(releases).json()["served"]["candidate"] == candidate
    assert trial["requests"]["candidate"] >= 50
    assert trial["failed"] == {"live": 0, "candidate": 0}
    story.run("promote")
    wait_until(lambda: httpx.get(f"{server.address}/v1/model").json()["digest"] == candidate, seconds=60)
    # Only now is the server asked about the tweets that nobody reviewed: before, they would have reached the queue.
    after, answering = entities(server.address, annotated("btc/dev.conll", 0), Run.load(folder / "runs" / "first"))
    assert answering == {candidate}
    assert after > compared["ner"]["old"]
    assert abs(after - compared["ner"]["new"]) < 0.01
    return _figures(record, compared["ner"], trial)


def _figures(record: dict[str, Any], tweets: dict[str, Any], trial: dict[str, Any]) -> dict[str, str]:
    def change(found: dict[str, Any]) -> str:
        points = {key: 100 * found[key] for key in ("old", "new", "difference", "low", "high")}
        bounds = f"{points['low']:+.2f}, {points['high']:+.2f}"
        return f"{points['old']:.2f} → {points['new']:.2f}: {points['difference']:+.2f} [{bounds}]"

    bought = record["bought"]
    kept = {f"{task} ({found['metric']}) on the old test data": change(found["data"]) for task, found in bought.items()}
    return {
        f"entities (span F1) on {tweets['examples']:,} tweets that nobody reviewed": change(tweets),
        f"entities on {bought['ner']['corrections']['examples']} held-out corrections": change(
            bought["ner"]["corrections"]
        ),
        **kept,
        "canary": f"{trial['requests']['candidate']} requests, none failed; answers differ from the live version's by "
        f"{trial['disagreement']['ner']['mean']:.2f} on average",
    }
