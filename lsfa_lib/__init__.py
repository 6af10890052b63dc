"""LSFA: self-supervised feature adaptation for RGB + 3D industrial anomaly detection."""

import warnings

# torch says once a process that sparse CSR is in beta; all we use of it is a product, and tested.
warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta")

__version__ = "0.1.0"
