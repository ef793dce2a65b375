"""Conversion: complete, resumable, independent of the number of workers, and strict about bad input."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from store_samples import ABOUT, harmonic_frames, write_npz

from gfmpot.data import split_of_group
from gfmpot.data.conversion import Settings, convert, describe
from gfmpot.data.formats.adios import AdiosStore
from gfmpot.data.formats.manifest import Manifest, SplitSettings
from gfmpot.data.frame import Frame, Rejected
from gfmpot.data.plausibility import ImplausibleDataError
from gfmpot.data.reference_energies import ReferenceStatistics, fit_reference_energies
from gfmpot.data.source import Source, build_source
from gfmpot.data.statistics import NOTHING, SplitStatistics, merged
from gfmpot.units import BOHR, HARTREE

pytest.importorskip("adios2", reason="the adios2 wheel is not installed")
HALVES = Settings(split=SplitSettings(valid=0.2, test=0.2))


class InMemory(Source):
    """Frames that a test made; the file only has a name."""

    info = build_source("npz").info
    suffixes = (".toy",)

    def __init__(self, *frames: Frame | Rejected | Exception) -> None:
        self.frames = frames

    def count(self, path: Path) -> int:
        """Number of frames."""
        return len(self.frames)

    def read(self, path: Path, start: int, stop: int) -> Iterator[Frame | Rejected]:
        """One per record."""
        for frame in self.frames[start:stop]:
            if isinstance(frame, Exception):
                raise frame
            yield frame


def run(tmp_path: Path, *frames: Frame | Rejected | Exception, name: str = "frames", **options: Any) -> Manifest:
    file = tmp_path / f"{name}.toy"
    if not file.exists():
        file.touch()  # and never again: parts are kept for the file as it was
    options = {"settings": HALVES, **options}
    return convert(InMemory(*frames), [file], tmp_path / "toy.bp", ABOUT, **options)


def contents(store: Path) -> dict[str, bytes]:
    return {str(path.relative_to(store)): path.read_bytes() for path in sorted(store.rglob("*")) if path.is_file()}


def test_result_is_the_same_for_any_number_of_workers(tmp_path: Path) -> None:
    file = write_npz(tmp_path / "toy.npz", harmonic_frames(200))
    for workers in (1, 2):
        convert(build_source("npz"), [file], tmp_path / f"{workers}.bp", ABOUT, settings=HALVES, workers=workers)
    assert contents(tmp_path / "1.bp") == contents(tmp_path / "2.bp")
    assert not list(tmp_path.glob("*.partial"))


def test_groups_go_where_their_hash_says(tmp_path: Path) -> None:
    run(tmp_path, *harmonic_frames(100), settings=Settings(SplitSettings(0.2, 0.3, seed=4)))
    store = AdiosStore(tmp_path / "toy.bp")
    for name in store.splits:
        groups = set(store.split(name).block(0, store.manifest.counts[name]).group.tolist())
        assert groups
        assert all(split_of_group(group, 0.2, 0.3, seed=4) == name for group in groups)


def test_published_sides_are_kept(tmp_path: Path) -> None:
    frames = harmonic_frames(60)
    placed = [dataclasses.replace(f, split="valid" if i % 2 else "train") for i, f in enumerate(frames[:40])]
    published = Settings(SplitSettings(valid=0.2, test=0.2, published=True))
    manifest = run(tmp_path, *placed, settings=published)
    assert manifest.counts == {"train": 20, "valid": 20}
    mixed = run(tmp_path, *placed, *frames[40:], settings=published, overwrite=True)
    assert mixed.counts["test"] > 0
    with pytest.raises(ValueError, match="no structure says on which side"):
        run(tmp_path, *frames, settings=published, overwrite=True)


BROKEN = {
    "forces are not finite, first in row 1": {"forces": np.array([[0.0, 0, 0], [0, np.nan, 0]])},
    "the energy is inf": {"energy": np.inf},
    "atom 1 has a position that is not finite": {"positions": np.array([[0.0, 0, 0], [np.inf, 0, 0]])},
    "0.01 Å apart": {"positions": np.array([[0.0, 0, 0], [0.01, 0, 0]])},
    "atomic number 119": {"numbers": np.array([1, 119])},
}


def broken(**change: Any) -> Frame:
    whole = Frame(np.array([1, 1]), np.array([[0.0, 0, 0], [0.74, 0, 0]]), -1.0, np.zeros((2, 3)), "h2")
    return dataclasses.replace(whole, **change)


@pytest.mark.parametrize("reason", BROKEN)
def test_a_bad_frame_stops_with_file_record_and_reason(tmp_path: Path, reason: str) -> None:
    frames = harmonic_frames(60)
    frames[37] = broken(**BROKEN[reason])
    with pytest.raises(ValueError, match=rf"frames\.toy: record 37: .*{reason}"):
        run(tmp_path, *frames)
    assert not (tmp_path / "toy.bp").exists()


def test_quarantine_keeps_what_is_bad_and_why(tmp_path: Path) -> None:
    frames: list[Any] = list(harmonic_frames(60))
    frames[7] = broken(energy=np.inf)
    frames[20] = Rejected("frames.toy:20", "not valid JSON")
    frames[59] = OSError("truncated file: expected 100 bytes")
    quarantine = tmp_path / "deep" / "bad.jsonl"
    manifest = run(tmp_path, *frames, quarantine=quarantine)
    assert sum(manifest.counts.values()) == 57
    assert manifest.left_out == {"failed the checks": 1, "unreadable": 2}
    lines = [json.loads(line) for line in quarantine.read_text().splitlines()]
    assert [line["reason"] for line in lines] == [
        "the energy is inf",
        "not valid JSON",
        "the rest could not be read: truncated file: expected 100 bytes",
    ]
    assert lines[0]["where"].endswith("frames.toy: record 7")
    assert lines[0]["frame"]["positions"] == [[0, 0, 0], [0.74, 0, 0]]
    assert lines[0]["frame"]["energy"] is None
    assert (tmp_path / "toy.bp" / "quarantine.jsonl").read_bytes() == quarantine.read_bytes()


def test_parts_are_reused_when_the_quarantine_is_named_afterwards(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    frames = harmonic_frames(60)
    frames[50] = broken(energy=np.inf)
    with pytest.raises(ValueError, match="record 50"):
        run(tmp_path, *frames)
    with caplog.at_level("INFO", "gfmpot"):
        run(tmp_path, *frames, quarantine=tmp_path / "bad.jsonl")
    assert "4 parts, of which 4 were there before" in caplog.text


def test_unreadable_files(tmp_path: Path) -> None:
    good, bad = write_npz(tmp_path / "a.npz", harmonic_frames(60)), tmp_path / "b.npz"
    bad.write_bytes(good.read_bytes()[:-400])
    arguments = (build_source("npz"), [good, bad], tmp_path / "toy.bp", ABOUT)
    with pytest.raises(ValueError, match=r"b\.npz: not a whole \.npz"):
        convert(*arguments, settings=HALVES)
    manifest = convert(*arguments, settings=HALVES, quarantine=tmp_path / "bad.jsonl")
    assert manifest.left_out == {"unreadable file": 1}
    assert "b.npz" in (tmp_path / "bad.jsonl").read_text()


def test_violent_structures_and_rare_elements_are_left_out(tmp_path: Path) -> None:
    frames = harmonic_frames(60)
    frames[3] = dataclasses.replace(frames[3], forces=frames[3].forces + 30.0)
    uranium = Frame(np.array([92, 8]), np.array([[0.0, 0, 0], [1.8, 0, 0]]), -50.0, np.zeros((2, 3)), frames[0].group)
    settings = Settings(HALVES.split, max_force=20.0, min_structures_per_element=3)
    manifest = run(tmp_path, *frames, uranium, uranium, settings=settings)
    assert manifest.left_out == {"large force": 1, "rare element": 2}
    assert "U" not in manifest.e0
    lines = [json.loads(line) for line in (tmp_path / "toy.bp" / "quarantine.jsonl").read_text().splitlines()]
    assert lines[0]["where"].endswith("record 3")
    assert lines[0]["reason"].startswith("a force of 5")
    assert lines[1]["reason"] == "contains U, in fewer than 3 usable training structures"
    assert lines[1]["frame"]["numbers"] == [92, 8]
    assert lines[1]["frame"]["stress"] == [None] * 6


def test_empty_splits_and_other_requests_that_make_no_sense(tmp_path: Path) -> None:
    one_group = [dataclasses.replace(frame, group="the same") for frame in harmonic_frames(20)]
    side = split_of_group("the same", 0.2, 0.2)
    with pytest.raises(ValueError, match=r"split would be empty: 20 structures"):
        run(tmp_path, *one_group)
    assert side == "train"
    assert run(tmp_path, *one_group, settings=Settings(SplitSettings(0.0, 0.0))).counts == {"train": 20}
    with pytest.raises(FileExistsError, match=r"toy\.bp exists"):
        run(tmp_path, *one_group)
    (tmp_path / "toy.bp").rename(tmp_path / "away.bp")
    with pytest.raises(ValueError, match="the files have no records"):
        run(tmp_path)
    with pytest.raises(ValueError, match=r"not one usable structure: .*the energy is inf"):
        run(tmp_path, broken(energy=np.inf), quarantine=tmp_path / "bad.jsonl")
    with pytest.raises(FileNotFoundError, match="nowhere"):
        convert(build_source("npz"), [tmp_path / "nowhere"], tmp_path / "toy.bp", ABOUT)


def test_overwriting_replaces_the_store_at_the_end(tmp_path: Path) -> None:
    run(tmp_path, *harmonic_frames(60))
    before = contents(tmp_path / "toy.bp")
    frames = harmonic_frames(60, seed=1)
    frames[0] = broken(energy=np.inf)
    with pytest.raises(ValueError, match="record 0"):
        run(tmp_path, *frames, overwrite=True, name="other")
    assert contents(tmp_path / "toy.bp") == before
    run(tmp_path, *frames[1:], overwrite=True, name="another")
    assert contents(tmp_path / "toy.bp") != before
    assert not (tmp_path / "toy.bp.partial").exists()


def test_wrong_units_are_caught(tmp_path: Path) -> None:
    frames = harmonic_frames(60)

    def changed(energy: float = 1.0, force: float = 1.0, length: float = 1.0) -> list[Frame]:
        return [
            dataclasses.replace(
                f,
                energy=f.energy * energy,
                forces=f.forces * force,
                positions=f.positions * length,
                cell=f.cell * length,
            )
            for f in frames
        ]

    for wrong, message in (
        (changed(energy=1 / HARTREE), "energies are in Hartree"),
        (changed(force=-1.0), "forces are gradients"),
        (changed(force=BOHR / HARTREE), "forces are in Hartree/Bohr"),
        (changed(length=BOHR), "positions in Å were taken for Bohr"),
        (changed(length=1 / BOHR), "positions in Bohr were taken for Å"),
    ):
        with pytest.raises(ImplausibleDataError, match=message):
            run(tmp_path, *wrong, name=message.replace("/", " "))
    run(tmp_path, *changed(energy=1 / HARTREE), allow_implausible=True)


def test_unrelated_forces_are_no_evidence(tmp_path: Path) -> None:
    """Noise contradicts energies as well, but no unit would mend it."""
    rng = np.random.default_rng(0)
    frames = [dataclasses.replace(f, forces=rng.normal(size=f.forces.shape)) for f in harmonic_frames(60)]
    assert sum(run(tmp_path, *frames).counts.values()) == 60


def test_dissociation_curves_of_dimers_are_no_evidence(tmp_path: Path) -> None:
    pulled = [broken(positions=np.array([[0.0, 0, 0], [2.0 + 0.02 * i, 0, 0]]), group=f"h2 {i}") for i in range(100)]
    assert sum(run(tmp_path, *pulled).counts.values()) == 100


SLOW = """
import time
from pathlib import Path
from gfmpot.data.source import build_source, Source

class Slow(Source):
    info = build_source("npz").info
    suffixes = (".npz",)
    def count(self, path):
        return build_source("npz").count(path)
    def read(self, path, start, stop):
        while start >= 64 and (path.parent / "wait").exists():
            time.sleep(0.05)
        yield from build_source("npz").read(path, start, stop)
"""
CONVERT = """
from pathlib import Path
import slow_source, store_samples, test_conversion
from gfmpot.data.conversion import Settings, convert
convert(slow_source.Slow(), [Path("toy.npz")], Path("toy.bp"), store_samples.ABOUT, settings=test_conversion.HALVES)
"""


def test_killed_conversion_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    write_npz(tmp_path / "toy.npz", harmonic_frames(200))
    (tmp_path / "slow_source.py").write_text(SLOW)
    (tmp_path / "wait").touch()
    paths = os.pathsep.join([str(tmp_path), str(Path(__file__).parent)])
    child = subprocess.Popen([sys.executable, "-c", CONVERT], cwd=tmp_path, env={**os.environ, "PYTHONPATH": paths})
    parts = tmp_path / "toy.bp.partial" / "parts"
    deadline = time.monotonic() + 120
    while len(list(parts.glob("*.npz"))) < 4 and time.monotonic() < deadline:
        time.sleep(0.05)
    child.send_signal(signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL
    assert not (tmp_path / "toy.bp").exists()
    (tmp_path / "wait").unlink()
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    source = __import__("slow_source").Slow()
    for out in ("toy.bp", "whole.bp"):
        with caplog.at_level("INFO", "gfmpot"):
            convert(source, [Path("toy.npz")], Path(out), ABOUT, settings=HALVES)
    assert "13 parts, of which 4 were there before" in caplog.text
    assert "13 parts, of which 0 were there before" in caplog.text
    assert contents(Path("toy.bp")) == contents(Path("whole.bp"))


def test_damaged_parts_are_reported(tmp_path: Path) -> None:
    frames = harmonic_frames(60)
    with pytest.raises(ValueError, match="split would be empty"):
        run(tmp_path, *(dataclasses.replace(frame, group="one") for frame in frames))
    part = next((tmp_path / "toy.bp.partial" / "parts").glob("*.npz"))
    content = bytearray(part.read_bytes())
    content[200] ^= 1
    part.write_bytes(bytes(content))
    with pytest.raises(ValueError, match=r"\.npz is damaged .* delete it and run the conversion again"):
        run(
            tmp_path,
            *(dataclasses.replace(frame, group="one") for frame in frames),
            settings=Settings(SplitSettings(0, 0)),
        )


def test_description_of_generic_and_published_sources(tmp_path: Path) -> None:
    file = tmp_path / "toy.npz"
    meta = json.dumps({"theory": "PBE", "licence": "MIT", "citation": "someone"})
    np.savez(file, meta=meta, natoms=[1])
    about = describe(build_source("npz"), "npz", [file], branch="toy-pbe", theory=None)
    assert (about.branch, about.theory, about.licence, about.citation) == ("toy-pbe", "PBE", "MIT", "someone")
    with pytest.raises(ValueError, match=r"say whose data these are: give, e\.g\., --branch mine-pbe"):
        describe(build_source("npz"), "npz", [file])
    with pytest.raises(ValueError, match=r"give, e\.g\., --theory PBE"):
        describe(build_source("extxyz"), "extxyz", branch="x")
    with pytest.raises(ValueError, match="max_force must be positive"):
        Settings(max_force=0.0)


def composition_and_energies(seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    counts = np.zeros((50, 118))
    counts[:, [0, 5, 7, 34 + seed]] = rng.integers(0, 6, (50, 4))
    counts[:, 0] += 1
    energies = counts @ rng.normal(-500, 300, 118)
    energies[:3] = np.nan
    return counts, energies


def test_reference_statistics_of_parts_fit_as_the_whole() -> None:
    (one, first), (two, second) = composition_and_energies(0), composition_and_energies(1)
    whole = fit_reference_energies(np.concatenate([one, two]), np.concatenate([first, second]))
    parts = ReferenceStatistics.of(one, first) + ReferenceStatistics.of(two, second)
    assert parts.fit() == pytest.approx(whole, abs=1e-8)
    stored = ReferenceStatistics.from_mapping(json.loads(json.dumps(parts.to_mapping())))
    assert stored.fit() == parts.fit()
    with pytest.raises(ValueError, match="no structure has an energy"):
        NOTHING.references.fit()


def test_statistics_add_up_and_survive_json() -> None:
    from gfmpot.data import FrameSet

    frames = harmonic_frames(40)
    whole = SplitStatistics.of(FrameSet.from_frames(frames))
    parts = merged(SplitStatistics.of(FrameSet.from_frames(frames[i : i + 10])) for i in range(0, 40, 10))
    for name in ("structures", "atoms", "largest", "elements", "states", "with_forces", "with_stress", "periodic"):
        assert getattr(parts, name) == getattr(whole, name), name
    assert list(parts.elements) == ["C", "N", "O", "F"]
    assert parts.states == ((-1, 0), (0, 0))
    assert parts.force_rms == pytest.approx(whole.force_rms)
    again = SplitStatistics.from_mapping(json.loads(json.dumps(parts.to_mapping())))
    assert again.to_mapping() == parts.to_mapping()
    with pytest.raises(ValueError, match="unknown 'atom'; did you mean 'atoms'"):
        SplitStatistics.from_mapping({**parts.to_mapping(), "atom": 1})
