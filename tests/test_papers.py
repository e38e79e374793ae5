"""Tables for papers: by hand on a small example; whatever the names, a table that reads back as it was."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from clipstore.reporting.papers import latex, markdown

Told = dict[str, Any]


def evaluation(model: str, values: Mapping[str, float], **measured_on: Any) -> Told:
    """An evaluation as `clipstore eval --json` has it."""
    on: Told = {
        "split": "coco/val",
        "protocol": "standard",
        "split_digest": "5" * 64,
        "gallery_digest": "6" * 64,
        "caption_set": "all",
        "unseen": False,
        "partial": False,
        "images": 1000,
        "captions": 5000,
        "asked_images": 1000,
        "seen_images": 0,
        "images_without_positive": 0,
        "captions_without_positive": 0,
        "lost_positives": 0,
        "left_out_images": 0,
        "left_out_captions": 0,
        "precision": "bf16",
        "dtype": "float16",
        "image_fingerprint": "a" * 64,
        "text_fingerprint": "b" * 64,
        "tied_pairs": 7,
        **measured_on,
    }
    return {
        "model": model,
        "split": on["split"],
        "protocol": on["protocol"],
        "metrics": dict(values),
        "measured_on": on,
    }


def metrics(text: tuple[float, ...], image: tuple[float, ...], rsum: float) -> dict[str, float]:
    names = ("recall@1", "recall@5", "recall@10", "mrr", "median_rank", "mean_rank", "r_precision", "map@r")
    sides = (("text_retrieval", text), ("image_retrieval", image))
    return {f"{side}_{name}": v for side, values in sides for name, v in zip(names, values, strict=True)} | {
        "rsum": rsum
    }


# Recall@1 is equal as printed (50.0), so both are the best; the lower median rank is; of the last column the greater is.
ONE = metrics(
    (0.50041, 0.75, 0.8349, 0.6125, 1, 4.5, 0.3, 0.2), (0.304, 0.5594, 0.669, 0.42, 4, 20, 0.304, 0.304), 361.9
)
TWO = metrics((0.49961, 0.794, 0.866, 0.6355, 1, 4, 0.3, 0.2), (0.365, 0.611, 0.7, 0.48, 3.6, 15, 0.365, 0.365), 383.55)

MARKDOWN = r"""
Retrieval on coco/val (555555555555): 1,000 images, 5,000 captions (all of each image); protocol standard. R@K in percent.

| model | image → text R@1 | image → text R@5 | image → text R@10 | image → text MRR | image → text MedR | text → image R@1 | text → image R@5 | text → image R@10 | text → image MRR | text → image MedR | RSUM |
| :-- | --: | --: | --: | --: | --: | --: | --: | --: | --: | --: | --: |
| one | 50.0 | 75.0 | 83.5 | 0.613 | 1 | 30.4 | 55.9 | 66.9 | 0.420 | 4 | 361.9 |
| two\_b | 50.0 | **79.4** | **86.6** | **0.635** | 1 | **36.5** | **61.1** | **70.0** | **0.480** | **3.6** | **383.6** |

- bf16, stored as float16; image tower aaaaaaaaaaaa, text tower bbbbbbbbbbbb; 7 tied pairs
- **one**: trained on none of these images, as far as the store was told
- **two\_b**: TRAINED ON 12.0% of these images (120): the numbers over all flatter it
"""

LATEX = r"""
% needs \usepackage{booktabs}
\begin{table*}
\centering\small\setlength{\tabcolsep}{4pt}
\caption{Retrieval on coco/val (555555555555): 1,000 images, 5,000 captions (all of each image); protocol standard. R@K in percent.}\label{tab:coco-val-standard-66666666}
\begin{tabular}{lrrrrrrrrrrr}
\toprule
 & \multicolumn{5}{c}{image $\to$ text} & \multicolumn{5}{c}{text $\to$ image} &  \\
\cmidrule(lr){2-6} \cmidrule(lr){7-11}
model & R@1 & R@5 & R@10 & MRR & MedR & R@1 & R@5 & R@10 & MRR & MedR & RSUM \\
\midrule
one & 50.0 & 75.0 & 83.5 & 0.613 & 1 & 30.4 & 55.9 & 66.9 & 0.420 & 4 & 361.9 \\
two\_b & 50.0 & \textbf{79.4} & \textbf{86.6} & \textbf{0.635} & 1 & \textbf{36.5} & \textbf{61.1} & \textbf{70.0} & \textbf{0.480} & \textbf{3.6} & \textbf{383.6} \\
\bottomrule
\end{tabular}\par\smallskip
{\footnotesize\raggedright
bf16, stored as float16; image tower aaaaaaaaaaaa, text tower bbbbbbbbbbbb; 7 tied pairs\par
\textbf{one}: trained on none of these images, as far as the store was told\par
\textbf{two\_b}: TRAINED ON 12.0\% of these images (120): the numbers over all flatter it\par
}
\end{table*}
"""


def test_golden() -> None:
    told = [evaluation("one", ONE), evaluation("two_b", TWO, seen_images=120)]
    assert markdown(told) == MARKDOWN.lstrip()
    assert latex(told) == LATEX.lstrip()


COMPARISON: Told = {
    "baseline": "one",
    "split": "coco/val",
    "protocol": "standard",
    "measured_on": evaluation("one", ONE)["measured_on"],
    "method": "10,000 resamples of images & signs",
    "models": [
        {
            "model": "two",
            "differences": [
                {"direction": direction, "metric": metric, "baseline": one, "value": two, "difference": two - one,
                 "low": low, "high": high, "p": p / 2, "p_holm": p}
                for direction, metric, one, two, low, high, p in [
                    ("image_to_text", "recall@1", 0.5, 0.56, 0.021, 0.1, 0.0004),
                    ("image_to_text", "mrr", 0.61, 0.62, -0.004, 0.0235, 0.05),
                    ("text_to_image", "mean_rank", 20, 15.5, -7.04, -2, 0.0499),
                    ("both", "rsum", 361.9, 361.88, -4, 5, 1),
                ]
            ],
            "queries": [],
        }
    ],
}  # fmt: skip


def test_golden_comparison() -> None:
    rows = [line for line in markdown([], [COMPARISON]).splitlines() if line.startswith("| two")]
    assert rows == [
        r"| two | image → text | Recall@1 | 50.0 | 56.0 | +6.0\*\*\* | +2.1 to +10.0 | \< 0.001 |",
        r"| two | image → text | MRR | 0.610 | 0.620 | +0.010 | −0.004 to +0.023 | 0.050 |",
        r"| two | text → image | mean rank | 20 | 15.5 | −4.5\* | −7 to −2 | 0.050 |",
        r"| two |  | RSUM | 361.9 | 361.9 | 0.0 | −4.0 to +5.0 | 1.000 |",
    ]
    lines = latex([], [COMPARISON]).splitlines()
    assert r"two & text $\to$ image & mean rank & 20 & 15.5 & $-$4.5* & $-$7 to $-$2 & 0.050 \\" in lines
    assert r"10,000 resamples of images \& signs\par" in lines
