"""Exchange with other tools: export of detectors to ONNX, import of anomaly maps, export of maps for ADEval."""
