"""The leaderboard as one page: a file that opens from disk and asks the network for nothing."""

from __future__ import annotations

import base64
import functools
import gzip
import hashlib
import json
from collections.abc import Mapping, Sequence
from importlib import metadata, resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prunefuse_bench.atomic import make_folder, write_atomically
from prunefuse_bench.errors import BadInput
from prunefuse_bench.records import load_curves
from prunefuse_bench.report import numbers
from prunefuse_bench.report.across import across_boards
from prunefuse_bench.report.charts import board_data, convergence, figures_of, overlap
from prunefuse_bench.report.findings import findings, power_of
from prunefuse_bench.report.gallery import Gallery, NoGallery, gallery, overlaps
from prunefuse_bench.report.payload import Board, read_board, readable

if TYPE_CHECKING:
    import jinja2

__all__ = ["PAGE", "write_page"]

PAGE = "leaderboard.html"
PICTURES_BYTES = 400_000
"""Of all galleries of a page."""
FEW_METHODS = 8
"""Boards of more methods show half as many pictures of each."""


def write_page(runs: Sequence[Path], out: Path) -> Path:
    """Write ``leaderboard.html`` of one board per run; returns the file.

    Args:
        runs: folders.
        out: made if it is not there.

    Raises:
        BadInput: no runs, a folder that holds none, or no cell of a run was begun.
        CannotWrite: the file cannot be written.
    """
    if not runs:
        raise BadInput("report: expected the folder of at least one run")
    boards = [read_board(Path(run), f"board-{number}") for number, run in enumerate(runs, 1)]
    text = _render(boards)
    make_folder(out)
    write_atomically(out / PAGE, lambda stream: stream.write(text.encode()))
    return out / PAGE


def _render(boards: Sequence[Board]) -> str:
    from plotly.offline import get_plotlyjs  # type: ignore[import-untyped]

    plotly = _as_browsers_read(get_plotlyjs())
    program = _as_browsers_read(_template_text("page.js"))
    shown = [_show(board, PICTURES_BYTES // len(boards)) for board in boards]
    figures = [figure for one in shown for figure in one["figures"]]
    data = {
        "boards": {board.key: board_data(board) for board in boards},
        "figures": {
            figure.key: {"board": one["board"].key, "kind": figure.kind, "data": figure.data}
            for one in shown
            for figure in one["figures"]
            if not figure.absent
        },
        "results": {board.key: {"name": board.name, "csv": _packed(board.csv)} for board in boards},
    }
    page = _environment().get_template("leaderboard.html")
    return page.render(
        shown=shown,
        across=[
            (one, power_of(one.comparisons, one.blocks, "pair of task and seed", "pairs of task and seed"))
            for one in across_boards(boards)
        ],
        tasks=list(dict.fromkeys(f"{board.dataset}, {board.model}" for board in boards)),
        protocols=list(dict.fromkeys(board.protocol for board in boards)),
        headings=_headings(boards),
        charts=len(data["figures"]),
        absent=sum(1 for figure in figures if figure.absent),
        version=metadata.version("prunefuse-bench"),
        style=_template_text("page.css"),
        plotly=plotly,
        program=program,
        policy=_policy(plotly, program),
        data=_json_for_html(data),
    ).lstrip()


def _show(board: Board, picture_bytes: int) -> dict[str, Any]:
    """What the template needs of one board."""
    figures = [*figures_of(board), convergence(board, load_curves(board.run)), overlap(board, overlaps(board.run))]
    per_method = 24 if len(board.methods) <= FEW_METHODS else 12
    pictures = gallery(board.run, per_method=per_method, total_bytes=picture_bytes)
    return {
        "board": board,
        "power": power_of(board.comparisons, len(board.seeds)),
        "findings": list(findings(board)),
        "figures": figures,
        "in_section": lambda name: [figure for figure in figures if figure.section == name],
        "gallery": pictures if isinstance(pictures, Gallery) else None,
        "no_gallery": readable(pictures.reason) if isinstance(pictures, NoGallery) else "",
    }


def _headings(boards: Sequence[Board]) -> list[str]:
    """Budgets as tables name them, of all boards, ascending."""
    shares = {budget.heading: budget.share for board in boards for budget in board.budgets}
    return sorted(shares, key=lambda heading: shares[heading])


@functools.cache
def _environment() -> jinja2.Environment:
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("prunefuse_bench.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update({name: getattr(numbers, name) for name in numbers.__all__}, readable=readable)
    return environment


def _template_text(name: str) -> str:
    return (resources.files("prunefuse_bench.report") / "templates" / name).read_text(encoding="utf-8")


def _as_browsers_read(script: str) -> str:
    """A script as a browser sees it in a page, so that its hash is the one that the browser computes."""
    if "</script" in script.lower() or "<!--" in script:
        script = script.replace("</script", "<\\/script").replace("</SCRIPT", "<\\/SCRIPT").replace("<!--", "<\\!--")
    return script.replace("\r\n", "\n").replace("\r", "\n")


def _policy(*scripts: str) -> str:
    """A content security policy: these scripts and no others, and no connection to anywhere."""
    hashes = " ".join(f"'sha256-{digest}'" for digest in map(_digest, scripts))
    # Plotly writes its styles itself; pictures are in the page, or made by Plotly for saving.
    rules = (
        "default-src 'none'",
        f"script-src {hashes}",
        "style-src 'unsafe-inline'",
        "img-src data: blob:",
        "base-uri 'none'",
        "form-action 'none'",
    )
    return "; ".join(rules)


def _digest(script: str) -> str:
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


def _packed(text: str) -> str:
    """Text as gzip in base64, a fifth of its size; the same for the same text."""
    return base64.b64encode(gzip.compress(text.encode(), mtime=0)).decode("ascii")


def _json_for_html(data: Mapping[str, Any]) -> str:
    """JSON that cannot end the element that it stands in, nor start another."""
    text = json.dumps(data, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")
