"""The engine: steps, checkpoints, runs."""
