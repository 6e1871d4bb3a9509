"""PRISM (Kirk et al. 2024, arXiv 2404.16019).

The first messages that people sent to chat models.
"""

KIND = "prompts"
HUB = "HannahRoseKirk/prism-alignment"
REVISION = "18ab5cfb37456f4ec8cbc00212ce54cf7b1239f6"
LICENCE = "CC-BY-4.0"
SIZE = (8_011, 69, 0)
MIRROR = ("prism/opening_prompts.csv",)
OPTIONS = {"name": "conversations"}


def convert(row: dict, types: list | None = None) -> dict | str:
    """Opening prompts; `types` are conversation types to keep, which only the hub knows."""
    if types and "conversation_type" not in row:
        fix = "remove `types` or unset VD_DATA_DIR"
        raise ValueError(f"conversation types are known on the hub only; {fix}")
    if types and row["conversation_type"] not in types:
        return "other type"
    if "user_prompt" in row:  # as IssueBench cleaned them
        return {"id": row["id"], "prompt": row["user_prompt"]}
    number, prompt = row["conversation_id"], row["opening_prompt"]
    known = isinstance(number, str)
    return {"id": f"prism-{number.removeprefix('c')}" if known else None, "prompt": prompt}
