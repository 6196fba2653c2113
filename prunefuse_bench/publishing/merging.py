"""Submissions of many people as run folders, side by side."""

from __future__ import annotations

import itertools
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from prunefuse_bench.atomic import make_folder
from prunefuse_bench.errors import BadInput, CannotWrite
from prunefuse_bench.publishing.archives import Refused, shown
from prunefuse_bench.publishing.verification import Submission, Summary, verify

__all__ = ["Accepted", "Merged", "merge"]


@dataclass(frozen=True)
class Accepted:
    """A submission that was verified and written: the file, the folder of its run, and what it holds."""

    file: Path
    run: Path
    summary: Summary


@dataclass(frozen=True)
class Merged:
    """What became of every file.

    Attributes:
        accepted: in order of the files; submissions of one grid stay runs of their own, never mixed.
        refused: (file, reason); the reason is safe to print.
        duplicates: (file, the file before it that has the same content).
        notes: what to mind when they are compared.
    """

    accepted: tuple[Accepted, ...]
    refused: tuple[tuple[Path, str], ...]
    duplicates: tuple[tuple[Path, Path], ...]
    notes: tuple[str, ...]

    @property
    def runs(self) -> tuple[Path, ...]:
        """Folders of the accepted runs, those of one grid together, for :func:`write_leaderboard` and others."""
        grids = list(dict.fromkeys(one.summary.grid for one in self.accepted))
        return tuple(one.run for one in sorted(self.accepted, key=lambda one: grids.index(one.summary.grid)))


def merge(files: Sequence[Path], out: Path) -> Merged:
    """Verify submissions and write each as the folder ``out/runs/GRID/SUBMISSION`` of a run.

    GRID and SUBMISSION are the first 16 digits of the hashes of the grid and of the content: two submitters of the same
    grid have folders side by side. A file that is refused leaves nothing behind. What is there already is kept.

    Raises:
        BadInput: ``out`` cannot be made, or holds something else where a run belongs.
        CannotWrite: the disk is full or the folder cannot be written.
    """
    accepted: list[Accepted] = []
    refused: list[tuple[Path, str]] = []
    duplicates: list[tuple[Path, Path]] = []
    make_folder(out / "runs")
    for file in files:
        try:
            submission = verify(file)
        except Refused as error:
            refused.append((file, str(error)))
            continue
        summary = submission.summary
        same = next((one.file for one in accepted if one.summary.hash == summary.hash), None)
        if same is not None:
            duplicates.append((file, same))
            continue
        run = out / "runs" / summary.grid[:16] / summary.hash[:16]
        _write(submission, run)
        accepted.append(Accepted(file, run, summary))
    return Merged(tuple(accepted), tuple(refused), tuple(duplicates), tuple(_notes(accepted)))


def _write(submission: Submission, run: Path) -> None:
    """The whole folder or none of it."""
    if run.exists():
        for name, content in submission.files():
            if not (run / name).is_file() or (run / name).read_bytes() != content:
                raise BadInput(f"{run}: expected the records of this submission, but {name} differs; remove the folder")
        return
    try:
        run.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".merging-", dir=run.parent) as folder:
            submission.write(Path(folder) / run.name)
            shutil.move(Path(folder) / run.name, run)
    except OSError as error:
        raise CannotWrite(f"{run} cannot be written ({error})") from error


def _notes(accepted: Sequence[Accepted]) -> Iterator[str]:
    for one, before in itertools.combinations(reversed(accepted), 2):
        if shared := len(one.summary.round_hashes & before.summary.round_hashes):
            yield (
                f"{shown(one.file.name)}: {shared} of its {one.summary.rounds} rounds are those of "
                f"{shown(before.file.name)} to the byte: one has copied results of the other, which count once"
            )
    for grid in dict.fromkeys(one.summary.grid for one in accepted):
        same = [one for one in accepted if one.summary.grid == grid]
        if len(same) > 1:
            seeds = ", ".join(map(str, same[0].summary.seeds))
            yield (
                f"grid {grid[:16]}: {len(same)} submissions, side by side. They have the same seeds ({seeds}): "
                "repeats on other machines, no further evidence about the methods"
            )
    for one in accepted:
        if one.summary.unverified:
            yield (
                f"{shown(one.file.name)}: {one.summary.unverified} records were written before records had "
                "checksums of their own"
            )
