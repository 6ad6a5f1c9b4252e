"""A bundle's runtime behind LitServe: the same session, words, subwords and decoding, but its HTTP and its batching.

Run by the python of LitServe's own environment: litserve_server.py BUNDLE PORT REQUESTS_IN_A_BATCH
"""

# No `from __future__ import annotations`: LitServe reads the annotation of `decode_request` as it stands.
import sys
from typing import Any

import litserve  # type: ignore[import-not-found]

from palmette.runtime import Runtime


class Api(litserve.LitAPI):  # type: ignore[misc]
    """Texts of several requests together."""

    def __init__(self, model: str, **options: Any) -> None:
        super().__init__(**options)
        self._path = model

    def setup(self, device: str) -> None:  # noqa: ARG002 - the name is LitServe's
        """Load the bundle, in the worker's process."""
        self._model = Runtime.load(self._path)
        self._model.predict(["a"])

    def decode_request(self, request: dict[str, Any]) -> list[str]:
        """The texts of a request."""
        return list(request["texts"])

    def batch(self, inputs: list[list[str]]) -> list[list[str]]:
        """Requests as they are: they are joined in `predict`, where their sizes are known."""
        return inputs

    def predict(self, requests: list[list[str]]) -> list[list[Any]]:
        """Answers of each request."""
        answers = iter(self._model.predict([text for texts in requests for text in texts]))
        return [[next(answers) for _ in texts] for texts in requests]

    def unbatch(self, output: list[list[Any]]) -> list[list[Any]]:
        """They are apart already."""
        return output

    def encode_response(self, output: list[Any]) -> dict[str, Any]:
        """The response."""
        return {"answers": output}


def main() -> None:
    """Serve until killed."""
    model, port, batch = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    api = Api(model, max_batch_size=batch, batch_timeout=0.005)
    server = litserve.LitServer(api, accelerator="cpu", workers_per_device=1)
    server.run(host="127.0.0.1", port=port, generate_client_file=False, log_level="warning")


if __name__ == "__main__":
    main()
