"""The public data sets: downloaded if possible, else with instructions for a manual download."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from lsfa_lib.datasets.tree_check import PUBLISHED_COUNTS
from lsfa_lib.storage.archive import require_absent, unpack
from lsfa_lib.storage.download import Remote, fetch, received
from lsfa_lib.storage.files import InputError, require_room, unwritable


@dataclass(frozen=True)
class PublicData:
    """A data set somebody else publishes."""

    title: str
    licence: str
    """Its terms in one sentence."""
    home: str
    """Its publisher's page."""
    archive: Remote | None = None
    """None if only a browser can download it."""
    needed_bytes: int = 0
    """Approximate size of archive and scans together."""
    most_bytes: int = 0
    """Upper limit for its scans: 4147 of 900 x 900 px with 16 bytes each."""


DATA = {
    "mvtec3d": PublicData(
        "MVTec 3D-AD",
        "CC BY-NC-SA 4.0: for research, not for commercial use; name the authors; share "
        "derived work under the same terms",
        "https://www.mvtec.com/company/research/datasets/mvtec-3d-ad",
        Remote(
            "https://www.mydrive.ch/shares/45920/dd1eb345346df066c63b5c95676b961b/download/"
            "428824485-1643285832/mvtec_3d_anomaly_detection.tar.xz",
            "mvtec_3d_anomaly_detection.tar.xz",
            digest="md5:d8bb2800fbf3ac88e798da6ae10dc819",
        ),
        needed_bytes=40 * 10**9,
        most_bytes=4147 * 900 * 900 * 16,
    ),
    "eyecandies": PublicData(
        "Eyecandies",
        "see its page for the terms",
        "https://eyecan-ai.github.io/eyecandies/download",
    ),
}


def fetch_data(name: str, root: Path, accepted: bool, archive: Path | None = None) -> list[str]:
    """Downloads and unpacks a public data set into `root`; returns the unpacked categories.

    Interrupted downloads resume, and the archive is deleted after unpacking. An `archive`
    downloaded by hand is checked the same way, and kept. Raises InputError if the terms were not
    accepted, the data set must be downloaded by hand, or one of its categories is there already.
    """
    if name not in DATA:
        raise InputError(f"{name} is not a known data set; choose {' or '.join(DATA)}")
    about = DATA[name]
    if about.archive is None:
        raise InputError(
            f"{about.title} can only be downloaded with a browser.\nBy hand: download its classes "
            f"from {about.home}\nand unpack each one to {root.absolute() / '<class>'}"
        )
    if not accepted:
        raise InputError(
            f"{about.title} is published under terms: {about.licence} ({about.home}); "
            "if you accept them, say so with --accept-licence"
        )
    try:
        root.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise unwritable(root, error) from error
    if archive is not None and not archive.is_file():
        raise InputError(f"{archive}: no such archive; give the file you downloaded")
    require_absent(root / name for name in PUBLISHED_COUNTS)
    kept = archive or root / about.archive.name
    require_room(root, about.needed_bytes - received(kept))
    packed = fetch(about.archive, kept)
    found = unpack(packed, root, about.most_bytes)
    if archive is None:
        packed.unlink()
    return sorted(path.name for path in found if path.name in PUBLISHED_COUNTS)
