"""A model as an ONNX graph: the trunk once, every head over it, an index input and an output for each task.

One more of each is the mean vector of a text, for whoever watches what is asked.
"""

from __future__ import annotations

import re
import tempfile
import warnings
from collections.abc import Collection, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from palmette.batching import EMBEDDING
from palmette.errors import MissingExtraError
from palmette.machine import keep_quiet
from palmette.model import Model
from palmette.runtime import EMBEDDED, EMBEDDINGS, INPUTS, index_name, output_name

if TYPE_CHECKING:
    from collections.abc import Iterator

_SCOPES = "pkg.torch.onnx.name_scopes"
_LAYER = re.compile(r"\btrunk\.encoder\.(?:\w+\.)*?(?:layers?|blocks?|h)\.(\d+)\b")
_QUANTISED = frozenset({"MatMul", "Gather"})  # what has weights, in a trunk


@dataclass(frozen=True)
class Graph:
    """An ONNX model.

    Attributes:
        proto: `onnx.ModelProto`, its nodes without traces of the machine that made it.
        parts: {part of the trunk: names of its nodes that have weights}, in the order in which they are computed:
            `embeddings`, `layer 0` …. Heads are no part: they are small, and 8 bits would gain nothing there.
    """

    proto: Any
    parts: Mapping[str, tuple[str, ...]]

    @property
    def content(self) -> bytes:
        """The file."""
        found: bytes = self.proto.SerializeToString()
        return found


class _Traced(nn.Module):
    """The model with its inputs in a row, as the exporter wants them."""

    def __init__(self, model: Model, tasks: Collection[str]) -> None:
        super().__init__()
        self.model = model
        self.tasks = tuple(tasks)

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        token_type_ids: Tensor,
        casing: Tensor,
        indexes: tuple[Tensor, ...],
        embedded: Tensor,
    ) -> tuple[Tensor, ...]:
        inputs = dict(zip(INPUTS, (input_ids, attention_mask, token_type_ids, casing), strict=True))
        outputs = self.model(inputs, dict(zip(self.tasks, indexes, strict=True)), embedded)
        return (*(outputs[task] for task in self.tasks), outputs[EMBEDDING])


def trace(model: Model, tasks: Collection[str]) -> Graph:
    """The graph of a model in evaluation, on a CPU; rows, tokens and units may be of any number.

    Raises:
        MissingExtraError: the exporter is not installed.
    """
    try:
        import onnxscript  # noqa: F401 - torch's exporter needs it and says so less clearly
    except ImportError as error:
        raise MissingExtraError("onnxscript", "export") from error
    rows, width = 3, 11
    # Each a tensor of its own: the exporter takes equal objects for one input.
    inputs = [torch.ones(rows, width, dtype=torch.long) for _ in INPUTS]
    indexes = tuple(torch.arange(2) for _ in tasks)
    free = torch.export.Dim.DYNAMIC
    shapes: dict[str, Any] = {name: {0: free, 1: free} for name in INPUTS}
    shapes["indexes"] = tuple({0: free} for _ in tasks)
    shapes["embedded"] = {0: free}
    with torch.no_grad(), _quiet():
        program = torch.onnx.export(
            _Traced(model, tasks).eval(),
            (*inputs, indexes, torch.arange(2)),
            dynamo=True,
            dynamic_shapes=shapes,
            input_names=[*INPUTS, *map(index_name, tasks), EMBEDDED],
            output_names=[*map(output_name, tasks), EMBEDDINGS],
            external_data=False,
            verbose=False,
        )
    if program is None:
        raise RuntimeError("torch.onnx.export returned no program")
    proto = program.model_proto
    found: dict[str, list[str]] = {}
    for node in proto.graph.node:
        scopes = next((entry.value for entry in node.metadata_props if entry.key == _SCOPES), "")
        if node.op_type in _QUANTISED and ".heads." not in scopes:
            found.setdefault(_part(scopes), []).append(node.name)
        del node.metadata_props[:]  # stack traces, with the paths of this machine
        node.doc_string = ""
    del proto.metadata_props[:], proto.graph.metadata_props[:]
    for value in (*proto.graph.value_info, *proto.graph.input, *proto.graph.output, *proto.graph.initializer):
        del value.metadata_props[:]
    return Graph(proto, {part: tuple(names) for part, names in found.items()})


def _part(scopes: str) -> str:
    layer = _LAYER.search(scopes)
    return f"layer {layer.group(1)}" if layer is not None else "embeddings"


@contextmanager
def _quiet() -> Iterator[None]:
    """Exporting prints progress and warns of what parity with the run is checked for anyway."""
    import logging

    level = logging.getLogger("torch.onnx").level
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), redirect_stdout(StringIO()), redirect_stderr(StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.getLogger("torch.onnx").setLevel(level)


def quantise(graph: Graph, parts: Collection[str]) -> bytes:
    """The graph with 8-bit weights in some of its parts; activations are quantised as they come (dynamically).

    Signed weights, a scale for each output channel. What has no weights, attention's products above all, stays fp32.

    Source: Jacob et al. 2018, "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only
    Inference" (CVPR); ONNX Runtime's `quantize_dynamic`.
    """
    import logging

    keep_quiet()
    from onnxruntime.quantization import QuantType, quantize_dynamic

    nodes = [name for part in parts for name in graph.parts[part]]
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "quantised.onnx"
        logging.getLogger().disabled, disabled = True, logging.getLogger().disabled  # it advises steps made elsewhere
        try:
            quantize_dynamic(
                graph.proto,
                out,
                weight_type=QuantType.QInt8,
                per_channel=True,
                nodes_to_quantize=nodes,
                extra_options={"MatMulConstBOnly": True},
            )
        finally:
            logging.getLogger().disabled = disabled
        return out.read_bytes()
