"""ArgKP (Bar-Haim et al. 2020, arXiv 2005.01619): arguments for and against topics."""

from vd.data.rows import stance

KIND = "stances"
HUB = None
LICENCE = "CDLA-Sharing-1.0"
MIRROR = ("argkp/arguments_dev.csv",)
LABELS = {"1": "support", "-1": "oppose"}


def convert(row: dict) -> dict | str:
    """An argument answers its topic."""
    return stance(row["topic"], row["argument"], LABELS.get(f"{row['stance']}"))
