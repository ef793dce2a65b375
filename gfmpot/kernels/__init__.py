"""Kernels for CPUs, in C++: what the fast path is made of where they were compiled at installation.

Functions take and fill contiguous tensors of one dtype (float32 or float64); arguments and shapes are documented in the
sources beside this file. One library per instruction set is built; PyTorch says which ones this processor can run.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import importlib.machinery
import logging
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

CACHE_LINE = 16
"""Numbers in float32; rows of features are multiples of it."""

Argument = Tensor | NDArray[Any] | int | float | None

_SUFFIXES = {torch.float32: "f32", torch.float64: "f64"}
_KINDS = {"n": ctypes.c_int64, "x": ctypes.c_double, "p": ctypes.c_void_p}
_SIGNATURES = {
    "radial": "nnnxppppppp",
    "radial_backward": "nnppppp",
    "edge_vectors": "nppppppp",
    "forces": "nppppp",
    "virials": "nnppppp",
    "within": "npppppxpppp",
    "message": "nnnpppppppppp",
    "first_message_backward": "nnnpppppppppp",
    "message_backward": "nnnpppppppppppppp",
    "message_weights": "nnnpppppppppppppp",
    "kind_sums": "nnnpppppp",
    "kind_sums_backward": "nnnpppppppp",
    "update_products": "nnxpppp",
    "update_apply": "nnppppp",
    "update_apply_backward": "nnppppp",
    "update_products_backward": "nnppppppp",
    "product": "nnnpppp",
}
"""Arguments of each function, but for the number of threads at the end: whole numbers, a real number, pointers."""

_LIBRARIES = {"AVX512": ("_avx512", "_avx2", "_baseline"), "AVX2": ("_avx2", "_baseline")}

_log = logging.getLogger(__name__)


def available() -> bool:
    """Whether kernels were compiled when gfmpot was installed, and run here."""
    return _library() is not None


def instruction_set() -> str | None:
    """What the kernels in use were compiled for: ``avx512``, ``avx2``, ``baseline``, or None without kernels."""
    library = _library()
    return None if library is None else Path(library._name).name.split(".")[0].lstrip("_")


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
    _function(name, _SUFFIXES[dtype])(*values, torch.get_num_threads())


def topology(edge_index: Tensor, n_atoms: int) -> tuple[Tensor, Tensor, Tensor]:
    """The order of edges, sorted by receiver, as kernels need it.

    Args:
        edge_index: (2, E), senders and receivers.
        n_atoms: N.

    Returns:
        (N + 1,) where each receiver's edges begin, (N + 1,) where each sender's begin in the next, and (E,) the edges
        ordered by sender.

    Raises:
        ValueError: edges that are not sorted by receiver, or whose ends are not among the atoms.
    """
    library = _library()
    assert library is not None, "callers ask available() first"
    senders, receivers = edge_index.to(torch.int64).contiguous()
    offsets, sender_offsets = senders.new_empty(2, n_atoms + 1)
    by_sender = torch.empty_like(senders)
    tensors = (senders, receivers, offsets, sender_offsets, by_sender)
    pointers = [ctypes.c_void_p(tensor.data_ptr()) for tensor in tensors]
    fault = library.gfmpot_topology(ctypes.c_int64(n_atoms), ctypes.c_int64(len(senders)), *pointers)
    if fault == 1:
        raise ValueError("edges must be sorted by receiver, edge_index[1]: sort edge_index and cell_shifts alike")
    if fault == 2:
        raise ValueError(f"edge_index: expected atoms from 0 to {n_atoms - 1}, got others")
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


@functools.cache
def _function(name: str, suffix: str) -> Any:
    library = _library()
    assert library is not None, "callers ask available() first"
    function = getattr(library, f"gfmpot_{name}_{suffix}")
    function.argtypes = [*(_KINDS[letter] for letter in _SIGNATURES[name]), ctypes.c_int]
    function.restype = None
    return function


@functools.cache
def _library() -> ctypes.CDLL | None:
    """The best one for this processor; none is no error, since PyTorch's operations do the same."""
    names = _LIBRARIES.get(torch.backends.cpu.get_cpu_capability(), ("_baseline",))
    folder = Path(__file__).parent
    paths = (folder / f"{name}{suffix}" for name in names for suffix in importlib.machinery.EXTENSION_SUFFIXES)
    return next((library for path in paths if path.exists() and (library := _loaded(path))), None)


def _loaded(path: Path) -> ctypes.CDLL | None:
    try:
        library = ctypes.CDLL(str(path))  # OpenMP's functions come from PyTorch's own runtime, already loaded
        library.gfmpot_sources.restype = ctypes.c_char_p
        compiled_from = library.gfmpot_sources().decode()
    except (OSError, AttributeError) as error:
        _log.warning("kernels are not used, %s cannot be loaded: %s", path.name, error)
        return None
    expected = _fingerprint(path.parent)
    if expected and compiled_from != expected:
        _log.warning("kernels are not used, %s is of other sources: install gfmpot again (pip install -e .)", path.name)
        return None
    return library


def _fingerprint(folder: Path) -> str:
    """As setup.py makes it of the sources; empty where they are not installed."""
    sources = sorted([*folder.glob("*.cpp"), *folder.glob("*.h")])
    text = b"".join(path.read_bytes() for path in sources)
    return f"s{hashlib.sha256(text).hexdigest()[:16]}" if sources else ""
