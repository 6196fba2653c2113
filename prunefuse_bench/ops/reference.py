"""What each operator means: plain float64 torch, written to be read. Other implementations are held against these."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["greedy_kcenters", "score", "top_k"]


def least_confidence(logits: Tensor) -> Tensor:
    """1 - p1, the probability that the prediction is wrong (paper, section 4.2); from 0 to 1 - 1/C."""
    top = logits.max(dim=1, keepdim=True)
    weights = torch.exp(logits - top.values)
    # Everything but the prediction itself, summed: 1 - p1 would lose all digits where p1 is near 1.
    others = weights.scatter(1, top.indices, 0.0).sum(dim=1)
    return others / weights.sum(dim=1)


def entropy(logits: Tensor) -> Tensor:
    """Entropy of the prediction in nats (paper, section 4.2); from 0 to log C. A probability of zero adds nothing."""
    log_p = torch.log_softmax(logits, dim=1)
    return -torch.where(log_p.isneginf(), 0.0, log_p.exp() * log_p).sum(dim=1)


def margin(logits: Tensor) -> Tensor:
    """p2 - p1, the probability of the runner-up less that of the prediction; from -1 (certain) to 0 (undecided)."""
    p = torch.softmax(logits, dim=1)
    if p.shape[1] == 1:
        return -p[:, 0]
    top = p.topk(2, dim=1).values
    return top[:, 1] - top[:, 0]


SCORES = {"least_confidence": least_confidence, "entropy": entropy, "margin": margin}


def score(logits: Tensor, kind: str) -> Tensor:
    """See :func:`prunefuse_bench.ops.score`."""
    return SCORES[kind](logits.double()).float()


def top_k(scores: Tensor, k: int) -> Tensor:
    """See :func:`prunefuse_bench.ops.top_k`."""
    return torch.sort(scores, descending=True, stable=True).indices[:k]


def greedy_kcenters(features: Tensor, k: int, initial: Tensor | None) -> tuple[Tensor, Tensor]:
    """See :func:`prunefuse_bench.ops.greedy_kcenters`."""
    points = features.double()
    squared_norms = points.square().sum(dim=1)
    indices = torch.empty(k, dtype=torch.int64, device=points.device)
    radii = torch.empty(k, dtype=torch.float64, device=points.device)
    centers = torch.empty(0, dtype=torch.int64, device=points.device) if initial is None else initial
    nearest = torch.full_like(squared_norms, torch.inf)  # squared distance of each point to its nearest center

    def add(center: Tensor) -> None:
        distances = (squared_norms + squared_norms[center] - 2 * (points @ points[center])).clamp_min(0.0)
        torch.minimum(nearest, distances, out=nearest)
        nearest[center] = -1.0  # never picked again

    for center in centers:
        add(center)
    for pick in range(k):
        if pick == 0 and len(centers) == 0:
            best = (points - points.mean(dim=0)).square().sum(dim=1).argmax()
            radii[pick] = torch.inf
        else:
            best = nearest.argmax()
            radii[pick] = nearest[best].sqrt()
        indices[pick] = best
        add(best)
    return indices, radii.float()
