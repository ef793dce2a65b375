"""What a published dataset is, how its files are read, and how one is found by its name."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from gfmpot.config import from_mapping
from gfmpot.data.frame import Frame, Rejected
from gfmpot.discovery import available, class_in


@dataclass(frozen=True)
class SourceInfo:
    """What is known about a published dataset."""

    branch: str
    """Name of the branch that learns it, ``<dataset>-<theory>``."""

    title: str
    theory: str
    """Level of theory as verified in the dataset's own publication or documentation."""

    format: str
    """In one line: the published file format."""

    layout: str
    """Where the layout is documented: a citation or address."""

    units: str
    """Units in the files; frames are eV and Å always."""

    charge_spin: str
    """What the files state about charge and multiplicity, and what becomes of it."""

    licence: str
    citation: str
    url: str
    elements: tuple[str, ...] = ()
    """Symbols, where the publishers limit them; empty otherwise."""

    compounds: str = ""
    """Kind of compounds, as in Table II."""

    published_split: str = ""
    """What split the publishers made, if any."""

    paper_theory: str = ""
    """The paper's label in Table II; empty for sources that are not in it."""

    paper_structures: int = 0
    """Samples in Table II; 0 for sources that are not in it."""


class Source(ABC):
    """Reads the files in which a dataset is published.

    A subclass lives in ``gfmpot/data/sources/<name>.py`` and needs no registration: the file's name is the source's
    name. A file is a sequence of records (frames, molecules or trajectories, whatever is cheap to address), so that
    several workers can read one file in parts, and a conversion can resume.
    """

    info: ClassVar[SourceInfo]

    suffixes: ClassVar[tuple[str, ...]]
    """Endings of the files, e.g. ``(".h5", ".hdf5")``; used when a folder is given."""

    def files(self, paths: Sequence[Path]) -> list[Path]:
        """The dataset's files in the given files and folders, folders searched to any depth, in a fixed order.

        Raises:
            FileNotFoundError: a path that does not exist, or a folder without such files.
        """
        found: list[Path] = []
        for path in paths:
            if not path.exists():
                raise FileNotFoundError(f"no file or folder {path}")
            inside = sorted(p for p in path.rglob("*") if self.is_file(p)) if self.is_folder(path) else [path]
            if not inside:
                raise FileNotFoundError(f"{path}: no files ending in {', '.join(self.suffixes)}")
            found += inside
        return found

    def is_file(self, path: Path) -> bool:
        """Whether a path inside a folder is one of the dataset's files (for some formats, e.g. zarr, a folder is)."""
        return path.is_file() and path.name.endswith(self.suffixes)

    def is_folder(self, path: Path) -> bool:
        """Whether a given path is a folder to search, rather than a file of the dataset."""
        return path.is_dir() and not self.is_file(path)

    @abstractmethod
    def count(self, path: Path) -> int:
        """Number of records in a file.

        Raises:
            ValueError: truncated or of another layout; names the file, what was found and what was expected.
        """

    @abstractmethod
    def read(self, path: Path, start: int, stop: int) -> Iterator[Frame | Rejected]:
        """The frames of records ``start`` to ``stop``, in order; what cannot be read comes as :class:`Rejected`.

        Frames need not be checked here beyond what conversion of units and shapes requires: conversion calls
        :meth:`Frame.problem` on each.
        """


def available_sources() -> list[str]:
    """Names of the sources: the files in ``gfmpot.data.sources``."""
    from gfmpot.data import sources

    return available(sources)


def source_class(name: str) -> type[Source]:
    """The source defined in ``gfmpot/data/sources/<name>.py``, imported on demand.

    Raises:
        ValueError: no such file, or a file that does not define exactly one source.
    """
    from gfmpot.data import sources

    return class_in(sources, name, Source, "source")  # type: ignore[type-abstract]


def build_source(name: str, **options: Any) -> Source:
    """The source called ``name``.

    Published datasets take no options; general formats (``extxyz``, ``ase_db`` and more) are dataclasses
    whose fields say what the files do not, e.g. ``build_source("extxyz", energy_unit="Hartree", length_unit="Bohr")``.

    Raises:
        ValueError: no such source, options for a source that has none, or an unknown or ill-typed option.
    """
    cls = source_class(name)
    if dataclasses.is_dataclass(cls):
        return from_mapping(cls, options, where=f"source {name!r}")
    if options:
        raise ValueError(
            f"source {name!r} reads one published dataset, whose units and layout are fixed: it takes no options, got "
            f"{', '.join(sorted(options))}; generic formats such as 'extxyz' take options"
        )
    return cls()
