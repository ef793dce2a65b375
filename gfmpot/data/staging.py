"""Copies of datasets and environments on a node's own disk, made once per node before training starts.

The paper (§V-B) broadcasts dataset bundles and environment tarballs to every node's burst buffer, and leaves out
datasets above a size threshold. Here the first process of a node copies while its others wait for a lock, so that it
works under any launcher and without one. Locks are the kernel's (``flock``): a process that dies gives them back, and
the next takes the copy up where it was left.
"""

from __future__ import annotations

import os
import shutil
import socket
import tarfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from gfmpot.data.copying import checksums, copy, stamps
from gfmpot.data.staged_bundle import Bundle, Lease, Limits

GB = 10**9
THREADS = 8
"""For copying: parallel file systems give one stream a fraction of what they have."""


@dataclass(frozen=True)
class StageConfig:
    """Whether and where to stage."""

    scratch: str | None = None
    """Folder on the node's own disk, e.g. ``/mnt/bb/$USER``; without it nothing is staged."""

    max_gb: float = 500.0
    """Larger bundles are read where they are."""

    keep: bool = False
    """Whether copies stay for later jobs on the node."""

    def stage(self, paths: Iterable[str | Path]) -> Staged:
        """See :func:`stage`."""
        return stage(paths, self.scratch, max_bytes=int(self.max_gb * GB), keep=self.keep)


class Staged:
    """Where to read until :meth:`release`; as a context manager it releases at the end."""

    def __init__(self, paths: Sequence[Path], leases: Sequence[Lease]) -> None:
        self.paths = tuple(paths)
        """In the order given: copies, or the originals of those that were not staged."""
        self._leases = tuple(leases)

    def release(self) -> None:
        """Stop using the copies; the last process of the node to do so removes those that need not be kept."""
        for lease in self._leases:
            lease.release()

    def __enter__(self) -> Staged:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


def stage(
    paths: Iterable[str | Path],
    scratch: str | Path | None,
    *,
    max_bytes: int,
    keep: bool = False,
    thorough: bool = False,
    threads: int = THREADS,
) -> Staged:
    """Copy bundles (files or folders such as ``OUT.bp``) to the node's own disk, once per node.

    Every process of the node calls this, and all return when the copies are complete. A copy that is there already is
    used if its files have the sizes and time stamps they had, and the original's have not changed since.

    Args:
        paths: the bundles.
        scratch: folder on the node's own disk (network file systems may not honour the locks), in which environment
            variables are replaced; None stages nothing.
        max_bytes: larger bundles are not staged, nor are those for which the disk has no room.
        keep: leave the copies for later jobs.
        thorough: also compare the checksums of a copy that is there already, which reads all of it.
        threads: for copying.

    Raises:
        FileNotFoundError: a bundle or ``scratch`` does not exist.
        OSError: reading or writing failed, other than for want of room.
    """
    sources = [Path(path).absolute() for path in paths]
    bundles = [Bundle(path, path.name, stamps(path), partial(copy, path, threads=threads)) for path in sources]
    return _stage(bundles, scratch, Limits(max_bytes, keep, thorough))


def stage_environment(tarball: str | Path, scratch: str | Path | None, *, max_bytes: int, keep: bool = True) -> Staged:
    """Unpack a tarball (``.tar``, ``.tar.gz``, ``.tar.bz2``, ``.tar.xz``) on the node's own disk, once per node.

    The path that comes back is the folder into which it was unpacked, or the tarball itself if it was not staged. An
    environment is in use by processes that hold no lock, so it is kept unless told otherwise.

    Args:
        tarball: e.g. made by ``conda-pack`` or ``tar -C ENV -czf env.tar.gz .``.
        scratch: as for :func:`stage`.
        max_bytes: larger tarballs are not unpacked.
        keep: leave the folder for later.

    Raises:
        FileNotFoundError: ``tarball`` or ``scratch`` does not exist.
        ValueError: not a tarball, or one that would write outside the folder.
        OSError: reading or writing failed, other than for want of room.
    """
    path = Path(tarball).absolute()
    name = path.name.partition(".tar")[0]
    bundle = Bundle(path, name, stamps(path), lambda folder: _unpack(path, folder / name))
    return _stage([bundle], scratch, Limits(max_bytes, keep, thorough=False))


def _stage(bundles: Sequence[Bundle], scratch: str | Path | None, limits: Limits) -> Staged:
    originals = [bundle.source for bundle in bundles]
    if scratch is None:
        return Staged(originals, [])
    root = scratch_folder(scratch)
    leases: list[Lease] = []
    paths: list[Path] = []
    try:
        for bundle in bundles:
            lease = bundle.lease(root, limits)
            leases += [lease] if lease else []
            paths.append(lease.path if lease else bundle.source)
    except BaseException:
        Staged(paths, leases).release()
        raise
    return Staged(paths, leases)


def scratch_folder(scratch: str | Path) -> Path:
    """The folder for staged bundles of this user in ``scratch``; made if it is not there.

    Raises:
        FileNotFoundError: ``scratch`` does not exist.
        ValueError: it names an environment variable that is not set.
        PermissionError: the folder belongs to another user.
    """
    expanded = os.path.expandvars(str(scratch))
    if "$" in expanded:
        raise ValueError(f"scratch is {expanded}: that variable is not set on {socket.gethostname()}; give a folder")
    if not Path(expanded).is_dir():
        raise FileNotFoundError(
            f"no folder {expanded} on {socket.gethostname()}; ask the scheduler for node-local storage (on Frontier: "
            "-C nvme), or set scratch to null to read datasets where they are"
        )
    root = Path(expanded) / f"gfmpot-staged-{os.getuid()}"
    root.mkdir(mode=0o700, exist_ok=True)
    if root.stat().st_uid != os.getuid():
        raise PermissionError(f"{root} belongs to another user; remove it, or give another scratch folder")
    return root


def _unpack(tarball: Path, folder: Path) -> dict[str, list[int]]:
    """Unpack and return the checksums of each file."""
    if folder.exists():  # left by a process that was killed
        shutil.rmtree(folder)
    folder.mkdir()
    try:
        with tarfile.open(tarball) as archive:
            archive.extractall(folder, filter="tar")  # keeps absolute links, which environments have
    except (tarfile.TarError, EOFError) as error:
        raise ValueError(f"{tarball}: {error}; expected a complete tarball whose files stay in its folder") from error
    return {name: checksums(folder.parent / name) for name in stamps(folder, follow=False)}
