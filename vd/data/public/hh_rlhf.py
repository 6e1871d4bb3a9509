"""HH-RLHF (Bai et al. 2022, arXiv 2204.05862), its part on harmlessness: pairs ranked by people."""

import re

from vd.data.rows import pair, text

KIND = "pairs"
HUB = "Anthropic/hh-rlhf"
REVISION = "09be8c5bbc57cb3887f3a9732ad6aa7ec602a1fa"
LICENCE = "MIT"
SIZE = (42_537, 500, 190)  # the prompt with its history
MIRROR = ("hh-rlhf/harmless-base_train.jsonl.gz", "hh-rlhf/harmless-base_test.jsonl.gz")
OPTIONS = {"data_dir": "harmless-base"}


def convert(row: dict) -> dict | str:
    """Transcripts; the prompt is their common beginning up to the last assistant turn."""
    role = {"Human": "user", "Assistant": "assistant"}
    sides = []
    for side in (row["chosen"], row["rejected"]):
        # the group keeps the names: role and words by turns; other blank lines split nothing
        before, *said = re.split(r"\n\n(Human|Assistant):", text(side))
        if before.strip():
            return "text before the first turn"
        pairs = zip(said[::2], said[1::2], strict=True)
        sides.append([{"role": role[name], "content": words.strip()} for name, words in pairs])
    return pair(*sides)
