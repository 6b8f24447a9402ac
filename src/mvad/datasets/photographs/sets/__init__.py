"""Published datasets of photographs: one module each, found by the name ``SET`` in it (``registry``)."""
