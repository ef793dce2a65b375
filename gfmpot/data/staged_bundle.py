"""One bundle on a node's own disk: who makes it, who uses it, whether it is intact, who removes it.

A bundle has a folder ``<name>-<key>`` and, beside it, a lock ``<name>-<key>.lock``, held by whoever changes something.
In the folder are::

    bundle.partial/ being made; source.json beside it says from what
    bundle/         complete, with a manifest: bundle.partial under another name
    users           every process that reads the bundle holds a shared lock on it
    keep            there if someone asked that the bundle be kept
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import logging
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from gfmpot.data.copying import Stamp, checksums, stamps

log = logging.getLogger(__name__)

MANIFEST = "gfmpot-staged.json"
GIB = 2**30


@dataclass(frozen=True)
class Limits:
    """What is staged, and for how long."""

    max_bytes: int
    keep: bool
    thorough: bool


@dataclass(frozen=True)
class Bundle:
    """What is to be staged."""

    source: Path
    name: str
    """Of the file or folder that comes of it."""

    stamps: Mapping[str, Stamp]
    """Of the source's files."""

    fill: Callable[[Path], dict[str, list[int]]]
    """Makes it in a folder, which may hold the beginning of it; returns the checksums of every file."""

    @property
    def size(self) -> int:
        """Bytes of the source."""
        return sum(stamp.size for stamp in self.stamps.values())

    def lease(self, root: Path, limits: Limits) -> Lease | None:
        """The right to read the bundle in ``root``, where it is made if need be; None if it is not to be staged."""
        if self.size > limits.max_bytes:
            log.info(
                "not staged: %s has %.2f GiB, above the limit of %.2f; it is read where it is",
                self.source,
                self.size / GIB,
                limits.max_bytes / GIB,
            )
            return None
        place = Place(root, self)
        with place.locked():
            ready = place.make_ready(limits)
            return Lease(place, limits.keep) if ready else None


class Place:
    """Where a bundle is on the node."""

    def __init__(self, root: Path, bundle: Bundle) -> None:
        key = hashlib.sha256(str(bundle.source.resolve()).encode()).hexdigest()[:12]
        self.bundle = bundle
        self.folder = root / f"{bundle.name}-{key}"
        self.complete = self.folder / "bundle"
        self.partial = self.folder / "bundle.partial"
        self.users = self.folder / "users"
        self.kept = self.folder / "keep"
        self._lock = root / f"{bundle.name}-{key}.lock"

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Alone on this node in changing the place."""
        while True:
            with self._lock.open("a") as handle:
                _lock(handle, self.bundle.source)
                if not _same_file(handle, self._lock):
                    continue  # removed by the last user while this process waited for it
                yield
                return

    def make_ready(self, limits: Limits) -> bool:
        """Make the bundle unless it is there and intact; whether it is there now. The lock must be held."""
        if self.complete.exists():
            damage = self.damage(thorough=limits.thorough)
            if damage is None:
                log.info("staged already: %s", self.complete / self.bundle.name)
                return True
            if self.in_use():
                log.warning("%s: %s, but others read it; %s is read instead", self.complete, damage, self.bundle.source)
                return False
            log.warning("%s: %s; made anew", self.complete, damage)
            shutil.rmtree(self.complete)
        return self._make()

    def damage(self, *, thorough: bool) -> str | None:
        """What is wrong with the bundle, or None."""
        try:
            stated: dict[str, Any] = json.loads((self.complete / MANIFEST).read_text())
        except (FileNotFoundError, ValueError):
            return f"no readable {MANIFEST}"
        if stated["source"] != _plain(self.bundle.stamps):
            return "the original has changed since"
        there = _plain(stamps(self.complete, follow=False))
        for name, stamp in stated["files"].items():
            if (got := there.get(f"{self.complete.name}/{name}")) != stamp:
                return f"{name} has size and time {got}, expected {stamp}"
        for name, sums in stated["checksums"].items() if thorough else ():
            if checksums(self.complete / name) != sums:
                return f"{name} has other checksums than the original"
        return None

    def in_use(self) -> bool:
        """Whether a process reads the bundle. The lock must be held."""
        if not self.users.exists():
            return False
        with self.users.open("a") as handle:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
        return False

    def remove(self) -> None:
        """Remove everything, the lock last. The lock must be held."""
        shutil.rmtree(self.folder)
        self._lock.unlink()

    def _make(self) -> bool:
        self._begin()
        try:
            self._check_room()
            log.info("staging %s in %s", self.bundle.source, self.folder)
            self._publish(self.bundle.fill(self.partial))
        except OSError as error:
            self.remove()
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            log.warning("not staged: %s; %s is read where it is", error, self.bundle.source)
            return False
        except Exception:
            self.remove()
            raise
        return True

    def _begin(self) -> None:
        """Keep what a process that was killed left behind, if it was making the same."""
        origin = self.folder / "source.json"
        stated = json.dumps(_plain(self.bundle.stamps))
        if not origin.exists() or origin.read_text() != stated:
            shutil.rmtree(self.partial, ignore_errors=True)
        self.partial.mkdir(parents=True, exist_ok=True)
        origin.write_text(stated)

    def _check_room(self) -> None:
        there = sum(stamp.size for stamp in stamps(self.partial, follow=False).values())
        free = shutil.disk_usage(self.partial).free
        if self.bundle.size - there > free:
            raise OSError(
                errno.ENOSPC,
                f"{self.bundle.size / GIB:.2f} GiB are needed, {free / GIB:.2f} are free",
                str(self.folder),
            )

    def _publish(self, sums: dict[str, list[int]]) -> None:
        if stamps(self.bundle.source) != self.bundle.stamps:
            raise OSError(f"{self.bundle.source} changed while it was copied; stage it when nothing writes there")
        files = _plain(stamps(self.partial / self.bundle.name, follow=False))
        manifest = {"source": _plain(self.bundle.stamps), "files": files, "checksums": sums}
        (self.partial / MANIFEST).write_text(json.dumps(manifest))
        self.partial.rename(self.complete)


class Lease:
    """A process's right to read a bundle: while it lasts, nobody removes the bundle."""

    def __init__(self, place: Place, keep: bool) -> None:
        """The lock of ``place`` must be held."""
        self.path = place.complete / place.bundle.name
        self._place = place
        self._users: IO[str] | None = place.users.open("a")
        fcntl.flock(self._users, fcntl.LOCK_SH)
        if keep:
            place.kept.touch()

    def release(self) -> None:
        """Give the right back; the last to do so removes the bundle, unless someone wanted it kept."""
        if self._users is None:
            return
        with self._place.locked():
            self._users.close()
            self._users = None
            if not self._place.kept.exists() and not self._place.in_use():
                self._place.remove()


def _plain(found: Mapping[str, Stamp]) -> dict[str, list[int]]:
    """As it comes out of JSON."""
    return {name: list(stamp) for name, stamp in found.items()}


def _lock(handle: IO[str], what: Path) -> None:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        log.info("waiting for another process on this node, which stages or removes %s", what)
        fcntl.flock(handle, fcntl.LOCK_EX)


def _same_file(handle: IO[str], path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle.fileno()), path.stat())
    except FileNotFoundError:
        return False
