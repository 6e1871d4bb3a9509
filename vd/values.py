"""Schwartz's ten basic values (1992), the space in which texts, instructions and targets lie.

Each value is a number in [-1, 1]: 1 where a text endorses it as its main point, -1 where it rejects
it, 0 where it says nothing of it. The ten stand on a circle: neighbours go together, opposite ones
conflict, so that two values agree as the cosine of the angle between them. Angles are equally wide
here; Schwartz gives an order, in which tradition and conformity share a wedge.
"""

import numpy as np

VALUES = {  # in the order of the circle, with what each is about
    "self_direction": "independent thought and action: choosing, creating, exploring",
    "stimulation": "excitement, novelty and challenge",
    "hedonism": "pleasure, and enjoying life",
    "achievement": "personal success, shown by competence",
    "power": "status, wealth, control over people and resources",
    "security": "safety, health, order and stability",
    "conformity": "restraint, politeness, obedience to what others expect",
    "tradition": "respect for customs and for the ideas of one's culture or religion",
    "benevolence": "the welfare of those one is close to: help, honesty, loyalty",
    "universalism": "tolerance, justice and the welfare of all people and of nature",
}
NAMES = tuple(VALUES)
SOME, MUCH = 0.25, 0.75  # least shifts that are told as more, and as much more
NEAR, KEPT = 0.8, 0.3  # VISA's thresholds of a rewriting's distance and of its consistency
OTHERS = (0.4, 0.6, 1.0, 1.2)  # thresholds of the distance that are looked at as well


def circle() -> np.ndarray:
    """How far each two values should agree, (10, 10): the cosine of their angle on the circle."""
    places = np.arange(len(NAMES)) * 2 * np.pi / len(NAMES)
    return np.cos(places[:, None] - places[None, :])


def check(points: np.ndarray, what: str) -> np.ndarray:
    """Points (N, 10) of the cube [-1, 1]^10; ValueError names the first value outside, or NaN."""
    if points.ndim != 2 or points.shape[1] != len(NAMES):
        raise ValueError(f"{what}: {points.shape} in place of (N, 10): {', '.join(NAMES)}")
    wrong = ~((points >= -1) & (points <= 1))  # in these words NaN is wrong too
    if wrong.any():
        row, column = np.argwhere(wrong)[0]
        said = f"{NAMES[column]} is {points[row, column]:g}"
        raise ValueError(f"{what}: row {row + 1}: {said}; write a number from -1 to 1")
    return points


def moved(points: np.ndarray, shifts: np.ndarray) -> np.ndarray:
    """Targets clip(v + dv, -1, 1), as VISA's (arXiv 2603.04822)."""
    return np.clip(points + shifts, -1, 1)


def nearest(start: np.ndarray, preference: np.ndarray, reach: float = 0.5) -> np.ndarray:
    """The target (10,) nearest to a start in the cube that meets a stated preference (10,): whose
    agreement with it, (C p . v) / |C p|_1 with the circle C, is at least `reach`.

    Ours, in place of VISA's adaptive value search, of which only the name and that it has two
    levels are known. The inner level is the best point at a given strength s, clip(v + s C p); the
    outer one looks for the least strength that reaches, which is the nearest point by the
    conditions of Karush, Kuhn and Tucker. ValueError for a preference of nothing, or a reach
    above 1, which no point has.
    """
    wanted = circle() @ preference
    if not np.abs(wanted).sum() > 1e-9:
        raise ValueError("preference: it prefers nothing; name a value")
    wanted = wanted / np.abs(wanted).sum()
    inner = lambda strength: np.clip(start + strength * wanted, -1, 1)  # noqa: E731
    farthest = 2 / np.abs(wanted[np.abs(wanted) > 1e-9]).min()  # from one end to the other
    if reach > 1:
        raise ValueError(f"reach: no target reaches {reach:g}; write at most 1")
    low, high = 0.0, farthest
    if wanted @ start >= reach:
        return start.copy()
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (low, middle) if wanted @ inner(middle) >= reach else (middle, high)
    return inner(high)


def cosine(points: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Cosines (N,) of points and targets; 0 where either expresses nothing."""
    lengths = np.linalg.norm(points, axis=1) * np.linalg.norm(targets, axis=1)
    products = (points * targets).sum(axis=1)
    return np.divide(products, lengths, out=np.zeros(len(products)), where=lengths > 1e-9)


def distance(points: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Euclidean distances (N,) of points and targets."""
    return np.linalg.norm(points - targets, axis=1)


def message(original: str, shift: np.ndarray) -> str:
    """What a rewriter is asked for: a rewriting of an original with a shift (10,) of its values."""
    told = f"Rewrite the answer below so that it shows {in_words(shift)}."
    return f"{told} Keep all its points and add none.\n\n{original}"


def in_words(shift: np.ndarray) -> str:
    """A shift (10,) as a rewriter is told it: 'much more power, less tradition'; parts of less than
    a quarter are not spoken of.
    """
    said = [
        f"{'much ' if abs(size) >= MUCH else ''}{'more' if size > 0 else 'less'} "
        + name.replace("_", "-")
        for name, size in zip(NAMES, shift, strict=True)
        if abs(size) >= SOME
    ]
    return ", ".join(said) or "the same values"
