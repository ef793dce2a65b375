from __future__ import annotations

import errno
import logging
import os
import signal
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from gfmpot.config import from_mapping
from gfmpot.data import copying, staged_bundle
from gfmpot.data.staging import StageConfig, Staged, stage, stage_environment

PLENTY = 10**9


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """A folder as ADIOS2 writes them, with an empty file and one below."""
    folder = tmp_path / "shared" / "OUT.bp"
    (folder / "train").mkdir(parents=True)
    (folder / "md.idx").write_bytes(b"index")
    (folder / "empty").touch()
    for i in range(3):
        (folder / "train" / f"data.{i}").write_bytes(bytes([i]) * 1000 + os.urandom(9000))
    return folder


@pytest.fixture
def scratch(tmp_path: Path) -> Path:
    folder = tmp_path / "scratch"
    folder.mkdir()
    return folder


@pytest.fixture
def messages(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.INFO, logger="gfmpot.data")
    return caplog


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def left_in(scratch: Path) -> list[str]:
    return sorted(str(p.relative_to(scratch)) for p in scratch.glob("gfmpot-staged-*/*"))


def wait_for(text: str, process: subprocess.Popen[str]) -> None:
    assert process.stdout is not None
    for line in process.stdout:
        if text in line:
            return
    raise AssertionError(f"ended without saying {text!r}")


def python(code: str, *arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


@pytest.mark.parametrize("chunk", [copying.CHUNK, 777])  # whole files, and pieces of them in many threads
def test_copies_and_removes(bundle: Path, scratch: Path, monkeypatch: pytest.MonkeyPatch, chunk: int) -> None:
    monkeypatch.setattr(copying, "CHUNK", chunk)
    with stage([bundle], scratch, max_bytes=PLENTY) as staged:
        (path,) = staged.paths
        assert path.name == "OUT.bp"
        assert scratch in path.parents
        assert contents(path) == contents(bundle)
        assert path.joinpath("md.idx").stat().st_mtime_ns == bundle.joinpath("md.idx").stat().st_mtime_ns
    assert left_in(scratch) == []
    assert contents(bundle)


def test_single_file(tmp_path: Path, scratch: Path) -> None:
    file = tmp_path / "set.aselmdb"
    file.write_bytes(b"1234")
    with stage([str(file)], str(scratch), max_bytes=PLENTY) as staged:
        assert staged.paths[0].name == "set.aselmdb"
        assert staged.paths[0].read_bytes() == b"1234"


def test_links_are_copied_as_files(bundle: Path, tmp_path: Path, scratch: Path) -> None:
    view = tmp_path / "view"
    view.mkdir()
    view.joinpath("part").symlink_to(bundle / "train")
    with stage([view], scratch, max_bytes=PLENTY) as staged:
        assert contents(staged.paths[0] / "part") == contents(bundle / "train")
        assert not staged.paths[0].joinpath("part").is_symlink()


def test_without_scratch(bundle: Path, scratch: Path) -> None:
    with StageConfig().stage([bundle]) as staged:
        assert staged.paths == (bundle,)
    assert left_in(scratch) == []


def test_threshold(bundle: Path, scratch: Path, messages: pytest.LogCaptureFixture) -> None:
    size = sum(len(content) for content in contents(bundle).values())
    with stage([bundle], scratch, max_bytes=size - 1) as staged:
        assert staged.paths == (bundle,)
    assert "above the limit" in messages.text
    with stage([bundle], scratch, max_bytes=size) as staged:
        assert staged.paths != (bundle,)


def test_threshold_is_per_bundle(bundle: Path, scratch: Path, tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.write_bytes(b"x")
    with stage([bundle, small], scratch, max_bytes=100) as staged:
        assert staged.paths[0] == bundle
        assert scratch in staged.paths[1].parents


def test_full_disk(
    bundle: Path, scratch: Path, monkeypatch: pytest.MonkeyPatch, messages: pytest.LogCaptureFixture
) -> None:
    usage = staged_bundle.shutil.disk_usage(scratch)._replace(free=100)
    monkeypatch.setattr(staged_bundle.shutil, "disk_usage", lambda path: usage)
    with stage([bundle], scratch, max_bytes=PLENTY) as staged:
        assert staged.paths == (bundle,)
    assert "are needed, 0.00 are free" in messages.text
    assert left_in(scratch) == []


def test_disk_fills_up(bundle: Path, scratch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    transfer = copying._Job._transfer

    def full(job: copying._Job, start: int, length: int) -> int:
        if job.source.name == "data.1":
            raise OSError(errno.ENOSPC, "No space left on device")
        return transfer(job, start, length)

    monkeypatch.setattr(copying._Job, "_transfer", full)
    with stage([bundle], scratch, max_bytes=PLENTY) as staged:
        assert staged.paths == (bundle,)
    assert left_in(scratch) == []


def test_other_errors_are_raised(bundle: Path, scratch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(job: copying._Job, start: int, length: int) -> int:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(copying._Job, "_transfer", broken)
    with pytest.raises(OSError, match="Input/output error"):
        stage([bundle], scratch, max_bytes=PLENTY)
    assert left_in(scratch) == []


def test_changed_while_copied(bundle: Path, scratch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    transfer = copying._Job._transfer

    def writer_at_work(job: copying._Job, start: int, length: int) -> int:
        bundle.joinpath("train", "data.3").write_bytes(b"new")
        return transfer(job, start, length)

    monkeypatch.setattr(copying._Job, "_transfer", writer_at_work)
    with pytest.raises(OSError, match="changed while it was copied"):
        stage([bundle], scratch, max_bytes=PLENTY)


def test_reused_while_others_use_it(bundle: Path, scratch: Path, messages: pytest.LogCaptureFixture) -> None:
    first = stage([bundle], scratch, max_bytes=PLENTY)
    written = first.paths[0].joinpath("md.idx").stat().st_ctime_ns
    second = stage([bundle], scratch, max_bytes=PLENTY)
    assert second.paths == first.paths
    assert "staged already" in messages.text
    assert first.paths[0].joinpath("md.idx").stat().st_ctime_ns == written
    first.release()
    first.release()  # a second time does nothing
    assert contents(second.paths[0]) == contents(bundle)
    second.release()
    assert left_in(scratch) == []


def test_keep(bundle: Path, scratch: Path, messages: pytest.LogCaptureFixture) -> None:
    with stage([bundle], scratch, max_bytes=PLENTY, keep=True) as staged:
        path = staged.paths[0]
    assert contents(path) == contents(bundle)
    with stage([bundle], scratch, max_bytes=PLENTY):  # a later job that does not keep its own
        assert "staged already" in messages.text
    assert path.exists()


@pytest.mark.parametrize("damage", ["truncated", "missing", "manifest", "manifest gone"])
def test_damaged_copy_is_made_anew(
    bundle: Path, scratch: Path, messages: pytest.LogCaptureFixture, damage: str
) -> None:
    path = stage([bundle], scratch, max_bytes=PLENTY, keep=True)
    path.release()
    data = path.paths[0] / "train" / "data.1"
    manifest = path.paths[0].parent / staged_bundle.MANIFEST
    {
        "truncated": lambda: os.truncate(data, 10),
        "missing": data.unlink,
        "manifest": lambda: os.truncate(manifest, 10),
        "manifest gone": manifest.unlink,
    }[damage]()
    with stage([bundle], scratch, max_bytes=PLENTY) as staged:
        assert contents(staged.paths[0]) == contents(bundle)
    assert "made anew" in messages.text


def test_flipped_byte_needs_a_thorough_look(
    bundle: Path, scratch: Path, messages: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(copying, "CHUNK", 777)
    with stage([bundle], scratch, max_bytes=PLENTY, keep=True) as staged:
        data = staged.paths[0] / "train" / "data.1"
    stat, content = data.stat(), bytearray(data.read_bytes())
    content[5000] ^= 1
    data.write_bytes(content)
    os.utime(data, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    with stage([bundle], scratch, max_bytes=PLENTY) as staged:
        assert contents(staged.paths[0]) != contents(bundle)
    with stage([bundle], scratch, max_bytes=PLENTY, thorough=True) as staged:
        assert contents(staged.paths[0]) == contents(bundle)
    assert "train/data.1 has other checksums" in messages.text


def test_damaged_copy_in_use_is_left_alone(bundle: Path, scratch: Path, messages: pytest.LogCaptureFixture) -> None:
    with stage([bundle], scratch, max_bytes=PLENTY) as first:
        first.paths[0].joinpath("md.idx").unlink()
        with stage([bundle], scratch, max_bytes=PLENTY) as second:
            assert second.paths == (bundle,)
    assert "but others read it" in messages.text


def test_original_changed(bundle: Path, scratch: Path) -> None:
    stage([bundle], scratch, max_bytes=PLENTY, keep=True).release()
    bundle.joinpath("train", "data.2").unlink()
    bundle.joinpath("md.idx").write_bytes(b"other")
    with stage([bundle], scratch, max_bytes=PLENTY) as staged:
        assert contents(staged.paths[0]) == contents(bundle)


def test_same_name_elsewhere(bundle: Path, scratch: Path, tmp_path: Path) -> None:
    other = tmp_path / "other" / "OUT.bp"
    other.mkdir(parents=True)
    other.joinpath("x").write_bytes(b"x")
    with stage([bundle, other], scratch, max_bytes=PLENTY) as staged:
        assert [contents(path) for path in staged.paths] == [contents(bundle), contents(other)]


def test_failure_of_a_later_bundle_releases_earlier_ones(
    bundle: Path, scratch: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writing = tmp_path / "writing"
    writing.mkdir()
    writing.joinpath("a").write_bytes(b"a")
    transfer = copying._Job._transfer

    def broken(job: copying._Job, start: int, length: int) -> int:
        if job.source.parent == writing:
            raise OSError(errno.EIO, "Input/output error")
        return transfer(job, start, length)

    monkeypatch.setattr(copying._Job, "_transfer", broken)
    with pytest.raises(OSError, match="Input/output error"):
        stage([bundle, writing], scratch, max_bytes=PLENTY)
    assert left_in(scratch) == []
    with pytest.raises(FileNotFoundError, match="nowhere"):
        stage([bundle, tmp_path / "nowhere"], scratch, max_bytes=PLENTY)
    assert left_in(scratch) == []


RACE = """
import logging, sys, time
logging.basicConfig(level=logging.INFO, stream=sys.stdout)
from gfmpot.data import copying
from gfmpot.data.staging import stage
transfer = copying._Job._transfer
def slow(job, start, length):
    time.sleep(0.3)
    return transfer(job, start, length)
copying._Job._transfer = slow
print("ready", flush=True)
sys.stdin.readline()
with stage([sys.argv[1]], sys.argv[2], max_bytes=10**9, threads=1) as staged:
    print("read", sum(len(p.read_bytes()) for p in staged.paths[0].rglob("*") if p.is_file()), flush=True)
    time.sleep(float(sys.argv[3]))
    print("read again", sum(len(p.read_bytes()) for p in staged.paths[0].rglob("*") if p.is_file()), flush=True)
"""


def test_processes_of_a_node_race(bundle: Path, scratch: Path) -> None:
    """One copies, the others wait for it and read its copy, and the last removes it."""
    command = [sys.executable, "-u", "-c", RACE, str(bundle), str(scratch)]
    pipe = subprocess.PIPE
    ranks = [
        subprocess.Popen([*command, wait], stdin=pipe, stdout=pipe, stderr=subprocess.STDOUT, text=True)
        for wait in ("0", "0.5", "0.2")
    ]
    for rank in ranks:
        wait_for("ready", rank)
    for rank in ranks:
        assert rank.stdin is not None
        rank.stdin.write("\n")
        rank.stdin.flush()
    output = [rank.communicate(timeout=60)[0] for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0, 0, 0], output
    size = sum(len(content) for content in contents(bundle).values())
    assert all(f"read {size}" in text and f"read again {size}" in text for text in output)
    everything = "".join(output)
    assert everything.count(":staging ") == 1, everything
    reused = [text for text in output if "staged already" in text]
    assert len(reused) == 2, everything
    assert all("waiting for another process" in text for text in reused), everything
    assert left_in(scratch) == []


KILLED = """
import sys, time
from gfmpot.data import copying
from gfmpot.data.staging import stage
transfer = copying._Job._transfer
def slow(job, start, length):
    if job.source.name == "data.2":
        with job._part.open("r+b") as file:
            file.write(b"half")
        print("half way", flush=True)
        time.sleep(60)
    return transfer(job, start, length)
copying._Job._transfer = slow
stage([sys.argv[1]], sys.argv[2], max_bytes=10**9, threads=1)
"""


def test_killed_in_the_middle(bundle: Path, scratch: Path) -> None:
    process = python(KILLED, bundle, scratch)
    wait_for("half way", process)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    (partial,) = scratch.glob("*/*/bundle.partial")
    assert not partial.with_name("bundle").exists()
    finished = partial / "OUT.bp" / "train" / "data.1"
    inode = finished.stat().st_ino
    with stage([bundle], scratch, max_bytes=PLENTY) as staged:
        assert contents(staged.paths[0]) == contents(bundle)
        assert staged.paths[0].joinpath("train", "data.1").stat().st_ino == inode  # not copied twice
    assert left_in(scratch) == []


def test_killed_and_original_changed(bundle: Path, scratch: Path) -> None:
    """What was copied of files that are gone does not get into the bundle."""
    process = python(KILLED, bundle, scratch)
    wait_for("half way", process)
    process.kill()
    process.communicate()
    bundle.joinpath("train", "data.0").unlink()
    with stage([bundle], scratch, max_bytes=PLENTY) as staged:
        assert contents(staged.paths[0]) == contents(bundle)


def test_user_killed_does_not_block_removal(bundle: Path, scratch: Path) -> None:
    code = (
        "import sys, time; from gfmpot.data.staging import stage\n"
        "s = stage([sys.argv[1]], sys.argv[2], max_bytes=10**9); print('using', flush=True); time.sleep(60)"
    )
    process = python(code, bundle, scratch)
    wait_for("using", process)
    with stage([bundle], scratch, max_bytes=PLENTY):
        process.kill()
        process.communicate()
    assert left_in(scratch) == []


@pytest.fixture
def environment(tmp_path: Path) -> Path:
    folder = tmp_path / "env"
    (folder / "bin").mkdir(parents=True)
    folder.joinpath("bin", "run").write_text("#!/bin/sh\necho yes\n")
    folder.joinpath("bin", "run").chmod(0o755)
    folder.joinpath("bin", "python").symlink_to("/nowhere/python3")
    tarball = tmp_path / "env-1.2.tar.gz"
    with tarfile.open(tarball, "w:gz") as archive:
        archive.add(folder, arcname=".")
    return tarball


def test_environment(environment: Path, scratch: Path, messages: pytest.LogCaptureFixture) -> None:
    with stage_environment(environment, scratch, max_bytes=PLENTY) as staged:
        (folder,) = staged.paths
    assert folder.name == "env-1.2"
    assert subprocess.run([folder / "bin" / "run"], capture_output=True, text=True, check=True).stdout == "yes\n"
    assert folder.joinpath("bin", "python").is_symlink()
    folder.joinpath("bin", "cache.pyc").touch()  # an environment in use gains files
    with stage_environment(environment, scratch, max_bytes=PLENTY, keep=False) as again:
        assert again.paths == (folder,)
    assert "staged already" in messages.text


def test_environment_removed_when_not_kept(environment: Path, scratch: Path) -> None:
    with stage_environment(environment, scratch, max_bytes=PLENTY, keep=False) as staged:
        assert staged.paths[0].is_dir()
    assert left_in(scratch) == []


def test_environment_above_the_threshold(environment: Path, scratch: Path) -> None:
    with stage_environment(environment, scratch, max_bytes=3) as staged:
        assert staged.paths == (environment,)


def test_bad_tarballs(tmp_path: Path, scratch: Path, environment: Path) -> None:
    broken = tmp_path / "broken.tar.gz"
    broken.write_bytes(environment.read_bytes()[:150])
    with pytest.raises(ValueError, match=r"broken\.tar\.gz"):
        stage_environment(broken, scratch, max_bytes=PLENTY)
    outside = tmp_path / "outside.tar"
    with tarfile.open(outside, "w") as archive:
        archive.add(environment, arcname="../../evil")
    with pytest.raises(ValueError, match="outside the destination"):
        stage_environment(outside, scratch, max_bytes=PLENTY)
    assert left_in(scratch) == []


def test_scratch_is_checked(bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(FileNotFoundError, match="node-local storage"):
        stage([bundle], tmp_path / "none", max_bytes=PLENTY)
    monkeypatch.delenv("NO_SUCH_SCRATCH", raising=False)
    with pytest.raises(ValueError, match="not set"):
        stage([bundle], "$NO_SUCH_SCRATCH", max_bytes=PLENTY)
    monkeypatch.setenv("NO_SUCH_SCRATCH", str(tmp_path))
    with stage([bundle], "$NO_SUCH_SCRATCH", max_bytes=PLENTY) as staged:
        assert tmp_path in staged.paths[0].parents


def test_config(bundle: Path, scratch: Path) -> None:
    config = from_mapping(StageConfig, {"scratch": str(scratch), "max_gb": 1e-6, "keep": True})
    with config.stage([bundle]) as staged:
        assert staged.paths == (bundle,)  # 30 kB, allowed 1
    with from_mapping(StageConfig, {"scratch": str(scratch), "keep": True}).stage([bundle]) as staged:
        assert isinstance(staged, Staged)
    assert staged.paths[0].exists()
