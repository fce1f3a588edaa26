"""Probability distributions that do not look at their parameters' values."""

import contextlib

from torch.distributions import Distribution

from . import replaced

REASON = "a distribution of the loss asserts on values; the loss itself is no output and leaves the graph"


@contextlib.contextmanager
def apply():
    with replaced(Distribution, _validate_args=False):
        yield
