"""Workflows across rendering, shards and models (workspaces, training, prediction, repair), used by API and command line."""
