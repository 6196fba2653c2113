"""What a person sees of a grid: a line for each cell at work, a bar for all, and a line for each that has ended."""

from __future__ import annotations

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from prunefuse_bench.plain_text import for_terminal
from prunefuse_bench.scale.driver import GridState
from prunefuse_bench.scale.grid import Job
from prunefuse_bench.scale.sign_of_life import Sign

__all__ = ["GridView"]

LINES = 24
"""At most; a screen has no more."""


class GridView:
    """Shows within the block; where there is no screen, only what has ended is printed."""

    def __init__(self, console: Console) -> None:
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=console,
            transient=True,
        )
        self._all = self._progress.add_task("starting", total=None)
        self._lines: dict[str, TaskID] = {}
        self.ended = self.total = 0

    def __enter__(self) -> GridView:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def planning(self, done: int, total: int) -> None:
        """So many of so many images are decoded."""
        self._progress.update(self._all, description="decoding", completed=done, total=total)

    def recovered(self, what: str) -> None:
        """Something was damaged, and was set aside."""
        line = f"[yellow]recovered:[/] {for_terminal(what)}"
        self._progress.console.print(line, highlight=False, soft_wrap=True)

    def look(self, state: GridState) -> None:
        """Show the grid as it is."""
        at_work = list(state.at_work())
        waiting = state.total - state.ended - state.submitted
        text = f"all cells: {len(at_work)} at work, {state.submitted - len(at_work)} queued, {waiting} held back"
        self.ended, self.total = state.ended, state.total
        self._progress.update(self._all, description=text, completed=state.ended, total=state.total)
        shown = {job.order.identity + job.order.folder: (job, rounds, sign) for job, rounds, sign in at_work[:LINES]}
        for gone in self._lines.keys() - shown.keys():
            self._progress.remove_task(self._lines.pop(gone))
        for key, (job, rounds, sign) in shown.items():
            if key not in self._lines:
                self._lines[key] = self._progress.add_task("", total=None)
            text = for_terminal(line(job, rounds, sign))
            self._progress.update(self._lines[key], description=text, completed=sign.done, total=sign.total or None)

    def cell_ended(self, job: Job, outcome: str) -> None:
        """Print it, unless it was finished before."""
        if outcome != "found finished":
            self._print(f"{job.name}: {outcome}")

    def tell(self, job: Job, what: str) -> None:
        """Print it."""
        self._print(f"{job.name}: {what}")

    def _print(self, text: str) -> None:
        self._progress.console.print(for_terminal(text), highlight=False, soft_wrap=True)


def line(job: Job, rounds: int, sign: Sign) -> str:
    """Of one cell at work."""
    doing = f", {sign.stage}" if sign.stage else ""
    expected = job.store.rounds_expected
    return f"  {job.name} on {sign.host}: round {min(rounds + 1, expected)} of {expected}{doing}"
