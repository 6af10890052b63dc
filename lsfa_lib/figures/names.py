"""What metrics, modes and terms are called, once for figures, pages, studies and the command line.

Keys are those of result.json; terms are written as they are shown.
"""

from __future__ import annotations

METRICS: dict[str, str] = {
    "i_auroc": "I-AUROC",
    "p_auroc": "P-AUROC",
    "aupro_30": "AUPRO 30 %",
    "aupro_10": "AUPRO 10 %",
    "aupro_05": "AUPRO 5 %",
    "aupro_01": "AUPRO 1 %",
    "aupro_30_peer": "AUPRO (MVTec code) 30 %",
    "aupro_01_peer": "AUPRO (MVTec code) 1 %",
}
MODES: dict[str, str] = {
    "3d": "3D",
    "rgb": "RGB",
    "rgb+3d": "RGB + 3D",
    "disagreement": "Disagreement",
    "rgb+3d+disagreement": "RGB + 3D + disagreement",
}
SHORT_MODES: dict[str, str] = {
    **MODES,
    "disagreement": "disagreement",
    "rgb+3d+disagreement": "all three",
}
"""For legends, buttons and narrow columns."""
GLOSSARY: dict[str, str] = {
    "I-AUROC": "Probability that a defective part gets a higher image score than a good one "
    "(area under the ROC curve over parts); 0.5 is chance, 1 is perfect.",
    "P-AUROC": "Area under the ROC curve over pixels: the probability that a defect pixel has a "
    "higher score than a good pixel.",
    "AUPRO": "Area under the per-region overlap curve: the mean overlap with each defect against "
    "the share of good pixels marked, up to a limit and divided by it; small defects count as much "
    "as large ones.",
    "AUPRO 30 %": "AUPRO with at most 30 % of the good pixels marked, the limit most papers use.",
    "AUPRO 10 %": "AUPRO with at most 10 % of the good pixels marked.",
    "AUPRO 5 %": "AUPRO with at most 5 % of the good pixels marked.",
    "AUPRO 1 %": "AUPRO with at most 1 % of the good pixels marked, the strictest limit.",
    "AUPRO (MVTec code)": "AUPRO as the public MVTec 3D-AD evaluation code approximates it with "
    "100 thresholds; use it to compare with published numbers.",
    "IFC": "Intra-modal feature compactness: the losses LC and GC, which pull the features of one "
    "modality towards those of other good parts.",
    "CLC": "Cross-modal local-to-global consistency: the losses LA and GA, which align the "
    "features of colour and shape.",
    "LA": "Local alignment: the colour and shape features of the same patch are pulled together, "
    "those of different patches are pushed apart.",
    "GA": "Global alignment: the same as local alignment for instance features, one or a few per "
    "scan.",
    "LC": "Local compactness: the distance of each patch feature to its nearest feature in a queue "
    "from other training scans.",
    "GC": "Global compactness: the distance of each instance feature to its nearest one in a queue "
    "from other training scans.",
    "instance feature": "Summary of a scan: the mean of its patch features, or its k-means "
    "prototypes.",
    "prototype": "Centroid of a k-means clustering of a scan's patch features, used as an instance "
    "feature.",
    "effective rank": "Number of directions the features effectively use: the exponential of the "
    "entropy of the eigenvalues of their covariance; near 1 they have collapsed.",
    "bank": "Memory of normal patch features from the training scans; a patch's score is the "
    "distance to its nearest row.",
    "coreset": "Subset of the training patches that covers all of them, chosen greedily; the bank "
    "keeps only these.",
    "FPFH": "Fast point feature histograms, a hand-crafted description of the local shape around "
    "a point.",
    "disagreement": "How strongly a patch's colour and shape features contradict each other: one "
    "minus the cosine of their projections.",
    "all three": "RGB, 3D and disagreement combined.",
    "threshold": "Score above which a part is flagged as defective, set on good validation parts "
    "for a chosen false alarm rate.",
    "top fraction": "Share of the map's pixels, those with the highest scores, whose mean is the "
    "image score.",
    "recipe": "Complete set of settings: published, released, ours, demo or tiny.",
    "published": "The recipe as the paper's text describes it.",
    "released": "The recipe as the paper's public code implements it, including its quirks.",
    "ours": "The paper's idea with its defects repaired; the default recipe.",
    "demo": "The recipe ours with small backbones that need no download.",
    "tiny": "The recipe demo reduced to the size of a test.",
    "cell": "One setting of a study, run for every category and seed.",
}


def metric_label(key: str) -> str:
    """What a metric of result.json is called; the key itself for an unknown one."""
    return METRICS.get(key, key)


def mode_label(key: str, short: bool = False) -> str:
    """What a mode is called, `short` in legends and buttons; the key itself for an unknown one."""
    return (SHORT_MODES if short else MODES).get(key, key)
