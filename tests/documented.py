"""The code blocks of a Markdown page, and what the comments before them say about each.

Every block of shell commands or of Python has a comment right before it, which no reader sees:

    <!-- run -->                    a test runs it as it stands
    <!-- run small -->              ... with fewer steps, budgets and seeds: SMALL is added to each prunefuse-bench run
    <!-- run given: model, x -->    Python: ... with names that the test gives it
    <!-- file: name.yaml -->        what readers are told to save under this name, for the blocks that follow
    <!-- not run: REASON -->        REASON is one of NOT_RUN
    <!-- run by: make quick -->     takes minutes; this target of the Makefile does it, or this file of tests in small

and may have, before that, what must be there already:

    <!-- first: a run in runs/a, images in x.zip -->    see prepare() in tests/test_docs.py
"""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")))

SHELL = "sh", "bash", "console"
LANGUAGES = (*SHELL, "python", "yaml", "toml", "text")
PROGRAMS = "prunefuse-bench", "python", "python3", "pip", "pytest", "make", "mkdocs", "git", "apt", "cd", "cp", ".", "$"
"""A block without a language is one of shell commands if a line begins with one of these."""

NOT_RUN = "needs a GPU", "needs a download", "installs"
SMALL = (
    *("--set", "task.training.epochs=1", "--set", "task.training.min_steps=2", "--set", "task.model.width=0.25"),
    *("--set", "task.budgets=[0.05, 0.1]", "--seeds", "0"),
)

COMMENT = re.compile(r"<!-- (.*?) -->$")
FENCE = re.compile(r"( *)(```+)(.*)$")


@dataclass(frozen=True)
class Block:
    """A block of code: where, in which language, and the comments before it."""

    page: Path
    line: int
    language: str
    text: str
    comments: tuple[str, ...]

    @property
    def where(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"

    @property
    def is_shell(self) -> bool:
        starts = {line.split(maxsplit=1)[0] for line in self.text.splitlines() if line.strip()}
        return self.language in SHELL or (self.language == "" and not starts.isdisjoint(PROGRAMS))

    @property
    def is_code(self) -> bool:
        return self.is_shell or self.language == "python"

    @property
    def marker(self) -> str:
        """What becomes of it; empty if nobody said."""
        return next((comment for comment in self.comments if not comment.startswith("first: ")), "")

    @property
    def first(self) -> tuple[str, ...]:
        """What must be there before it can run."""
        given = [comment.removeprefix("first: ") for comment in self.comments if comment.startswith("first: ")]
        return tuple(part for one in given for part in one.split(", "))

    @property
    def is_run(self) -> bool:
        return self.marker in ("run", "run small") or self.marker.startswith("run given: ")

    def commands(self) -> list[str]:
        """The lines of a shell block, those that are continued joined, without what is said about them."""
        lines = self.text.replace("\\\n", " ").splitlines()
        return [line for raw in lines if (line := re.sub(r"(^|\s)#.*", "", raw).strip())]

    def script(self) -> str:
        """The shell block as it is run."""
        small = self.marker == "run small"
        return "\n".join(_shortened(command) if small else command for command in self.commands())


def blocks(page: Path) -> list[Block]:
    """All blocks of a page, fenced or indented by four spaces, in order."""
    found: list[Block] = []
    lines = page.read_text(encoding="utf-8").splitlines()
    comments: list[str] = []
    position, in_list = 0, False
    while position < len(lines):
        line, start = lines[position], position
        fence = FENCE.match(line)
        if fence:
            position = next(i for i in range(position + 1, len(lines)) if lines[i].strip() == fence[2]) + 1
            inside = [one.removeprefix(fence[1]) for one in lines[start + 1 : position - 1]]
            found.append(Block(page, start + 1, fence[3].strip(), "\n".join(inside) + "\n", tuple(comments)))
        elif line.startswith("    ") and not in_list and not (start and lines[start - 1].strip() and not comments):
            while position < len(lines) and (lines[position].startswith("    ") or not lines[position].strip()):
                position += 1
            text = "\n".join(one[4:] for one in lines[start:position]).rstrip() + "\n"
            found.append(Block(page, start + 1, "", text, tuple(comments)))
        else:
            position += 1
            if comment := COMMENT.match(line):
                comments.append(comment[1])
                continue
            if not line.strip():
                continue
            in_list = line.startswith(("- ", "* ")) or (in_list and line.startswith(" "))
        comments = []
    return found


def inline_commands(page: Path) -> list[str]:
    """Calls of the program within sentences."""
    prose = re.sub(r"^ *```.*?^ *```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    return re.findall(r"`(prunefuse-bench [^`]*)`", prose)


def _shortened(command: str) -> str:
    return f"{command} {shlex.join(SMALL)}" if command.startswith("prunefuse-bench run ") else command
