"""All methods by name. A new one is a file in this folder and an entry here."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

from lsfa_lib.methods.method import Method, unchanged
from lsfa_lib.storage.files import InputError, nearest

PATCHCORE = "arXiv 2106.08265; re-implemented"
BTF = "arXiv 2203.05550; re-implemented"
M3DM = "arXiv 2303.00601; re-implemented"
BOTH = "arXiv 2401.03145 and 2312.04521"
BASELINES = "arXiv 2112.09045; re-implemented"


def _of_samples(title: str, fit: str, source: str, reads: str, needs: str = "") -> Method:
    """A method that does not use our features but reads one modality of the samples."""
    return Method(
        title,
        fit,
        source,
        config="rgb_anomalib:at_map_size" if needs else unchanged,
        modalities=(),
        requires=(reads,),
        published=title,
        needs=needs,
    )


METHODS = {
    "lsfa": Method(
        "LSFA (ours)",
        "lsfa:fit",
        "arXiv 2401.03145; this project",
        requires=(),
        published="LSFA",
    ),
    "unadapted": Method(
        "PatchCore, both",
        "lsfa:fit",
        "arXiv 2106.08265 per modality; this project",
        config="lsfa:unadapted",
        requires=(),
    ),
    "patchcore_rgb": Method(
        "PatchCore, RGB",
        "patchcore:fit_rgb",
        PATCHCORE,
        config="patchcore:as_published",
        modalities=("rgb",),
        requires=("rgb",),
        published="PatchCore",
    ),
    "patchcore_fpfh": Method(
        "PatchCore, FPFH",
        "patchcore:fit_3d",
        BTF,
        config="patchcore:with_fpfh",
        modalities=("3d",),
        requires=("3d",),
        published="FPFH",
    ),
    "btf": Method(
        "BTF",
        "patchcore:fit_joined",
        BTF,
        config="patchcore:with_fpfh",
        published="PatchCore + FPFH",
    ),
    "m3dm": Method("M3DM", "m3dm:fit", M3DM, config="patchcore:as_published"),
    "m3dm_shared": Method(
        "M3DM, fusion of all categories",
        "m3dm:fit_shared",
        M3DM,
        config="patchcore:as_published",
        published="M3DM",
        all_categories=True,
    ),
    "m3dm_sum": Method(
        "M3DM, unfused sum", "patchcore:fit_sum", M3DM, config="patchcore:as_published"
    ),
    "cfm": Method(
        "CFM",
        "cfm:fit",
        "arXiv 2312.04521; re-implemented",
        config="truncated_backbones:complete",
        deployed="truncated_backbones:deployed",
        published="CFM",
    ),
    "lsfa_svm": Method(
        "LSFA, SVM fusion",
        "svm_fusion:fit_lsfa",
        "arXiv 2401.03145, its released code; re-implemented",
    ),
    "lsfa_cfm_average": Method("LSFA and CFM, averaged", "cfm:fit_average", BOTH),
    "lsfa_cfm_third": Method("LSFA, CFM as third score", "cfm:fit_third", BOTH),
    "ast": Method(
        "AST",
        "asymmetric:fit",
        "arXiv 2210.07829; re-implemented",
        config="asymmetric:at_map_size",
        modalities=("rgb",),
        requires=(),
        published="AST",
        needs="FrEIA",
    ),
    "differnet": _of_samples(
        "DifferNet", "differnet:fit", "arXiv 2008.12577; re-implemented", "rgb", "FrEIA"
    ),
    "depth_vm": _of_samples("Depth VM", "variation:depth_vm", BASELINES, "3d"),
    "voxel_vm": _of_samples("Voxel VM", "variation:voxel_vm", BASELINES, "3d"),
    "depth_ae": _of_samples("Depth AE", "variation:depth_ae", BASELINES, "3d"),
    "voxel_ae": _of_samples("Voxel AE", "variation:voxel_ae", BASELINES, "3d"),
    "depth_gan": _of_samples("Depth GAN", "gan:depth_gan", BASELINES, "3d"),
    "voxel_gan": _of_samples("Voxel GAN", "gan:voxel_gan", BASELINES, "3d"),
    "st_3d": Method(
        "3D-ST",
        "student_3d:fit",
        "arXiv 2202.11660; re-implemented",
        config="patchcore:as_published",
        modalities=(),
        requires=("3d",),
        published="3D-ST",
    ),
} | {
    name: _of_samples(title, f"rgb_anomalib:{name}", f"{paper}; anomalib's", "rgb", "anomalib")
    for name, title, paper in (
        ("padim", "PaDiM", "arXiv 2011.08785"),
        ("stfpm", "STFPM", "arXiv 2103.04257"),
        ("cs_flow", "CS-Flow", "arXiv 2110.02855"),
        ("dinomaly", "Dinomaly", "arXiv 2405.14325"),
        ("efficient_ad", "EfficientAD", "arXiv 2303.14535"),
    )
}


def find_method(name: str) -> Method:
    """The method of that name, or of that .py file. InputError with the nearest name."""
    if name.endswith(".py"):
        return _of_file(Path(name))
    if name not in METHODS:
        raise InputError(
            f"there is no method {name!r}; the nearest is {nearest(name, METHODS)} "
            "(`lsfa methods` lists them)"
        )
    return METHODS[name]


def _of_file(path: Path) -> Method:
    """The only entry of METHODS in a user's file, which is executed."""
    if not path.is_file():
        raise InputError(f"{path} was not found; give the path of a .py file with METHODS")
    spec = importlib.util.spec_from_file_location(f"lsfa_method_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where dataclasses look for it
    spec.loader.exec_module(module)
    found: dict[str, Method] = getattr(module, "METHODS", {})
    if len(found) != 1:
        raise InputError(
            f"{path} has {len(found)} entries in METHODS, expected one; see docs/adding_a_method.md"
        )
    return next(iter(found.values()))
