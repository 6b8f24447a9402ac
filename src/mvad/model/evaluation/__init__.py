"""Evaluation of trained detectors: scores, figures of merit, pictures, thresholds, comparisons."""
