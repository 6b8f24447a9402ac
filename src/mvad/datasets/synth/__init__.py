"""A seeded generator of small datasets in the true on-disk formats, for the demo and for tests."""
