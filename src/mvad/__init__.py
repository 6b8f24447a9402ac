"""mvad: multi-view anomaly detection from raw scans to judged models."""

__version__ = "0.1.0"
