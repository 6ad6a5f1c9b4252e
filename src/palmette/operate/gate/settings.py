"""What a new model has to meet."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from pydantic import Field, ValidationError

from palmette.config import Settings
from palmette.errors import ConfigError


class GateSettings(Settings):
    """Margins and budgets. Points are hundredths of a metric's scale, or percent of the cases of a check."""

    split: Literal["train", "dev", "test"] = Field("test", description="Which part of the data both answer.")
    margin: float = Field(1.0, gt=0, le=100, description="Points that a task may lose.")
    margins: dict[str, float] = Field(default_factory=dict, description="The same for single tasks.")
    latency_budget: float = Field(1.2, gt=0, description="Time of an answer, as a multiple of the old model's.")
    size_budget: float = Field(1.2, gt=0, description="Bytes, as a multiple of the old model's.")
    calibration_budget: float = Field(
        2.0, ge=0, le=100, description="Points by which the expected calibration error of a task may rise."
    )
    behaviour_margin: float = Field(
        2.0, ge=0, lt=100, description="Points by which a check's failure rate may rise; beyond, the gate fails."
    )
    cases: int = Field(300, ge=1, description="Most cases of a check for a task.")
    latency_texts: int = Field(50, ge=1, description="Texts that are timed, one by one.")
    latency_rounds: int = Field(9, ge=5, description="How often both models answer them, in turn.")
    level: float = Field(0.95, gt=0.5, lt=1, description="Of every one-sided bound.")
    resamples: int = Field(2000, ge=100, description="Of the bootstrap over examples.")
    seed: int = Field(20, ge=0, description="Of the bootstrap and of the checks' choices.")

    @classmethod
    def read(cls, margins: Sequence[str] = (), **options: Any) -> GateSettings:
        """Settings from a command line.

        Args:
            margins: `ner=0.5`, or `0.5` for every task that is not named.
            **options: the other settings; None stands for the default.

        Raises:
            ConfigError: one of them is wrong.
        """
        data = {name: value for name, value in options.items() if value is not None}
        for given in margins:
            task, equals, value = given.rpartition("=")
            try:
                points = float(value)
            except ValueError as error:
                raise ConfigError(f"--margin {given}: expected TASK=POINTS or POINTS") from error
            if not 0 < points <= 100:
                raise ConfigError(f"--margin {given}: expected points above 0, up to 100")
            if equals:
                data.setdefault("margins", {})[task] = points
            else:
                data["margin"] = points
        try:
            return cls(**data)
        except ValidationError as error:
            first = error.errors()[0]
            name = ".".join(map(str, first["loc"]))
            raise ConfigError(f"{name}: {first['msg']}, found {first['input']!r}") from error

    def margin_of(self, task: str) -> float:
        """Points that a task may lose."""
        return self.margins.get(task, self.margin)
