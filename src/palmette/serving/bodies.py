"""Bodies of requests and responses, and the reading of the former."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, ValidationError

from palmette.predictor import Input, Predictor
from palmette.serving.model import Served
from palmette.serving.refusal import RefusedError
from palmette.serving.settings import ServerSettings
from palmette.writing.predictor import Aloud

Json = dict[str, Any]


def _form(value: Any) -> str:
    if isinstance(value, list):
        return "<words>"
    return "<pair>" if isinstance(value, dict | BaseModel) else "<text>"


# Tags in angle brackets: they appear in the place of an error, and no field is named so.
_Text = Annotated[str, Tag("<text>")]
_Words = Annotated[list[str], Tag("<words>")]
Part = Annotated[_Text | _Words, Discriminator(lambda value: "<words>" if isinstance(value, list) else "<text>")]


class Body(BaseModel):
    """A body that is taken literally: no unknown key, no number for a string."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Pair(Body):
    """A text, or two: a pair of sentences; a question and its passage."""

    text: Part
    text_pair: Part | None = None


class PredictRequest(Body):
    """Texts, and which tasks to answer over them."""

    texts: list[Annotated[_Text | _Words | Annotated[Pair, Tag("<pair>")], Discriminator(_form)]] = Field(
        min_length=1, description="Each a text, a list of words, or an object of two of them (a pair)."
    )
    tasks: list[str] | None = Field(
        None,
        min_length=1,
        description="Which tasks. Default: to each text all those that take it; none of a second model's, the writer.",
    )
    explain: bool = Field(
        False, description="Say which words carried each answer. Costs about as much as answering once for each word."
    )


class StreamRequest(PredictRequest):
    """The same, for answers one by one."""

    tokens: bool = Field(False, description="Send what a model writes while it writes it. For models that write only.")


@dataclass(frozen=True, slots=True)
class Asked:
    """What a request asks for, and which model is to answer it."""

    model: Served
    inputs: list[Input]
    tasks: list[str] | None
    explain: bool
    tokens: bool


class Answer(BaseModel):
    """The answer over one text: its words with their places, and an object for each task."""

    text: str
    words: list[str]
    offsets: list[list[int]] = Field(description="Of each word in `text`: [start, end), in code points.")
    text_pair: str | None = None
    pair_offsets: list[list[int]] | None = Field(None, description="Of each word in `text_pair`, with `explain`.")
    tasks: dict[str, Json] = Field(description="By task; the form depends on its kind.")


class ModelName(BaseModel):
    """Which model answered."""

    digest: str


class Milliseconds(BaseModel):
    """Where the time went."""

    queue: float = Field(description="Until the first text was computed.")
    compute: float = Field(description="From then to the last answer, other requests' turns included.")
    total: float


class PredictResponse(BaseModel):
    """Answers in the order of the texts."""

    answers: list[Answer]
    model: ModelName
    request_id: str
    milliseconds: Milliseconds


class Task(BaseModel):
    """A task of the model."""

    kind: str
    inputs: str = Field(description="text, pair or any: what such a kind can take.")
    metric: str
    labels: list[str]
    paired: bool | None = Field(description="Whether it takes pairs; null: both.")
    by_writer: bool = Field(description="A second model writes it: name it in `tasks`, apart from the first model's.")


class TasksResponse(BaseModel):
    """The tasks of the model."""

    tasks: dict[str, Task]


class ModelResponse(BaseModel):
    """What is being served."""

    manifest: Json
    digest: str
    card: str = Field(description="The model card, Markdown.")


class WatchedEstimate(BaseModel):
    """The share of right answers, with a 95 % interval."""

    metric: str
    value: float
    low: float
    high: float


class WatchedSignal(BaseModel):
    """A signal in a window."""

    effect: float = Field(description="Distance from the reference.")
    usual: float = Field(description="The distance that chance gives on the average.")
    p: float = Field(description="How probable a distance as large is by chance.")


class WatchedWindow(BaseModel):
    """What a window of texts showed."""

    began: str
    ended: str
    texts: int
    signals: dict[str, WatchedSignal]
    estimate: WatchedEstimate | None
    reason: str | None = Field(description="Why there is no estimate.")


class WatchAlarm(BaseModel):
    """A signal that stays beyond its limit."""

    signal: str
    since: str
    windows: int
    effect: float
    usual: float
    message: str
    advice: str = Field(description="What to look at next.")


class WatchReference(BaseModel):
    """What windows are compared with: dev, when the bundle was exported."""

    texts: int
    accuracy: float | None


class WatchedTask(BaseModel):
    """A task's windows."""

    state: Literal["waiting", "ok", "suspicious", "alarm"]
    texts: int = Field(description="Seen in all.")
    filling: int = Field(description="Of those, in the window that is not full yet.")
    metric: str
    reference: WatchReference
    signals: list[str]
    limit: float = Field(description="What p must not exceed for a signal to count as moved.")
    alarms: list[WatchAlarm]
    raised: int = Field(description="Alarms so far, ended ones included.")
    windows: list[WatchedWindow]


class WatchResponse(BaseModel):
    """Every watched task of the model that answers now."""

    digest: str
    window: int = Field(description="Texts in a window.")
    tasks: dict[str, WatchedTask]
    unwatched: list[str] = Field(description="Tasks without a reference: too few labelled texts on dev.")


class RoleChange(Body):
    """What is said of a change of roles. There is no path in it: bundles are named on the machine that has them."""

    digest: str | None = Field(
        None,
        min_length=6,
        max_length=64,
        pattern="^[0-9a-f]+$",
        description="promote: only if this is the candidate. rollback: make this registered version live.",
    )
    why: str = Field("", max_length=500, description="Kept in the log.")


class Roles(BaseModel):
    """Which version has which role."""

    number: int = Field(description="Of the entry of the log that made it so.")
    live: str | None
    previous: str | None
    candidate: str | None
    mode: str | None = Field(description="shadow or canary.")
    share: float = Field(description="Of the traffic that meets the candidate.")


class ReleaseVersion(BaseModel):
    """A registered version."""

    digest: str
    tasks: dict[str, str] = Field(description="Task and kind.")
    precision: str
    registered: str
    by: str
    source: str | None


class ReleaseEntry(BaseModel):
    """A line of the log."""

    model_config = ConfigDict(populate_by_name=True)

    number: int
    at: str
    who: str
    action: str
    origin: str | None = Field(alias="from")
    target: str | None = Field(alias="to")
    why: str
    state: Roles
    hash: str = Field(description="SHA-256 over the entry and the hash of the one before.")


class ReleasesResponse(BaseModel):
    """Roles, versions and the latest entries of the log."""

    state: Roles
    served: dict[str, str] = Field(description="Role and digest of what this server has loaded.")
    versions: list[ReleaseVersion]
    log: list[ReleaseEntry] = Field(description="The latest 100, the oldest first.")
    trial: Json | None = Field(description="What this server counted of the candidate in the current window.")


class Status(BaseModel):
    """ok, or what else."""

    status: str


class ErrorDetail(BaseModel):
    """What is wrong."""

    code: str
    message: str
    field: str | None = None


class ErrorResponse(BaseModel):
    """A request that was not answered."""

    error: ErrorDetail
    request_id: str


_B = TypeVar("_B", bound=Body)


def read_body(model: type[_B], body: bytes) -> _B:
    """A body of some form.

    Raises:
        RefusedError: 400 if it is not JSON; 422 naming the field that is wrong.
    """
    try:
        return model.model_validate_json(body)
    except ValidationError as error:
        problem = error.errors(include_url=False, include_input=False, include_context=False)[0]
        if problem["type"] == "json_invalid":
            raise RefusedError(400, "invalid_json", problem["msg"]) from error
        place = _place(problem["loc"])
        raise RefusedError(422, "invalid", f"{place or 'body'}: {problem['msg']}", field=place or None) from error


class Growing(BaseModel):
    """A line between answers, with `tokens`: what has been written of one so far."""

    number: int = Field(description="Of the text in the request, from 0.")
    task: str
    written: str = Field(description="All of the model's text so far.")


def read_request(
    form: type[PredictRequest], body: bytes, model: Served, settings: ServerSettings, *, writer: Served | None = None
) -> Asked:
    """What a body asks for.

    Args:
        form: of the body.
        body: as it was sent.
        model: answers whatever it has a task for, and where no task is named.
        settings: the limits.
        writer: answers what only it has a task for.

    Raises:
        RefusedError: 400 if it is not JSON; 422 naming the field that is wrong, too long or unknown.
    """
    request = read_body(form, body)
    tokens = isinstance(request, StreamRequest) and request.tokens
    if len(request.texts) > settings.texts:
        message = f"texts: at most {settings.texts} in a request, found {len(request.texts)}"
        raise RefusedError(422, "too_many_texts", message, field="texts")
    inputs = [_input(given) for given in request.texts]
    most = settings.explained_characters if request.explain else settings.characters
    for number, given in enumerate(inputs):
        _check_length(given, f"texts[{number}]", most)
    if request.tasks is not None:
        model = _choose(request.tasks, model, writer)
        _check_tasks(request.tasks, inputs, model)
    if request.explain:
        _check_explained(request.tasks or list(model.kinds), model)
    if tokens and not isinstance(model.answerer.predictor, Aloud):
        written = "" if writer is None else f", or name tasks that are written: {', '.join(writer.kinds)}"
        message = f"tokens: this model does not write its answers; leave it out{written}"
        raise RefusedError(422, "not_written", message, field="tokens")
    return Asked(model, inputs, request.tasks, request.explain, tokens)


def _place(location: Sequence[str | int]) -> str:
    place = ""
    for part in location:
        if isinstance(part, int):
            place += f"[{part}]"
        elif not part.startswith("<"):
            place += f".{part}" if place else part
    return place[:200]


def _input(given: str | list[str] | Pair) -> Input:
    if not isinstance(given, Pair):
        return given
    return given.text if given.text_pair is None else (given.text, given.text_pair)


def _check_length(given: Input, place: str, most: int) -> None:
    if isinstance(given, tuple):
        _check_length(given[0], f"{place}.text", most)
        _check_length(given[1], f"{place}.text_pair", most)
        return
    length = len(given) if isinstance(given, str) else sum(map(len, given)) + len(given)
    if length > most:
        raise RefusedError(422, "text_too_long", f"{place}: at most {most} characters, found {length}", field=place)


def _check_explained(tasks: Sequence[str], model: Served) -> None:
    for task in tasks:
        if not (model.kinds[task].explained and isinstance(model.answerer.predictor, Predictor)):
            message = f"explain: answers of {task} ({model.kinds[task].config.kind}) cannot be explained; leave it out"
            raise RefusedError(422, "not_explained", message, field="explain")


def _choose(tasks: Sequence[str], model: Served, writer: Served | None) -> Served:
    """Which of two models has the tasks. One request is answered by one of them, so that nothing waits for the writer.

    Raises:
        RefusedError: 422, nobody has one of them, or they are not of one model.
    """
    known = dict.fromkeys(model.kinds, model)
    if writer is not None:
        known |= {task: writer for task in writer.kinds if task not in known}
    for number, task in enumerate(tasks):
        field = f"tasks[{number}]"
        if task not in known:
            message = f"{field}: no task {task[:60]!r}; there are {', '.join(known)}"
            raise RefusedError(422, "unknown_task", message, field=field)
        if known[task] is not known[tasks[0]]:
            message = f"{field}: {task} and {tasks[0]} are answered by two models; ask for them in two requests"
            raise RefusedError(422, "tasks_of_two_models", message, field=field)
    return known[tasks[0]]


def _check_tasks(tasks: Sequence[str], inputs: Sequence[Input], model: Served) -> None:
    taken = {pair: any(model.takes(task, pair=pair) for task in tasks) for pair in (False, True)}
    for number, given in enumerate(inputs):
        if not taken[isinstance(given, tuple)]:
            found, field = "a pair" if isinstance(given, tuple) else "one text", f"texts[{number}]"
            message = f"{field}: none of the tasks {', '.join(tasks)} takes {found}"
            raise RefusedError(422, "input_not_taken", message, field=field)
