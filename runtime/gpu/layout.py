"""Which operators have a kernel for images on a GPU: those of every target, and one more."""

from __future__ import annotations

from graphopt.ir.graph import Node, input_value, is_op
from graphopt.runtime.kernels.conv import Window
from graphopt.runtime.lower.interpolation import interpolation
from graphopt.runtime.lower.layout import Kind, Layout, image_shape, pads_of


class GpuLayout(Layout):
    """What is known of every tensor before any kernel is chosen."""

    def _kind(self, node: Node) -> Kind | None:
        kind = super()._kind(node)
        if kind is None and is_op(node, "ConvTranspose") and transposed_window(node) is not None:
            return "transposed"
        if kind is None and is_op(node, "Resize") and node.attrs.get("mode") == "linear":
            return "interpolate" if interpolation(node) is not None else None
        return kind


def transposed_window(node: Node) -> Window | None:
    """Kernel, stride, dilation and first pads of a 2-D transposed convolution we have a kernel for."""
    image, made, weight = image_shape(node.inputs[0]), image_shape(node.outputs[0]), node.inputs[1]
    groups, plain = (
        int(node.attrs.get("group", 1)),
        node.attrs.get("auto_pad", "NOTSET") == "NOTSET",
    )
    if image is None or made is None or input_value(node, 1) is None or not plain:
        return None
    if len(node.inputs) > 2 and not node.inputs[2].is_empty() and input_value(node, 2) is None:
        return None
    whole = groups == 1 or (image[0] // groups % 4 == 0 and made[0] // groups % 4 == 0)
    if not whole or "output_shape" in node.attrs or min(pads_of(node)) < 0:
        return None
    top, left, _, _ = pads_of(node)
    stride, dilation = (
        tuple(int(v) for v in node.attrs.get(name, (1, 1))) for name in ("strides", "dilations")
    )
    kernel = tuple(int(d) for d in weight.shape[2:])
    return Window(kernel, stride, dilation, (top, left))  # type: ignore[arg-type]
