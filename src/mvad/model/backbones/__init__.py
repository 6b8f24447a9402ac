"""Frozen ImageNet networks, whose features are what a student learns to give."""
