"""How many optimiser steps a training takes."""

import math


def total_steps(optimisation, n_examples: int) -> int:
    """Steps of an `Optimisation` on that many examples; an epoch's last step may be a short one."""
    batches = math.ceil(n_examples / optimisation.batch_size)
    return optimisation.steps or math.ceil(optimisation.epochs * batches)
