"""The container file, held against the files that it copies. No test builds it: that takes a network and gigabytes."""

from __future__ import annotations

import json
import re
import shlex
import sys
from pathlib import Path

import pytest
from packaging.specifiers import SpecifierSet

ROOT = Path(__file__).parents[1]


def instructions() -> list[tuple[str, str]]:
    """(keyword, rest) of each, those over several lines joined."""
    text = (ROOT / "Containerfile").read_text()
    text = re.sub(r"^\s*#.*\n", "", text, flags=re.MULTILINE).replace("\\\n", " ")
    lines = [line.split(maxsplit=1) for line in text.splitlines() if line.strip()]
    return [(keyword, " ".join(rest.split())) for keyword, rest in lines]


def of(keyword: str) -> list[str]:
    return [rest for word, rest in instructions() if word == keyword]


def copied() -> list[str]:
    """Files and folders of the source that are copied."""
    words = [shlex.split(rest) for rest in of("COPY") if not rest.startswith("--from=")]
    return [source for line in words for source in line[:-1]]


def is_sent(name: str) -> bool:
    """Whether the builder gets a file: the last pattern that fits it, or a folder that it is in, decides."""
    sent = True
    for line in (ROOT / ".containerignore").read_text().splitlines():
        pattern = line.strip().lstrip("!")
        if not pattern or pattern.startswith("#"):
            continue
        expression = re.escape(pattern).replace(r"\*\*/", "(.*/)?").replace(r"\*", "[^/]*")
        if re.fullmatch(f"{expression}(/.*)?", name):
            sent = line.startswith("!")
    return sent


def test_what_is_copied_is_there_and_is_sent_to_the_builder() -> None:
    assert len(copied()) == len(set(copied())) >= 8
    for source in copied():
        assert (ROOT / source).exists(), source
        assert is_sent(source), f"{source} is left out by .containerignore"


def test_nothing_is_sent_that_is_not_copied() -> None:
    sent = {name for name in (path.name for path in ROOT.iterdir()) if is_sent(name)}
    assert sent == set(copied())


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("prunefuse_bench/cli.py", True),
        ("prunefuse_bench/presets/quick.yaml", True),
        ("csrc/cpu/top_k.cpp", True),
        ("prunefuse_bench/_C.abi3.so", False),
        ("prunefuse_bench/__pycache__/cli.cpython-311.pyc", False),
        ("tests/conftest.py", False),
        (".git/config", False),
        ("runs/quick/suite.json", False),
    ],
)
def test_the_source_is_sent_and_what_lies_beside_it_is_not(name: str, expected: bool) -> None:
    assert is_sent(name) is expected


def test_everything_that_the_build_reads_is_copied() -> None:
    setup = (ROOT / "setup.py").read_text()
    reads = set(re.findall(r'"(csrc|prunefuse_bench)/', setup)) | {"pyproject.toml", "setup.py", "baselines"}
    project = (ROOT / "pyproject.toml").read_text()
    reads |= set(re.findall(r'^readme = "(.*)"', project, re.MULTILINE))
    reads |= set(re.findall(r'^license-files = \["(.*)"\]', project, re.MULTILINE))
    assert len(reads) == 7
    assert reads <= set(copied())


def test_its_python_is_one_that_the_package_supports_and_the_lock_covers() -> None:
    versions = [re.fullmatch(r"python:(\d+\.\d+)-slim( AS \w+)?", rest) for rest in of("FROM")]
    assert len({found[1] for found in versions if found}) == 1
    (supported,) = re.findall(r'^requires-python = "(.*)"', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    for found in versions:
        assert found is not None
        assert SpecifierSet(supported).contains(found[1])
        assert tuple(map(int, found[1].split("."))) <= (3, 13)


def test_every_package_is_installed_by_the_lock() -> None:
    installs = [command for rest in of("RUN") for command in rest.split("&&") if "pip install" in command]
    assert len(installs) == 2
    for command in installs:
        assert "--constraint requirements.lock" in command, command


@pytest.mark.skipif(sys.version_info < (3, 11), reason="tomllib came with Python 3.11")
def test_it_starts_the_program_as_an_ordinary_user() -> None:
    import tomllib

    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    (entry,) = of("ENTRYPOINT")
    assert json.loads(entry)[0] in scripts
    (user,) = of("USER")
    assert f"{user} " in next(rest for rest in of("RUN") if "useradd" in rest)
    assert user != "root"


def test_its_comment_names_the_folders_to_mount() -> None:
    comment = "".join(line for line in (ROOT / "Containerfile").read_text().splitlines() if line.startswith("#"))
    (volumes,) = of("VOLUME")
    for folder in [*json.loads(volumes), "/data"]:
        assert folder in comment, folder
    assert any(f"PRUNEFUSE_BENCH_CACHE={json.loads(volumes)[1]}" in rest for rest in of("ENV"))
