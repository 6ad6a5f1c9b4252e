"""Bodies of the review API."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, Field

from palmette.operate.review.tables import NAME, REQUEST
from palmette.serving.bodies import Body

Reviewer = Field(min_length=1, max_length=NAME, pattern=r"\S", description="Who says it.")
Label = Field(
    None,
    description="Tags: a list, one a word (spans as IOB2); a class: a string; classes: a list; a number; an answer "
    "in a passage: at most one object of text and answer_start (characters), in a list; a text: a list of one string.",
)


class DecisionRequest(Body):
    """What a reviewer says of an item."""

    reviewer: str = Reviewer
    verdict: Literal["right", "corrected", "skipped", "withdrawn"] = Field(
        description="right: the answer as it is; corrected: give the label; withdrawn: as if nothing had been said."
    )
    label: Any = Label
    text: str | list[str] | None = Field(None, description="The text or its words, where the server does not keep it.")
    text_pair: str | list[str] | None = Field(None, description="The second text, likewise.")


class CorrectionRequest(Body):
    """A correction of any answer that the server gave."""

    request_id: str = Field(min_length=1, max_length=REQUEST, description="Of the response.")
    number: int = Field(0, ge=0, le=2**31 - 1, description="Place of the answer in the response, from 0.")
    task: str = Field(max_length=NAME)
    reviewer: str = Reviewer
    label: Any = Field(description="What is right; forms as in a decision.")
    prediction: Any = Field(None, description="What was answered, in the same form; for answers not in the queue.")
    model: str | None = Field(None, max_length=64, description="The response's model.digest; likewise.")
    text: str | list[str] | None = Field(
        None,
        description="The text or its words; needed where the server keeps texts and the answer is not in the queue.",
    )
    text_pair: str | list[str] | None = Field(None, description="The second text, likewise.")


class DecisionResponse(BaseModel):
    """A decision, as it is on disk."""

    item: int
    reviewer: str
    verdict: str
    changed: int = Field(description="Units of the answer that the reviewer changed.")
    units: int = Field(description="Of how many: words of tags, yes or no of classes, else 1.")
    created: datetime
    open: bool = Field(description="Whether the item still waits for people.")


class ItemResponse(BaseModel):
    """An answer in the queue."""

    id: int
    created: datetime
    request_id: str
    number: int
    task: str
    kind: str
    form: str = Field(
        description="How its labels are written: tags, spans, class, classes, number, answer, text, json."
    )
    labels: list[str] = Field(description="That the model knows.")
    digest: str = Field(description="Of the model.")
    why: str = Field(description="low_confidence, unreadable, disagreement, audit or reported.")
    confidence: float | None
    open: bool
    prediction: Any = Field(description="As a label; null where it cannot be read, or repeats text that is not kept.")
    candidate: Any = Field(description="What another model answered, where they disagree.")
    text: str | None = Field(description="Null where it is not kept.")
    words: list[str] | None
    offsets: list[list[int]] | None
    text_pair: str | None
    pair_words: list[str] | None
    pair_offsets: list[list[int]] | None


class NextResponse(BaseModel):
    """The next item for a reviewer; null where none waits."""

    item: ItemResponse | None
    waiting: int = Field(description="Items that wait, of the task if one was named.")


class ReviewTask(BaseModel):
    """A task in the queue."""

    kind: str
    form: str
    labels: list[str]
    waiting: int
    decided: int = Field(description="Items of which somebody said that they are right or wrong.")


class ReviewTasksResponse(BaseModel):
    """What there is to review, and how."""

    tasks: dict[str, ReviewTask]
    reviewers: int = Field(description="People who look at each item.")
    texts: bool = Field(description="Whether texts are kept.")


class AgreementPair(BaseModel):
    """Of two reviewers on a task."""

    task: str
    reviewers: list[str]
    items: int
    units: int
    agreed: float = Field(description="Share of the units.")
    kappa: float | None = Field(
        description="Cohen's; null where it is not defined: both always say the same one thing."
    )


class AgreementResponse(BaseModel):
    """How far reviewers agree."""

    pairs: list[AgreementPair]


class CleanUpVersion(BaseModel):
    """Of a task and a model."""

    task: str
    digest: str
    answers: int = Field(description="That went out without a person.")
    corrected: int
    rate: float | None = Field(
        description="corrected / answers, at most 1: a lower bound, since nobody looks at every answer."
    )
    changed: int = Field(description="Units of the corrected answers that were changed,")
    units: int = Field(description="of how many.")
    audited: int = Field(description="Answers of the random audit that somebody judged.")
    audited_corrected: int
    estimate: list[float] | None = Field(description="Share of wrong answers by the audit: low, middle, high (95 %).")
    last: datetime | None


class CleanUpResponse(BaseModel):
    """How many automatic answers were corrected afterwards, and by how much."""

    versions: list[CleanUpVersion]


class DeletedResponse(BaseModel):
    """How many items were deleted."""

    deleted: int
