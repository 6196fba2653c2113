"""The versions that are tested: ``requirements.lock`` and ``requirements-oldest.lock``, which ``make lock`` writes."""

from __future__ import annotations

import os
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[1]
LOCK = "requirements.lock"
OLDEST = "requirements-oldest.lock"
CHOICE = "PRUNEFUSE_BENCH_LOCK"
"""Environment variable: the lock file that this environment was made with, or ``none``."""
EVERY_PYTHON = "3.10", "3.11", "3.12", "3.13"

needs_tomllib = pytest.mark.skipif(sys.version_info < (3, 11), reason="tomllib came with Python 3.11")


def project() -> dict[str, Any]:
    import tomllib

    settings: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())
    return settings


def locked(file: str, python: str | None = None) -> dict[str, Version]:
    """Versions by name of what is locked for this machine, with another version of Python if one is given."""
    environment = {"python_version": python, "python_full_version": f"{python}.99"} if python else {}
    versions: dict[str, Version] = {}
    for line in (ROOT / file).read_text().splitlines():
        if line.strip() and not line.lstrip().startswith("#"):
            requirement = Requirement(line)
            if requirement.marker is None or requirement.marker.evaluate(environment):
                name = canonicalize_name(requirement.name)
                assert name not in versions, f"{file}: two versions of {name} for Python {python}"
                (pin,) = requirement.specifier
                assert pin.operator == "==", line
                versions[name] = Version(pin.version)
    return versions


def test_this_environment_is_the_one_that_is_locked() -> None:
    file = os.environ.get(CHOICE, LOCK)
    if file == "none":
        pytest.skip(f"{CHOICE}=none: other versions than the locked ones are meant to be tested")
    installed: dict[str, Version] = {}
    for one in metadata.distributions():  # the first of a name is the one that is imported; setuptools brings its own
        # Without what comes after a +, as in 2.14.1+cpu: builds of one release.
        installed.setdefault(canonicalize_name(one.name), Version(Version(one.version).public))
    differing = [
        f"{name} {version} (installed: {installed.get(name, 'not at all')})"
        for name, version in locked(file).items()
        if installed.get(name) != version
    ]
    assert not differing, (
        f"expected the versions of {file}: {', '.join(differing)}. Run make test, which installs them; make lock if "
        f"the lock should change; or set {CHOICE}=none to test other versions on purpose"
    )


@needs_tomllib
@pytest.mark.parametrize("python", EVERY_PYTHON)
@pytest.mark.parametrize("extras", [(), ("cpu",), ("dev",)], ids=["package", "cpu", "dev"])
def test_every_declared_dependency_is_locked_within_its_range(python: str, extras: tuple[str, ...]) -> None:
    versions, settings = locked(LOCK, python), project()
    optional = settings["project"]["optional-dependencies"]
    declared = [*settings["build-system"]["requires"], *settings["project"]["dependencies"]]
    for line in [*declared, *(line for extra in extras for line in optional[extra])]:
        requirement = Requirement(line)
        version = versions.get(canonicalize_name(requirement.name))
        assert version is not None, f"Python {python}: {LOCK} has no {requirement.name}; run make lock"
        assert requirement.specifier.contains(version), (
            f"Python {python}: {version} is not {requirement}; run make lock"
        )


@needs_tomllib
def test_the_oldest_versions_are_the_lower_bounds() -> None:
    versions, settings = locked(OLDEST, "3.10"), project()
    declared = [*settings["build-system"]["requires"], *settings["project"]["dependencies"]]
    for line in declared:
        requirement = Requirement(line)
        (bound,) = requirement.specifier
        assert bound.operator == ">=", line
        # A release that was withdrawn is skipped: the oldest one that can be had may be a correction of the bound.
        found, oldest = versions[canonicalize_name(requirement.name)], Version(bound.version)
        assert found >= oldest, f"{line}: {OLDEST} has {found}; run make lock"
        assert found.release[:2] == (*oldest.release, 0)[:2], f"{line}: {OLDEST} has {found}; run make lock"


@pytest.mark.parametrize("file", [LOCK, OLDEST])
def test_a_lock_names_versions_alone(file: str) -> None:
    text = (ROOT / file).read_text()
    assert "torch==" in text
    for word in ("://", "--index", "--find-links", "file:", " @ "):
        assert word not in text, f"{file} names where packages came from: {word}"
