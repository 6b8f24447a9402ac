"""mvad: multi-view anomaly detection from raw 3-D scans to evaluated models."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("mvad")
except PackageNotFoundError:  # a checkout on the path that was never installed
    __version__ = "0+unknown"
