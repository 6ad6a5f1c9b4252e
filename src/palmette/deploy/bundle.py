"""The deployable folder: a graph with every head, tokenizer, labels, card, and a manifest with each file's sha256.

No torch, and nothing pickled. What is used is what was hashed: whatever is read is checked, and used from memory.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from palmette.errors import BundleError

FORMAT = 1
MANIFEST, GRAPH, TOKENIZER, WORDS, TASKS, CONFIG, CARD, PARITY, CALIBRATION, CLAIMS, DIAGRAM, PROFILE = (
    "manifest.json",
    "model.onnx",
    "tokenizer.json",
    "words.json",
    "tasks.json",
    "config.yaml",
    "README.md",
    "parity.json",
    "calibration.json",
    "claims.npz",
    "calibration.svg",
    "profile.json",
)


@dataclass(frozen=True)
class Bundle:
    """A bundle whose files are what its manifest says.

    Attributes:
        folder: where it lies.
        manifest: `format`, `palmette` (version), `created`, `precision`, `tasks` {task: kind}, `files` {name: sha256}.
        digest: sha256 of manifest.json, which stands for all of it.
    """

    folder: Path
    manifest: Mapping[str, Any]
    digest: str

    @classmethod
    def open(cls, path: str | Path) -> Bundle:
        """Read a manifest and check that every file it names is there, unchanged.

        Raises:
            BundleError: there is no bundle, it is of a later format, or a file is missing, changed or elsewhere.
        """
        folder = Path(path)
        try:
            content = (folder / MANIFEST).read_bytes()
        except OSError as error:
            raise BundleError(f"{path}: is not a bundle (no {MANIFEST}): palmette export RUN --out BUNDLE") from error
        try:
            manifest = json.loads(content)
            version, files = manifest["format"], dict(manifest["files"])
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise BundleError(f"{folder / MANIFEST}: is damaged: {error!r}") from error
        if version != FORMAT:
            raise BundleError(f"{folder}: is of format {version!r}; this Palmette reads format {FORMAT}")
        for name in (GRAPH, TOKENIZER, WORDS, TASKS):
            if name not in files:
                raise BundleError(f"{folder / MANIFEST}: does not name {name}")
        bundle = cls(folder, manifest, hashlib.sha256(content).hexdigest())
        for name in files:
            bundle.read(name)
        return bundle

    def read(self, name: str) -> bytes:
        """A file's content, which is what the manifest says.

        Raises:
            BundleError: it is not a file of the bundle, lies outside its folder, or was changed.
        """
        files = self.manifest["files"]
        if name not in files:
            raise BundleError(f"{self.folder / MANIFEST}: does not name {name}")
        path = self.folder / name
        if Path(name).name != name or name == ".." or "\0" in name or path.is_symlink():
            raise BundleError(f"{self.folder / MANIFEST}: {name!r} is not a file of this folder itself: refused")
        try:
            content = path.read_bytes()
        except (OSError, UnicodeEncodeError) as error:  # half a surrogate pair in the name
            raise BundleError(f"{path}: cannot be read, although the manifest names it: {error}") from error
        found = hashlib.sha256(content).hexdigest()
        if found != files[name]:
            raise BundleError(f"{path}: was changed: sha256 {found}, the manifest says {files[name]}. Export it again")
        return content

    def read_json(self, name: str) -> Any:
        """A JSON file's content."""
        try:
            return json.loads(self.read(name))
        except (ValueError, RecursionError) as error:
            raise BundleError(f"{self.folder / name}: is not JSON: {error}") from error

    @property
    def card(self) -> str:
        """The model card, in Markdown."""
        return self.read(CARD).decode("utf-8")

    @property
    def bytes(self) -> int:
        """Size of its files together."""
        return sum((self.folder / name).stat().st_size for name in [MANIFEST, *self.manifest["files"]])


def is_bundle(path: str | Path) -> bool:
    """Whether a folder has a manifest."""
    return (Path(path) / MANIFEST).is_file()


def write_bundle(folder: Path, files: Mapping[str, bytes], *, about: Mapping[str, Any]) -> Bundle:
    """Write a bundle so that the folder appears under its name only when it is whole.

    Args:
        folder: must not exist yet.
        files: contents by name.
        about: what the manifest says besides `format` and `files`.

    Raises:
        BundleError: the folder exists, or cannot be written.
    """
    partial = folder.with_name(f".{folder.name}.partial")
    if folder.exists():
        raise BundleError(f"{folder}: exists; give --out another name, so that what serves from it is not changed")
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        digests = {name: hashlib.sha256(content).hexdigest() for name, content in sorted(files.items())}
        manifest = json.dumps({"format": FORMAT, **about, "files": digests}, indent=2) + "\n"
        for name, content in {**files, MANIFEST: manifest.encode()}.items():
            with (partial / name).open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
        partial.rename(folder)
    except OSError as error:
        raise BundleError(f"{folder}: cannot be written: {error}") from error
    return Bundle.open(folder)
