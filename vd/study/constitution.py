"""Constitutions: principles by which a model criticises, revises and compares replies (after Bai et
al. 2022, arXiv 2212.08073; the words of ours are our own).

A file of vd/prompts, or any of that form elsewhere:

    critique:      entries with id, source, critique (what to look for) and revision (how to mend)
    comparison:    entries with id, source and principle ("Choose the reply that ...")

`source` says what kind of document a principle comes from.
"""

from pathlib import Path

import numpy as np
import yaml

from vd import paths

PARTS = {
    "critique": ("id", "source", "critique", "revision"),
    "comparison": ("id", "source", "principle"),
}
EXAMPLES = "worked_examples"  # of critiques and of comparisons, in vd/prompts


def load(name: str) -> dict[str, list[dict]]:
    """The principles of a constitution by part; ValueError names file, key and fix."""
    file = place(name)
    if not file.exists():
        raise ValueError(f"{file}: no such constitution; write one of vd/prompts, or a .yaml file")
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        where = getattr(error, "problem_mark", None)
        line = f" at line {where.line + 1}" if where else ""
        raise ValueError(f"{file}: no YAML{line}; mend it") from None
    for part, keys in PARTS.items():
        entries = content.get(part) if isinstance(content, dict) else None
        if not isinstance(entries, list) or not entries:
            raise ValueError(f"{file}: {part}: no principle; write a list with {', '.join(keys)}")
        for number, entry in enumerate(entries, start=1):
            for key in keys:
                text = entry.get(key) if isinstance(entry, dict) else None
                if not isinstance(text, str) or not text.strip():
                    raise ValueError(f"{file}: {part} {number}: no {key}; write a text")
        ids = [entry["id"] for entry in entries]
        if twice := next((one for one in ids if ids.count(one) > 1), None):
            raise ValueError(f"{file}: {part}: {twice} is there twice; rename one")
    return {part: content[part] for part in PARTS}


def place(name: str) -> Path:
    """Where a constitution lies: in vd/prompts by its name, or elsewhere by its file."""
    return paths.ROOT / name if name.endswith(".yaml") else paths.prompt(name)


def drawn(entries: list[dict], seed: int, *about: str) -> dict:
    """The entry that a seed and what it is drawn for decide, whatever else is drawn."""
    key = [seed, *"\n".join(about).encode()]
    return entries[int(np.random.default_rng(key).integers(len(entries)))]


def examples(part: str, n: int) -> list[dict]:
    """The first n worked examples of a part."""
    content = yaml.safe_load(paths.prompt(EXAMPLES).read_text(encoding="utf-8"))
    return content[part][:n]
