"""Numbers that a module needs exactly, whatever precision its network runs in."""

from __future__ import annotations

from collections.abc import Callable
from typing import Self

from torch import Tensor, nn


class Constants(nn.Module):
    """A module whose buffers follow moves between devices, but not changes of precision, which lose digits for good."""

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        for name, buffer in self.named_buffers():
            setattr(self, name, buffer.to(fn(buffer).device))
        return self
