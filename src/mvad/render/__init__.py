"""Rendering: one scan to V views (clean, mesh, fit the rig, rasterise, encode, write)."""
