"""The public weights the encoders use: where they come from, where they lie, and that they are it.

They lie in `data/weights`, or in the folder that `LSFA_WEIGHTS` names; files put there by hand are
as good as downloaded ones. What is known of a file is checked when it is first used; of one whose
publisher tells no digest, the digest is kept then and every later change is noticed.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path

from lsfa_lib.features.checkpoints import sha256_of
from lsfa_lib.storage.download import Remote, fetch, verify
from lsfa_lib.storage.files import InputError, atomic_write, located


@dataclass(frozen=True)
class Weights:
    """Weights of one public model."""

    name: str
    model: str
    """What configs call it: a name of timm's, or `point_mae`."""
    remote: Remote
    licence: str
    about_bytes: int
    """Four a number, which is what files are, but for their headers; 0: not known."""
    used_by: str = "image encoder"

    @property
    def path(self) -> Path:
        """Where the file lies, or would."""
        return folder() / self.remote.name


def _timm(
    name: str, model: str, about_bytes: int, licence: str = "Apache-2.0", **more: str
) -> Weights:
    """One of timm's, whose names of the tensors are those of its model."""
    url = f"https://huggingface.co/timm/{model}/resolve/main/model.safetensors"
    return Weights(name, model, Remote(url, f"{model}.safetensors"), licence, about_bytes, **more)


REGISTRY = (
    _timm("dino_vitb8", "vit_base_patch8_224.dino", 343_231_488),
    _timm("dino_vits8", "vit_small_patch8_224.dino", 86_681_088),
    _timm("dinov2_vits14", "vit_small_patch14_dinov2.lvd142m", 88_224_768),
    _timm("dinov2_vitb14", "vit_base_patch14_dinov2.lvd142m", 346_318_848),
    _timm("dinov3_vits16", "vit_small_patch16_dinov3.lvd1689m", 86_347_776, "DINOv3 licence"),
    _timm("dinov3_vitb16", "vit_base_patch16_dinov3.lvd1689m", 342_564_864, "DINOv3 licence"),
    _timm("wide_resnet50", "wide_resnet50_2.tv_in1k", 275_806_068, "BSD-3-Clause"),
    Weights(
        "point_mae",
        "point_mae",
        Remote(
            "https://github.com/Pang-Yatian/Point-MAE/releases/download/main/pretrain.pth",
            "pointmae_pretrain.pth",
            digest="sha256:27ded932bb0a2625d5a8eb006df199b2578598c774aee6d86b985300b6a5fd20",
        ),
        "MIT",
        0,
        "point encoder",
    ),
    Weights(
        "point_bert",
        "point_bert",
        Remote("", "Point-BERT.pth", page="https://github.com/lulutang0608/Point-BERT"),
        "MIT",
        0,
        "point encoder",
    ),
    _timm("resnet18", "resnet18.a1_in1k", 46_796_528, used_by="padim, stfpm"),
    _timm(
        "dinov2_vitb14_reg4",
        "vit_base_patch14_reg4_dinov2.lvd142m",
        346_328_064,
        used_by="dinomaly",
    ),
    Weights(
        "efficientnet_b5",
        "torchvision/efficientnet_b5",
        Remote(
            "https://download.pytorch.org/models/efficientnet_b5_lukemelas-1a07897c.pth",
            "efficientnet_b5_lukemelas-1a07897c.pth",
            digest="sha256:1a07897c",
        ),
        "BSD-3-Clause",
        122_250_544,
        "cs_flow",
    ),
    Weights(
        "efficient_ad",
        "efficient_ad",
        Remote(
            "https://github.com/open-edge-platform/anomalib/releases/download/"
            "efficientad_pretrained_weights/efficientad_pretrained_weights.zip",
            "efficientad_pretrained_weights.zip",
            digest="sha256:c09aeaa2b33f244b3261a5efdaeae8f8284a949470a4c5a526c61275fe62684a",
        ),
        "Apache-2.0",
        0,
        "efficient_ad",
    ),
)


def folder() -> Path:
    """Where weights lie."""
    return Path(os.environ.get("LSFA_WEIGHTS", "") or located(Path("data/weights")))


def named(name: str) -> Weights:
    """The weights of that name. Raises InputError."""
    for weights in REGISTRY:
        if name in (weights.name, weights.model):
            return weights
    names = ", ".join(weights.name for weights in REGISTRY)
    raise InputError(f"{name} names no known weights; choose among {names}")


def of_model(model: str) -> Weights | None:
    """The weights of a model as configs name it; None where the registry has none."""
    return next((weights for weights in REGISTRY if weights.model == model), None)


def ready(weights: Weights) -> Path:
    """The file of these weights, downloaded if it is not there, and checked. Raises InputError."""
    path = weights.path
    known = _known(path)
    if known is not None and _state(path) == known["state"]:
        return path
    fetch(weights.remote, path)
    check(weights)
    return path


def check(weights: Weights) -> str:
    """The sha256 of the file, read whole. Raises InputError where it is missing or has changed."""
    path = weights.path
    if not path.exists():
        raise InputError(f"{path} is not there; `lsfa weights fetch {weights.name}` downloads it")
    verify(path, weights.remote)
    seen, known = sha256_of(path), _known(path)
    if known is not None and known["sha256"] != seen:
        raise InputError(
            f"{path}: its sha256 is {seen}, but was {known['sha256']} when it was first used; put "
            f"the first one back, or delete it and {_beside(path).name} to start with this one"
        )
    about = {"sha256": seen, "state": _state(path)}
    if known != about:
        try:
            with atomic_write(_beside(path)) as file:
                file.write_text(json.dumps(about), encoding="utf-8")
        except (InputError, OSError):
            # Somebody else's folder: nothing is lost where the publisher tells the digest.
            if not weights.remote.digest:
                raise
    return seen


def _beside(path: Path) -> Path:
    return path.with_name(path.name + ".json")


def _known(path: Path) -> dict[str, object] | None:
    try:
        about = json.loads(_beside(path).read_text(encoding="utf-8"))
        return {"sha256": str(about["sha256"]), "state": about["state"]}
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _state(path: Path) -> list[int]:
    """What changes when a file does; [] where there is none."""
    try:
        seen = path.stat()
    except FileNotFoundError:
        return []
    return [seen.st_size, seen.st_mtime_ns]
