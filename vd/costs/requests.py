"""What a job asks a cluster for: memory of the host and minutes, by the size of its model.

Both are generous, and a job that was killed for either gets twice as much at its next try.
"""

from vd.costs.shapes import Shape, shape_of
from vd.study.runs import Run

LIBRARIES = 6000  # MB of libraries, tables and buffers
UNKNOWN = Shape(32, 4096, 32, 8, 128, 14336, 128256, False)  # 8 billion weights
LONGEST = 7 * 24 * 60  # minutes


def memory_mb(run: Run | None, attempt: int = 1) -> int:
    """Memory of the host: each process reads the weights, in float32 where all are trained."""
    if run is None:
        return LIBRARIES * attempt
    training = run.training
    copies = training.devices if training else 1
    bytes_each = 4 if training and training.lora is None else 2
    return round(LIBRARIES + 1.5 * bytes_each * _parameters(run) * copies / 1e6) * attempt


def minutes(run: Run | None, attempt: int = 1) -> int:
    """Time limit: an hour, and two more for each billion weights."""
    billions = _parameters(run) / 1e9 if run else 0
    return min(LONGEST, round(60 + 120 * billions) * attempt)


def _parameters(run: Run) -> int:
    try:
        return shape_of(run.model_settings).parameters
    except LookupError:  # of the hub, and not fetched
        return UNKNOWN.parameters
