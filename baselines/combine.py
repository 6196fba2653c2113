"""Any combination of parts, those of packages from outside included."""

from typing import Any

from prunefuse_bench.recipe import (
    COMMITTEES,
    PROTOCOLS,
    PROXIES,
    TARGET_STARTS,
    PartEntry,
    Recipe,
    make_part,
    method,
)


@method("combine", source="the four parts of a recipe", protocols=PROTOCOLS)
def combine(
    proxy: PartEntry = "target",
    committee: PartEntry = "one_pass",
    acquisition: str = "least_confidence",
    options: dict[str, Any] | None = None,
    target_start: PartEntry = "fresh",
    sync_every: int = 0,
) -> Recipe:
    """Parts of your choice, each a name or a mapping with name and settings; options are the acquisition's."""
    return Recipe(
        "combine",
        proxy=make_part(PROXIES, proxy),
        committee=make_part(COMMITTEES, committee),
        acquisition=acquisition,
        target_start=make_part(TARGET_STARTS, target_start),
        sync_every=sync_every,
        options=tuple((options or {}).items()),
    )
