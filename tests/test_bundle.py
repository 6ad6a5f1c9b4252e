"""A bundle is what its manifest says, or it is refused."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import palmette
from palmette.deploy.bundle import GRAPH, MANIFEST, TASKS, TOKENIZER, WORDS, Bundle, write_bundle
from palmette.errors import BundleError
from palmette.runtime import Runtime


@pytest.fixture
def copy(bundled: Path, tmp_path: Path) -> Path:
    shutil.copytree(bundled, tmp_path / "copy")
    return tmp_path / "copy"


def rewrite(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    manifest = json.loads((folder / MANIFEST).read_text())
    change(manifest)
    (folder / MANIFEST).write_text(json.dumps(manifest))


def replace(folder: Path, name: str, content: bytes) -> None:
    """Change a file and its digest in the manifest: a bundle that contradicts itself only in what it means."""
    (folder / name).write_bytes(content)
    rewrite(folder, lambda manifest: manifest["files"].update({name: hashlib.sha256(content).hexdigest()}))


def test_every_file_is_named_with_its_digest(bundled: Path) -> None:
    bundle = Bundle.open(bundled)
    assert {*bundle.manifest["files"], MANIFEST} == {path.name for path in bundled.iterdir()}
    for name, digest in bundle.manifest["files"].items():
        assert hashlib.sha256((bundled / name).read_bytes()).hexdigest() == digest
    assert bundle.digest == hashlib.sha256((bundled / MANIFEST).read_bytes()).hexdigest()
    assert bundle.bytes == sum(path.stat().st_size for path in bundled.iterdir())


def test_a_changed_byte_of_any_file_is_refused(copy: Path) -> None:
    for name in json.loads((copy / MANIFEST).read_text())["files"]:
        original = (copy / name).read_bytes()
        for place in (0, len(original) // 2, len(original) - 1):
            changed = bytearray(original)
            changed[place] ^= 1
            (copy / name).write_bytes(bytes(changed))
            with pytest.raises(BundleError, match=f"{name}: was changed"):
                palmette.load(copy)
        (copy / name).write_bytes(original)
    palmette.load(copy)


def test_a_missing_file_is_refused(copy: Path) -> None:
    (copy / TOKENIZER).unlink()
    with pytest.raises(BundleError, match=f"{TOKENIZER}: cannot be read, although the manifest names it"):
        palmette.load(copy)


@pytest.mark.parametrize("name", ["../secret", "/etc/hostname", "sub/file", ".."])
def test_a_path_outside_the_folder_is_refused(copy: Path, name: str) -> None:
    secret = b"not yours"
    (copy.parent / "secret").write_bytes(secret)
    (copy / "sub").mkdir()
    (copy / "sub" / "file").write_bytes(secret)
    rewrite(copy, lambda manifest: manifest["files"].update({name: hashlib.sha256(secret).hexdigest()}))
    with pytest.raises(BundleError, match="is not a file of this folder itself: refused"):
        palmette.load(copy)


def test_a_link_out_of_the_folder_is_refused(copy: Path) -> None:
    (copy / GRAPH).rename(copy.parent / GRAPH)
    (copy / GRAPH).symlink_to(copy.parent / GRAPH)
    with pytest.raises(BundleError, match=f"'{GRAPH}' is not a file of this folder itself"):
        palmette.load(copy)


def test_a_later_format_is_refused(copy: Path) -> None:
    rewrite(copy, lambda manifest: manifest.update({"format": 2}))
    with pytest.raises(BundleError, match="is of format 2; this Palmette reads format 1"):
        palmette.load(copy)


NESTED = "[" * 100_000


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"format": 1}', '{"format": 1, "files": 3}', NESTED])
def test_a_damaged_manifest_is_refused(copy: Path, content: str) -> None:
    (copy / MANIFEST).write_text(content)
    with pytest.raises(BundleError, match=r"manifest\.json: is damaged"):
        palmette.load(copy)


@pytest.mark.parametrize("name", [GRAPH, TOKENIZER, TASKS, WORDS])
def test_a_manifest_without_a_necessary_file_is_refused(copy: Path, name: str) -> None:
    rewrite(copy, lambda manifest: manifest["files"].pop(name))
    with pytest.raises(BundleError, match=f"does not name {name}"):
        palmette.load(copy)


def test_what_is_no_bundle_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="is not a bundle"):
        Runtime.load(tmp_path)


@pytest.mark.parametrize("name", ["a\0b", "\ud800", ""])
def test_a_name_that_no_file_can_have_is_refused(copy: Path, name: str) -> None:
    rewrite(copy, lambda manifest: manifest["files"].update({name: "0"}))
    with pytest.raises(BundleError, match=r"is not a file of this folder itself|cannot be read, although"):
        palmette.load(copy)


@pytest.mark.parametrize(
    "content", [b"", b"[]", b"{}", b'{"tasks": {"pos": {}}}', b'{"tasks": {"pos": 3}}', b"\xff", NESTED.encode()]
)
def test_damaged_tasks_are_refused(copy: Path, content: bytes) -> None:
    replace(copy, TASKS, content)
    with pytest.raises(BundleError, match=r"tasks\.json: is (damaged|not JSON)"):
        palmette.load(copy)


@pytest.mark.parametrize("content", [b"", b"{}", b"\xff\xfe"])
def test_a_damaged_tokenizer_is_refused(copy: Path, content: bytes) -> None:
    replace(copy, TOKENIZER, content)
    with pytest.raises(BundleError, match=r"tokenizer\.json: is damaged"):
        palmette.load(copy)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("pad", -1),
        ("pad", 10**6),
        ("pad", "0"),
        ("pad", True),
        ("max_length", 3),
        ("max_length", -512),
        ("max_length", 10**9),
        ("max_length", "512"),
        ("max_length", 24.5),
    ],
)
def test_numbers_that_do_not_fit_the_tokenizer_are_refused(copy: Path, key: str, value: object) -> None:
    tasks = json.loads((copy / TASKS).read_text())
    replace(copy, TASKS, json.dumps({**tasks, key: value}).encode())
    with pytest.raises(BundleError, match=rf"tasks\.json: {key}: .*{value!r}|{key}: 3 leaves no room"):
        palmette.load(copy)


@pytest.mark.parametrize("task", ["pos", "ner", "tone", "topics", "same"])
def test_labels_that_the_graph_does_not_score_are_refused(copy: Path, task: str) -> None:
    tasks = json.loads((copy / TASKS).read_text())
    tasks["tasks"][task]["state"]["labels"].append("zzz")
    replace(copy, TASKS, json.dumps(tasks).encode())
    with pytest.raises(
        BundleError, match=rf"model\.onnx: the output 'scores\.{task}' has \d+ numbers a unit; .* needs"
    ):
        palmette.load(copy)


@pytest.mark.parametrize("content", [b"", b"{}", b'{"language": "en", "affixes": {}}'])
def test_damaged_word_rules_are_refused(copy: Path, content: bytes) -> None:
    replace(copy, WORDS, content)
    with pytest.raises(BundleError, match=r"words\.json: is (damaged|not JSON)"):
        palmette.load(copy)


@pytest.mark.parametrize("content", [b"", b"not a graph", bytes(1000)])
def test_what_is_no_graph_is_refused(copy: Path, content: bytes) -> None:
    replace(copy, GRAPH, content)
    with pytest.raises(BundleError, match=r"model\.onnx: (is not a graph|lacks)"):
        palmette.load(copy)


def edit_graph(folder: Path, change: Callable[[Any], object]) -> None:
    import onnx

    proto = onnx.load(folder / GRAPH)
    change(proto)
    replace(folder, GRAPH, proto.SerializeToString())


def test_an_unknown_input_of_the_graph_is_refused(copy: Path) -> None:
    from onnx import TensorProto, helper

    extra = helper.make_tensor_value_info("door", TensorProto.INT64, [1])
    edit_graph(copy, lambda proto: proto.graph.input.append(extra))
    with pytest.raises(BundleError, match="has an unknown input 'door': refused"):
        palmette.load(copy)


def test_an_output_that_no_task_has_is_refused(copy: Path) -> None:
    from onnx import helper

    edit_graph(copy, lambda p: (
        p.graph.node.append(helper.make_node("Identity", [p.graph.output[0].name], ["more"])),
        p.graph.output.append(helper.make_empty_tensor_value_info("more")),
    ))  # fmt: skip
    with pytest.raises(BundleError, match=r"the output 'more' is not in both the graph and tasks\.json"):
        palmette.load(copy)


def test_weights_outside_the_graph_are_not_read(copy: Path) -> None:
    """A graph may name a file for a weight: one that reads /etc/passwd into an answer must not load."""
    from onnx import TensorProto

    def redirect(proto: Any) -> None:
        weight = max(proto.graph.initializer, key=lambda found: len(found.raw_data))
        size = len(weight.raw_data)
        weight.ClearField("raw_data")
        weight.data_location = TensorProto.EXTERNAL
        for key, value in (("location", "../secret"), ("offset", "0"), ("length", str(size))):
            weight.external_data.add(key=key, value=value)

    (copy.parent / "secret").write_bytes(bytes(10**6))
    edit_graph(copy, redirect)
    with pytest.raises(BundleError, match="is not a graph that ONNX Runtime can run"):
        palmette.load(copy)


def test_a_bundle_appears_whole_and_replaces_nothing(tmp_path: Path) -> None:
    files = {GRAPH: b"a", TOKENIZER: b"b", TASKS: b"c", WORDS: b"d"}
    bundle = write_bundle(tmp_path / "one", files, about={"precision": "fp32"})
    assert {name: bundle.read(name) for name in files} == files
    assert [path.name for path in tmp_path.iterdir()] == ["one"]
    with pytest.raises(BundleError, match="one: exists"):
        write_bundle(tmp_path / "one", files, about={})
    (tmp_path / "file").touch()
    with pytest.raises(BundleError, match="cannot be written"):
        write_bundle(tmp_path / "file" / "two", files, about={})
