"""What an acquisition is: a value per sample, or a choice of a batch, with what it needs and where it comes from.

Ranking, ties, checks and timing are the harness's business, so a new acquisition is one function.
"""

from __future__ import annotations

import enum
import functools
import inspect
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import pydantic
import torch
from torch import Tensor

from prunefuse_bench import ops
from prunefuse_bench.acquisition.members import Members
from prunefuse_bench.acquisition.products import Counts, MatrixProducts, tally
from prunefuse_bench.acquisition.refinement import refine_near_threshold
from prunefuse_bench.distributed.kcenters import RowShard
from prunefuse_bench.errors import BadInput, CellFailed, unknown_name
from prunefuse_bench.ops.checks import refuse_nan
from prunefuse_bench.registry import Registry
from prunefuse_bench.training.observer import History

__all__ = [
    "ACQUISITIONS",
    "Acquisition",
    "Choice",
    "Needs",
    "Opinions",
    "acquisition",
    "batch_acquisition",
    "top_k_by_lot",
]


class Needs(enum.Flag):
    """What an acquisition asks for. NOTHING: the selector need not even be trained.

    LOGITS: one prediction per sample. FEATURES: what the classifier sees. LABELED: the features of the samples that are
    labeled already, too, where the protocol has any. MEMBERS: predictions of several members. JOINT: and the members
    are the same networks for every sample. LABELS and HISTORY: the labels of the whole pool, and how each sample fared
    while the selector trained on it; only the coreset protocol has them.
    """

    NOTHING = 0
    LOGITS = enum.auto()
    FEATURES = enum.auto()
    LABELED = enum.auto()
    MEMBERS = enum.auto()
    JOINT = enum.auto()
    LABELS = enum.auto()
    HISTORY = enum.auto()


@dataclass(frozen=True)
class Opinions:
    """What is known about the candidates; only what the acquisition needs is there.

    Attributes:
        indices: int64 [N], the candidates' positions in the pool, ascending.
        generator: a CPU generator for acquisitions that draw.
        logits: float32 [N, C], or None.
        features: float32 [N, D], or None.
        labeled_features: float32 [M, D] of the samples labeled already, or None.
        members: predictions of the K members of a committee, or None.
        labels: int64 [N], 0 to C - 1, or None.
        history: how the candidates fared in the selector's training, or None.
        feature_shard: on several processes, what this one has of the features, in their place; only an acquisition that
            ``takes_shards`` gets it.
        refine: opinions about the candidates at these positions, int64 [M], in a higher precision each than the one
            before, the last one in full precision; empty if these are all that there is. A score is computed again by
            each in turn near the k-th highest.
    """

    indices: Tensor
    generator: torch.Generator
    logits: Tensor | None = None
    features: Tensor | None = None
    labeled_features: Tensor | None = None
    members: Members | None = None
    labels: Tensor | None = None
    history: History | None = None
    feature_shard: RowShard | None = None
    refine: tuple[Callable[[Tensor], Opinions], ...] = field(default=(), repr=False)

    def __len__(self) -> int:
        return len(self.indices)


@dataclass(frozen=True)
class Choice:
    """What was chosen.

    Attributes:
        indices: int64 [k] on the CPU, positions in the pool, first choice first.
        tied: how many of them were drawn by lot, their score being equal to that of samples that were not chosen.
        flops: of the matrix products, see :mod:`prunefuse_bench.acquisition.products`; None if they are not counted.
    """

    indices: Tensor
    tied: int = 0
    flops: int | None = None


Score = Callable[..., Tensor]
"""(opinions, **options) -> float [N], higher = choose first."""
ChoosePositions = Callable[..., Tensor]
"""(k, opinions, **options) -> int64 [k], positions among the candidates, first choice first."""


@dataclass(frozen=True)
class Acquisition:
    """A named acquisition: either a score or a choice of a whole batch.

    Attributes:
        name: as recipes name it.
        needs: what must be known.
        source: where it is defined.
        summary: one line.
        equation: the value, or the rule of choice, in one line.
        uncertainty: a score of how undecided the prediction is: an even prediction comes before a certain one.
        randomised: draws from the generator, beyond ties.
        relative: why a score depends on the other candidates; empty if it does not.
        score: None for a choice of a whole batch.
        choose_batch: None for a score.
        flops: what choosing spends on matrix products; None if nobody says.
        takes_shards: on several processes, each may hold features of its own samples only.
        screened: whether logits that are a few percent off make a good first look at a large pool, before scores near
            the threshold are computed again.
    """

    name: str
    needs: Needs
    source: str
    summary: str
    equation: str = ""
    uncertainty: bool = False
    randomised: bool = False
    relative: str = ""
    score: Score | None = None
    choose_batch: ChoosePositions | None = None
    flops: MatrixProducts | None = None
    takes_shards: bool = False
    screened: bool = False

    @property
    def looks_again(self) -> bool:
        """Whether scores near the k-th highest are computed again in full precision, if they can be."""
        return self.score is not None and not self.relative and not self.randomised

    @property
    def options(self) -> dict[str, Any]:
        """What a user may vary, with the defaults."""
        return {name: parameter.default for name, parameter in self._parameters().items()}

    def check_options(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """The options, defaults filled in.

        Raises:
            BadInput: an unknown option (the nearest are suggested) or a value that it does not allow.
        """
        parameters = self._parameters()
        for name in options:
            if name not in parameters:
                raise unknown_name(f"option of acquisition {self.name!r}", name, parameters)
        hints = typing.get_type_hints(self._function, include_extras=True)
        fields: dict[str, Any] = {name: (hints[name], parameters[name].default) for name in parameters}
        try:
            model = pydantic.create_model("options", **fields)(**options)
        except pydantic.ValidationError as error:
            first = error.errors()[0]
            raise BadInput(
                f"acquisition {self.name!r}: {'.'.join(map(str, first['loc']))}: {first['msg']}, got {first['input']!r}"
            ) from None
        return {name: getattr(model, name) for name in parameters}

    def count_flops(self, counts: Counts, options: Mapping[str, Any] | None = None) -> int | None:
        """FLOPs of a choice by formula; None if there is none: see :attr:`Choice.flops` then, which may know."""
        if self.flops is None or self.flops.formula is None:
            return None
        return self.flops.formula(counts, **{**self.options, **(options or {})})

    def choose(self, k: int, opinions: Opinions, options: Mapping[str, Any] | None = None) -> Choice:
        """The k samples to label (Algorithm 1, line 6). Equal scores are drawn by lot, from the generator.

        Raises:
            CellFailed: something could not be ranked (the sample is named), the acquisition did not return k different
                positions of candidates, or it failed.
        """
        try:
            with tally() as told:
                positions, tied = self._choose(k, opinions, dict(options or {}))
            is_told = self.flops is not None and self.flops.formula is None
            flops = told.flops if is_told else self.count_flops(counts_of(k, opinions), options)
        except ops.NotRankable as error:
            # Rows after the candidates are those of the samples that are labeled already.
            known = error.row < len(opinions)
            sample = f", which is sample {int(opinions.indices[error.row])} of the pool" if known else " (labeled)"
            raise CellFailed(f"acquisition {self.name!r}: {error}{sample}") from error
        except CellFailed:
            raise
        except Exception as error:  # whatever a method of the user's own does, the other cells go on
            raise CellFailed(f"acquisition {self.name!r} raised {type(error).__name__}: {error}") from error
        return Choice(opinions.indices[self._check(positions, k, len(opinions))], tied, flops)

    def _choose(self, k: int, opinions: Opinions, options: dict[str, Any]) -> tuple[Tensor, int]:
        if self.choose_batch is not None:
            return self.choose_batch(k, opinions, **options), 0
        if self.score is None:
            raise TypeError("an acquisition is a score or a choice of a batch, and this one is neither")
        scores = self.score(opinions, **options)
        if not isinstance(scores, Tensor) or scores.shape != (len(opinions),):
            raise CellFailed(
                f"acquisition {self.name!r}: expected one score per sample, float [{len(opinions)}], "
                f"got {_describe(scores)}"
            )
        if self.looks_again:
            for refine in opinions.refine:
                scores = refine_near_threshold(scores, k, functools.partial(self._score_again, refine, options))
        return top_k_by_lot(scores, k, opinions.generator)

    def _score_again(self, refine: Callable[[Tensor], Opinions], options: dict[str, Any], positions: Tensor) -> Tensor:
        assert self.score is not None
        return self.score(refine(positions), **options)

    def _check(self, positions: object, k: int, count: int) -> Tensor:
        """Indices unique, of candidates, exactly k: whatever an acquisition returns is not trusted."""
        if not isinstance(positions, Tensor) or positions.dtype != torch.int64 or positions.shape != (k,):
            raise CellFailed(
                f"acquisition {self.name!r}: expected {k} positions, int64 [{k}], got {_describe(positions)}"
            )
        positions = positions.cpu()
        if len(positions.unique()) != k:
            raise CellFailed(
                f"acquisition {self.name!r}: expected {k} different positions, "
                f"got {len(positions.unique())} different ones"
            )
        if k and (int(positions.min()) < 0 or int(positions.max()) >= count):
            raise CellFailed(
                f"acquisition {self.name!r}: expected positions from 0 to {count - 1}, "
                f"got {int(positions.min())} to {int(positions.max())}"
            )
        return positions

    @property
    def _function(self) -> Callable[..., Tensor]:
        function = self.score or self.choose_batch
        assert function is not None
        return function

    def _parameters(self) -> dict[str, inspect.Parameter]:
        given = 1 if self.score is not None else 2
        return dict(list(inspect.signature(self._function).parameters.items())[given:])


def counts_of(k: int, opinions: Opinions) -> Counts:
    """The sizes of a choice of k."""
    logits, features, labeled = opinions.logits, opinions.features, opinions.labeled_features
    if opinions.feature_shard is not None:
        features = opinions.feature_shard.rows
    members = opinions.members
    return Counts(
        candidates=len(opinions),
        labeled=0 if labeled is None else len(labeled),
        k=k,
        classes=members.classes if members is not None else 0 if logits is None else logits.shape[1],
        features=0 if features is None else features.shape[1],
        members=0 if members is None else members.count,
    )


def top_k_by_lot(scores: Tensor, k: int, generator: torch.Generator) -> tuple[Tensor, int]:
    """Positions of the k highest scores, equal ones drawn by lot: never by their place in the pool.

    Pools are often sorted by class, and some scores have few values, so the order of the pool must not decide.

    Returns:
        int64 [k] on the CPU, highest first, and how many of them were drawn by lot: those whose score equals that of a
        sample that was not chosen.

    Raises:
        NotRankable: a score is NaN.
    """
    scores = scores.detach()
    lot = torch.randperm(len(scores), generator=generator)
    refuse_nan(scores, "scores", "NaN")  # before the rows change places
    positions = lot[ops.top_k(scores[lot.to(scores.device)], k).cpu()]
    if k == 0:
        return positions, 0
    last = scores[positions[-1]]
    equal, chosen = int((scores == last).sum()), int((scores[positions.to(scores.device)] == last).sum())
    return positions, chosen if equal > chosen else 0


ACQUISITIONS: Registry[Acquisition] = Registry("acquisition")
"""All acquisitions by name; an unknown name is a BadInput that suggests the nearest ones."""


def acquisition(
    name: str,
    *,
    needs: Needs,
    source: str,
    equation: str = "",
    uncertainty: bool = False,
    randomised: bool = False,
    relative: str = "",
    flops: MatrixProducts | None = None,
    screened: bool = False,
) -> Callable[[Score], Score]:
    """Register a score: (opinions, **options) -> float [N], higher = choose first; equal scores are drawn by lot.

    The first line of the function's docstring is its summary. Its keyword arguments are options: they need types and
    defaults.

    Args:
        needs: what the opinions must hold.
        source: where it is defined.
        equation: the value in one line.
        uncertainty: it says how undecided the prediction is; the conformance suite then checks its direction.
        randomised: it draws from the generator.
        relative: why a score depends on the other candidates, if it does.
        flops: what it spends on matrix products, if that shall be counted.
        screened: large pools may be looked at in 8 bits first. That pays where few scores lie near the threshold.
    """

    def register(score: Score) -> Score:
        entry = Acquisition(
            name,
            needs,
            source,
            _summary(score),
            equation,
            uncertainty,
            randomised,
            relative,
            score=score,
            flops=flops,
            screened=screened,
        )
        ACQUISITIONS.add(name, entry)
        return score

    return register


def batch_acquisition(
    name: str,
    *,
    needs: Needs,
    source: str,
    equation: str = "",
    randomised: bool = False,
    flops: MatrixProducts | None = None,
    takes_shards: bool = False,
) -> Callable[[ChoosePositions], ChoosePositions]:
    """Register a choice that looks at the whole batch: (k, opinions, **options) -> int64 [k], first choice first.

    What is returned are positions among the candidates. The arguments are those of :func:`acquisition`.
    """

    def register(choose: ChoosePositions) -> ChoosePositions:
        entry = Acquisition(
            name,
            needs,
            source,
            _summary(choose),
            equation,
            randomised=randomised,
            choose_batch=choose,
            flops=flops,
            takes_shards=takes_shards,
        )
        ACQUISITIONS.add(name, entry)
        return choose

    return register


def _summary(function: Callable[..., object]) -> str:
    return (function.__doc__ or "").strip().splitlines()[0] if function.__doc__ else ""


def _describe(value: object) -> str:
    return f"{value.dtype} {list(value.shape)}" if isinstance(value, Tensor) else f"{type(value).__name__}"
