"""WildChat (Zhao et al. 2024, arXiv 2405.01470): real chats with GPT models, first turns."""

from vd.data import rows

KIND = "texts"
HUB = "allenai/WildChat-1M"
REVISION = "7d6490e462285cf85d91eabea0f9a954fbddcd1f"
LICENCE = "ODC-BY"
SIZE = (340_000, 500, 1_500)  # English first turns by GPT-3.5, estimated
MIRROR = ("wildchat/train.jsonl", "wildchat/train.jsonl.gz")
LARGE = True


def convert(
    row: dict, language: str = "English", model: str = "gpt-3.5", toxic: bool = False
) -> dict | str:
    """First turns; `model` is how its name begins, `toxic` keeps toxic ones too."""
    if row["language"] != language:
        return "other language"
    # null is not false: what nobody has looked at may be toxic
    if row["toxic"] not in (True, False):
        return "unknown whether toxic"
    if row["toxic"] and not toxic:
        return "toxic"
    if not str(row["model"]).startswith(model):
        return "other model"
    said = row["conversation"]
    # too short a list is a chat without reply; rows.turns says what is wrong with anything else
    if isinstance(said, list) and len(said) < 2:
        return "no reply"
    # the first two alone: what is wrong with a later turn does not matter
    prompt, reply = rows.turns(said[:2] if isinstance(said, list) else said)
    found = {"prompt": prompt["content"], "completion": reply["content"]}
    # conversations may share a hash, so a turn's identifier is the key; it also holds in a stream
    turn = said[0].get("turn_identifier")
    return found | ({} if turn is None else {"id": f"wildchat-{turn}"})
