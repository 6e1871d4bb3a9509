"""What can be said of texts without a model: whether they are alike, and whether one is sound."""

from collections import Counter

SAME = 0.9  # share of words in common, from which on a text is a copy
VARIED = 0.5  # least share of different words of a sound text of some length
SHORT = 12  # words, of which any share may be different


def common(one: str, other: str) -> float:
    """The share of words that two texts have in common: 2 |a and b| / (|a| + |b|), with repeats."""
    a, b = (Counter(text.lower().split()) for text in (one, other))
    return 2 * (a & b).total() / max((a.total() + b.total()), 1)


def is_broken(text: str) -> bool:
    """Whether a text is empty or repeats itself."""
    words = text.lower().split()
    return not words or (len(words) > SHORT and len(set(words)) / len(words) < VARIED)
