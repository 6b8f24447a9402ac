"""Runs: made, judged, reported."""
