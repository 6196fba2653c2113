"""The documentation site: built strictly, then looked at as a browser without a network would."""

from __future__ import annotations

import importlib
import inspect
import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
import yaml

ROOT = Path(__file__).parents[1]
DESIGNED = {
    "index": ("prune", "fuse", "load_results"),
    "ops": ("score", "score_committee", "score_head", "top_k", "greedy_kcenters"),
    "cost": ("paper_flops",),
}
"""Names that other work relies on, by page."""
LOADED = {
    "script": "src",
    "img": "src",
    "iframe": "src",
    "source": "src",
    "video": "src",
    "audio": "src",
    "embed": "src",
}
LOADING_LINKS = {"stylesheet", "icon", "preload", "prefetch", "preconnect", "dns-prefetch", "modulepreload", "manifest"}


@dataclass
class Page(HTMLParser):
    """What a page links to, what it loads, its anchors and the text of its paragraphs."""

    path: Path
    links: list[str] = field(default_factory=list)
    loads: list[str] = field(default_factory=list)
    anchors: set[str] = field(default_factory=set)
    paragraphs: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()
        self._open: list[str] = []
        self.feed(self.path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attributes}
        self.anchors |= {given[name] for name in ("id", "name") if name in given}
        if tag == "a" and "href" in given:
            self.links.append(given["href"])
        if tag == "link" and LOADING_LINKS & set(given.get("rel", "").split()):
            self.loads.append(given["href"])
        if given.get(LOADED.get(tag, "")):
            self.loads.append(given[LOADED[tag]])
        if tag == "p":
            self.paragraphs.append("")
        if tag in ("p", "code"):
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag in self._open:
            self._open.remove(tag)

    def handle_data(self, data: str) -> None:
        if self._open == ["p"]:
            self.paragraphs[-1] += data


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("docs") / "site"
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", folder]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, env=environment)
    assert built.returncode == 0, built.stdout + built.stderr
    return folder


@pytest.fixture(scope="module")
def pages(site: Path) -> dict[Path, Page]:
    return {path: Page(path) for path in sorted(site.rglob("*.html"))}


def test_every_page_of_the_list_is_built(site: Path) -> None:
    listed = re.findall(r": ([\w/-]+)\.md$", (ROOT / "mkdocs.yml").read_text(), re.MULTILINE)
    assert len(listed) > 15
    assert {f"{name}.md" for name in listed} == {
        file.relative_to(ROOT / "docs").as_posix() for file in (ROOT / "docs").rglob("*.md")
    }
    for name in listed:
        assert "<h1" in (site / f"{name}.html").read_text(), name


def test_every_link_and_anchor_leads_somewhere(site: Path, pages: dict[Path, Page]) -> None:
    followed = 0
    for page in pages.values():
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc or page.path.name == "404.html":  # that one is for the root of a server
                continue
            target = (page.path.parent / unquote(parts.path)).resolve() if parts.path else page.path
            target = target / "index.html" if target.is_dir() else target
            where = f"{page.path.relative_to(site)}: {link}"
            assert target.is_file(), f"{where}: there is no such file"
            assert target.is_relative_to(site.resolve()), f"{where}: outside the site"
            if parts.fragment and target.suffix == ".html":
                assert unquote(parts.fragment) in pages[target].anchors, f"{where}: there is no such anchor"
                followed += 1
    assert followed > 100


def test_nothing_is_loaded_from_elsewhere(site: Path, pages: dict[Path, Page]) -> None:
    for page in pages.values():
        assert page.loads, page.path
        for loaded in page.loads:
            assert not urlsplit(loaded).netloc, f"{page.path.relative_to(site)} loads {loaded}"
            if page.path.name != "404.html" and not loaded.startswith("data:"):
                assert (page.path.parent / urlsplit(loaded).path).is_file(), f"{page.path.name} loads {loaded}"
    for sheet in site.rglob("*.css"):
        assert not re.search(r"(@import|url\()\s*['\"]?(https?:)?//", sheet.read_text()), sheet


def test_the_search_has_an_index_that_works_from_disk(site: Path) -> None:
    index = json.loads((site / "search" / "search_index.json").read_text())
    assert (site / "search" / "search_index.js").read_text().startswith("var __index = ")
    for word, page in (("greedy_kcenters", "api/ops.html"), ("--resume", "index.html"), ("Holm", "statistics.html")):
        found = {
            entry["location"].partition("#")[0] for entry in index["docs"] if word in entry["text"] + entry["title"]
        }
        assert page in found, word


@pytest.mark.parametrize("name", [file.stem for file in sorted((ROOT / "docs" / "api").glob("*.md"))])
def test_the_reference_has_every_public_name(name: str, site: Path, pages: dict[Path, Page]) -> None:
    module = importlib.import_module("prunefuse_bench" if name == "index" else f"prunefuse_bench.{name}")
    anchors = pages[site / "api" / f"{name}.html"].anchors
    for member in (*module.__all__, *DESIGNED.get(name, ())):
        if not inspect.ismodule(getattr(module, member)) and not member.startswith("_"):
            # Some share their name with the module that they are in, as acquisition does.
            assert {f"{module.__name__}.{member}", f"{module.__name__}.{member}.{member}"} & anchors, member


def test_docstrings_are_read_as_sections_and_links(site: Path, pages: dict[Path, Page]) -> None:
    for path in sorted((site / "api").glob("*.html")):
        assert path.name == "index.html" or "Parameters:" in path.read_text(), path.name
        for paragraph in pages[path].paragraphs:
            assert not re.match(r"\s*(Args|Returns|Yields|Raises|Attributes):\s+\S", paragraph), paragraph
            assert not re.search(r":(func|class|mod|meth|attr|data):", paragraph), f"{path.name}: {paragraph}"


def test_lists_are_lists(site: Path, pages: dict[Path, Page]) -> None:
    for page in pages.values():
        for paragraph in page.paragraphs:
            assert not re.search(r"^- \w", paragraph, re.MULTILINE), f"{page.path.relative_to(site)}: {paragraph}"
            assert "```" not in paragraph, f"{page.path.relative_to(site)}: {paragraph}"


def test_a_dead_link_a_missing_anchor_and_a_forgotten_page_fail_the_build(tmp_path: Path) -> None:
    settings = yaml.safe_load((ROOT / "mkdocs.yml").read_text())
    plain = {name: settings[name] for name in ("site_name", "strict", "validation")} | {
        "theme": "mkdocs",
        "plugins": [],
    }
    (tmp_path / "mkdocs.yml").write_text(yaml.safe_dump(plain | {"nav": [{"Home": "index.md"}]}))
    faults = "none.md", "#no-anchor", "/absolute", "folder"
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "index.md").write_text("# Home\n\n" + " ".join(f"[x]({fault})" for fault in faults))
    (tmp_path / "docs" / "forgotten.md").write_text("# Forgotten\n")
    command = [sys.executable, "-m", "mkdocs", "build"]
    built = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert built.returncode == 1
    for fault in (*faults, "forgotten.md"):
        assert re.search(rf"WARNING.*{fault}|- {fault}", built.stderr), f"{fault}: {built.stderr}"
