"""Pseudo anomalies: normal views with synthetic defects, and the masks of these."""
