"""Patterns that only ONNX files have: control flow, older dialects, what simplifiers leave behind.

Weights without values are drawn at random by whoever reads the text.
"""

from __future__ import annotations

from benchmarks.patterns import Pattern


def _bytes(count: int) -> str:
    """So many small integers of both signs."""
    return ", ".join(str((37 * k * k + 11) % 15 - 7) for k in range(count))


PATTERNS = [
    # A branch reads the second layer, so its channels stay; the first layer's may go.
    Pattern("If reads a layer", 1, text="""
        (float[N,3,6,6] x, bool c) => (float[N,4,6,6] y)
        <float[8,3,1,1] w1, float[8,8,1,1] w2, float[4,8,1,1] head> {
            a = Conv(x, w1)
            b = Conv(a, w2)
            d = If (c) <then_branch = t () => (float[N,8,6,6] p) { p = Relu(b) },
                        else_branch = e () => (float[N,8,6,6] q) { q = Neg(b) }>
            y = Conv(d, head)
        }"""),
    Pattern("Loop carries a layer", 1, text="""
        (float[N,3,6,6] x, bool go) => (float[N,4,6,6] y)
        <float[8,3,1,1] w1, float[8,8,1,1] w2, float[4,8,1,1] head, int64[2] pair = {1, 2}> {
            trips = Size(pair)
            a = Conv(x, w1)
            b = Conv(a, w2)
            d = Loop (trips, go, b) <body = l (int64 i, bool c, float[N,8,6,6] s) =>
                (bool c2, float[N,8,6,6] t) { c2 = Identity(c) t = Sigmoid(s) }>
            y = Conv(d, head)
        }"""),
    Pattern("weight read inside a branch", 0, text="""
        (float[N,3,6,6] x, bool c) => (float[N,4,6,6] y)
        <float[8,3,1,1] w1, float[8,8,1,1] w2, float[4,8,1,1] head> {
            a = Conv(x, w1)
            b = Conv(a, w2)
            k = If (c) <then_branch = t () => (float p) { p = ReduceSum<keepdims = 0>(w2) },
                        else_branch = e () => (float q) { q = ReduceMax<keepdims = 0>(w2) }>
            d = Mul(b, k)
            y = Conv(d, head)
        }"""),
    Pattern("bias read inside a branch", 1, text="""
        (float[N,3,6,6] x, bool c) => (float[N,4,6,6] y)
        <float[8,3,1,1] w1, float[8] bias, float[4,8,1,1] head> {
            a = Conv(x, w1, bias)
            k = If (c) <then_branch = t () => (float p) { p = ReduceSum<keepdims = 0>(bias) },
                        else_branch = e () => (float q) { q = ReduceMax<keepdims = 0>(bias) }>
            d = Mul(a, k)
            y = Conv(d, head)
        }"""),
    # Simplifiers keep one of several equal biases: each reader gets a copy.
    Pattern("one bias for three layers", 3, text="""
        (float[N,3,6,6] x) => (float[N,4,6,6] y)
        <float[8,3,1,1] w1, float[8,8,1,1] w2, float[8,8,1,1] w3, float[8] bias,
         float[4,8,1,1] head> {
            a = Conv(x, w1, bias)
            r = Relu(a)
            b = Conv(r, w2, bias)
            s = Sigmoid(b)
            c = Conv(s, w3, bias)
            y = Conv(c, head)
        }"""),
    Pattern("one batch norm vector for several roles", 2, text="""
        (float[N,3,6,6] x) => (float[N,4,6,6] y)
        <float[8,3,1,1] w1, float[8,8,1,1] w2, float[8] var1, float[8] zero, float[4,8,1,1] head> {
            a = Conv(x, w1)
            n = BatchNormalization(a, var1, zero, zero, var1)
            b = Conv(n, w2)
            m = BatchNormalization(b, var1, zero, zero, var1)
            y = Conv(m, head)
        }"""),
    Pattern("group normalization as one operator", 1, text="""
        (float[N,3,6,6] x) => (float[N,4,6,6] y)
        <float[8,3,1,1] w1, float[4] scale, float[4] bias, float[4,8,1,1] head, float[N,8,6,6] n> {
            a = Conv(x, w1)
            n = GroupNormalization<num_groups = 4>(a, scale, bias)
            y = Conv(n, head)
        }"""),
    Pattern("group normalization, opset 21", 1, opset=21, text="""
        (float[N,3,6,6] x) => (float[N,4,6,6] y)
        <float[8,3,1,1] w1, float[8] scale, float[8] bias, float[4,8,1,1] head, float[N,8,6,6] n> {
            a = Conv(x, w1)
            n = GroupNormalization<num_groups = 4>(a, scale, bias)
            y = Conv(n, head)
        }"""),
    Pattern("blocks to depth and back", 2, text="""
        (float[N,3,6,6] x) => (float[N,4,12,12] y)
        <float[8,3,1,1] w1, float[8,32,1,1] w2, float[4,2,1,1] head> {
            a = Conv(x, w1)
            s = SpaceToDepth<blocksize = 2>(a)
            b = Conv(s, w2)
            up = DepthToSpace<blocksize = 2, mode = "DCR">(b)
            u2 = DepthToSpace<blocksize = 1>(up)
            z = Resize<mode = "nearest">(u2, , scales)
            y = Conv(z, head)
        }""".replace("float[4,2,1,1] head", "float[4,2,1,1] head, float[4] scales = {1, 1, 2, 2}")),
    Pattern("NHWC graph between transposes", 2, text="""
        (float[N,6,6,3] x) => (float[N,6,6,4] y)
        <float[8,3,3,3] w1, float[8] add, float[8,8,3,3] w2, float[4,8,1,1] head> {
            t = Transpose<perm = [0, 3, 1, 2]>(x)
            a = Conv<pads = [1, 1, 1, 1]>(t, w1)
            u = Transpose<perm = [0, 2, 3, 1]>(a)
            v = Add(u, add)
            r = Relu(v)
            s = Transpose<perm = [0, 3, 1, 2]>(r)
            b = Conv<pads = [1, 1, 1, 1]>(s, w2)
            k = Conv(b, head)
            y = Transpose<perm = [0, 2, 3, 1]>(k)
        }"""),
    Pattern("unknown height and width", 2, text="""
        (float[N,3,H,W] x) => (float[N,P,4] y)
        <float[8,3,3,3] w1, float[8,8,1,1] w2, float[8,4] fc, int64[3] shape = {0, 8, -1}> {
            a = Conv<pads = [1, 1, 1, 1]>(x, w1)
            b = Conv(a, w2)
            f = Reshape(b, shape)
            t = Transpose<perm = [0, 2, 1]>(f)
            y = MatMul(t, fc)
        }"""),
    Pattern("batch taken from a shape", 1, text="""
        (float[N,3,2,2] x) => (float[N,4] y)
        <float[8,3,1,1] w1, float[32,4] fc, int64 zero = {0}, int64[1] minus = {-1},
         int64[1] first = {0}> {
            a = Conv(x, w1)
            s = Shape(a)
            n = Gather(s, zero)
            u = Unsqueeze(n, first)
            t = Concat<axis = 0>(u, minus)
            f = Reshape(a, t)
            y = MatMul(f, fc)
        }"""),
    Pattern("zeros that copy sizes", 1, text="""
        (float[N,3,2,2] x) => (float[N,4] y)
        <float[8,3,1,1] w1, float[8,4] fc, int64[2] shape = {0, 0}> {
            a = Conv(x, w1)
            p = GlobalAveragePool(a)
            s = Squeeze(p, axes)
            f = Reshape(s, shape)
            y = MatMul(f, fc)
        }""".replace("int64[2] shape", "int64[2] axes = {2, 3}, int64[2] shape")),
    Pattern("squeeze without axes", 1, text="""
        (float[2,3,2,2] x) => (float[2,4] y)
        <float[8,3,1,1] w1, float[8,4] fc> {
            a = Conv(x, w1)
            p = GlobalAveragePool(a)
            s = Squeeze(p)
            y = MatMul(s, fc)
        }"""),
    Pattern("Linear as a product from the left", 2, text="""
        (float[3,5] x) => (float[4,5] y)
        <float[8,3] w1, float[8,1] b1, float[8,8] w2, float[4,8] head> {
            a = MatMul(w1, x)
            b = Add(a, b1)
            r = Relu(b)
            c = MatMul(w2, r)
            y = MatMul(head, c)
        }"""),
    Pattern("Gemm with both sides transposed", 2, text="""
        (float[3,5] x) => (float[5,4] y)
        <float[8,3] w1, float[8] b1, float[8,8] w2, float[8,4] head> {
            a = Gemm<transA = 1, transB = 1>(x, w1, b1)
            r = Relu(a)
            b = Gemm<transB = 1, alpha = 0.5>(r, w2)
            y = Gemm(b, head)
        }"""),
    Pattern("quantized weights per channel", 2, text="""
        (float[N,3,6,6] x) => (float[N,4,6,6] y)
        <int8[8,3,1,1] q1 = {FIRST}, float[8] var1, int8[8,8,1,1] q2 = {SECOND},
         float[8] var2, float[4,8,1,1] head> {
            w1 = DequantizeLinear<axis = 0>(q1, var1)
            a = Conv(x, w1)
            w2 = DequantizeLinear<axis = 0>(q2, var2)
            b = Conv(a, w2)
            y = Conv(b, head)
        }""".replace("FIRST", _bytes(24)).replace("SECOND", _bytes(64))),
    Pattern("split into equal parts by number", 1, text="""
        (float[N,3,6,6] x) => (float[N,4,6,6] y)
        <float[9,3,1,1] w1, float[4,9,1,1] head> {
            a = Conv(x, w1)
            p, q, r = Split<axis = 1, num_outputs = 3>(a)
            c = Concat<axis = 1>(r, p, q)
            y = Conv(c, head)
        }"""),
    Pattern("slices from the end, backwards", 1, text="""
        (float[N,3,6,6] x) => (float[N,4,6,6] y)
        <float[9,3,1,1] w1, float[4,5,1,1] head, int64[1] start = {-1},
         int64[1] end = {-9223372036854775807}, int64[1] axis = {-3}, int64[1] step = {-2}> {
            a = Conv(x, w1)
            s = Slice(a, start, end, axis, step)
            y = Conv(s, head)
        }"""),
    Pattern("crop and pad of channels", 1, text="""
        (float[N,3,6,6] x) => (float[N,4,6,6] y)
        <float[9,3,1,1] w1, float[4,8,1,1] head, int64[2] pads = {-3, 2}, float fill = {0.5},
         int64[1] axis = {1}> {
            a = Conv(x, w1)
            p = Pad(a, pads, fill, axis)
            y = Conv(p, head)
        }"""),
    Pattern("resize to given sizes", 1, text="""
        (float[2,3,6,6] x) => (float[2,4,9,9] y)
        <float[8,3,1,1] w1, float[4,8,1,1] head, int64[4] sizes = {2, 8, 9, 9}> {
            a = Conv(x, w1)
            r = Resize<mode = "linear">(a, , , sizes)
            y = Conv(r, head)
        }"""),
    Pattern("shape read whole", 1, text="""
        (float[N,3,6,6] x) => (float[N,4,6,6] y, int64[4] s)
        <float[8,3,1,1] w1, float[8,8,1,1] w2, float[4,8,1,1] head> {
            a = Conv(x, w1)
            b = Conv(a, w2)
            s = Shape(b)
            y = Conv(b, head)
        }"""),
    Pattern("scatter into channels", 1, text="""
        (float[2,3,6,6] x) => (float[2,4,6,6] y)
        <float[8,3,1,1] w1, float[8,8,1,1] w2, float[4,8,1,1] head, int64[1,1] where = {1},
         float[1,8,6,6] new> {
            a = Conv(x, w1)
            b = Conv(a, w2)
            s = ScatterND(b, where, new)
            y = Conv(s, head)
        }"""),
    Pattern("maximum with positions", 1, text="""
        (float[2,3,6,6] x) => (float[2,4,6,6] y)
        <float[8,3,1,1] w1, float[8,8,1,1] w2, float[4,8,1,1] head> {
            a = Conv(x, w1)
            b = Conv(a, w2)
            m, i = MaxPool<kernel_shape = [2, 2], strides = [2, 2]>(b)
            u = MaxUnpool<kernel_shape = [2, 2], strides = [2, 2]>(m, i)
            y = Conv(u, head)
        }"""),
    Pattern("softmax over channels", 1, text="""
        (float[N,3,6,6] x) => (float[N,4,6,6] y)
        <float[8,3,1,1] w1, float[8,8,1,1] w2, float[4,8,1,1] head> {
            a = Conv(x, w1)
            b = Conv(a, w2)
            s = Softmax<axis = -3>(b)
            y = Conv(s, head)
        }"""),
]  # fmt: skip
