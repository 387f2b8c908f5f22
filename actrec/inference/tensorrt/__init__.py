"""TensorRT engines: built, cached, compared with ONNX Runtime, run."""
