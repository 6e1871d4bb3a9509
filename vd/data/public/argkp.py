"""ArgKP (Bar-Haim et al. 2020, arXiv 2005.01619): arguments for and against topics."""

KIND = "stances"
HUB = None
LICENCE = "CDLA-Sharing-1.0"
MIRROR = ("argkp/arguments_dev.csv",)
LABELS = {"1": "support", "-1": "oppose"}


def convert(row: dict) -> dict | str:
    """An argument answers its topic."""
    label = LABELS.get(f"{row['stance']}")
    texts = {"prompt": row["topic"], "response": row["argument"]}
    return texts | {"label": label} if label else "no stance"
