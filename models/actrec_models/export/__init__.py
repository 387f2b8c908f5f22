"""From a network to a model package: ONNX, rejection, card, lower precision."""
