"""Ways in: ONNX files and torch modules."""
