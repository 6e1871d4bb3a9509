"""UltraFeedback (Cui et al. 2023, arXiv 2310.01377), binarised: pairs ranked by GPT-4."""

from vd.data.rows import pair

KIND = "pairs"
HUB = "HuggingFaceH4/ultrafeedback_binarized"
REVISION = "3949bf5f8c17c394422ccfab0c31ea9c20bdeb85"
LICENCE = "MIT"
SIZE = (61_135, 667, 1_195)
MIRROR = ("ultrafeedback/train.jsonl",)
OPTIONS = {"split": "train_prefs"}


def convert(row: dict, min_margin: float = 0.0) -> dict | str:
    """Message lists that differ in the last reply; `min_margin` is the least score difference."""
    # without the filter a row needs no scores
    if min_margin:
        scores = row["score_chosen"], row["score_rejected"]
        if not all(isinstance(score, int | float) for score in scores):
            return "no scores"
        if not scores[0] - scores[1] >= min_margin:  # so that NaN does not pass
            return "scores too close"
    return pair(row["chosen"], row["rejected"])
