"""The MLflow model registry, for those who have one: bundles come from it, and its aliases say which has which role."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from palmette.deploy.bundle import Bundle
from palmette.errors import MissingExtraError, ReleaseError
from palmette.operate.releases.records import State, Version

ALIASES = {"live": "champion", "candidate": "candidate", "previous": "previous"}
_REFERENCE = re.compile(r"models:/([^/@]+)(?:/(\d+)|@([^/@]+))")
_EXPERIMENT = "palmette"
_DIGEST, _ROLE = "palmette.digest", "palmette.role"


def is_reference(bundle: str) -> bool:
    """Whether a name is one of a registry, and not a folder's."""
    return bundle.startswith("models:/")


def fetch(reference: str, into: Path) -> Bundle:
    """Download a model version that is a bundle.

    Args:
        reference: `models:/NAME/VERSION` or `models:/NAME@ALIAS`, of the registry that MLFLOW_REGISTRY_URI or
            MLFLOW_TRACKING_URI names.
        into: folder below which it is kept, under its digest.

    Raises:
        ReleaseError: there is no such version, or the registry cannot be reached.
        BundleError: what it holds is not a bundle, or not the one that was registered.
        MissingExtraError: MLflow is not installed.
    """
    mlflow = _mlflow()
    name, number = _resolve(reference)
    into.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=into, prefix=".download-") as folder:
        try:
            found = mlflow.artifacts.download_artifacts(artifact_uri=f"models:/{name}/{number}", dst_path=folder)
        except Exception as error:  # its stores raise whatever they are made of
            raise ReleaseError(f"{reference}: cannot be downloaded: {_short(error)}") from error
        bundle = Bundle.open(found)
        said = _tags(name, number).get(_DIGEST)
        if said is not None and said != bundle.digest:
            raise ReleaseError(f"{reference}: holds {bundle.digest[:12]}, but {said[:12]} was registered")
        target = into / bundle.digest[:16]
        if not target.exists():
            Path(found).rename(target)
    return Bundle.open(target)


def register(path: Path, name: str) -> str:
    """Register a bundle as a version of a model.

    Args:
        path: of the bundle.
        name: of the registered model, which is made if there is none.

    Returns:
        Its reference, `models:/NAME/VERSION`.

    Raises:
        BundleError: it is not one.
        ReleaseError: the registry cannot be reached or refuses.
        MissingExtraError: MLflow is not installed.
    """
    bundle = Bundle.open(path)
    client = _client()
    try:
        experiment = client.get_experiment_by_name(_EXPERIMENT)
        identity = experiment.experiment_id if experiment is not None else client.create_experiment(_EXPERIMENT)
        run = client.create_run(identity, run_name=bundle.digest[:12])
        client.log_artifacts(run.info.run_id, str(bundle.folder), "bundle")
        client.set_terminated(run.info.run_id)
        if not client.search_registered_models(f"name = '{name}'"):
            client.create_registered_model(name, description="A Palmette bundle: one model, several tasks.")
        version = client.create_model_version(
            name,
            source=f"{run.info.artifact_uri}/bundle",
            run_id=run.info.run_id,
            tags={_DIGEST: bundle.digest, "palmette.tasks": ",".join(bundle.manifest.get("tasks", {}))},
        )
    except Exception as error:
        raise ReleaseError(f"{name}: the registry does not take it: {_short(error)}") from error
    return f"models:/{name}/{version.version}"


def follow(state: State, versions: Mapping[str, Version]) -> list[str]:
    """Set aliases and tags of the versions that came from a registry to the roles they have.

    Safe to repeat. Versions that came from folders are left out.

    Returns:
        The references that have a role now.

    Raises:
        ReleaseError: the registry cannot be reached or refuses.
        MissingExtraError: MLflow is not installed.
    """
    known = {digest: found.source for digest, found in versions.items() if found.source is not None}
    if not known:
        return []
    client = _client()
    roles = {digest: role for role, digest in state.roles.items()}
    named: list[str] = []
    try:
        for digest, source in known.items():
            name, number = _resolve(source)
            role = roles.get(digest)
            if role is not None:
                client.set_registered_model_alias(name, ALIASES[role], number)
                named.append(source)
            for alias in client.get_model_version(name, number).aliases:
                if alias in ALIASES.values() and (role is None or alias != ALIASES[role]):
                    client.delete_registered_model_alias(name, alias)
            client.set_model_version_tag(name, number, _ROLE, role or "none")
    except ReleaseError:
        raise
    except Exception as error:
        raise ReleaseError(f"the registry does not follow the roles: {_short(error)}") from error
    return named


def _resolve(reference: str) -> tuple[str, str]:
    """Name and number of a version."""
    if (found := _REFERENCE.fullmatch(reference)) is None:
        raise ReleaseError(f"{reference}: expected models:/NAME/VERSION or models:/NAME@ALIAS")
    name, number, alias = found.groups()
    if number is not None:
        return name, number
    try:
        return name, str(_client().get_model_version_by_alias(name, alias).version)
    except Exception as error:
        raise ReleaseError(f"{reference}: no such version: {_short(error)}") from error


def _tags(name: str, number: str) -> dict[str, str]:
    return dict(_client().get_model_version(name, number).tags)


def _client() -> Any:
    mlflow = _mlflow()
    try:
        return mlflow.MlflowClient()
    except Exception as error:
        raise ReleaseError(f"the registry cannot be reached: {_short(error)}") from error


def _mlflow() -> Any:
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    try:
        import mlflow
        import mlflow.artifacts
    except ImportError as error:
        raise MissingExtraError(error.name or "mlflow", "mlflow") from error
    return mlflow


def _short(error: Exception) -> str:
    return str(error).strip().partition("\n")[0][:300] or type(error).__name__
