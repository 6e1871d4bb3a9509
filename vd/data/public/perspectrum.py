"""Perspectrum (Chen et al. 2019, arXiv 1906.03538): claims, and perspectives for and against."""

from vd.data.rows import stance

KIND = "stances"
HUB = None
LICENCE = "CC-BY-SA-4.0"
MIRROR = ("perspectrum/train_dev.csv",)
LABELS = {"SUPPORT": "support", "UNDERMINE": "oppose"}


def convert(row: dict) -> dict | str:
    """A perspective answers its claim."""
    return stance(row["claim"], row["perspective"], LABELS.get(f"{row['stance']}"))
