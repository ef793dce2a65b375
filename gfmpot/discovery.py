"""Parts that are found by their file: one class per module of a package, imported on demand."""

from __future__ import annotations

import importlib
import pkgutil
from types import ModuleType
from typing import TypeVar

from gfmpot.config import did_you_mean

T = TypeVar("T")


def available(package: ModuleType) -> list[str]:
    """Names of the modules of a package that are not private."""
    names = [module.name for module in pkgutil.iter_modules(package.__path__)]
    return sorted(name for name in names if not name.startswith("_"))


def class_in(package: ModuleType, name: str, base: type[T], what: str) -> type[T]:
    """The subclass of ``base`` that the module ``name`` of a package defines; ``what`` it is called in errors.

    Raises:
        ValueError: no such module, or one that does not define exactly one such class.
    """
    known = available(package)
    if name not in known:
        raise ValueError(f"no {what} {name!r}{did_you_mean(name, known)}")
    module = importlib.import_module(f"{package.__name__}.{name}")
    classes = [value for value in vars(module).values() if isinstance(value, type) and issubclass(value, base)]
    found = [cls for cls in classes if cls.__module__ == module.__name__]
    if len(found) != 1:
        raise ValueError(f"{module.__file__} must define one subclass of {base.__name__}, found {len(found)}")
    return found[0]
