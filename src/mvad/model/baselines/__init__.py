"""Baselines to which IDIF is compared, as detectors of the same protocol; one folder per method."""
