"""Faults on purpose: every promise about files is broken at, and holds."""
