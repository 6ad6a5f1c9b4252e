"""`make install` takes the pinned versions as they are, so they have to fit together."""

from __future__ import annotations

import tomllib
from importlib.metadata import PackageNotFoundError, distribution, requires
from pathlib import Path

from packaging.requirements import Requirement

REPOSITORY = Path(__file__).parent.parent
# The offline language model is read by transformers; its package's own way of running it would compile llama.cpp.
NOT_INSTALLED = {"llama-cpp-python", "llm"}


def wanted(package: str, extras: set[str]) -> list[Requirement]:
    """What a package needs here with some of its extras."""
    found = [Requirement(line) for line in requires(package) or ()]
    environments = [{"extra": extra} for extra in extras or {""}]
    return [one for one in found if one.marker is None or any(one.marker.evaluate(e) for e in environments)]


def test_everything_that_is_installed_has_what_it_asks_for() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    waiting = [("palmette", frozenset(project["optional-dependencies"]))]
    seen = set(waiting)
    wrong = []
    while waiting:
        package, extras = waiting.pop()
        for need in wanted(package, set(extras)):
            if need.name in NOT_INSTALLED:
                continue
            try:
                version = distribution(need.name).version
            except PackageNotFoundError:
                wrong.append(f"{package} needs {need}: not installed")
                continue
            if not need.specifier.contains(version, prereleases=True):
                wrong.append(f"{package} needs {need}: {version} is installed")
            following = (need.name, frozenset(need.extras))
            if following not in seen:
                seen.add(following)
                waiting.append(following)
    assert len(seen) > 100
    assert wrong == []
