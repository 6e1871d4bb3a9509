"""What a paper's finding is: a statement, and the tests that decide it.

Apart from those tests, so that a study can look up its papers without loading statistics.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vd.findings.contrasts import Evidence


@dataclass(frozen=True)
class Finding:
    """A claim of a paper.

    `contrasts` gives the tests that decide it, `paper` what the paper is said to report, and
    `reported` the number it is said to have for a contrast, by its words, where it has the same
    unit: second-hand, of larger models and other data.
    """

    key: str
    statement: str
    roles: tuple[str, ...]
    contrasts: Callable[["Evidence"], list[dict]]
    paper: str
    reported: Mapping[str, float] = field(default_factory=dict)
