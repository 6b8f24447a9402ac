"""From a batch to a verdict: IDIF, its rivals, training, metrics, judging, report."""
