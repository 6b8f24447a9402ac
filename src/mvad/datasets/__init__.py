"""Data on disk: readers of raw datasets, a generator of small datasets, rendered folders and shards."""
