"""XSTest (Roettger et al. 2024, arXiv 2308.01263): prompts that sound unsafe, most of them safe."""

KIND = "prompts"
HUB = None
LICENCE = "CC-BY-4.0"
MIRROR = ("xstest/prompts.csv",)
KINDS = {"safe": "benign", "unsafe": "harmful"}


def convert(row: dict) -> dict | str:
    """A prompt, benign or harmful."""
    if row["label"] not in KINDS:
        return "other label"
    return {"id": f"xstest-{row['id']}", "prompt": row["prompt"], "kind": KINDS[row["label"]]}
