"""The review page in a real browser: every form of label is corrected with the keyboard alone."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import uvicorn

from browser import Browser
from conftest import Trained
from palmette.operate.review.corrections import corrections
from palmette.operate.review.queue import Candidate, Queue, Why
from palmette.run import Run
from palmette.serving import ServerSettings
from palmette.serving.app import create_app
from palmette.serving.listening import listen
from palmette.serving.service import Service
from palmette.types import Answer, Example, Label
from test_review import KINDS, ONE, QUESTION

DIGEST = "e" * 64
PHONE, DESKTOP = 360, 1280


@pytest.fixture(scope="module")
def service(trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> Service:
    store = str(tmp_path_factory.mktemp("page") / "store.db")
    review = {"keep_texts": True, "reviewers": 2, "audit": 0.0}
    return Service(Run.load, trained.folder, ServerSettings.model_validate({"store": store, "review": review}))


@pytest.fixture(scope="module")
def url(service: Service) -> Iterator[str]:
    server = uvicorn.Server(uvicorn.Config(create_app(service), log_config=None, access_log=False, ws="none"))
    listener = listen("127.0.0.1", 0)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    yield f"http://127.0.0.1:{listener.getsockname()[1]}/"
    server.should_exit = True
    thread.join()


@pytest.fixture
def queue(service: Service) -> Queue:
    """Empty."""
    assert service.reviews is not None
    queue = service.reviews.queue
    queue.delete_before(datetime.now(UTC) + timedelta(days=1))
    queue.know(KINDS, DIGEST, now=datetime.now(UTC))
    return queue


class Page:
    """The review page, opened by a reviewer."""

    def __init__(self, browser: Browser, url: str, width: int = DESKTOP, reviewer: str = "Anna") -> None:
        self.browser = browser
        browser.open(f"{url}review", width)
        browser.ask("localStorage.setItem('palmette-reviewer', arguments[0])", reviewer)
        assert browser.open(f"{url}review", width) == []
        self.wait("!document.body.hasAttribute('aria-busy') && document.getElementById('progress').textContent")

    def wait(self, script: str) -> None:
        self.browser.wait(script)

    def text(self, selector: str) -> str:
        return str(self.browser.ask("document.querySelector(arguments[0]).innerText", selector))

    def press(self, *keys: str) -> None:
        self.browser.press(*keys)

    def done(self, count: int = 1) -> None:
        """Until so many answers were checked."""
        self.wait(f"document.getElementById('progress').textContent.includes('{count} checked')")
        self.wait("!document.body.hasAttribute('aria-busy')")


def put(queue: Queue, task: str, example: Example, label: Label | None, number: int = 0) -> int:
    why: Why = "unreadable" if label is None else "low_confidence"
    sure = None if label is None else 0.41
    candidate = Candidate("r", number, task, KINDS[task], DIGEST, example, label, sure, why, automatic=False)
    return queue.add([candidate], now=datetime.now(UTC))[0][0]


def correct(page: Page, task: str) -> Any:
    """Correct the one item of a task with keys; what is then right."""
    if task == "pos":
        page.press("3", "2", "1", "2", "2")  # VERB, NOUN, ADP, …: each goes on to the next word
        return ["VERB", "NOUN", "ADP", "NOUN", "NOUN"]
    if task == "ner":
        page.press("Backspace", "ArrowRight", "ArrowRight", "ArrowRight")
        page.press("Shift+ArrowRight")
        page.press("1")  # LOC
        return ["O", "O", "O", "B-LOC", "I-LOC"]
    if task == "tone":
        page.press("1")
        return "bad"
    if task == "topics":
        page.press("1", "2")  # arts on, news off
        return ["arts"]
    if task == "answer":
        page.press("End", "ArrowLeft")
        page.press("Shift+ArrowLeft")
        page.press("1")
        return [{"text": "in Paris", "answer_start": 15}]
    page.press("Control+a")
    page.browser.type("2.5" if task == "likeness" else "She sat.")
    return 2.5 if task == "likeness" else ["She sat."]


FIRST: dict[str, tuple[Example, Label]] = {
    "pos": (ONE, ("NOUN",) * 5),
    "ner": (ONE, ("B-PER", "O", "O", "O", "O")),
    "tone": (ONE, "good"),
    "topics": (ONE, frozenset({"news"})),
    "likeness": (ONE, 1.5),
    "answer": (QUESTION, (Answer(0, "Xanthippe"),)),
    "summary": (ONE, ("It sat.",)),
}


def send(page: Page, task: str) -> None:
    """Send what stands there; in a text Enter begins a line."""
    if task == "summary":
        page.press("Control+Enter")
    else:
        page.press("Enter")
    page.done()


@pytest.mark.parametrize("task", FIRST)
def test_every_form_is_corrected_with_keys(browser: Browser, url: str, queue: Queue, task: str) -> None:
    item = put(queue, task, *FIRST[task])
    page = Page(browser, url)
    assert page.text("#accept") == "Accept"
    assert page.text("#why") == "here for its low confidence"
    assert "41.0" in page.text("#facts")
    expected = correct(page, task)
    assert page.text("#accept") == "Send correction"
    send(page, task)
    (said,) = queue.decisions()
    assert (said.item, said.reviewer, said.verdict, said.label) == (item, "Anna", "corrected", expected)
    assert browser.console() == []


@pytest.mark.parametrize("task", FIRST)
def test_what_nobody_could_read_is_answered_from_nothing(browser: Browser, url: str, queue: Queue, task: str) -> None:
    put(queue, task, FIRST[task][0], None)
    page = Page(browser, url)
    assert page.text("#why") == "here since nobody can read what the model wrote"
    assert (page.text("#changes"), page.text("#accept")) == ("Say what is right.", "Accept")
    assert browser.ask("document.getElementById('accept').disabled")
    expected = correct(page, task)
    send(page, task)
    (said,) = queue.decisions()
    assert (said.verdict, said.label) == ("corrected", ["arts", "news"] if task == "topics" else expected)
    assert browser.console() == []


@pytest.mark.parametrize("task", FIRST)
def test_enter_accepts_and_escape_goes_back(browser: Browser, url: str, queue: Queue, task: str) -> None:
    put(queue, task, *FIRST[task])
    page = Page(browser, url)
    correct(page, task)
    page.press("Escape")
    assert page.text("#accept") == "Accept"
    send(page, task)
    (said,) = queue.decisions()
    assert (said.verdict, said.label) == ("right", None)


@pytest.mark.parametrize("task", ["likeness", "summary"])
def test_who_takes_a_text_back_can_write_on(browser: Browser, url: str, queue: Queue, task: str) -> None:
    put(queue, task, *FIRST[task])
    page = Page(browser, url)
    correct(page, task)
    page.press("Escape")
    expected = correct(page, task)
    send(page, task)
    (said,) = queue.decisions()
    assert (said.verdict, said.label) == ("corrected", expected)


def test_a_decision_is_undone_and_another_is_skipped(browser: Browser, url: str, queue: Queue) -> None:
    first = put(queue, "tone", *FIRST["tone"])
    second = put(queue, "tone", *FIRST["tone"], number=1)
    page = Page(browser, url)
    page.press("Enter")
    page.done()
    page.press("Control+z")
    page.wait("document.getElementById('progress').textContent.startsWith('taken back')")
    page.wait("!document.body.hasAttribute('aria-busy')")
    assert queue.decisions() == []
    page.press("1", "Enter")
    page.done()
    page.press(".")
    page.wait("!document.getElementById('empty').hidden")
    assert [(said.item, said.label) for said in queue.decisions()] == [(first, "bad")]
    assert queue.item(second, now=datetime.now(UTC)).open


def test_two_reviewers_and_what_they_agree_on(browser: Browser, url: str, queue: Queue) -> None:
    for number, label in enumerate(("good", "bad")):
        put(queue, "tone", ONE, label, number)
    queue.count({("tone", DIGEST): 10}, now=datetime.now(UTC))
    for reviewer in ("Anna", "Tom"):
        page = Page(browser, url, reviewer=reviewer)
        page.press("Enter")
        page.done(1)
        page.press("Enter")
        page.done(2)
    browser.ask("document.getElementById('agreement-panel').open = true")
    browser.ask("document.getElementById('cleanup-panel').open = true")
    page.wait("document.querySelectorAll('#agreement td').length && document.querySelectorAll('#cleanup td').length")
    assert page.text("#agreement tbody").split() == ["tone", "Anna", "and", "Tom", "2", "2", "100.0", "%", "1.00"]
    assert "10" in page.text("#cleanup tbody")
    assert len(corrections(queue.engine, now=datetime.now(UTC)).examples) == 2


@pytest.mark.parametrize("task", FIRST)
def test_it_fits_a_phone_and_answers_to_touch(browser: Browser, url: str, queue: Queue, task: str) -> None:
    put(queue, task, *FIRST[task])
    queue.count({(task, DIGEST): 3}, now=datetime.now(UTC))
    page = Page(browser, url, PHONE)
    for name in ("cleanup", "agreement"):
        browser.ask(f"document.getElementById('{name}-panel').open = true")
    page.wait("document.querySelector('#cleanup td') && document.querySelector('#agreement p')")
    assert browser.ask("document.documentElement.scrollWidth <= window.innerWidth")
    if task == "ner":
        browser.ask("document.querySelector('[data-word=\"2\"]').click()")
        browser.ask("document.querySelector('.extend').click()")
        browser.ask("document.querySelector('[data-word=\"4\"]').click()")
        browser.ask("document.querySelector('[data-label=PER]').click()")
        browser.ask("document.getElementById('accept').click()")
        page.done()
        assert queue.decisions()[0].label == ["B-PER", "O", "B-PER", "I-PER", "I-PER"]


def test_without_the_text_an_answer_that_repeats_it_can_only_be_skipped(
    browser: Browser, url: str, queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dataclasses import replace

    monkeypatch.setattr(queue, "rules", replace(queue.rules, keep=None))
    put(queue, "summary", *FIRST["summary"])
    put(queue, "ner", *FIRST["ner"], number=1)
    page = Page(browser, url)
    assert browser.ask("document.getElementById('accept').disabled")
    browser.ask("document.getElementById('skip').click()")
    page.done()
    page.press("2", "Enter")  # words without their text still have tags
    page.done(2)
    assert [said.verdict for said in queue.decisions()] == ["right"]


def test_every_file_that_the_page_loads_is_there() -> None:
    web = Path(__file__).parent.parent / "src" / "palmette" / "serving" / "web"
    content = "".join((web / f"review{end}").read_text() for end in (".html", ".js", "_editors.js"))
    for name in ("review.css", "review.js", "review_editors.js", "server.js", "page.js", "offsets.js"):
        assert name in content
        assert (web / name).exists()
    assert "http://" not in content.replace("http://www.w3.org", "")
    assert "https://" not in content
