"""Numbers that are none stop the step that made them: never logged, sampled from or judged."""


class NotFiniteError(RuntimeError):
    """A number is NaN or infinite: which one, where, and what to try."""

    def __init__(self, what: str, fix: str):
        super().__init__(f"{what} is not a finite number; {fix}")
        self.what, self.fix = what, fix

    # An exception is unpickled from its message alone, and __init__ takes two arguments.
    def __reduce__(self):
        return type(self), (self.what, self.fix)


def finite(values, what: str, fix: str) -> None:
    """Raise NotFiniteError unless all of `values` (a float, an array or a tensor) are finite."""
    # One expression for floats, arrays and tensors: neither numpy nor torch is imported for it.
    right = values - values == 0  # NaN - NaN and inf - inf are NaN
    if not (right if isinstance(right, bool) else bool(right.all())):
        raise NotFiniteError(what, fix)
