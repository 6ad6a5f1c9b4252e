"""Writes what the documentation says by counting: the tables of settings, and of the embedded sample.

python docs/build_reference.py             # rewrite the blocks between the markers
python docs/build_reference.py --check     # exit code 1 where a block would change
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeAlias, cast

from palmette.config import Config
from palmette.types import SPLITS

Schema: TypeAlias = Mapping[str, Any]

# Where each part of the configuration stands in a file, in the order of the page.
_PARTS: tuple[tuple[str, str], ...] = (
    ("TrunkConfig", "trunk"),
    ("TaskConfig", "tasks.NAME"),
    ("TrainingConfig", "training"),
    ("MixingConfig", "mixing"),
    ("BalancingConfig", "balancing"),
    ("WritingConfig", "writing"),
    ("PromptingConfig", "prompting"),
    ("LoraConfig", "lora"),
    ("EndpointConfig", "endpoint"),
)
_SOURCES: tuple[tuple[str, str], ...] = (
    ("ConlluSource", "conllu"),
    ("ColumnsSource", "columns"),
    ("TableSource", "table"),
    ("JsonlSource", "jsonl"),
    ("ParquetSource", "parquet"),
    ("SquadSource", "squad"),
    ("HubSource", "datasets"),
)
_HELPERS: tuple[tuple[str, str], ...] = (
    ("Cut", "A cut: what `dev` or `test` may be"),
    ("LabelField", "A label's place: what a value of `labels` may be"),
    ("PromptConfig", "A prompt: what a value of `prompting.prompts` may be"),
)
_NAMES = {"integer": "whole number", "number": "number", "string": "text", "boolean": "true or false"}
_LINKS = {
    "TrunkConfig": "[mapping](#trunk)",
    "TaskConfig": "[task](#tasksname)",
    "TrainingConfig": "[mapping](#training)",
    "MixingConfig": "[mapping](#mixing)",
    "BalancingConfig": "[mapping](#balancing)",
    "WritingConfig": "[mapping](#writing)",
    "PromptingConfig": "[mapping](#prompting)",
    "LoraConfig": "[mapping](#lora)",
    "EndpointConfig": "[mapping](#endpoint)",
    "PromptConfig": "[prompt](#prompt)",
    "Cut": "[cut](#cut)",
    "LabelField": "[place](#place)",
    "OwnCase": "text, text_pair and label",
}
# What the schema has no description for.
_MEANINGS = {
    "tasks": "What to predict: a name for each task.",
    "sources": "Where labelled text comes from.",
    "training": "The loop.",
    "mixing": "Which example enters when.",
    "balancing": "How task losses become one update.",
    "currency": "What the prices are in.",
}


def render() -> str:
    """The reference as Markdown: a table a part of the configuration."""
    schema = Config.json_schema()
    parts: dict[str, Schema] = schema["$defs"]
    known = {name for name, _ in (*_PARTS, *_SOURCES, *_HELPERS)}
    if known != set(parts):
        raise ValueError(f"parts that this script does not know, or that are gone: {sorted(known ^ set(parts))}")
    lines = ["## Top level", "", *_table(schema)]
    for name, place in _PARTS:
        anchor = place.replace(".", "").lower()
        lines += ["", f"## `{place}` {{ #{anchor} }}", "", _first_line(parts[name]), "", *_table(parts[name])]
    shared = set.intersection(*(set(parts[name]["properties"]) for name, _ in _SOURCES)) - {"format"}
    lines += ["", "## `sources[]` { #sources }", "", "What every source says, whatever its format:", ""]
    lines += _table(parts[_SOURCES[0][0]], only=shared)
    for name, value in _SOURCES:
        lines += ["", f"### `format: {value}` {{ #format-{value} }}", "", _first_line(parts[name])]
        own = set(parts[name]["properties"]) - shared - {"format"}
        lines += ["", *(_table(parts[name], only=own) if own else ["No settings of its own."])]
    for (name, title), anchor in zip(_HELPERS, ("cut", "place", "prompt"), strict=True):
        lines += ["", f"### {title} {{ #{anchor} }}", "", _first_line(parts[name]), "", *_table(parts[name])]
    return "\n".join(lines) + "\n"


def _table(part: Schema, *, only: set[str] | None = None) -> list[str]:
    """Name, type, default and meaning of a part's settings, as lines of Markdown."""
    lines = ["| setting | type | default | meaning |", "|---|---|---|---|"]
    for name, setting in part["properties"].items():
        if only is not None and name not in only:
            continue
        required = name in part.get("required", ())
        cells = (f"`{name}`", _type(setting), _default(setting, required=required), _meaning(name, setting))
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return lines


def _first_line(part: Schema) -> str:
    return str(part["description"]).partition("\n")[0]


def _meaning(name: str, setting: Schema) -> str:
    meaning = str(setting.get("description") or _MEANINGS[name])
    return meaning.replace("<", "&lt;").replace("*", "\\*").replace("_", "\\_")


def _default(setting: Schema, *, required: bool) -> str:
    """What holds where the setting is left out."""
    if required:
        return "required"
    default = setting.get("default")
    if default is None or default == {}:
        return "-"
    return f"`{json.dumps(default)}`" if not isinstance(default, str) else f"`{default}`"


def _type(setting: Schema) -> str:
    return " or ".join(dict.fromkeys(_types(setting)))


def _types(setting: Schema) -> Iterator[str]:
    """What a value may be, in words."""
    for form in ("anyOf", "oneOf"):
        for member in setting.get(form, ()):
            yield from _types(member)
    if "$ref" in setting:
        yield _LINKS[setting["$ref"].rpartition("/")[2]]
    elif "const" in setting:
        yield f"`{setting['const']}`"
    elif "enum" in setting:
        yield ", ".join(f"`{value}`" for value in setting["enum"])
    elif setting.get("type") == "array":
        items = setting["items"]
        yield "list of " + ("[sources](#sources)" if "discriminator" in items else f"{_type(items)}s")
    elif setting.get("type") == "object":
        values = setting["additionalProperties"]
        yield "mapping" if values is True else f"name → {_type(values)}"
    elif setting.get("type") in _NAMES:
        yield _NAMES[setting["type"]] + _bounds(setting)


def _bounds(setting: Schema) -> str:
    signs = (("exclusiveMinimum", ">"), ("minimum", "≥"), ("exclusiveMaximum", "<"), ("maximum", "≤"))
    bounds = [f"{sign} {setting[key]:g}" for key, sign in signs if key in setting]
    return f" {', '.join(bounds)}" if bounds else ""


def render_counts() -> str:
    """Sentences, words, entities and sentiment of the embedded sample by split, as a Markdown table."""
    from palmette.data.readers import read
    from palmette.kinds.sequence_labeling import read_spans
    from palmette.quickstart import config

    source = config().sources[0]
    columns = []
    for split in SPLITS:
        counts: Counter[str] = Counter()
        for record in read(source, split, fields=frozenset({"genre"})):
            tags = cast("tuple[str, ...]", record.labels["ner"])
            counts.update(["sentences", f"sentiment {record.labels['sentiment']}", f"genre {record.meta['genre']}"])
            counts.update({"words": len(record.text)})
            counts.update(f"{kind} entities" for _, _, kind in read_spans(tags, "iob2"))
        columns.append(counts)
    order = ["sentences", "words", "PER entities", "ORG entities", "LOC entities"]
    order += [f"sentiment {name}" for name in ("positive", "neutral", "negative")]
    order += sorted({name for counts in columns for name in counts if name.startswith("genre ")})
    if unknown := {name for counts in columns for name in counts} - set(order):
        raise ValueError(f"labels that this script does not know: {sorted(unknown)}")
    lines = ["| | train | dev | test | all |", "|---|--:|--:|--:|--:|"]
    for name in order:
        numbers = [counts[name] for counts in columns]
        lines.append(f"| {name} | " + " | ".join(f"{number:,}" for number in (*numbers, sum(numbers))) + " |")
    return "\n".join(lines) + "\n"


def render_gate() -> str:
    """The gate's settings."""
    from palmette.operate.gate import GateSettings

    return "\n".join(_table(GateSettings.model_json_schema())) + "\n"


def render_update() -> str:
    """The settings of an update."""
    from palmette.operate.update import UpdateSettings

    return "\n".join(_table(UpdateSettings.model_json_schema())) + "\n"


def render_checks() -> str:
    """The checks that come with Palmette."""
    from palmette.operate.behaviour import CHECKS

    rows = [f"| `{check.name}` | {check.expectation} | {check.description} |" for check in CHECKS]
    return "\n".join(["| check | expectation | what is done, and expected |", "|---|---|---|", *rows]) + "\n"


def render_own_checks() -> str:
    """What a check in a file may say."""
    from palmette.operate.behaviour.own import OwnCheck

    return "\n".join(_table(OwnCheck.model_json_schema())) + "\n"


# What is generated: the page, the name in its markers, and what stands between them.
_SAMPLE = Path(__file__).parent.parent / "src" / "palmette" / "data" / "sample" / "README.md"
BLOCKS: tuple[tuple[Path, str, Callable[[], str]], ...] = (
    (Path(__file__).with_name("configuration.md"), "reference", render),
    (Path(__file__).with_name("sample.md"), "counts", render_counts),
    (_SAMPLE, "counts", render_counts),
    (Path(__file__).with_name("gate.md"), "settings", render_gate),
    (Path(__file__).with_name("gate.md"), "checks", render_checks),
    (Path(__file__).with_name("gate.md"), "own", render_own_checks),
    (Path(__file__).with_name("update.md"), "settings", render_update),
)


def insert(page: str, name: str, content: str) -> str:
    """The page with `content` between `<!-- NAME:begin -->` and `<!-- NAME:end -->`."""
    opening, closing = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
    before, begin, rest = page.partition(opening)
    _, end, after = rest.partition(closing)
    if not begin or not end:
        raise ValueError(f"the page lacks {opening} or {closing}")
    return f"{before}{opening}\n\n{content}\n{closing}{after}"


def main() -> int:
    """Write the blocks, or check that they are as they would be written."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; exit code 1 if a page would change")
    arguments = parser.parse_args()
    stale = 0
    for path, name, content in BLOCKS:
        page = path.read_text(encoding="utf-8")
        written = insert(page, name, content())
        if page == written:
            continue
        stale += 1
        if arguments.check:
            sys.stderr.write(f"{path}: {name} is out of date: run python docs/build_reference.py\n")
        else:
            path.write_text(written, encoding="utf-8")
    return int(arguments.check and stale > 0)


if __name__ == "__main__":
    sys.exit(main())
