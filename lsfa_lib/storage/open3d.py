"""The one place open3d is imported: late, because it is heavy, and with a way out when it fails."""

from __future__ import annotations

import os
from types import ModuleType

from lsfa_lib.storage.files import InputError


def load_open3d() -> ModuleType:
    """The open3d module.

    Raises InputError with the line that repairs it where its system libraries are missing.
    """
    # In Jupyter it would start a server for a viewer nobody here uses, and print that it did.
    os.environ.setdefault("OPEN3D_DISABLE_WEB_VISUALIZER", "true")
    try:
        import open3d
    except (ImportError, OSError) as error:
        raise InputError(
            f"open3d cannot be imported ({error}): install its system libraries with "
            "`apt-get install libusb-1.0-0 libgl1 libegl1 libgomp1`"
        ) from error
    return open3d
