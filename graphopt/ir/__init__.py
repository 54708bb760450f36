"""The intermediate representation: one onnx-graphsurgeon graph, and what is asked of it."""
