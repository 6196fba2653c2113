"""Whether the fast way of scoring chooses what the plain one chooses.

Folding, bfloat16 and another order of summation change logits a little; what counts is who is chosen.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pandas
import torch
from torch import Tensor, nn

from prunefuse_bench import ops
from prunefuse_bench.acquisition import ACQUISITIONS
from prunefuse_bench.acquisition.refinement import refine_near_threshold
from prunefuse_bench.data import ImageDataset, Normalisation, subset
from prunefuse_bench.inference import SCREENED_FROM, can_screen
from prunefuse_bench.models import build_model
from prunefuse_bench.ops import ScoreKind
from prunefuse_bench.profiling.paths import package_logits, plain_copy, plain_logits, rough_logits
from prunefuse_bench.pruning import prune
from prunefuse_bench.randomness import generator, seeded
from prunefuse_bench.training import (
    Precision,
    StepSchedule,
    TrainingRecipe,
    finer_precisions,
    fit,
    resolve_precision,
)

__all__ = ["Agreement", "briefly_trained", "compare_scores", "measure_agreement", "overlap", "top_k_overlap"]

KINDS: tuple[ScoreKind, ...] = ("entropy", "least_confidence", "margin")
SHARE = 0.02
"""Of the pool that is chosen: 1,000 of 50,000."""
PLAIN_BATCH = 256
TRAINED_ON, SAMPLES_SEEN = 5_000, 12_000

Logits = Callable[[nn.Module, Tensor, TrainingRecipe], Tensor]


@dataclass(frozen=True)
class Agreement:
    """Two sets of scores of one pool.

    Attributes:
        kind: of score.
        pool, k: images, and how many of them are chosen.
        overlap: share of the k chosen by the first that the other chooses too.
        chosen: the same once the other's scores near the k-th highest are computed again in full precision, as a
            selection does it; None if they were not.
        spearman, kendall: rank correlations of the scores of the whole pool; None if one of them is constant.
        again: share of the pool that was computed again for ``chosen``, in each precision one after the other.
        screened: whether the other's scores are of a look in 8 bits.
    """

    kind: ScoreKind
    pool: int
    k: int
    overlap: float
    chosen: float | None
    spearman: float | None
    kendall: float | None
    again: tuple[float, ...] = ()
    screened: bool = False


def top_k_overlap(
    network: nn.Module,
    images: Tensor,
    training: TrainingRecipe,
    k: int,
    kind: ScoreKind,
    *,
    fast: Logits = package_logits,
) -> float:
    """Share of the k images chosen by the plain float32 loop that the package's scoring chooses too.

    Args:
        network: trained; not changed.
        images: uint8 [N, C, H, W] on the network's device.
        training: how images are normalised, and the precision of the fast way.
        k: from 1 to N.
        kind: of score.
        fast: what is compared with the plain loop.
    """
    plain, other = _both(network, images, training, fast)
    return overlap(ops.top_k(ops.score(plain, kind), k), ops.top_k(ops.score(other, kind), k))


def measure_agreement(
    network: nn.Module, images: Tensor, training: TrainingRecipe, *, fast: Logits = package_logits
) -> list[Agreement]:
    """Every kind of score, for 2% of the pool; arguments as for :func:`top_k_overlap`.

    Where ``training`` has pools looked at in 8 bits first, that is compared as well, after the others.
    """
    plain, other = _both(network, images, training, fast)
    k = max(1, round(SHARE * len(images)))

    def compare(kind: ScoreKind, logits: Tensor, precisions: Sequence[Precision]) -> Agreement:
        def rescore(precision: Precision, positions: Tensor) -> Tensor:
            finer = dataclasses.replace(training, precision=precision, screening=False)
            return ops.score(fast(copy.deepcopy(network), images[positions], finer), kind)

        again = [functools.partial(rescore, precision) for precision in precisions]
        return compare_scores(kind, ops.score(plain, kind), ops.score(logits, kind), k, again)

    precisions = finer_precisions(training.precision) or ("fp32",)
    found = [compare(kind, other, precisions) for kind in KINDS]
    if training.screening:
        rough = rough_logits(copy.deepcopy(network), images, training)
        precisions = finer_precisions(training.precision, look_first=True)
        screened = (kind for kind in KINDS if ACQUISITIONS[kind].screened)
        found += [dataclasses.replace(compare(kind, rough, precisions), screened=True) for kind in screened]
    return found


def compare_scores(
    kind: ScoreKind, plain: Tensor, other: Tensor, k: int, again: Sequence[Callable[[Tensor], Tensor]] = ()
) -> Agreement:
    """Two scores, float [N], of the same images.

    Args:
        again: one after the other, the ``rescore`` of :func:`refine_near_threshold`.
    """
    ours, theirs = (pandas.Series(scores.double().cpu().numpy()) for scores in (plain, other))
    rankable = ours.nunique() > 1 and theirs.nunique() > 1
    refined, counts = other, [0] * len(again)
    for place, rescore in enumerate(again):

        def counted(positions: Tensor, place: int = place, rescore: Callable[[Tensor], Tensor] = rescore) -> Tensor:
            counts[place] += len(positions)
            return rescore(positions)

        refined = refine_near_threshold(refined, k, counted)
    return Agreement(
        kind,
        len(plain),
        k,
        overlap(ops.top_k(plain, k), ops.top_k(other, k)),
        overlap(ops.top_k(plain, k), ops.top_k(refined, k)) if again else None,
        float(ours.corr(theirs, method="spearman")) if rankable else None,
        float(ours.corr(theirs, method="kendall")) if rankable else None,
        tuple(count / len(plain) for count in counts),
    )


def overlap(chosen: Tensor, reference: Tensor) -> float:
    """Share of ``reference``, int64 [k], that is in ``chosen``, int64 [k].

    Raises:
        ValueError: not of the same length, or empty.
    """
    if len(chosen) != len(reference) or not len(chosen):
        raise ValueError(f"expected two choices of one size, at least 1, got {len(chosen)} and {len(reference)}")
    return float(torch.isin(reference, chosen).double().mean())


def briefly_trained(
    name: str, ratio: float, dataset: ImageDataset, device: torch.device
) -> tuple[nn.Module, TrainingRecipe]:
    """A network that has seen enough to have opinions: 12,000 samples, of at most 5,000 images.

    Args:
        ratio: share of the channels that is removed first.
    """
    images = dataset.train_images
    if len(images) > TRAINED_ON:
        dataset = subset(dataset, TRAINED_ON)
    training = TrainingRecipe(
        schedule=StepSchedule(
            max(1, round(SAMPLES_SEEN / len(dataset.train_images))), ((1, 0.01), (5, 0.05), (2, 0.01))
        ),
        batch_size=min(128, len(dataset.train_images)),
        momentum=0.9,
        weight_decay=5e-4,
        augmentation=dataset.augmentation,
        normalisation=Normalisation.of(images),
        precision=resolve_precision("auto", device),
        screening=len(images) >= SCREENED_FROM and can_screen(device),
    )
    with seeded(0, "agreement", name):
        network = build_model(name, num_classes=len(dataset.classes), in_channels=images.shape[1])
    if ratio:
        network = prune(network, torch.zeros(1, *images.shape[1:]), ratio).model
    network.to(device)
    draw = generator(0, "agreement")
    fit(network, dataset.train_images.to(device), dataset.train_labels.to(device), training, draw)
    return network, training


def _both(network: nn.Module, images: Tensor, training: TrainingRecipe, fast: Logits) -> tuple[Tensor, Tensor]:
    plain = plain_logits(plain_copy(network), images, training.normalisation, PLAIN_BATCH)
    return plain, fast(copy.deepcopy(network), images, training)
