"""Run the parts of a suite one after another, each in a folder of its own; all are checked before the first begins."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from prunefuse_bench.distributed import current
from prunefuse_bench.errors import BadInput
from prunefuse_bench.groups import SuiteGroup
from prunefuse_bench.records import CellStore, recover
from prunefuse_bench.runner import Observer, check_folder, plan, run_cells

__all__ = ["recover_group", "run_group"]


def run_group(
    group: SuiteGroup,
    out: Path,
    *,
    resume: bool,
    observer: Observer,
    decode_progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[CellStore]:
    """Run every cell of every part that is not finished.

    Several parts are planned twice, so that all of them are checked first with one data set in memory at a time.

    Args:
        out: the folder of a suite that stands alone; of a group, the folder that holds those of its parts.
        resume: as for :func:`prunefuse_bench.runner.run_cells`; what is damaged is set aside first, and the observer is
            told.

    Raises:
        BadInput: as for :func:`prunefuse_bench.runner.plan` and ``run_cells``; the part is named.
    """
    for line in current().from_first(lambda: recover_group(group, out)) if resume else ():
        observer.recovered(line)
    if not group.stands_alone:
        if (out / "suite.json").exists():
            raise BadInput(
                f"{out} holds the run of one suite, and {group.name} has parts, which get folders of their own below "
                "it: give another folder with --out"
            )
        for part in group.parts:
            try:
                check_folder(plan(part.suite, decode_progress), part.folder(out), resume=resume)
            except BadInput as error:
                raise part.explain(error) from error
    stores = []
    for part in group.parts:
        try:
            cells = plan(part.suite, decode_progress)
            stores += run_cells(part.suite, cells, part.folder(out), resume=resume, observer=observer)
        except BadInput as error:
            raise part.explain(error) from error
    return stores


def recover_group(group: SuiteGroup, out: Path) -> list[str]:
    """What :func:`prunefuse_bench.records.recover` says of the runs of all parts, in order."""
    return [line for part in group.parts for line in recover(part.folder(out))]
