"""Report on evaluated runs: one self-contained HTML page."""
