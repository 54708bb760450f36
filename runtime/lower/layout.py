"""Which tensors are kept as blocked images, and which operators have a kernel for them."""

from __future__ import annotations

from typing import Literal

import numpy as np

from graphopt.ir.graph import Graph, Node, Tensor, input_of, input_value, is_op, static_shape
from graphopt.runtime.kernels.conv import Window
from graphopt.runtime.lower.fuse import BINARY, ELEMENTWISE, can_be_fused
from graphopt.runtime.lower.groups import groups_of
from graphopt.runtime.lower.quantized import is_rounding, rounding_of

Kind = Literal[
    "conv",
    "depthwise",
    "dense",
    "pool",
    "image-pool",
    "enlarge",
    "concat",
    "pieces",
    "round",
    "unround",
    "transposed",
    "interpolate",
    "pick",  # these seven on processors only
    "pad",
    "to-pixels",
    "to-rows",
    "rows-product",
    "rows-softmax",
    "channel-softmax",
]

# These make rows, not images.
ROWS = ("to-rows", "rows-product", "rows-softmax")


def window_of(node: Node) -> Window | None:
    """Kernel, stride, dilation and first pads of a 2-D convolution or pool, or None when it has none."""
    if node.op == "Conv":
        kernel = tuple(int(d) for d in node.inputs[1].shape[2:])
    else:
        kernel = tuple(int(k) for k in node.attrs.get("kernel_shape", ()))
    if len(kernel) != 2 or node.attrs.get("auto_pad", "NOTSET") not in ("NOTSET", "VALID"):
        return None
    pads = pads_of(node)
    if min(pads) < 0:
        return None
    stride, dilation = (
        tuple(int(v) for v in node.attrs.get(name, (1, 1))) for name in ("strides", "dilations")
    )
    return Window(_pair(kernel), _pair(stride), _pair(dilation), (pads[0], pads[1]))


def pads_of(node: Node) -> tuple[int, int, int, int]:
    """Padding at the top, left, bottom and right."""
    top, left, bottom, right = (int(p) for p in node.attrs.get("pads", (0, 0, 0, 0)))
    return top, left, bottom, right


def _pair(values: tuple[int, ...]) -> tuple[int, int]:
    return values[0], values[1]


def image_shape(tensor: Tensor) -> tuple[int, int, int] | None:
    """(C, H, W) of a float32 tensor that may be an image, else None."""
    shape = static_shape(tensor)
    if shape is None or len(shape) != 4 or shape[0] != 1 or np.dtype(tensor.dtype) != np.float32:
        return None
    return shape[1], shape[2], shape[3]


def kind_of(node: Node, lanes: int) -> Kind | None:
    """Which kernel computes the node over images, or None; elementwise operators are asked elsewhere."""
    rule = _RULES.get(node.op) if is_op(node, node.op) else None
    return None if rule is None else rule(node, lanes)


def has_filters(node: Node) -> bool:
    """Whether this is a convolution of an image with filters and a bias that are known now."""
    image, made = image_shape(node.inputs[0]), image_shape(node.outputs[0])
    if image is None or made is None or input_value(node, 1) is None or window_of(node) is None:
        return False
    return input_of(node, 2) is None or input_value(node, 2) is not None


def _conv(node: Node, lanes: int) -> Kind | None:
    if not has_filters(node):
        return None
    groups, (out, depth) = groups_of(node), node.inputs[1].shape[:2]
    if groups == 1:
        return "conv"
    if depth == 1 and out == groups:
        return "depthwise"
    return "conv" if depth % lanes == 0 and (out // groups) % lanes == 0 else None


def _dense(node: Node, lanes: int) -> Kind | None:  # noqa: ARG001
    shape, weight = static_shape(node.inputs[0]), input_value(node, 1)
    if shape is None or len(shape) != 2 or shape[0] != 1 or weight is None or weight.ndim != 2:
        return None
    if np.dtype(node.outputs[0].dtype) != np.float32 or node.attrs.get("transA", 0):
        return None
    if node.op == "Gemm" and len(node.inputs) > 2 and not node.inputs[2].is_empty():
        bias = input_value(node, 2)
        if bias is None or bias.size not in (1, static_shape(node.outputs[0])[1]):  # type: ignore[index]
            return None
    return "dense"


def _pool(node: Node, lanes: int) -> Kind | None:  # noqa: ARG001
    if not _is_image_node(node) or len(node.outputs) > 1 or window_of(node) is None:
        return None
    if node.op == "MaxPool":
        return "pool" if _is_inside(node) else None
    return "pool" if _has_whole_windows(node) else None


def _is_inside(node: Node) -> bool:
    """Whether the pixel nearest to one outside is in the same window: always, but for windows with gaps."""
    window = window_of(node)
    assert window is not None
    return window.dilation == (1, 1) or (not any(pads_of(node)) and _has_whole_windows(node))


def _has_whole_windows(node: Node) -> bool:
    """Whether no window of a mean reaches beyond the padding."""
    window, pads = window_of(node), pads_of(node)
    image, made = image_shape(node.inputs[0]), image_shape(node.outputs[0])
    assert window is not None
    assert image is not None
    assert made is not None
    if counts_inside(node) and window.dilation != (1, 1):
        return False
    return all(
        (made[1 + i] - 1) * window.stride[i] + (window.kernel[i] - 1) * window.dilation[i]
        < pads[i] + image[1 + i] + pads[2 + i]
        for i in range(2)
    )


def counts_inside(node: Node) -> bool:
    """Whether a mean is of the pixels a window has inside of the image: less than its kernel at borders."""
    return (
        node.op == "AveragePool"
        and any(pads_of(node))
        and not node.attrs.get("count_include_pad", 0)
    )


def _image_pool(node: Node, lanes: int) -> Kind | None:  # noqa: ARG001
    if not _is_image_node(node):
        return None
    if node.op == "ReduceMean":
        given = input_value(node, 1)
        axes = node.attrs.get("axes", [] if given is None else given.reshape(-1).tolist())
        if sorted(int(a) % 4 for a in axes) != [2, 3] or not node.attrs.get("keepdims", 1):
            return None
    return "image-pool"


def _enlarge(node: Node, lanes: int) -> Kind | None:  # noqa: ARG001
    image, made = image_shape(node.inputs[0]), image_shape(node.outputs[0])
    if image is None or made is None or node.attrs.get("mode", "nearest") != "nearest":
        return None
    if node.op == "Upsample" or image[0] != made[0] or made[1] % image[1] or made[2] % image[2]:
        return None
    factors = (made[1] // image[1], made[2] // image[2])
    scales = input_value(node, 2)
    if scales is not None and scales.size and tuple(scales.reshape(-1)[2:]) != factors:
        return None
    how = node.attrs.get("coordinate_transformation_mode", "half_pixel")
    nearest = node.attrs.get("nearest_mode", "round_prefer_floor")
    if how == "asymmetric" and nearest == "floor":
        return "enlarge"
    # Pixel centres of a doubled image fall a quarter beside those of the small one.
    if how in ("half_pixel", "pytorch_half_pixel") and set(factors) <= {1, 2}:
        return "enlarge" if nearest.startswith("round") else None
    return None


def _concat(node: Node, lanes: int) -> Kind | None:  # noqa: ARG001
    if image_shape(node.outputs[0]) is None or int(node.attrs["axis"]) % 4 != 1:
        return None
    return "concat" if all(image_shape(t) is not None for t in node.inputs) else None


def _pieces(node: Node, lanes: int) -> Kind | None:
    image = image_shape(node.inputs[0])
    if image is None or int(node.attrs.get("axis", 0)) % 4 != 1:
        return None
    made = [image_shape(t) for t in node.outputs]
    if any(m is None for m in made):
        return None
    starts = np.cumsum([0, *(m[0] for m in made if m is not None)])[:-1]
    return "pieces" if all(int(s) % lanes == 0 for s in starts) else None


def _is_image_node(node: Node) -> bool:
    return image_shape(node.inputs[0]) is not None and image_shape(node.outputs[0]) is not None


_RULES = {
    "Conv": _conv,
    "Gemm": _dense,
    "MatMul": _dense,
    "MaxPool": _pool,
    "AveragePool": _pool,
    "GlobalAveragePool": _image_pool,
    "GlobalMaxPool": _image_pool,
    "ReduceMean": _image_pool,
    "Resize": _enlarge,
    "Concat": _concat,
    "Split": _pieces,
}


class Layout:
    """What is known of every tensor before any kernel is chosen.

    Attributes:
        blocked: ids of the tensors that are kept as blocked images.
    """

    def __init__(self, graph: Graph, lanes: int) -> None:
        self.lanes, self._graph = lanes, graph
        self.blocked: set[int] = set()
        self._kinds: dict[int, Kind | None] = {}
        for node in graph.nodes:
            kind = self._kinds[id(node)] = self._kind(node)
            if kind in ROWS:
                continue
            if kind is not None or self._is_elementwise(node):
                self.blocked.update(id(t) for t in node.outputs)

    def kind(self, node: Node) -> Kind | None:
        """Which kernel computes the node over images."""
        return self._kinds[id(node)]

    def may_fuse(self, node: Node, image: Tensor, at_hand: set[int]) -> bool:
        """Whether an elementwise node can be computed where a vector of `image` is written.

        `at_hand` are the ids of tensors whose vector is in a register there.
        """
        shape = static_shape(image)
        if shape is None or not can_be_fused(
            node, shape, lambda t: self._is_read(t, shape, at_hand)
        ):
            return False
        # Lanes beyond the last channel hold anything; a quotient there could be no number.
        return shape[1] % self.lanes == 0 or node.op not in ("Div", "Sqrt")

    def _kind(self, node: Node) -> Kind | None:
        if is_op(node, "QuantizeLinear"):
            is_image = image_shape(node.inputs[0]) is not None
            return "round" if is_image and is_rounding(self._graph, node) else None
        if is_op(node, "DequantizeLinear"):
            made = rounding_of(node.outputs[0])
            return "unround" if made is not None and self._kinds.get(id(made)) else None
        kind = kind_of(node, self.lanes)
        # What only moves images has to be given at least one; what makes others of them pays anyway.
        if kind in ("concat", "pieces"):
            inputs = node.inputs if kind == "concat" else node.inputs[:1]
            if not any(id(t) in self.blocked for t in inputs):
                return None
        return kind

    def _is_elementwise(self, node: Node) -> bool:
        if not is_op(node, *ELEMENTWISE) or image_shape(node.outputs[0]) is None:
            return False
        data = node.inputs if node.op in BINARY else node.inputs[:1]
        main = [t for t in data if static_shape(t) == static_shape(node.outputs[0])]
        return any(id(t) in self.blocked for t in main) and self.may_fuse(
            node, node.outputs[0], set()
        )

    def _is_read(self, tensor: Tensor, shape: tuple[int, ...], at_hand: set[int]) -> bool:
        if id(tensor) in at_hand:
            return True
        given = static_shape(tensor)
        return id(tensor) in self.blocked and given in (shape, (1, shape[1], 1, 1))
