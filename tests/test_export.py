"""What is exported is what was trained: checked on real data, within a budget, or refused by task."""

from __future__ import annotations

import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

import palmette
from conftest import NOW, Trained
from fakes import ALL_TASKS
from palmette.cli import main
from palmette.deploy import export as module
from palmette.deploy.bundle import CARD, CONFIG, PARITY, Bundle
from palmette.deploy.export import TOLERANCE, export
from palmette.deploy.graph import Graph, quantise, trace
from palmette.deploy.outliers import ranges, tamed
from palmette.errors import BundleError, RunError
from palmette.run import Run


def test_scores_are_the_runs_within_the_tolerance(bundled: Path) -> None:
    found = Bundle.open(bundled).read_json(PARITY)
    assert found["fp32"]["largest_difference"].keys() == set(ALL_TASKS)
    assert max(found["fp32"]["largest_difference"].values()) <= TOLERANCE
    assert found["splits"] == dict.fromkeys(ALL_TASKS, "dev")


def test_the_metrics_of_the_graph_are_the_runs(trained: Trained, bundled: Path) -> None:
    stored = json.loads((trained.folder / "metrics.json").read_text())
    for split, found in Bundle.open(bundled).read_json(PARITY)["scores"].items():
        for task, scores in found.items():
            low, high = scores.pop("interval")
            assert scores == pytest.approx(stored[split][task], abs=1e-4)
            kind = trained.loop.kinds[task]
            assert low <= scores[kind.metric] <= high


def test_exporting_twice_gives_the_same_bundle(trained: Trained, bundled: Path, tmp_path: Path) -> None:
    again = export(trained.folder, tmp_path / "again", now=NOW)
    assert again.digest == Bundle.open(bundled).digest


def test_the_card_says_what_it_answers_how_well_and_under_which_licence(trained: Trained, bundled: Path) -> None:
    card = Bundle.open(bundled).card
    for task in ALL_TASKS:
        assert f"| {task} | {trained.loop.kinds[task].config.kind} |" in card
    assert "spans of 2 types: LOC, PER" in card
    assert "license: unstated" in card
    assert "2026-11-24" in card


def test_no_path_of_this_machine_is_shipped(bundled: Path, trained: Trained) -> None:
    for name in Bundle.open(bundled).manifest["files"]:
        content = (bundled / name).read_bytes()
        for path in (str(trained.folder.parent), str(Path(palmette.__file__).parent), str(Path.cwd())):
            assert path.encode() not in content, name
    assert b"words-train.jsonl" in (bundled / CONFIG).read_bytes()


def test_an_existing_folder_is_left_alone(trained: Trained, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    with pytest.raises(BundleError, match="exists; give --out another name"):
        export(trained.folder, tmp_path / "mine", now=NOW)
    assert list((tmp_path / "mine").iterdir()) == []


def test_what_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="is not a run folder"):
        export(tmp_path, tmp_path / "out", now=NOW)


def test_a_graph_that_answers_otherwise_is_refused(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*arguments: Any) -> Graph:
        from onnx import numpy_helper

        graph = trace(*arguments)
        weight = next(w for w in graph.proto.graph.initializer if "task_tone" in w.name and "bias" in w.name)
        weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight) + 0.001, weight.name))
        return graph

    monkeypatch.setattr(module, "trace", broken)
    with pytest.raises(BundleError, match=r"task tone: a score of the ONNX graph differs by 0\.001 from the run's"):
        export(trained.folder, tmp_path / "out", now=NOW)
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def traced(graph: Graph, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tracing takes seconds; what becomes of the graph is what these tests are about."""
    monkeypatch.setattr(module, "trace", lambda *_: graph)


@pytest.fixture(scope="session")
def graph(trained: Trained) -> Graph:
    return trace(trained.loop.bare.cpu().eval(), ALL_TASKS)


def test_every_layer_of_the_trunk_is_a_part(graph: Graph) -> None:
    assert list(graph.parts) == ["embeddings", "layer 0", "layer 1"]
    assert len(graph.parts["layer 0"]) == len(graph.parts["layer 1"])


@pytest.mark.usefixtures("traced")
def test_int8_is_smaller_and_keeps_the_budget(trained: Trained, bundled: Path, tmp_path: Path) -> None:
    small = export(trained.folder, tmp_path / "small", now=NOW, quantize="int8", accuracy_budget=5)
    assert small.manifest["precision"] == "int8"
    assert (small.folder / "model.onnx").stat().st_size < 0.6 * (bundled / "model.onnx").stat().st_size
    found = small.read_json(PARITY)["int8"]
    assert found["points_lost"].keys() == set(ALL_TASKS)
    assert max(found["points_lost"].values()) <= 5
    answers = palmette.load(small.folder).predict("Anna sat in Paris.")
    assert answers["tasks"].keys() == {"pos", "ner", "tone", "topics"}


def test_outliers_are_taken_out_of_the_way_of_8_bits(trained: Trained, graph: Graph) -> None:
    """A neuron a thousand times as large as the others: the same function in fp32, a much nearer one in 8 bits."""
    run = Run.load(trained.folder)
    examples = trained.loop.corpus.splits["dev"]
    planted = with_large_neurons(graph)
    fit = tamed(planted, ranges(planted, lambda engine: module._answers(run, engine, examples)))

    def error(content: bytes) -> float:
        one, two = (module._engine(found, run.kinds) for found in (planted.content, content))
        return sum(module._gaps(run, one, two, examples, lambda gap: float(gap.mean())).values())

    assert len(fit.proto.graph.node) > len(planted.proto.graph.node)
    assert error(fit.content) < 1e-4
    assert error(quantise(fit, list(fit.parts))) < 0.6 * error(quantise(planted, list(planted.parts)))
    before, after = (sum(tensor.ByteSize() for tensor in g.proto.graph.initializer) for g in (planted, fit))
    assert after < 1.1 * before, "weights that nothing reads any more are gone"


def with_large_neurons(graph: Graph) -> Graph:
    """One neuron in each layer's feed-forward block whose weights are a thousand times as large."""
    import onnx
    from onnx import numpy_helper

    proto = onnx.ModelProto()
    proto.CopyFrom(graph.proto)
    nodes = {name for part in graph.parts.values() for name in part}
    read = {node.input[1] for node in proto.graph.node if node.name in nodes and node.op_type == "MatMul"}
    for weight in proto.graph.initializer:
        if weight.name in read and weight.dims[0] < weight.dims[1]:
            matrix = numpy_helper.to_array(weight).copy()
            matrix[:, 3] *= 1000
            weight.CopyFrom(numpy_helper.from_array(matrix, weight.name))
    return Graph(proto, graph.parts)


def ruin(monkeypatch: pytest.MonkeyPatch, hurt: Collection[str]) -> None:
    """Make 8 bits in some parts destroy the weights there."""

    def ruined(graph: Graph, parts: Collection[str]) -> bytes:
        import onnx
        from onnx import numpy_helper

        if not any(part in hurt for part in parts):
            return quantise(graph, parts)
        proto = onnx.ModelProto()
        proto.CopyFrom(graph.proto)
        nodes = {name for part in parts if part in hurt for name in graph.parts[part]}
        inputs = {name for node in proto.graph.node if node.name in nodes for name in node.input}
        for weight in proto.graph.initializer:
            if weight.name in inputs and len(weight.dims) == 2:
                scrambled = 5 * np.roll(numpy_helper.to_array(weight), 7, axis=1)
                weight.CopyFrom(numpy_helper.from_array(scrambled, weight.name))
        return quantise(Graph(proto, graph.parts), parts)

    monkeypatch.setattr(module, "quantise", ruined)


@pytest.mark.usefixtures("traced")
def test_parts_that_8_bits_hurt_stay_fp32(trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ruin(monkeypatch, {"layer 1"})
    said: list[str] = []
    bundle = export(trained.folder, tmp_path / "out", now=NOW, quantize="int8", accuracy_budget=5, say=said.append)
    assert bundle.read_json(PARITY)["int8"]["fp32_parts"] == ["layer 1"]
    assert "Parts left in fp32: layer 1." in bundle.read(CARD).decode()
    assert any("ranking" in line for line in said)


@pytest.mark.usefixtures("traced")
def test_int8_that_costs_too_much_names_the_task(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "quantise", broken_head)
    with pytest.raises(BundleError, match=r"task pos: int8 loses \d+\.\d\d points of accuracy on dev, more than"):
        export(trained.folder, tmp_path / "out", now=NOW, quantize="int8")
    assert list(tmp_path.iterdir()) == []


def broken_head(graph: Graph, parts: Collection[str]) -> bytes:
    import onnx
    from onnx import numpy_helper

    proto = onnx.ModelProto()
    proto.CopyFrom(graph.proto)
    weight = next(w for w in proto.graph.initializer if "task_pos" in w.name and "bias" in w.name)
    always_first = numpy_helper.to_array(weight) + np.array([50, 0], dtype=np.float32)
    weight.CopyFrom(numpy_helper.from_array(always_first, weight.name))
    return bytes(proto.SerializeToString())


def test_the_command(trained: Trained, tmp_path: Path) -> None:
    out = tmp_path / "bundle"
    done = CliRunner().invoke(main, ["export", str(trained.folder), "--out", str(out)])
    assert done.exit_code == 0, done.output
    assert "MB, fp32" in done.stdout
    assert "comparing" in done.stderr
    shown = CliRunner().invoke(main, ["predict", str(out), "Anna sat in Paris.", "--json"])
    assert json.loads(shown.stdout)["tasks"]["ner"]["spans"][0]["text"] == "Anna"
    again = CliRunner().invoke(main, ["export", str(trained.folder), "--out", str(out)])
    assert (again.exit_code, again.stderr.startswith("palmette: ")) == (2, True)
