"""The pages of results say what the records beside them say."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from prunefuse_bench import load_results
from prunefuse_bench.publishing import verify

PAGES = Path(__file__).parent.parent / "docs/results"
RECORDS = sorted(PAGES.glob("*.zip"))


@pytest.mark.parametrize("file", RECORDS, ids=lambda file: file.stem)
def test_every_finished_cell_is_a_row_of_the_page_that_links_its_record(file: Path, tmp_path: Path) -> None:
    pages = [page.read_text() for page in PAGES.glob("*.md") if f"({file.name})" in page.read_text()]
    assert len(pages) == 1, "expected one page that links the records"
    verify(file).write(tmp_path / "run")
    results = load_results(tmp_path / "run").query("status == 'finished'")
    assert len(results) > 0
    expected = {
        f"| {row.model} | {row.method} | {row.seed} | {100 * row.accuracy:.2f} | {100 * row.selector_accuracy:.2f} |"
        for row in results.itertuples()
    }
    (model,) = set(results["model"])
    found = set(re.findall(rf"^(?:\| {model} (?:\| [^|]+ ){{2}}\| [\d.]+ \| [\d.]+ \|)", pages[0], re.MULTILINE))
    assert found == expected
