"""Weights and activations rearranged so that 8 bits do them less harm; the graph computes the same as before.

Activations are quantised with one step for all channels. In trunks a few channels are many times larger than the rest
(Dettmers et al. 2022), and set a step that is too coarse for all others. Two remedies, each where it is cheap:

- where a product is as wide as its input or wider (queries, keys, values, the way up in a feed-forward block), each
  channel is divided by a number that its weights are multiplied by, so that both share the spread (Xiao et al. 2023);
- on the way down, where this helps nothing (LOG.md, 2026-11-27), channels that are outliers are multiplied in fp32
  beside the 8-bit product: of MiniLM's 1,536 one or two.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from palmette.deploy.graph import Graph
from palmette.predictor import Engine
from palmette.runtime import onnx_engine, open_session

Floats = NDArray[np.float32]

_SHARE = 0.65  # of the spread that moves from activations to weights (the paper's alpha)
_OUTLIER = 4.0  # times the median channel
_MOST = 16  # of these, where most channels are all but unused
_LEAST = 1e-5  # a channel that was never used


def ranges(graph: Graph, answer: Callable[[Engine], Any]) -> dict[str, Floats]:
    """The largest magnitude of each channel of what is multiplied by weights.

    Args:
        graph: in fp32.
        answer: asks an engine about some examples.

    Returns:
        {tensor: [channels]}, of the graph's parts.
    """
    from onnx import TensorProto, helper

    proto = copy.deepcopy(graph.proto)
    watched = list(_products(proto, graph))
    proto.graph.output.extend(helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in watched)
    session = open_session(proto.SerializeToString(), threads=None, where="the graph")
    recorder = _Recorder(session, watched)
    answer(onnx_engine(recorder))
    return recorder.found


class _Recorder:
    """A session that notes the magnitudes of some tensors and gives the rest."""

    def __init__(self, session: Any, watched: Sequence[str]) -> None:
        self.session = session
        self.watched = watched
        self.found: dict[str, Floats] = {}

    def get_inputs(self) -> Any:
        return self.session.get_inputs()

    def run(self, wanted: Sequence[str], feeds: Mapping[str, Any]) -> list[Any]:
        outputs = self.session.run([*wanted, *self.watched], feeds)
        real = feeds["attention_mask"].reshape(-1) > 0
        for name, found in zip(self.watched, outputs[len(wanted) :], strict=True):
            tokens = found.reshape(-1, found.shape[-1])
            largest = np.abs(tokens[real] if len(tokens) == len(real) else tokens).max(axis=0, initial=0.0)
            self.found[name] = np.maximum(self.found.get(name, largest), largest)
        return list(outputs[: len(wanted)])


def tamed(graph: Graph, found: Mapping[str, Floats]) -> Graph:
    """The graph with its outliers out of the way of 8 bits, up to rounding the same function.

    Args:
        graph: in fp32.
        found: of `ranges`.
    """
    from onnx import numpy_helper

    proto = copy.deepcopy(graph.proto)
    weights = {tensor.name: tensor for tensor in proto.graph.initializer}
    for name, nodes in _products(proto, graph).items():
        matrices = [numpy_helper.to_array(weights[node.input[1]]) for node in nodes]
        if max(matrix.shape[1] for matrix in matrices) < len(found[name]):
            _split(proto, name, nodes, matrices, _outliers(found[name]))
        else:
            spread = np.max([np.abs(matrix).max(axis=1) for matrix in matrices], axis=0)
            scale = np.maximum(found[name], _LEAST) ** _SHARE / np.maximum(spread, _LEAST) ** (1 - _SHARE)
            _scale(proto, name, nodes, matrices, (scale / np.exp(np.log(scale).mean())).astype(np.float32))
    used = {name for node in proto.graph.node for name in node.input}
    kept = [tensor for tensor in proto.graph.initializer if tensor.name in used]
    del proto.graph.initializer[:]
    proto.graph.initializer.extend(kept)
    return replace(graph, proto=proto)


def _products(proto: Any, graph: Graph) -> dict[str, list[Any]]:
    """{what is multiplied: the products of it with weights}, in the graph's parts."""
    weights = {tensor.name: len(tensor.dims) for tensor in proto.graph.initializer}
    names = {name for part in graph.parts.values() for name in part}
    found: dict[str, list[Any]] = {}
    for node in proto.graph.node:
        if node.op_type == "MatMul" and node.name in names and weights.get(node.input[1]) == 2:
            found.setdefault(node.input[0], []).append(node)
    return found


def _outliers(largest: Floats) -> NDArray[np.int64]:
    channels = np.flatnonzero(largest > _OUTLIER * np.median(largest))
    return np.sort(channels[np.argsort(-largest[channels], kind="stable")[:_MOST]])


def _scale(proto: Any, name: str, nodes: Sequence[Any], matrices: Sequence[Floats], scale: Floats) -> None:
    """Divide the channels of a tensor, and multiply what they are multiplied with."""
    _multiply(proto, name, nodes, (1 / scale).astype(np.float32))
    for node, matrix in zip(nodes, matrices, strict=True):
        node.input[1] = _constant(proto, f"{node.name}.weight", matrix * scale[:, None])


def _split(
    proto: Any, name: str, nodes: Sequence[Any], matrices: Sequence[Floats], channels: NDArray[np.int64]
) -> None:
    """Compute some channels of products beside them, so that whoever quantises these does not see the channels."""
    from onnx import helper

    if not len(channels):
        return
    rest = np.ones(matrices[0].shape[0], dtype=np.float32)
    rest[channels] = 0
    place = _multiply(proto, name, nodes, rest)
    picked = _constant(proto, f"{name}.outliers", channels)
    gather = helper.make_node("Gather", [name, picked], [f"{name}.picked"], axis=-1, name=f"{name}.pick")
    proto.graph.node.insert(place, gather)
    for node, matrix in zip(nodes, matrices, strict=True):
        (whole,) = node.output
        node.input[1] = _constant(proto, f"{node.name}.weight", matrix * rest[:, None])
        node.output[0] = f"{whole}.main"
        few = _constant(proto, f"{node.name}.outliers", matrix[channels])
        behind = _index(proto, node) + 1
        proto.graph.node.insert(
            behind,
            helper.make_node("MatMul", [f"{name}.picked", few], [f"{whole}.beside"], name=f"{node.name}.beside"),
        )
        proto.graph.node.insert(
            behind + 1,
            helper.make_node("Add", [node.output[0], f"{whole}.beside"], [whole], name=f"{node.name}.sum"),
        )


def _multiply(proto: Any, name: str, nodes: Sequence[Any], factors: Floats) -> int:
    """Let nodes read a tensor times factors; the place of the product among the graph's nodes."""
    from onnx import helper

    place = min(_index(proto, node) for node in nodes)
    factor, product = _constant(proto, f"{name}.factors", factors), f"{name}.multiplied"
    proto.graph.node.insert(place, helper.make_node("Mul", [name, factor], [product], name=f"{name}.multiply"))
    for node in nodes:
        node.input[0] = product
    return place


def _constant(proto: Any, name: str, values: NDArray[Any]) -> str:
    from onnx import numpy_helper

    proto.graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(values), name))
    return name


def _index(proto: Any, node: Any) -> int:
    return next(number for number, other in enumerate(proto.graph.node) if other.name == node.name)
