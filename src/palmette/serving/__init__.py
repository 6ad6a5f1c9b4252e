"""A model over HTTP. Neither torch nor transformers: the model comes in through a function that loads an `Answerer`."""

from __future__ import annotations

from palmette.serving.server import serve
from palmette.serving.settings import ServerSettings

__all__ = ["ServerSettings", "serve"]
