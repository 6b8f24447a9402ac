"""From a batch to a verdict: IDIF, its baselines, training, metrics, evaluation, report."""
