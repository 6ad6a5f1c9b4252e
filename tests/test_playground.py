"""The playground in a real browser, over real answers: every kind is drawn, at the right characters, for everybody."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import threading
import urllib.request
import zipfile
from collections.abc import Callable, Iterator, Sequence
from decimal import ROUND_HALF_UP, Decimal
from pathlib import Path
from typing import Any

import pytest
import uvicorn

import palmette
from browser import Browser
from conftest import Trained
from fakes import ALL_TASKS
from palmette.run import Run
from palmette.serving import ServerSettings
from palmette.serving.app import create_app
from palmette.serving.listening import listen
from palmette.serving.service import Service

Json = dict[str, Any]
WEB = Path(palmette.__file__).parent / "serving" / "web"
DIGEST = "3f9ac2d1b07e" + "0" * 52
PHONE, DESKTOP = 360, 1280
ARABIC = "\u0645"
SINGLE = [task for task in ALL_TASKS if task in ("pos", "ner", "tone", "topics")]
PAIRED = ["same", "likeness", "answer"]


# A server -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def url(trained: Trained) -> Iterator[str]:
    """Where the server of the `trained` run listens."""
    service = Service(Run.load, trained.folder, ServerSettings(characters=500_000))
    config = uvicorn.Config(create_app(service), log_config=None, access_log=False, ws="none")
    server = uvicorn.Server(config)
    listener = listen("127.0.0.1", 0)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    yield f"http://127.0.0.1:{listener.getsockname()[1]}/"
    server.should_exit = True
    thread.join()


def _post(url: str, body: Json) -> Json:
    request = urllib.request.Request(
        f"{url}v1/predict", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=60) as response:
        found: Json = json.load(response)
    return found


# The page -----------------------------------------------------------------------------------------------------------


class Page:
    """The playground, opened."""

    def __init__(self, browser: Browser, url: str, width: int = DESKTOP) -> None:
        self.browser = browser
        self.url = url
        assert browser.open(url, width) == []
        self.wait("!document.getElementById('predict').disabled")

    def ask(self, script: str, *arguments: Any) -> Any:
        return self.browser.ask(script, *arguments)

    def wait(self, script: str, seconds: float = 20) -> None:
        self.browser.wait(script, seconds)

    def text(self, selector: str) -> str:
        return str(self.ask("document.querySelector(arguments[0]).innerText", selector))

    def texts(self, selector: str) -> list[str]:
        """The content of each such element."""
        return list(self.ask("[...document.querySelectorAll(arguments[0])].map(one => one.textContent)", selector))

    def click(self, selector: str) -> None:
        self.ask("document.querySelector(arguments[0]).click()", selector)

    def fill(self, name: str, text: str) -> None:
        """As if pasted."""
        script = (
            "{const box = document.getElementById(arguments[0]); box.value = arguments[1]; "
            "box.dispatchEvent(new Event('input'))}"
        )
        self.browser.run(script, name, text)

    def choose_pairs(self) -> None:
        self.click("input[value=paired]")

    def predict(self, text: str, pair: str | None = None) -> None:
        """Press the button, and wait for the answer."""
        self.fill("text", text)
        if pair is not None:
            self.choose_pairs()
            self.fill("pair", pair)
        self.ask("document.getElementById('answer').replaceChildren()")
        self.click("#predict")
        self.wait("document.querySelector('#answer .facts') || document.querySelector('.error')")

    def answered(self, body: Json) -> None:
        """What the server is made to answer next; `window.sent` then holds what it was sent."""
        self.respond(200, body)

    def respond(self, status: int, body: Any, **headers: str) -> None:
        self.browser.run(
            "const [status, body, headers] = arguments; window.fetch = async (url, options) => {"
            "window.sent = {url, ...options, signal: null}; return new Response(body, {status, headers})}",
            status,
            body if isinstance(body, str) else json.dumps(body),
            headers,
        )

    def draw(self, answer: Json, tasks: Json, *, explain: bool = False) -> None:
        """Show an answer that the model does not give."""
        self.ask(
            "import('/answers.js').then(({drawAnswer}) => document.getElementById('answer').replaceChildren("
            "...drawAnswer(JSON.parse(arguments[0]), arguments[1], {explain: arguments[2]})))",
            json.dumps(answer),  # an object would come with its keys sorted
            tasks,
            explain,
        )


@pytest.fixture
def page(browser: Browser, url: str) -> Iterator[Page]:
    page = Page(browser, url)
    yield page
    page.ask("sessionStorage.clear()")
    assert browser.console() == []


def _percent(share: float) -> str:
    rounded = Decimal(100 * share).quantize(Decimal("0.1"), ROUND_HALF_UP)  # as browsers round
    return f"{rounded}\N{NARROW NO-BREAK SPACE}%"


TEXTS = [
    "anna sat in paris with tom and a good cat",
    "\N{GRINNING FACE} paris anna \N{MAN}\N{ZERO WIDTH JOINER}\N{BOY} tom london e\N{COMBINING ACUTE ACCENT} anna",
    "\u05d0\u05e0\u05d4 anna \u05d2\u05e8\u05d4 paris \U0001f5fc \u0628\u0627\u0631\u064a\u0633 tom .",
    "anna sat\n\nin paris\t with <b>tom</b> & a <script>alert(1)</script> film",
]


@pytest.mark.parametrize("text", TEXTS, ids=["plain", "emoji", "right-to-left", "markup"])
def test_each_kind_of_a_text_is_drawn_as_it_was_answered(page: Page, url: str, text: str) -> None:
    (answer,) = _post(url, {"texts": [text]})["answers"]
    tasks = answer["tasks"]
    assert tasks["ner"]["spans"], "the model finds nothing to draw: choose another text"
    page.predict(text)
    assert page.ask("[...document.querySelectorAll('#answer .task')].map(one => one.dataset.task)") == SINGLE

    spans = tasks["ner"]["spans"]
    assert page.texts("[data-task=ner] .marked") == [span["text"] for span in spans]
    assert page.texts("[data-task=ner] mark .label") == [span["label"] for span in spans]
    titles = page.ask("[...document.querySelectorAll('[data-task=ner] mark')].map(one => one.title)")
    assert titles == [f"{span['label']}, {_percent(span['confidence'])}" for span in spans]
    # All of the text is there, once, in its order.
    whole = page.ask(
        "(box => {const copy = box.cloneNode(true); copy.querySelectorAll('.label').forEach(one => one.remove());"
        "return copy.textContent})(document.querySelector('[data-task=ner] .running'))"
    )
    assert whole == text
    assert page.texts("[data-task=ner] tbody td:nth-child(2)") == [span["text"] for span in spans]

    assert page.texts("[data-task=pos] .word") == answer["words"]
    assert page.texts("[data-task=pos] .tag") == tasks["pos"]["tags"]
    doubts = [value for value in tasks["pos"]["confidence"] if value < 0.9]
    assert len(page.texts("[data-task=pos] .doubt")) == len(doubts)
    assert len(page.texts("[data-task=pos] .break")) == text.count("\n\n")

    assert page.texts("[data-task=tone] .class") == [tasks["tone"]["label"]]
    assert page.texts("[data-task=tone] .certainty .number") == [_percent(tasks["tone"]["confidence"])]
    width = page.ask("document.querySelector('[data-task=tone] .fill').style.width")
    assert float(width.removesuffix("%")) == pytest.approx(100 * tasks["tone"]["confidence"], abs=0.01)
    assert page.texts("[data-task=topics] .chip") == tasks["topics"]["labels"]

    assert f"{len(SINGLE)} tasks over {len(answer['words'])} words in " in page.text("#status")
    assert page.texts("#answer .facts dt") == ["Queue", "Computing", "Server", "With network", "Model", "Request"]
    digest = page.ask("document.querySelector('#answer .facts code').title")
    assert digest == page.ask("document.querySelector('#model code').title")


def test_each_kind_of_a_pair_is_drawn_as_it_was_answered(page: Page, url: str) -> None:
    question, passage = "where is anna", "\U0001f5fc\U0001f600 tom sat on a mat. anna sat in paris 3"
    (answer,) = _post(url, {"texts": [{"text": question, "text_pair": passage}]})["answers"]
    tasks = answer["tasks"]
    page.predict(question, passage)
    assert page.ask("[...document.querySelectorAll('#answer .task')].map(one => one.dataset.task)") == PAIRED
    assert page.texts("[data-task=same] .class") == [tasks["same"]["label"]]
    assert page.texts("[data-task=likeness] .value") == [str(tasks["likeness"]["value"]).replace("-", "\N{MINUS SIGN}")]
    assert page.texts("[data-task=answer] .class") == [tasks["answer"]["answer"] or "no answer"]
    assert page.texts("[data-task=answer] .running") == [passage]
    assert page.texts("[data-task=answer] .number") == [_percent(tasks["answer"]["confidence"])]
    assert page.text("#status").startswith("3 tasks over two texts in ")


def test_an_answer_is_marked_in_its_passage(page: Page) -> None:
    passage = "\U0001f5fc\U0001f600 \u05d0\u05e0\u05d4 sat. " * 300 + "anna sat in paris" + " \U0001f600 tom" * 300
    start = passage.index("paris")
    found = {"answer": "paris", "start": start, "end": start + 5, "confidence": 0.5}
    page.draw({"text": "who", "words": [], "offsets": [], "text_pair": passage, "tasks": {"answer": found}}, {})
    assert page.texts("[data-task=answer] .class") == ["paris"]
    assert page.texts("[data-task=answer] .marked") == ["paris"]
    assert page.texts("[data-task=answer] .running") == [passage]
    before = page.ask("document.querySelector('[data-task=answer] mark').previousSibling.textContent")
    assert before == passage[:start]
    page.wait(
        "(([box, mark]) => mark.top > box.top && mark.bottom < box.bottom)(['.running', 'mark'].map(one => "
        "document.querySelector(`[data-task=answer] ${one}`).getBoundingClientRect()))"
    )


def test_the_form_asks_for_what_the_chosen_tasks_take(page: Page) -> None:
    assert not page.ask("document.getElementById('shapes').hidden")
    assert page.ask("document.getElementById('pair').offsetParent") is None
    assert page.texts("#task-list bdi") == SINGLE
    page.choose_pairs()
    assert page.texts("#task-list bdi") == PAIRED
    assert page.texts("#text-label, #pair-label") == ["First text, or question", "Second text, or passage"]
    for task in ("same", "likeness"):
        page.click(f"#task-list [value={task}]")
    assert page.texts("#text-label, #pair-label") == ["Question", "Passage"]
    page.click("#all")  # none
    page.fill("text", "a")
    page.fill("pair", "b")
    page.click("#predict")
    assert "Pick at least one task." in page.text("#error")


def test_only_chosen_tasks_are_asked(page: Page) -> None:
    page.click("#task-list [value=pos]")
    page.click("#task-list [value=tone]")
    page.predict(TEXTS[0])
    assert page.ask("[...document.querySelectorAll('#answer .task')].map(one => one.dataset.task)") == ["ner", "topics"]


@pytest.mark.parametrize(
    ("about", "shapes", "labels"),
    [
        ({"tone": {"kind": "text_classification", "inputs": "text", "paired": None}}, [], ["Text"]),
        ({"answer": {"kind": "extractive_qa", "inputs": "pair", "paired": True}}, [], ["Question", "Passage"]),
        ({"likeness": {"kind": "regression", "inputs": "any", "paired": None}}, ["One text", "Two texts"], ["Text"]),
    ],
    ids=["single", "paired", "both"],
)
def test_the_form_follows_the_model(page: Page, about: Json, shapes: list[str], labels: list[str]) -> None:
    for task in about.values():
        task |= {"metric": "accuracy", "labels": []}
    page.answered({"tasks": about, "manifest": {}, "digest": "0" * 64, "card": ""})
    page.click("#key-form button")  # loads the model anew
    page.wait("document.querySelectorAll('#task-list label').length == 1")
    shown = "[...document.querySelectorAll(arguments[0])].filter(one => one.offsetParent).map(one => one.textContent)"
    assert page.ask(shown, "#shapes span") == shapes
    assert page.ask(shown, "#text-label, #pair-label") == labels


def test_tasks_of_a_writer_are_asked_for_apart_and_only_on_demand(page: Page) -> None:
    about = {
        task: {"kind": kind, "inputs": "text", "paired": False, "metric": "", "labels": [], "by_writer": apart}
        for task, kind, apart in (("tone", "text_classification", False), ("summary", "generation", True))
    }
    page.answered({"tasks": about, "manifest": {}, "digest": "0" * 64, "card": ""})
    page.click("#key-form button")  # loads the model anew
    page.wait("document.querySelectorAll('#task-list label').length == 2")
    checked = "[...document.querySelectorAll('#task-list input')].filter(one => one.checked).map(one => one.value)"
    assert page.ask(checked) == ["tone"]
    page.click("#task-list [value=summary]")
    assert page.ask(checked) == ["summary"]
    page.click("#task-list [value=tone]")
    assert page.ask(checked) == ["tone"]
    page.click("#all")
    assert page.ask(checked) == []
    page.click("#all")
    assert page.ask(checked) == ["tone"]
    page.click("#task-list [value=summary]")
    answer = {"text": "a", "words": ["a"], "offsets": [[0, 1]], "tasks": {"summary": {"text": "b"}}}
    page.answered({"answers": [answer], "model": {"digest": "0" * 64}, "milliseconds": {"total": 1.0}})
    page.fill("text", "a")
    page.click("#predict")
    page.wait("document.querySelector('#answer .task')")
    assert json.loads(page.ask("window.sent.body")) == {"texts": ["a"], "tasks": ["summary"]}


def test_other_answers_than_the_built_in_kinds_give_are_shown_whole(page: Page) -> None:
    text = "\U0001f600 New York Times"
    page.draw(
        {
            "text": text,
            "words": ["\U0001f600", "New", "York", "Times"],
            "offsets": [[0, 1], [2, 5], [6, 10], [11, 16]],
            "tasks": {
                "tree": {"heads": [0, 3, 3, 0], "why": "<i>x</i>"},
                "nested": {"spans": [{"label": "ORG", "start": 2, "end": 16}, {"label": "LOC", "start": 2, "end": 10}]},
                "mood": {"label": "up", "intensity": 3},
                "nothing": None,
                "empty": {"tags": ["O"] * 4, "spans": []},
                "no": {"answer": None, "confidence": 0.75},
            },
        },
        {},
    )
    forms = page.ask("[...document.querySelectorAll('#answer .task')].map(one => one.dataset.form)")
    assert forms == ["json", "spans", "label", "json", "spans", "json"]  # the last has no passage to point into
    assert json.loads(page.texts("[data-task=tree] pre")[0]) == {"heads": [0, 3, 3, 0], "why": "<i>x</i>"}
    assert page.texts("[data-task=nested] .marked") == ["New York Times", "New York"]  # a line each: they overlap
    assert page.texts("[data-task=mood] .class") == ["up"]
    assert json.loads(page.texts("[data-task=mood] pre")[0]) == {"intensity": 3}
    assert page.texts("[data-task=empty] .none") == ["Nothing found."]


def test_no_answer_and_no_label_are_said(page: Page) -> None:
    tasks = {"answer": {"answer": None, "confidence": 0.75}, "topics": {"labels": [], "confidence": 0.9}}
    about = {"answer": {"kind": "extractive_qa", "labels": []}, "topics": {"kind": "x", "labels": ["cat", "dog"]}}
    page.draw({"text": "who", "words": ["who"], "offsets": [[0, 3]], "text_pair": "a cat", "tasks": tasks}, about)
    assert page.texts("[data-task=answer] .class") == ["no answer"]
    assert page.texts("[data-task=answer] .running") == ["a cat"]
    assert page.texts("[data-task=answer] .number") == [_percent(0.75)]
    assert page.texts("[data-task=topics] .class") == ["none"]
    assert page.texts("[data-task=topics] .note") == ["Other labels: cat, dog"]


def test_explanations_shade_the_words_that_they_score(page: Page) -> None:
    text = "\U0001f600 a good cat"
    words, offsets = ["\U0001f600", "a", "good", "cat"], [[0, 1], [2, 3], [4, 8], [9, 12]]
    scores = [0, 0.01, 0.4213, -0.2]
    span = {"label": "CAT", "start": 9, "end": 12, "text": "cat", "explanation": {"words": [0, 0, 0.1, 0.9]}}
    listed = [{"word": 2, "score": 0.4213}, {"word": 3, "score": -0.2}]
    found: Json = {
        "tone": {"label": "up", "confidence": 0.8, "explanation": {"method": "occlusion", "words": scores}},
        "sparse": {"label": "up", "confidence": 0.8, "explanation": listed},
        "ner": {"tags": ["O", "O", "O", "B-CAT"], "spans": [span]},
        "topics": {"labels": ["cat"], "explanations": {"cat": {"words": [0, 0, 0, 0.5], "together": 2}}},
        "pos": {"tags": ["X", "D", "A", "N"]},
    }
    page.draw({"text": text, "words": words, "offsets": offsets, "tasks": found}, {}, explain=True)
    shaded = (
        "[...document.querySelectorAll(arguments[0] + ' .shaded span')]"
        ".map(one => [one.textContent, Number(one.dataset.score)])"
    )
    assert page.ask(shaded, "[data-task=tone]") == [[w, s] for w, s in zip(words, scores, strict=True)]
    assert page.ask(shaded, "[data-task=sparse]") == [["\U0001f600", 0], ["a", 0], ["good", 0.4213], ["cat", -0.2]]
    assert page.texts("[data-task=tone] .shaded") == [text]
    assert page.texts("[data-task=tone] .leading li") == ["good +0.4213", "cat \N{MINUS SIGN}0.2000", "a +0.0100"]
    titles = page.ask("[...document.querySelectorAll('[data-task=tone] .shaded span')].map(one => one.title)")
    assert titles == ["+0.0000", "+0.0100", "+0.4213", "\N{MINUS SIGN}0.2000"]
    levels = page.ask(
        "[...document.querySelectorAll('[data-task=tone] .shaded span')]"
        ".map(one => getComputedStyle(one).backgroundColor)"
    )
    assert len(set(levels)) == 4
    assert page.texts("[data-task=ner] h4") == ["CAT: cat"]
    assert page.texts("[data-task=topics] h4") == ["cat"]
    assert "2 neighbouring words" in page.texts("[data-task=topics] .note")[0]
    assert page.texts("[data-task=pos] .note")[-1] == "This answer has no explanation."


def test_explanations_of_a_pair_shade_both_texts(page: Page) -> None:
    explanation = {"words": [0.1, 0.2], "pair_words": [0.3, -0.4]}
    answer = {
        "text": "who sat",
        "words": ["who", "sat"],
        "offsets": [[0, 3], [4, 7]],
        "text_pair": "\U0001f600 tom",
        "pair_offsets": [[0, 1], [2, 5]],
        "tasks": {"answer": {"answer": "tom", "start": 2, "end": 5, "confidence": 0.7, "explanation": explanation}},
    }
    page.draw(answer, {}, explain=True)
    assert page.texts("[data-task=answer] .marked") == ["tom"]
    assert page.texts(".shaded") == ["who sat", "\U0001f600 tom"]
    assert page.texts(".leading li")[0] == "tom \N{MINUS SIGN}0.4000"


def test_a_wish_for_explanations_is_sent(page: Page) -> None:
    page.fill("text", "a")
    page.click("#explain")
    page.respond(500, "")
    page.click("#predict")
    page.wait("document.querySelector('.error')")
    assert json.loads(page.ask("window.sent.body")) == {"texts": ["a"], "explain": True}
    assert page.ask("window.sent.headers") == {"Content-Type": "application/json"}


# Errors -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("field", "wrong"),
    [
        ("texts[0]", "text"),
        ("texts[0].text_pair", "pair"),
        ("tasks[1]", "tasks"),
        ("explain", "explain-field"),
        ("x", ""),
    ],
)
def test_an_error_is_shown_at_its_field(page: Page, field: str, wrong: str) -> None:
    page.choose_pairs()
    page.fill("text", "a")
    page.fill("pair", "b")
    error = {"code": "too_long", "message": "at most <3> characters", "field": field}
    page.respond(422, {"error": error, "request_id": "r-7"})
    page.click("#predict")
    page.wait("document.querySelector('.error')")
    assert page.text("#error strong") == "at most <3> characters"
    assert page.texts("#error dd") == [field, "too_long", "r-7"]
    assert page.ask("document.getElementById('error').getAttribute('role')") == "alert"
    assert page.ask("document.querySelector('.wrong')?.id ?? ''") == wrong
    described = "document.querySelector('.wrong')?.getAttribute('aria-describedby') ?? 'error'"
    assert page.ask(described) == "error"
    assert page.text("#status") == ""


def test_errors_without_a_field(page: Page) -> None:
    page.fill("text", "a")
    page.respond(
        429, {"error": {"code": "queue_full", "message": "too many"}, "request_id": "r"}, **{"Retry-After": "3"}
    )
    page.click("#predict")
    page.wait("document.querySelector('.error')")
    assert "Try again in 3\N{NARROW NO-BREAK SPACE}s." in page.text("#error")
    page.respond(502, "<html>Bad gateway</html>")
    page.click("#predict")
    page.wait("document.querySelector('#error strong')?.textContent.includes('502')")
    page.browser.run("window.fetch = async () => {throw new TypeError('Failed to fetch')}")
    page.click("#predict")
    page.wait("document.querySelector('#error strong')?.textContent.includes('cannot be reached')")
    assert page.text("#predict") == "Predict"


def test_a_key_is_asked_for_and_sent(page: Page) -> None:
    page.respond(401, {"error": {"code": "unauthorized", "message": "this server wants a key"}, "request_id": "r"})
    page.fill("text", "a")
    page.click("#predict")
    page.wait("document.querySelector('.error')")
    assert page.ask("document.activeElement.id") == "key"
    page.browser.type("secret-1")
    page.browser.press("Enter")
    page.wait("window.sent.headers.Authorization == 'Bearer secret-1'")
    assert page.ask("sessionStorage.getItem('palmette-api-key')") == "secret-1"
    assert page.ask("localStorage.length") == 0
    for name in ("curl", "python"):
        assert "PALMETTE_API_KEY" in page.text(f"#{name}")
        assert "secret-1" not in page.text(f"#{name}")


def test_a_request_can_be_stopped(page: Page) -> None:
    page.fill("text", "a")
    page.browser.run(
        "window.fetch = (url, {signal}) => new Promise((_, fail) => signal.addEventListener('abort', () => "
        "fail(new DOMException('', 'AbortError'))))"
    )
    page.click("#predict")
    page.wait("!document.getElementById('stop').hidden")
    assert page.ask("document.getElementById('results').getAttribute('aria-busy')") == "true"
    page.click("#stop")
    page.wait("document.getElementById('stop').hidden")
    assert page.text("#status") == "Stopped."
    assert page.ask("document.querySelector('.error')") is None


# For everybody ------------------------------------------------------------------------------------------------------


def test_the_keyboard_is_enough(page: Page) -> None:
    press = page.browser.press

    def focus() -> Any:
        return page.ask(
            "document.activeElement.id || document.activeElement.value || document.activeElement.textContent"
        )

    press("Tab")
    assert focus() == "Skip to results"
    assert page.ask("document.activeElement.getBoundingClientRect().top") >= 0
    press("Tab", "Tab")
    assert focus() == "single"
    press("Tab")
    assert focus() == "text"
    assert page.ask("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    page.browser.type("anna sat in paris")
    press("Tab")
    while focus() != "pos":
        assert page.ask("document.activeElement.matches('.examples button, #all')")
        press("Tab")
    press("Space")
    press("Control+Enter")
    page.wait("document.querySelectorAll('#answer .task').length == 3")
    assert focus() == "pos"  # an answer does not take the focus away; it is announced
    assert page.ask("document.getElementById('status').getAttribute('role')") == "status"
    page.ask("document.querySelector('.skip').focus()")
    press("Enter")
    page.wait("document.activeElement.id == 'results'")


def test_every_control_has_a_name(page: Page) -> None:
    page.predict(TEXTS[0])
    nodes = page.browser.command("Accessibility.getFullAXTree")["nodes"]
    roles = {"button", "textbox", "checkbox", "radio", "link", "region", "group", "DisclosureTriangle"}
    controls = [node for node in nodes if not node["ignored"] and node["role"]["value"] in roles]
    assert len(controls) > 15
    nameless = [node for node in controls if not node.get("name", {}).get("value") and node["role"]["value"] != "group"]
    assert nameless == []


def _fits(page: Page) -> None:
    assert page.ask("window.innerWidth") == PHONE
    assert page.ask("document.documentElement.scrollWidth") == PHONE
    outside = (
        "[...document.querySelectorAll('main *, header *')].filter(one => {const box = one.getBoundingClientRect(); "
        "return box.width && !one.closest('.scroll-x, .hidden, .skip, .shapes input')"
        " && (box.left < 0 || box.right > innerWidth)})"
        ".map(one => one.outerHTML.slice(0, 100))"
    )
    assert page.ask(outside) == []


def test_a_phone_shows_all_of_it(browser: Browser, url: str) -> None:
    page = Page(browser, url, PHONE)
    _fits(page)
    page.ask("document.querySelectorAll('details').forEach(one => {one.open = true})")
    page.predict(f"{TEXTS[2]} https://example.org/{'x' * 200} anna {ARABIC * 150}")
    page.ask("document.querySelectorAll('details').forEach(one => {one.open = true})")
    _fits(page)
    page.wait("document.getElementById('results').getBoundingClientRect().top < innerHeight / 4")
    page.predict("where is anna", "tom sat. anna sat in paris 3")
    _fits(page)
    page.respond(422, {"error": {"code": "x" * 60, "message": "y" * 90, "field": "texts[0]"}, "request_id": "z" * 64})
    page.click("#predict")
    page.wait("document.querySelector('.error')")
    _fits(page)
    assert browser.console() == []


def test_right_to_left_text_runs_so(page: Page) -> None:
    text = "\u05d0\u05e0\u05d4 \u05d2\u05e8\u05d4 paris \u05d0"
    page.fill("text", text)
    tags = {"pos": {"tags": ["N"] * 4}, "ner": {"tags": ["O"] * 4, "spans": [{"label": "LOC", "start": 8, "end": 13}]}}
    offsets = [[0, 3], [4, 7], [8, 13], [14, 15]]
    page.draw({"text": text, "words": text.split(), "offsets": offsets, "tasks": tags}, {})
    assert page.texts(".marked") == ["paris"]
    boxes = "#text, [data-task=ner] .running, [data-task=pos] .interlinear"
    directions = page.ask(
        "[...document.querySelectorAll(arguments[0])].map(one => getComputedStyle(one).direction)", boxes
    )
    assert directions == ["rtl"] * 3
    first, second = page.ask(
        "[...document.querySelectorAll('.interlinear li')].slice(0, 2).map(one => one.getBoundingClientRect().left)"
    )
    assert first > second


def test_dark_and_light_are_legible(page: Page) -> None:
    page.predict(TEXTS[0])
    page.respond(422, {"error": {"code": "x", "message": "y"}, "request_id": "z"})
    page.click("#predict")
    page.wait("document.querySelector('.error')")
    try:
        for scheme in ("light", "dark"):
            features = [{"name": "prefers-color-scheme", "value": scheme}]
            page.browser.command("Emulation.setEmulatedMedia", features=features)
            assert page.ask(f"({_CONTRAST})()") == []
    finally:
        page.browser.command("Emulation.setEmulatedMedia", features=[])


# Text whose contrast with what lies behind it is below 4.5 (WCAG 2.2, 1.4.3).
_CONTRAST = """() => {
  const canvas = document.createElement('canvas').getContext('2d', {willReadFrequently: true});
  const paint = (colours) => {
    for (const colour of colours) { canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1); }
    return [...canvas.getImageData(0, 0, 1, 1).data].slice(0, 3);
  };
  const light = (rgb) => rgb.map((c) => c / 255).map((c) => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
    .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
  const bad = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const one = walker.currentNode.parentElement;
    if (!walker.currentNode.data.trim() || !one.checkVisibility() || one.closest('.hidden, .skip, noscript')) continue;
    const behind = [];
    for (let up = one; up; up = up.parentElement) behind.unshift(getComputedStyle(up).backgroundColor);
    const back = light(paint(['#fff', ...behind]));
    const ink = light(paint(['#fff', ...behind, getComputedStyle(one).color]));
    const ratio = (Math.max(back, ink) + 0.05) / (Math.min(back, ink) + 0.05);
    if (ratio < 4.5) bad.push([walker.currentNode.data.slice(0, 30), one.className, ratio]);
  }
  return bad;
}"""


# Long texts ---------------------------------------------------------------------------------------------------------


def _words(number: int) -> str:
    return " ".join(["anna sat in paris with tom \U0001f600 on a mat ."] * (number // 11))


def _long_answer(number: int) -> dict[str, Any]:
    """What a model might say of that many words, explained."""
    text = _words(number)
    words = text.split(" ")
    places, at = [], 0
    for word in words:
        places.append([at, at + len(word)])
        at += len(word) + 1
    spans = [
        {"label": "PER", "start": a, "end": b, "text": w, "confidence": 0.9, "explanation": {"words": [0.1] * 10}}
        for w, (a, b) in zip(words, places, strict=True)
        if w in ("anna", "tom")
    ]
    tasks = {
        "pos": {"tags": ["N"] * len(words), "confidence": [0.5] * len(words)},
        "ner": {"tags": ["O"] * len(words), "spans": spans},
        "tone": {"label": "up", "confidence": 0.9, "explanation": {"words": [0.1] * len(words)}},
    }
    return {"text": text, "words": words, "offsets": places, "tasks": tasks}


def test_a_long_text_does_not_freeze_the_page(page: Page) -> None:
    """Ten times the words take some ten times as long to draw, not a hundred times."""

    def milliseconds(answer: dict[str, Any]) -> float:
        page.browser.run("window.made = arguments[0]", answer)
        return float(
            page.ask(
                "import('/answers.js').then(async ({drawAnswer}) => {const begun = performance.now(); "
                "document.getElementById('answer').replaceChildren(...drawAnswer(made, {}, {explain: true})); "
                "document.body.getBoundingClientRect(); return performance.now() - begun})"
            )
        )

    short, answer = _long_answer(2_500), _long_answer(25_000)
    text, spans = answer["text"], answer["tasks"]["ner"]["spans"]
    assert len(text) > 85_000
    took = milliseconds(short)
    assert milliseconds(answer) < 40 * took
    assert len(page.texts("[data-task=pos] .word")) == 1000
    last = "[data-task=ner] .running mark:last-of-type"
    while page.ask("!document.querySelector('[data-task=ner] > .more').hidden"):
        page.click("[data-task=ner] > .more")
    assert page.texts(f"{last} .marked") == ["tom"]
    start = page.ask(f"Number(document.querySelector('{last}').dataset.start)")
    assert start == spans[-1]["start"]
    assert page.texts("[data-task=ner] .marked") == [span["text"] for span in spans]
    page.fill("text", text)
    page.wait("document.getElementById('curl').textContent.includes('too long to show')")


# Copying ------------------------------------------------------------------------------------------------------------

AWKWARD = "it's \"quoted\" $HOME `id` \\n\nJSON\n'''\u2028 \U0001f600 paris"


@pytest.fixture
def copied(page: Page) -> Callable[[str], str]:
    page.browser.allow("clipboard-read", "clipboard-write")

    def copy(name: str) -> str:
        page.click(f"#copy-{name}")
        page.wait(f"document.getElementById('copy-{name}').textContent == 'Copied'")
        return str(page.ask("navigator.clipboard.readText()"))

    return copy


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
@pytest.mark.parametrize("pair", [None, "anna sat in 'paris' 3"], ids=["text", "pair"])
@pytest.mark.parametrize("text", [AWKWARD, AWKWARD + _words(30_000)], ids=["short", "long"])
def test_what_is_copied_asks_the_same(
    page: Page, url: str, copied: Callable[[str], str], text: str, pair: str | None
) -> None:
    left_out = "pos" if pair is None else "same"
    if pair is not None:
        page.choose_pairs()
        page.fill("pair", pair)
    page.click(f"#task-list [value={left_out}]")
    page.fill("text", text)
    tasks = [task for task in (SINGLE if pair is None else PAIRED) if task != left_out]
    body = {"texts": [text if pair is None else {"text": text, "text_pair": pair}], "tasks": tasks}
    (expected,) = _post(url, body)["answers"]
    assert _run(["bash", "-c", copied("curl")])["answers"] == [expected]
    assert _run([sys.executable, "-"], copied("python")) == expected["tasks"]


def _run(command: Sequence[str], script: str | None = None) -> Json:
    given = {"input": script} if script is not None else {"stdin": subprocess.DEVNULL}
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120, **given)
    found: Json = json.loads(done.stdout)
    return found


# The files ----------------------------------------------------------------------------------------------------------


def test_nothing_comes_from_elsewhere_and_no_data_becomes_markup() -> None:
    for file in WEB.iterdir():
        source = file.read_text(encoding="utf-8").replace("http://www.w3.org/2000/svg", "")
        assert "://" not in source, file.name
        for unsafe in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", " style="):
            assert unsafe not in source, f"{file.name}: {unsafe}"


@pytest.mark.slow
def test_the_wheel_has_the_files(tmp_path: Path) -> None:
    root = Path(__file__).parents[1]
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", tmp_path, root], check=True
    )
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as opened:
        packed = {Path(name).name for name in opened.namelist() if name.startswith("palmette/serving/web/")}
    assert packed == {file.name for file in WEB.iterdir()}
