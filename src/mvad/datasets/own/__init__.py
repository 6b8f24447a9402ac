"""Own scans and meshes: options, headers, organised points, meshes and their labels. The reader is ``datasets.own_scans``."""
