"""LSFA: self-supervised feature adaptation for RGB + 3D industrial anomaly detection."""

__version__ = "0.1.0"
