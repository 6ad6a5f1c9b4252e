"""How a model is trained on with corrections."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydantic import Field, ValidationError

from palmette.config import Settings
from palmette.errors import ConfigError
from palmette.overrides import read_override


class UpdateSettings(Settings):
    """What `palmette update --set` takes."""

    epochs: int = Field(2, ge=1, description="Passes over corrections and replayed examples.")
    rate: float = Field(0.5, gt=0, description="Learning rates, as a multiple of the run's own.")
    held_out: float = Field(0.2, ge=0, lt=1, description="Share of the corrected texts that show what was gained.")
    replay: int = Field(10, ge=0, description="Examples of each task's training data replayed for a correction.")
    least_replay: int = Field(2000, ge=0, description="At least as many of each task, if it has them.")
    share: float = Field(
        0.2,
        gt=0,
        lt=1,
        description="Share of the training examples that corrections are to be, if repeating them does.",
    )
    most_repeats: int = Field(8, ge=1, description="Most times that a correction stands in an epoch.")
    accuracy_budget: float = Field(0.5, ge=0, description="Points that a task may lose on dev by int8.")
    seed: int = Field(13, ge=0, description="Of the training, and of which corrections are held out.")

    @classmethod
    def read(cls, overrides: Sequence[str]) -> UpdateSettings:
        """From `KEY=VALUE`.

        Raises:
            ConfigError: one of them is wrong.
        """
        data: dict[str, Any] = {}
        for given in overrides:
            key, value = read_override(given, example="epochs=3")
            if key not in cls.model_fields:
                raise ConfigError(f"--set {given}: the settings are {', '.join(cls.model_fields)}")
            data[key] = value
        try:
            return cls(**data)
        except ValidationError as error:
            first = error.errors()[0]
            raise ConfigError(f"--set {first['loc'][0]}: {first['msg']}, found {first['input']!r}") from error
