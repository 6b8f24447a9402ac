"""One scan to V views: clean, mesh, rig, rasterise, encode, write."""
