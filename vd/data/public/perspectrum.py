"""Perspectrum (Chen et al. 2019, arXiv 1906.03538): claims, and perspectives for and against."""

KIND = "stances"
HUB = None
LICENCE = "CC-BY-SA-4.0"
MIRROR = ("perspectrum/train_dev.csv",)
LABELS = {"SUPPORT": "support", "UNDERMINE": "oppose"}


def convert(row: dict) -> dict | str:
    """A perspective answers its claim."""
    label = LABELS.get(f"{row['stance']}")
    texts = {"prompt": row["claim"], "response": row["perspective"]}
    return texts | {"label": label} if label else "no stance"
