"""Threads of torch, where their number would change numbers that depend on the data alone."""

import contextlib


@contextlib.contextmanager
def one_thread():
    """One thread within it, as many as before after it."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
