"""The playground's files."""

from __future__ import annotations

from pathlib import Path

from starlette.responses import FileResponse, Response

from palmette.serving.refusal import RefusedError

_FOLDER = Path(__file__).parent / "web"
_TYPES = {
    ".html": "text/html",
    ".js": "text/javascript",
    ".css": "text/css",
    ".svg": "image/svg+xml",
    ".png": "image/png",
    ".ico": "image/x-icon",
    ".webmanifest": "application/manifest+json",
}


def file_response(name: str) -> Response:
    """One of the files in the folder; never one from elsewhere, whatever the name.

    Raises:
        RefusedError: 404.
    """
    known = {file.name: file for file in _FOLDER.glob("*") if file.suffix in _TYPES and file.is_file()}
    if (file := known.get(name)) is None:
        raise RefusedError(404, "not_found", "there is nothing here")
    # A new version of the package must not meet an old half of the page in a browser's cache.
    return FileResponse(file, media_type=_TYPES[file.suffix], headers={"cache-control": "no-cache"})
