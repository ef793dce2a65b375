"""Kernels for inference on CPUs, in C++: what the fast path is made of where they were compiled at installation.

Functions take and fill contiguous tensors of one dtype (float32 or float64); arguments and shapes are documented in the
sources beside this file. One library per instruction set is built; PyTorch says which one this processor can run.
"""

from __future__ import annotations

import ctypes
import functools
import importlib.machinery
import logging
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

SUFFIXES = {torch.float32: "f32", torch.float64: "f64"}
"""Of the functions' names, by the dtype of their arguments."""

_LIBRARIES = {"AVX512": "_avx512", "AVX2": "_avx2"}


def available() -> bool:
    """Whether kernels were compiled when gfmpot was installed, and run here."""
    return _library() is not None


def instruction_set() -> str | None:
    """What the kernels in use were compiled for: ``avx512``, ``avx2``, ``baseline``, or None without kernels."""
    library = _library()
    return None if library is None else Path(library._name).name.split(".")[0].lstrip("_")


Argument = Tensor | NDArray[Any] | int | float | None


def call(name: str, dtype: torch.dtype, *arguments: Argument) -> None:
    """Run a kernel on as many threads as PyTorch would use.

    Args:
        name: of the function, without prefix and dtype.
        dtype: of its floating-point tensors and arrays.
        arguments: as in the source; None is a null pointer.
    """
    values = [
        a.data_ptr() if isinstance(a, Tensor) else a.ctypes.data if isinstance(a, np.ndarray) else a for a in arguments
    ]
    _function(f"gfmpot_{name}_{SUFFIXES[dtype]}", tuple(map(_kind, arguments)))(*values, torch.get_num_threads())


def topology(edge_index: Tensor, n_atoms: int) -> tuple[Tensor, Tensor, Tensor]:
    """The order of edges, sorted by receiver, as kernels need it.

    Args:
        edge_index: (2, E), senders and receivers.
        n_atoms: N.

    Returns:
        (N + 1,) where each receiver's edges begin, (N + 1,) where each sender's begin in the next, and (E,) the edges
        ordered by sender.
    """
    n_edges = edge_index.shape[1]
    offsets, sender_offsets = torch.empty(2, n_atoms + 1, dtype=torch.int64)
    by_sender = torch.empty(n_edges, dtype=torch.int64)
    senders, receivers = edge_index.contiguous()
    function = _function("gfmpot_topology", (ctypes.c_int64,) * 2 + (ctypes.c_void_p,) * 5, threads=False)
    function(n_atoms, n_edges, *(t.data_ptr() for t in (senders, receivers, offsets, sender_offsets, by_sender)))
    return offsets, sender_offsets, by_sender


def products_pay() -> bool:
    """Whether :class:`PackedWeights` multiplies faster than PyTorch on this processor: MKL has no AVX-512 on AMD's."""
    library = _library()
    return library is not None and bool(library.gfmpot_products_pay())


class PackedWeights:
    """``x @ weight.T + bias`` in float64 for weights that stay.

    Args:
        weight: (n, k) float64.
        bias: (n,) float64, or None.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        width = _panel_width()
        n, k = self._shape = weight.shape
        panels = weight.new_zeros(-(-n // width) * width, k)
        panels[:n] = weight
        self._panels = panels.view(-1, width, k).transpose(1, 2).contiguous()
        self._bias = None if bias is None else bias.contiguous()

    def __call__(self, x: Tensor) -> Tensor:
        """(..., k) to (..., n)."""
        n, k = self._shape
        rows, out = x.numel() // k, x.new_empty(*x.shape[:-1], n)
        call("product", torch.float64, rows, n, k, x.contiguous(), self._panels, self._bias, out)
        return out


@functools.cache
def _panel_width() -> int:
    library = _library()
    assert library is not None, "callers ask products_pay() first"
    library.gfmpot_panel_f64.restype = ctypes.c_int64
    return int(library.gfmpot_panel_f64())


def _kind(argument: Argument) -> type[Any]:
    if isinstance(argument, int):
        return ctypes.c_int64
    return ctypes.c_double if isinstance(argument, float) else ctypes.c_void_p


@functools.cache
def _function(symbol: str, kinds: tuple[type[Any], ...], threads: bool = True) -> Any:
    library = _library()
    assert library is not None, "callers ask available() first"
    function = getattr(library, symbol)
    function.argtypes = [*kinds, ctypes.c_int] if threads else list(kinds)
    function.restype = None
    return function


@functools.cache
def _library() -> ctypes.CDLL | None:
    """The library for this processor; a missing or broken one is no error, since PyTorch's operations do the same."""
    name = _LIBRARIES.get(torch.backends.cpu.get_cpu_capability(), "_baseline")
    folder = Path(__file__).parent
    for suffix in importlib.machinery.EXTENSION_SUFFIXES:
        path = folder / f"{name}{suffix}"
        if path.exists():
            try:
                return ctypes.CDLL(str(path))  # OpenMP's functions come from PyTorch's own runtime, already loaded
            except OSError as error:
                logging.getLogger(__name__).warning("kernels are not used, %s cannot be loaded: %s", path.name, error)
    return None
