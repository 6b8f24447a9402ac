"""Multi-view samples in HDF5, one schema for every dataset."""
