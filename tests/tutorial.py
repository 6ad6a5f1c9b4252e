"""A page of the documentation as a run: its files and its commands, and its outputs written back into it."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

_FILE = re.compile(r'^```\w+ title="([^"]+)"\n(.*?)^```$', re.MULTILINE | re.DOTALL)
_RUN = re.compile(r"^<!-- run: (\w+)(?:, (\d+) lines)? -->\n```console\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_SERVE = re.compile(r"^<!-- serve -->\n```console\n\$ palmette (serve .*?)\n```$", re.MULTILINE)


@dataclass
class Tutorial:
    """A page, and a folder in which its commands run.

    Args:
        page: the Markdown file. `<!-- run: NAME, N lines -->` stands before a block of commands, of whose output the
            last N lines are shown.
        folder: where the commands run; the files that the page shows are written there.
        environment: of the commands.

    Attributes:
        outputs: what the commands of each block printed, by its name.
    """

    page: Path
    folder: Path
    environment: Mapping[str, str]
    outputs: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.text = self.page.read_text(encoding="utf-8")
        for name, content in _FILE.findall(self.text):
            (self.folder / name).write_text(content, encoding="utf-8")
        self.blocks = {found[1]: found[3] for found in _RUN.finditer(self.text)}

    @property
    def server(self) -> str:
        """The command that starts the server, behind `palmette`."""
        found = _SERVE.search(self.text)
        assert found, f"{self.page}: no server is started"
        return found[1]

    def run(self, name: str, *, codes: tuple[int, ...] = (0,)) -> str:
        """Run the commands of a block, each of which has to end with one of these exit codes; what they print."""
        printed: list[str] = []
        for line in self.blocks[name].splitlines():
            if not line.startswith("$ "):
                continue
            done = subprocess.run(
                ["/bin/sh", "-c", line[2:]],
                cwd=self.folder,
                env={**os.environ, **self.environment},
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                check=False,
            )
            assert done.returncode in codes, f"{line}\n{done.stdout[-4000:]}"
            printed += [line, *done.stdout.splitlines()]
        self.outputs[name] = "\n".join(printed)
        return self.outputs[name]

    def write(self, figures: Mapping[str, str]) -> None:
        """Put the outputs into the page, and the figures between their markers."""

        def block(found: re.Match[str]) -> str:
            name, most = found[1], int(found[2] or 1000)
            parts = re.split(r"^(?=\$ )", self.outputs[name], flags=re.MULTILINE)
            shown = []
            for part in filter(None, parts):
                command, *lines = (line.rstrip() for line in part.splitlines())
                shown += [command, *(["…"] if len(lines) > most else []), *lines[-most:]]
            head = found[0].partition("```console\n")[0]
            return head + "```console\n" + "\n".join(shown) + "\n```"

        text = _RUN.sub(block, self.text)
        table = "\n".join(["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in figures.items())])
        text = re.sub(
            r"(?<=<!-- figures:begin -->\n).*?(?=<!-- figures:end -->)", f"\n{table}\n\n", text, flags=re.DOTALL
        )
        self.page.write_text(text, encoding="utf-8")
