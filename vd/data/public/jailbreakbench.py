"""JailbreakBench (Chao et al. 2024, arXiv 2404.01318): harmful behaviours, for evaluation alone."""

KIND = "prompts"
HUB = None
LICENCE = "MIT"
MIRROR = ("jailbreakbench/behaviors.csv",)


def convert(row: dict) -> dict:
    """The goal is the prompt."""
    return {"prompt": row["Goal"], "kind": "harmful"}
