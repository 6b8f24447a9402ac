"""A trained detector on a test split: scores, figures of merit, pictures, thresholds, comparisons."""
