"""Detectors and anomaly maps to and from other tools: ONNX, imported maps, ADEval."""
