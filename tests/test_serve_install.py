"""What `palmette[serve]` brings is enough to answer, holds no PyTorch, and is small."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import palmette

REPOSITORY = Path(__file__).parents[1]
MOST_MEGABYTES = 300

SCRIPT = """
import json, sys
import palmette
model = palmette.load(sys.argv[1])
print(json.dumps(model.predict(["Anna sat in Paris.", ("where is anna", "anna sat in paris")])))
import palmette.serving.app
loaded = sorted({"torch", "transformers", "spacy", "safetensors"} & sys.modules.keys())
assert not loaded, loaded
"""


@pytest.mark.slow
def test_a_clean_environment_with_the_extra_serve_answers_from_a_bundle(bundled: Path, tmp_path: Path) -> None:
    """Installs from the package registry: the one test that needs it."""
    environment = tmp_path / "environment"
    subprocess.run([sys.executable, "-m", "venv", str(environment)], check=True)
    python = environment / "bin" / "python"
    install = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run(
        [*install, "-c", str(REPOSITORY / "constraints.txt"), f"{REPOSITORY}[serve]"],
        check=True,
        env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
    )
    size = sum(path.stat().st_size for path in environment.rglob("*") if path.is_file() and not path.is_symlink())
    assert size / 1e6 < MOST_MEGABYTES
    installed = {path.name.split("-")[0] for path in (environment / "lib").glob("python*/site-packages/*.dist-info")}
    assert not {"torch", "transformers", "spacy", "safetensors"} & installed
    done = subprocess.run(
        [str(python), "-c", SCRIPT, str(bundled)],
        capture_output=True,
        text=True,
        check=False,
        env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    wanted = palmette.load(bundled).predict(["Anna sat in Paris.", ("where is anna", "anna sat in paris")])
    assert [labels(answer) for answer in found] == [labels(answer) for answer in wanted]


def labels(answer: Any) -> Any:
    """An answer without its numbers, which the machine's threads may move in the last digit."""
    return {task: found.get("tags", found.get("label")) for task, found in answer["tasks"].items()}
