"""Two rasterisers behind one protocol."""
