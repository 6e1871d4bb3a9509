"""Texts of others as plain text: nothing in them is live, and nothing in them is hidden.

Notebooks print what these functions return. Printed text is never read as HTML, Markdown or LaTeX,
neither by Jupyter nor by what exports a notebook.
"""

import re
import textwrap
import unicodedata

import pandas as pd

WIDTH = 100  # characters a line
JOINERS = "\u200c\u200d"  # invisible, but letters of some scripts and emoji need them
ESCAPES = {mark: f"\\{mark}" for mark in "\\`*_|~"}
ESCAPES |= {"&": "&amp;", "<": "&lt;", ">": "&gt;", "$": "<span>$</span>"}
ESCAPES |= {"](": "]\\(", "://": ":<span>//</span>"}  # links of Markdown, and bare ones
pd.set_option("display.html.use_mathjax", False)  # nor do tables in notebooks hold formulas


def visible(text: str) -> str:
    """A text on one line, its control and other invisible characters written out, as \\x1b."""
    return "".join(mark if _is_plain(mark) else ascii(mark)[1:-1] for mark in text)


def excerpt(text: str, width: int = 60) -> str:
    """The beginning of a text on one line: never more than `width` characters."""
    # white space first, since `visible` writes line ends out
    line = visible(" ".join(text.split()))
    return line if len(line) <= width else line[: width - 1] + "…"


def whole(text: str, label: str = "") -> str:
    """A text to print, after its label.

    Its own lines, wrapped, invisible characters written out.
    """
    first, *lines = text.replace("\r\n", "\n").split("\n")
    begun = f"{label}: {first}" if label else first
    layout = {"width": WIDTH, "subsequent_indent": "    ", "break_on_hyphens": False}
    wrapped = [textwrap.fill(visible(begun), **layout)]
    wrapped += [textwrap.fill(visible(line), initial_indent="    ", **layout) for line in lines]
    return "\n".join(wrapped)


def markdown(table: pd.DataFrame) -> str:
    """A table as Markdown, whose cells and column names are text."""
    cells = table.map(lambda cell: escaped(cell) if isinstance(cell, str) else cell)
    return cells.rename(columns=escaped).to_markdown(index=False)


def escaped(text: str) -> str:
    """A text that Markdown shows as it is."""
    marks = "|".join(map(re.escape, sorted(ESCAPES, key=len, reverse=True)))
    return re.sub(marks, lambda found: ESCAPES[found.group()], visible(text))


def _is_plain(mark: str) -> bool:
    return mark in JOINERS or unicodedata.category(mark) not in ("Cc", "Cf", "Cs", "Zl", "Zp")
