"""Opinions to hold acquisitions against: what they need, and nothing else."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from prunefuse_bench.acquisition import Needs, Opinions, StoredMembers
from prunefuse_bench.training import History, HistoryRecorder

__all__ = [
    "UNDECIDED",
    "about",
    "copy_of",
    "opinions_for",
    "take",
    "tensors_of",
    "undecided_among_certain",
    "with_and_without_labeled",
]

FIRST, STEP = 100, 3
"""The candidates are samples 100, 103, 106, ... of the pool, so that a position is never taken for an index."""
UNDECIDED = 6
"""Position of the only one in :func:`undecided_among_certain`."""


def about(
    count: int,
    *,
    draws: int = 0,
    logits: Tensor | None = None,
    features: Tensor | None = None,
    labeled_features: Tensor | None = None,
    members: Tensor | None = None,
    labels: Tensor | None = None,
    history: History | None = None,
) -> Opinions:
    """Opinions about so many candidates.

    Args:
        draws: seed of the generator.
        members: float [K, N, C], logits.
    """
    return Opinions(
        FIRST + STEP * torch.arange(count),
        torch.Generator().manual_seed(draws),
        logits,
        features,
        labeled_features,
        None if members is None else StoredMembers(members),
        labels,
        history,
    )


def opinions_for(needs: Needs, count: int = 24, *, classes: int = 5, sharpness: float = 1.0) -> Opinions:
    """Opinions that hold what is needed and nothing else, from 8 features, 6 members and 12 epochs; always the same.

    They belong to one another: the logits are a linear layer of the features, ``sharpness`` long; the members are that
    layer with noise on its weights; the labels are drawn from the prediction; the history is that of a layer that
    grows, with noise.
    """
    features, members, epochs = 8, 6, 12
    generator = torch.Generator().manual_seed(count * 1000 + classes)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    seen, weight = normal(count, features), sharpness * normal(features, classes)
    logits = seen @ weight
    of_members = seen @ (weight + normal(members, features, classes))
    labels = torch.multinomial(logits.softmax(1), 1, generator=generator)[:, 0] if count else torch.empty(0).long()
    growing = [epoch / epochs * logits + 0.5 * normal(count, classes) for epoch in range(epochs)]
    return _only(needs, seen, normal(7, features), logits, of_members, labels, growing)


def undecided_among_certain(needs: Needs) -> Opinions:
    """Ten candidates, of which one is undecided in every sense that a measure of uncertainty may have.

    Its members lean to different classes, so that they disagree, none of them is certain, and their mean is even;
    through training its prediction went back and forth. The members of the others agree, are all but certain, and have
    been right from the beginning.
    """
    count, classes = 10, 4
    one_hot = torch.nn.functional.one_hot(torch.arange(count) % classes, classes).float()
    sharpness = torch.tensor([6.0, 10.0, 30.0])[torch.arange(count) % 3]
    members = (sharpness[:, None] * one_hot).repeat(classes, 1, 1)
    members[:, UNDECIDED] = 3 * torch.eye(classes)
    mean = members.log_softmax(2).logsumexp(0) - math.log(classes)
    weight = torch.randn(8, classes, generator=torch.Generator().manual_seed(0))
    return _only(
        needs,
        mean @ torch.linalg.pinv(weight),
        torch.randn(7, 8, generator=torch.Generator().manual_seed(1)),
        mean,
        members,
        mean.argmax(1),
        [members[epoch % classes] for epoch in range(12)],
    )


def _only(
    needs: Needs,
    features: Tensor,
    labeled_features: Tensor,
    logits: Tensor,
    members: Tensor,
    labels: Tensor,
    logits_by_epoch: Sequence[Tensor],
) -> Opinions:
    history = None
    if Needs.HISTORY in needs:
        recorder = HistoryRecorder()
        recorder.begin(len(labels), len(logits_by_epoch), labels.device)
        for epoch, of_epoch in enumerate(logits_by_epoch):
            recorder.saw(epoch, torch.arange(len(labels)), of_epoch, labels)
        history = recorder.history()
    return about(
        len(labels),
        logits=logits if Needs.LOGITS in needs else None,
        features=features if Needs.FEATURES in needs else None,
        labeled_features=labeled_features if Needs.LABELED in needs else None,
        members=members if needs & (Needs.MEMBERS | Needs.JOINT) else None,
        labels=labels if Needs.LABELS in needs else None,
        history=history,
    )


def take(opinions: Opinions, positions: Tensor, *, draws: int = 0) -> Opinions:
    """Opinions about these of the candidates, int64 [n], each as often as it is named; ``draws`` seeds the generator.

    They are copies, and other samples of the pool: as in every pool, their indices ascend.
    """

    def rows(tensor: Tensor | None) -> Tensor | None:
        return None if tensor is None else tensor[positions]

    labeled, members, history = opinions.labeled_features, opinions.members, opinions.history
    if history is not None:
        history = History.of({name: tensor[:, positions] for name, tensor in history.tensors().items()})
    return about(
        len(positions),
        draws=draws,
        logits=rows(opinions.logits),
        features=rows(opinions.features),
        labeled_features=None if labeled is None else labeled.clone(),
        members=None if members is None else members.logits(slice(None))[:, positions],
        labels=rows(opinions.labels),
        history=history,
    )


def copy_of(opinions: Opinions, *, draws: int = 0) -> Opinions:
    """All of them, with a new generator."""
    return take(opinions, torch.arange(len(opinions)), draws=draws)


def with_and_without_labeled(opinions: Opinions) -> list[Opinions]:
    """The same before anything is labeled, too, if there is anything."""
    return [opinions] + [dataclasses.replace(opinions, labeled_features=None)] * (opinions.labeled_features is not None)


def tensors_of(opinions: Opinions) -> dict[str, Tensor]:
    """All that is there, by name; the tensors themselves."""
    found = {name: getattr(opinions, name) for name in ("indices", "logits", "features", "labeled_features", "labels")}
    found["members"] = None if opinions.members is None else opinions.members.logits(slice(None))
    if opinions.history is not None:
        found |= {f"history.{name}": tensor for name, tensor in opinions.history.tensors().items()}
    return {name: tensor for name, tensor in found.items() if tensor is not None}
