"""What every ONNX operator computes, as differentiable functions; a file per family, a row per operator."""
