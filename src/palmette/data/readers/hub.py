"""Hugging Face datasets: from the hub, or from a folder."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from palmette.config import HubSource
from palmette.data.readers.rows import columns_of, record_of
from palmette.errors import MissingExtraError, ReadError
from palmette.types import Origin, Record


def read_hub(source: HubSource, name: str, *, fields: frozenset[str]) -> Iterator[Record]:
    """A record a row of the split `name`; a record's line is its row, from 1. Class numbers become their names.

    Raises:
        ReadError: if the dataset or split cannot be loaded, lacks a column that the source names, or a row
            has no text.
        MissingExtraError: if datasets is not installed.
    """
    try:
        import datasets
    except ModuleNotFoundError as error:
        raise MissingExtraError("datasets", "train") from error
    path = f"{source.path}:{name}"
    split = _load(datasets, source, name)
    columns = columns_of(source, split.column_names, path, fields=fields)
    # only what is used: other columns may be images or sound, whose decoding is slow and needs more packages
    split = split.select_columns(columns).with_format(None)
    for number, row in enumerate(split, 1):
        origin = Origin(path, number)
        decoded = {column: _decoded(row[column], split.features[column], datasets, origin) for column in columns}
        yield record_of(decoded, source, origin, fields=fields)


def _load(datasets: ModuleType, source: HubSource, name: str) -> Any:
    """One split of the dataset."""
    folder = Path(source.path)
    try:
        if not any((folder / file).exists() for file in ("dataset_dict.json", "state.json")):
            return datasets.load_dataset(source.path, source.config, split=name)
        saved = datasets.load_from_disk(source.path)
    except (OSError, ValueError, KeyError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        told = f"{error} ({error.__cause__})" if error.__cause__ is not None else str(error)
        reason = " ".join(told.split())  # some are pages long, and errors are one line here
        raise ReadError(f"{source.path}: split {name!r} cannot be loaded: {reason:.300}") from error
    splits = saved if isinstance(saved, datasets.DatasetDict) else {str(saved.split or "train"): saved}
    if name not in splits:
        raise ReadError(f"{source.path}: no split {name!r}; there are: {', '.join(splits)}")
    return splits[name]


def _decoded(value: Any, feature: Any, datasets: ModuleType, origin: Origin) -> Any:
    """The value with class numbers replaced by names, wherever they stand in it; -1, no class, becomes None."""
    if value is None:
        return None
    if isinstance(feature, datasets.ClassLabel):
        return None if value == -1 else _class_name(value, feature, origin)
    if isinstance(feature, dict) and isinstance(value, dict):
        return {key: _decoded(item, feature[key], datasets, origin) for key, item in value.items()}
    inner = feature[0] if isinstance(feature, list) else getattr(feature, "feature", None)
    if inner is not None and isinstance(value, list):
        return [_decoded(item, inner, datasets, origin) for item in value]
    return value


def _class_name(value: Any, feature: Any, origin: Origin) -> str:
    try:
        return str(feature.int2str(value))
    except ValueError as error:
        raise ReadError(f"{origin}: {error}; the classes are: {', '.join(feature.names)}") from error
