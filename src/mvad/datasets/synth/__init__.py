"""A seeded generator of small datasets in the on-disk formats of the real ones, for the demo and for tests."""
