"""From a trained checkpoint to a folder of ONNX graphs that safelight runs: one YAML spec a family."""
