"""Pseudo anomalies: normal views with something pasted on the object, and the mask of it."""
