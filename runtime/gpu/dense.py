"""Dense layers: one row of floats times a matrix."""

from __future__ import annotations

from dataclasses import dataclass

from graphopt.runtime.gpu.kernel import GROUP, Array, Size, Written, item


@dataclass(frozen=True)
class Dense(Written):
    """y = x w + b for one row of floats: the weight lies as [input][output block][4].

    A group makes 16 blocks of outputs; four of its items share the inputs of one.
    """

    inputs: int
    outputs: int
    arrays = (
        Array("x", "float"),
        Array("w"),
        Array("bias", "float"),
        Array("y", "float", written=True),
    )
    local = (GROUP // 4, 4, 1)

    @property
    def items(self) -> Size:
        """Blocks of outputs, shares of the inputs."""
        return (-(-self.outputs // 4), 4, 1)

    def body(self) -> str:
        """The text behind the arrays."""
        blocks, across = -(-self.outputs // 4), self.local[0]
        stores = [
            f"if (from + {k} < {self.outputs})\n    y[from + {k}] = all.s{k} + bias[from + {k}];"
            for k in range(4)
        ]
        return "\n".join(
            [
                f"__local float4 sums[{across * 4}];",
                f"const int block = {item(0, self.local)};",
                "const int me = (int)get_local_id(0), share = (int)get_local_id(1);",
                "float4 sum = (float4)(0.0f);",
                f"if (block < {blocks})",
                f"    for (int k = share; k < {self.inputs}; k += 4)",
                f"        sum = fma((float4)(x[k]), load_float4(w + (k * {blocks} + block) * 4), sum);",
                f"sums[share * {across} + me] = sum;",
                "barrier(CLK_LOCAL_MEM_FENCE);",
                f"if (share != 0 || block >= {blocks})",
                "    return;",
                "float4 all = sums[me];",
                "for (int k = 1; k < 4; k++)",
                f"    all += sums[k * {across} + me];",
                "const int from = 4 * block;",
                *stores,
            ]
        )
