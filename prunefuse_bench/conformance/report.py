"""What a check may say about an acquisition, and everything that the checks say about one."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from prunefuse_bench.acquisition import Acquisition

__all__ = ["CHECKS", "Check", "ConformanceReport", "DoesNotApply", "NotConforming", "Unmet", "check", "named_check"]


class DoesNotApply(Exception):
    """A check has nothing to say about an acquisition; the message says why."""


class NotConforming(Exception):
    """An acquisition does not do what every acquisition must do.

    Attributes:
        acquisition: its name.
        failures: what was expected and what came, by the name of the check.
    """

    def __init__(self, acquisition: str, failures: Mapping[str, str]) -> None:
        lines = [f"{check}: {failure}" for check, failure in failures.items()]
        super().__init__(f"acquisition {acquisition!r} does not conform: " + "\n".join(lines))
        self.acquisition, self.failures = acquisition, dict(failures)


class Unmet(Exception):
    """A check expected one thing and got another."""

    def __init__(self, expected: str, got: object) -> None:
        super().__init__(f"expected {expected}, got {got}")


@dataclass(frozen=True)
class ConformanceReport:
    """What an acquisition was held against.

    Attributes:
        acquisition: its name.
        passed: names of checks.
        does_not_apply: names of the other checks, and why.
    """

    acquisition: str
    passed: tuple[str, ...]
    does_not_apply: Mapping[str, str]

    def __str__(self) -> str:
        lines = [f"{self.acquisition}: passed {', '.join(self.passed)}"]
        return "\n".join(lines + [f"  {name} does not apply: {why}" for name, why in self.does_not_apply.items()])


Check = Callable[[Acquisition], None]
CHECKS: dict[str, Check] = {}
"""By name. Each returns, or raises NotConforming or DoesNotApply; its docstring says what it asks."""


def check(acquisition: Acquisition) -> ConformanceReport:
    """Hold an acquisition against all checks.

    Raises:
        NotConforming: with everything that it fails.
    """
    passed: list[str] = []
    does_not_apply: dict[str, str] = {}
    failures: dict[str, str] = {}
    for name, one in CHECKS.items():
        try:
            one(acquisition)
        except DoesNotApply as reason:
            does_not_apply[name] = str(reason)
        except NotConforming as failure:
            failures |= failure.failures
        else:
            passed.append(name)
    if failures:
        raise NotConforming(acquisition.name, failures)
    return ConformanceReport(acquisition.name, tuple(passed), does_not_apply)


def named_check(name: str) -> Callable[[Check], Check]:
    """Register a check; whatever an acquisition raises meanwhile is a failure of it."""

    def register(function: Check) -> Check:
        @functools.wraps(function)
        def run(acquisition: Acquisition) -> None:
            try:
                function(acquisition)
            except DoesNotApply:
                raise
            except Unmet as unmet:
                raise NotConforming(acquisition.name, {name: str(unmet)}) from unmet
            except Exception as error:
                came = f"expected no error, got {type(error).__name__}: {error}"
                raise NotConforming(acquisition.name, {name: came}) from error

        CHECKS[name] = run
        return run

    return register
