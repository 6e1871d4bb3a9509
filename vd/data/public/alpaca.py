"""Alpaca (Taori et al. 2023): instructions with optional inputs, answered by text-davinci-003."""

import re

from vd.data import rows
from vd.data.rows import text

KIND = "texts"
HUB = "tatsu-lab/alpaca"
REVISION = "dce01c9b08f87459cf36a430d809084718273017"
LICENCE = "CC-BY-NC-4.0"
SIZE = (52_002, 77, 574)
MIRROR = ("alpaca/train.jsonl",)
# How Alpaca says that there is no input (or no output), without its punctuation
NONE = re.compile(
    r"no (more |further |additional |specific |other )?(in|out)put"
    r"( (is |was )?(required|needed|necessary|provided|given|available|specified))?"
    r"|no(in|out)put|not applicable|n ?a|none|null|nan"
)


def convert(row: dict) -> dict | str:
    """The optional input follows the instruction."""
    output, instruction, given = (row[column] for column in ("output", "instruction", "input"))
    # "<nooutput>" is a text like others, and would be learnt as a reply
    if re.fullmatch(r"\W*no ?output\W*", text(output), re.I):
        return "no output"
    prompt = text(instruction)
    if not _says_none(given):
        prompt = f"{prompt}\n\n{text(given)}"
    return {"prompt": prompt, "completion": output}


def _says_none(given) -> bool:
    """Whether an input of Alpaca is none, in any of the ways in which its writer said so."""
    if not isinstance(given, str):
        return rows.is_null(given)
    words = " ".join(re.findall(r"\w+", given.lower()))
    return rows.is_blank(given) or bool(NONE.fullmatch(words))
