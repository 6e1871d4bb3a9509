"""SNLI (Bowman et al. 2015, arXiv 1508.05326): whether a sentence follows from another."""

KIND = "stances"
HUB = None
LICENCE = "CC-BY-SA-4.0"
MIRROR = ("snli/dev.jsonl",)
LABELS = ("entailment", "neutral", "contradiction")


def convert(row: dict) -> dict | str:
    """Premise as prompt, hypothesis as response, and the label."""
    if row["label"] not in LABELS:
        return "no label"  # where annotators did not agree
    return {"prompt": row["premise"], "response": row["hypothesis"], "label": row["label"]}
