"""The checks. Options have their defaults, and all draws are seeded, so what passes once passes always."""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
import math
import random
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from prunefuse_bench.acquisition import Acquisition, Needs, Opinions
from prunefuse_bench.conformance.chances import DRAWS, refuse_different_chances, refuse_other_chances, rounded
from prunefuse_bench.conformance.opinions import (
    UNDECIDED,
    copy_of,
    opinions_for,
    take,
    tensors_of,
    undecided_among_certain,
    with_and_without_labeled,
)
from prunefuse_bench.conformance.oracles import ORACLES, Case, Picks, Scores
from prunefuse_bench.conformance.report import DoesNotApply, Unmet, named_check
from prunefuse_bench.errors import CellFailed

__all__: list[str] = []


SEEDS = 6
"""Seeds that are tried where one that makes a difference is enough."""


def _picks(acquisition: Acquisition, k: int, opinions: Opinions, options: Mapping[str, Any] | None = None) -> list[int]:
    """Positions of the k that are chosen, first choice first."""
    try:
        chosen = acquisition.choose(k, opinions, options).indices
    except CellFailed as error:
        raise Unmet(f"{k} different ones of {len(opinions)} candidates", error) from error
    return torch.searchsorted(opinions.indices, chosen).tolist()


def _scores(acquisition: Acquisition, opinions: Opinions, options: Mapping[str, Any] | None = None) -> Tensor:
    """float64 [N], all of them finite."""
    assert acquisition.score is not None
    scores = acquisition.score(opinions, **(options or {}))
    if not isinstance(scores, Tensor) or scores.shape != (len(opinions),) or not scores.is_floating_point():
        got = f"{scores.dtype} {list(scores.shape)}" if isinstance(scores, Tensor) else type(scores).__name__
        raise Unmet(f"one score per candidate, float [{len(opinions)}]", got)
    if not scores.isfinite().all():
        raise Unmet("finite scores", scores.tolist())
    return scores.detach().double().cpu()


def _is_close(scores: Tensor, expected: Tensor, tolerance: float = 1e-5) -> bool:
    return torch.allclose(scores, expected, rtol=tolerance, atol=tolerance)


@named_check("declared")
def _declared(acquisition: Acquisition) -> None:
    """It says what it is and where it comes from; it is a score or a choice; each option has a type and a default."""
    for name in ("name", "source", "summary"):
        if not getattr(acquisition, name):
            raise Unmet(f"a {name}", "none")
    if (acquisition.score is None) == (acquisition.choose_batch is None):
        raise Unmet("either a score or a choice of a batch", "both" if acquisition.score else "neither")
    for need, other in ((Needs.JOINT, Needs.MEMBERS), (Needs.LABELED, Needs.FEATURES)):
        if need in acquisition.needs and other not in acquisition.needs:
            raise Unmet(f"{other.name} to be needed, as {need.name} says something about it", acquisition.needs)
    function = acquisition.score or acquisition.choose_batch
    assert function is not None
    parameters = inspect.signature(function).parameters
    for option, default in acquisition.options.items():
        if default is inspect.Parameter.empty or parameters[option].annotation is inspect.Parameter.empty:
            raise Unmet(f"a type and a default for option {option!r}", str(parameters[option]))
    if acquisition.check_options({}) != acquisition.options:
        raise Unmet(f"the defaults {acquisition.options} to be allowed values", acquisition.check_options({}))


@named_check("oracle")
def _by_hand(acquisition: Acquisition) -> None:
    """It gives what was worked out by hand."""
    name = acquisition.name
    cases = ORACLES[name]() if name in ORACLES else []
    if not cases:
        raise Unmet(
            "at least one case that was worked out by hand",
            f'none; give them with @oracle("{name}"), see prunefuse_bench.conformance.oracles',
        )
    for case in cases:
        _refuse_otherwise(acquisition, case)


def _refuse_otherwise(acquisition: Acquisition, case: Case) -> None:
    expected = case.expected
    if isinstance(expected, Scores):
        scores = _scores(acquisition, copy_of(case.opinions), case.options)
        if not _is_close(scores, torch.tensor(expected.values, dtype=torch.float64), expected.tolerance):
            raise Unmet(f"scores {rounded(expected.values)}", rounded(scores.tolist()))
    elif isinstance(expected, Picks):
        picks = _picks(acquisition, len(expected.positions), copy_of(case.opinions), case.options)
        same = sorted(picks) == sorted(expected.positions) if expected.any_order else picks == list(expected.positions)
        if not same:
            order = "in any order" if expected.any_order else "in this order"
            raise Unmet(f"the picks {list(expected.positions)} {order}", picks)
    else:
        counts = torch.zeros(len(case.opinions), dtype=torch.int64)
        for draws in range(DRAWS):
            picks = _picks(acquisition, expected.k, copy_of(case.opinions, draws=draws), case.options)
            counts[picks[expected.place]] += 1
        probabilities = torch.tensor(expected.probabilities, dtype=torch.float64)
        refuse_other_chances(counts, probabilities, f"each candidate as pick {expected.place + 1} of {expected.k}")


@named_check("direction")
def _direction(acquisition: Acquisition) -> None:
    """An undecided prediction is chosen before certain ones."""
    if not acquisition.uncertainty:
        raise DoesNotApply("it is not said to measure uncertainty")
    opinions = undecided_among_certain(acquisition.needs)
    for draws in range(10):  # by lot it would be the first ten times with a probability of 1e-10
        first = _picks(acquisition, 1, copy_of(opinions, draws=draws))[0]
        if first != UNDECIDED:
            raise Unmet(f"the undecided prediction {UNDECIDED} before certain ones", f"the certain {first} first")


@named_check("permutation")
def _permutation(acquisition: Acquisition) -> None:
    """Another order of the candidates changes nothing: neither scores nor choice, nor, if it draws, the chances."""
    opinions = opinions_for(acquisition.needs)
    order = torch.randperm(len(opinions), generator=torch.Generator().manual_seed(1))
    if acquisition.randomised:
        _refuse_unequal_chances(acquisition)
    elif acquisition.score is not None:
        expected = _scores(acquisition, copy_of(opinions))[order]
        scores = _scores(acquisition, take(opinions, order))
        if not _is_close(scores, expected):
            raise Unmet(f"the scores {rounded(expected.tolist())} in another order", rounded(scores.tolist()))
    else:
        for k in (1, len(opinions) // 3):
            chosen = sorted(_picks(acquisition, k, copy_of(opinions)))
            among_permuted = sorted(order[_picks(acquisition, k, take(opinions, order))].tolist())
            if chosen != among_permuted:
                raise Unmet(f"the candidates {chosen} in another order of the pool, too", among_permuted)


def _refuse_unequal_chances(acquisition: Acquisition) -> None:
    count, k = 12, 4
    opinions = opinions_for(acquisition.needs, count, classes=3)
    order = torch.randperm(count, generator=torch.Generator().manual_seed(1))
    counts = torch.zeros(2, count, dtype=torch.int64)
    for draws in range(DRAWS):  # one pick of each choice, so that counts are of independent draws
        pick = _picks(acquisition, k, copy_of(opinions, draws=draws))[draws % k]
        other = _picks(acquisition, k, take(opinions, order, draws=DRAWS + draws))[draws % k]
        counts[0, pick] += 1
        counts[1, order[other]] += 1
    refuse_different_chances(counts[0], counts[1], "each candidate as often in another order of the pool")


@named_check("subsets")
def _subsets(acquisition: Acquisition) -> None:
    """A score is that of the sample alone, whatever other candidates there are."""
    if acquisition.score is None:
        raise DoesNotApply("it chooses a batch: what a sample is worth depends on the others")
    if acquisition.randomised:
        raise DoesNotApply("its scores are drawn")
    if acquisition.relative:
        raise DoesNotApply(f"its scores depend on the other candidates: {acquisition.relative}")
    opinions = opinions_for(acquisition.needs)
    expected = _scores(acquisition, copy_of(opinions))
    for part in (1, 7, 16):
        scores = _scores(acquisition, take(opinions, torch.arange(part)))
        if not _is_close(scores, expected[:part]):
            raise Unmet(
                f"the first {part} of {len(opinions)} candidates to have the same scores without the others, "
                f"{rounded(expected[:part].tolist())} (or why not, as relative=...)",
                rounded(scores.tolist()),
            )


@named_check("ties")
def _ties(acquisition: Acquisition) -> None:
    """Equal candidates are drawn by lot: all are as probable, and none follows another."""
    count, k = 10, 3
    pools = with_and_without_labeled(take(opinions_for(acquisition.needs), torch.full((count,), 2)))
    chosen, gaps = torch.zeros(count, dtype=torch.int64), torch.zeros(count, dtype=torch.int64)
    for draws in range(DRAWS):
        picks = _picks(acquisition, k, copy_of(pools[draws % len(pools)], draws=draws))
        chosen[picks[draws % k]] += 1
        gaps[(picks[1] - picks[0]) % count] += 1
    even = torch.full((count,), 1 / count, dtype=torch.float64)
    refuse_other_chances(chosen, even, "each of equal candidates by lot and not by place, so")
    others = torch.where(torch.arange(count) > 0, 1 / (count - 1), 0.0).double()
    refuse_other_chances(gaps, others, "a second pick so many places after the first by lot, so")


@named_check("chance")
def _chance(acquisition: Acquisition) -> None:
    """It draws from the generator of the opinions, beyond ties, if it is declared as randomised, and only then."""
    pools = with_and_without_labeled(opinions_for(acquisition.needs))
    if acquisition.randomised:  # some draw only for what their rule leaves open, which is more here
        pools.append(opinions_for(acquisition.needs, classes=2, sharpness=4.0))
    differ = any(len(outcome) > 1 for opinions in pools for outcome in _outcomes(acquisition, opinions))
    what = "picks" if acquisition.score is None else "scores"
    if differ and not acquisition.randomised:
        raise Unmet(f"the same {what} for every seed, as it is not declared as randomised", "others")
    if acquisition.randomised and not differ:
        raise Unmet(f"other {what} for other seeds, as it is declared as randomised", f"the same for {SEEDS} seeds")


def _outcomes(acquisition: Acquisition, opinions: Opinions) -> Iterator[set[tuple[float, ...]]]:
    """What comes of several seeds, in several situations."""
    seeds = range(SEEDS)
    if acquisition.score is not None:
        yield {tuple(_scores(acquisition, copy_of(opinions, draws=seed)).tolist()) for seed in seeds}
        return
    for k in (1, len(opinions) // 2, len(opinions) - 1):
        yield {tuple(_picks(acquisition, k, copy_of(opinions, draws=seed))) for seed in seeds}


@named_check("determinism")
def _determinism(acquisition: Acquisition) -> None:
    """The same opinions and seed give the same picks, whatever state the global generators are in.

    Nor is that state changed: every draw comes from the generator of the opinions.
    """
    opinions = opinions_for(acquisition.needs)
    found = []
    with _global_generators_restored():
        for seed in range(3):
            _seed_global_generators(seed)
            found.append(_picks(acquisition, len(opinions) // 2, copy_of(opinions)))
            drawn = _global_draws()
            _seed_global_generators(seed)
            for library, value in _global_draws().items():
                if drawn[library] != value:
                    raise Unmet(f"the global generator of {library} to be left alone", "draws from it")
    if found[1:] != found[:-1]:
        raise Unmet("the same picks for the same opinions and seed", found)


@contextlib.contextmanager
def _global_generators_restored() -> Iterator[None]:
    python, of_numpy = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng(devices=[]):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(of_numpy)


def _seed_global_generators(seed: int) -> None:
    torch.default_generator.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed)


def _global_draws() -> dict[str, float]:
    return {"torch": float(torch.rand(())), "random": random.random(), "numpy": float(np.random.rand())}


@named_check("inputs")
def _inputs(acquisition: Acquisition) -> None:
    """What it was given is the same afterwards, bit by bit."""
    opinions = copy_of(opinions_for(acquisition.needs))
    before = {name: tensor.clone() for name, tensor in tensors_of(opinions).items()}
    _picks(acquisition, len(opinions) // 2, opinions)
    for name, tensor in tensors_of(opinions).items():
        if not torch.equal(tensor, before[name]):
            raise Unmet(f"{name} to be left as they are", f"{int((tensor != before[name]).sum())} changed values")


@named_check("duplicates")
def _duplicates(acquisition: Acquisition) -> None:
    """Exact duplicates are never picked twice, and have equal, finite scores."""
    distinct, copies = 4, 6
    opinions = take(opinions_for(acquisition.needs), torch.arange(distinct).repeat_interleave(copies))
    for k in (distinct + 1, 2 * distinct, len(opinions) - 1):
        _picks(acquisition, k, copy_of(opinions))
    if acquisition.score is not None and not acquisition.randomised:
        scores = _scores(acquisition, copy_of(opinions)).unflatten(0, (distinct, copies))
        if not torch.equal(scores, scores[:, :1].expand_as(scores)):
            raise Unmet("equal scores of equal samples", scores.tolist())


@named_check("one_class")
def _one_class(acquisition: Acquisition) -> None:
    """A pool of a single class is a pool."""
    opinions = opinions_for(acquisition.needs, classes=1)
    for k in (1, len(opinions) // 2):
        _picks(acquisition, k, copy_of(opinions))
    if acquisition.score is not None:
        _scores(acquisition, copy_of(opinions))


@named_check("counts")
def _counts(acquisition: Acquisition) -> None:
    """From none to all of the candidates can be chosen, and the only one."""
    for count in (1, 24):
        opinions = opinions_for(acquisition.needs, count)
        for k in (0, 1, count // 2, count):
            _picks(acquisition, k, copy_of(opinions))


@named_check("empty_pool")
def _empty_pool(acquisition: Acquisition) -> None:
    """Of an empty pool nothing is chosen."""
    opinions = opinions_for(acquisition.needs, 0)
    _picks(acquisition, 0, copy_of(opinions))
    if acquisition.score is not None:
        _scores(acquisition, copy_of(opinions))


@named_check("nothing_labeled")
def _nothing_labeled(acquisition: Acquisition) -> None:
    """It works before anything is labeled, and where nothing ever is."""
    if Needs.LABELED not in acquisition.needs:
        raise DoesNotApply("it does not look at the labeled samples")
    opinions = opinions_for(acquisition.needs)
    assert opinions.labeled_features is not None
    for labeled in (None, opinions.labeled_features[:0]):
        for k in (1, len(opinions) // 2, len(opinions)):
            _picks(acquisition, k, dataclasses.replace(copy_of(opinions), labeled_features=labeled))


@named_check("not_a_number")
def _not_a_number(acquisition: Acquisition) -> None:
    """NaN and infinities are refused, and the sample is named; or the acquisition does not look at them at all.

    A logit of -inf is a probability of zero, and allowed.
    """
    opinions = opinions_for(acquisition.needs)
    refused = [
        _refuses(acquisition, opinions, name, value)
        for name, tensor in tensors_of(opinions).items()
        if tensor.is_floating_point()
        for value in (math.nan, math.inf, -math.inf)
        if value != -math.inf or name not in {"logits", "members"}
    ]
    if not any(refused):
        raise DoesNotApply("it looks at nothing that could hold NaN")


def _refuses(acquisition: Acquisition, opinions: Opinions, name: str, value: float) -> bool:
    """Whether the value is refused; if not, it must make no difference even if there is nothing else."""
    row, epoch_or_member = 3, 2
    poisoned = copy_of(opinions)
    tensor = tensors_of(poisoned)[name]
    if name == "members" or name.startswith("history"):
        tensor[epoch_or_member, row] = value
    else:
        tensor[row, 0] = value
    sample = f"sample {int(poisoned.indices[row])} of the pool"
    try:
        acquisition.choose(3, poisoned)
    except CellFailed as error:
        if name != "labeled_features" and sample not in str(error):
            raise Unmet(f"the refusal of {value} in {name} to name {sample}", error) from error
        return True
    except Exception as error:
        raise Unmet(f"CellFailed for {value} in {name}", f"{type(error).__name__}: {error}") from error
    poisoned = copy_of(opinions)
    tensors_of(poisoned)[name].fill_(value)
    k = len(opinions) // 2
    try:
        same = acquisition.choose(k, poisoned).indices.equal(acquisition.choose(k, copy_of(opinions)).indices)
    except CellFailed:
        same = False
    if not same:
        raise Unmet(f"{value} in {name} of {sample} to be refused", "a choice")
    return False
