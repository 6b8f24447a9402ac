"""Rasteriser backends: numba on the CPU, OpenGL through EGL."""
