"""Compiles the kernels, once per instruction set; everything else is in pyproject.toml.

They are optional: without a C++ compiler gfmpot installs and runs all the same, on PyTorch's operations alone.
"""

import platform
import sys

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

SOURCES = ["gfmpot/kernels/edges.cpp", "gfmpot/kernels/messages.cpp", "gfmpot/kernels/products.cpp", "gfmpot/kernels/updates.cpp"]
HEADERS = ["gfmpot/kernels/vectors.h"]
FLAGS = ["-std=c++17", "-O3", "-ffp-contract=fast", "-fno-math-errno", "-fno-trapping-math", "-Wno-psabi"]


def kernels(name: str, vector_bytes: int, *flags: str) -> Extension:
    """The kernels for one instruction set, in a library that is loaded with ctypes."""
    threads = ["-fopenmp"] if sys.platform == "linux" else []
    return Extension(
        f"gfmpot.kernels._{name}",
        SOURCES,
        depends=HEADERS,
        define_macros=[("GFMPOT_VECTOR_BYTES", str(vector_bytes))],
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


class BuildKernels(build_ext):
    """Plain shared libraries: no module initialisation, and their threads are those of PyTorch's OpenMP."""

    def get_export_symbols(self, ext: Extension) -> list[str]:
        """Nothing beyond what the sources declare ``extern "C"``."""
        return []


setup(ext_modules=instruction_sets(), cmdclass={"build_ext": BuildKernels})
