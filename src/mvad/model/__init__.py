"""Anomaly detection on batches of samples: IDIF, baselines, training, metrics, evaluation, report."""
