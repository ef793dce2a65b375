"""Compiles the kernels, once per instruction set; everything else is in pyproject.toml.

They are optional: without a C++ compiler (GCC or clang) gfmpot installs and runs all the same, on PyTorch's operations.
The libraries are loaded with ctypes: no module initialisation, no Python or PyTorch headers. Where they use threads,
these are those of PyTorch's own OpenMP, which is loaded already.
"""

import hashlib
import platform
import sys
from pathlib import Path

from setuptools import Extension, setup

FOLDER = Path("gfmpot/kernels")
SOURCES = [str(FOLDER / f"{name}.cpp") for name in ("edges", "messages", "products", "updates", "weights")]
HEADERS = [str(FOLDER / "vectors.h")]
FLAGS = ["-std=c++17", "-O3", "-ffp-contract=fast", "-fno-math-errno", "-fno-trapping-math", "-Wno-psabi"]


def fingerprint() -> str:
    """Of the sources; gfmpot.kernels compares it, so that libraries never run with other code than their own."""
    text = b"".join(Path(path).read_bytes() for path in sorted([*SOURCES, *HEADERS]))
    return hashlib.sha256(text).hexdigest()[:16]


def kernels(name: str, vector_bytes: int, *flags: str) -> Extension:
    """The kernels for one instruction set."""
    threads = ["-fopenmp"] if sys.platform == "linux" else []
    return Extension(
        f"gfmpot.kernels._{name}",
        SOURCES,
        depends=HEADERS,
        define_macros=[("GFMPOT_VECTOR_BYTES", str(vector_bytes)), ("GFMPOT_SOURCES", f"s{fingerprint()}")],
        extra_compile_args=[*FLAGS, *threads, *flags],
        language="c++",
        optional=True,
    )


def instruction_sets() -> list[Extension]:
    """Those that gfmpot.kernels chooses from on this kind of machine."""
    if sys.platform == "win32":  # another compiler with other flags; nobody has tried
        return []
    found = [kernels("baseline", 16)]
    if platform.machine() in ("x86_64", "AMD64"):
        found += [kernels("avx2", 32, "-march=x86-64-v3"), kernels("avx512", 64, "-march=x86-64-v4")]
    return found


setup(ext_modules=instruction_sets())
