"""Whether messages and sums are to be PyTorch's own dense operations."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch

_plain: ContextVar[bool] = ContextVar("plain", default=False)


@contextmanager
def plain_operations() -> Iterator[None]:
    """PyTorch's own dense operations inside: what a compiler can trace and fuse, and the reference for all else."""
    token = _plain.set(True)
    try:
        yield
    finally:
        _plain.reset(token)


def in_plain_operations() -> bool:
    """Whether operations are to be plain: in :func:`plain_operations`, or because a compiler is looking."""
    return torch.compiler.is_compiling() or _plain.get()
