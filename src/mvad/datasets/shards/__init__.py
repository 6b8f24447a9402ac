"""Shards: multi-view samples in HDF5 files, with one schema for every dataset."""
