"""What each operator means: plain float64 torch, written to be read. Other implementations are held against these."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["fuse_flat", "gather_images", "greedy_kcenters", "score", "score_committee", "score_head", "top_k"]


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
    """See :func:`prunefuse_bench.ops.score`; NaN for a row that cannot be ranked."""
    scores = SCORES[kind](logits.double()).float()
    return torch.where(_has_no_score(logits), torch.nan, scores)


def score_committee(logits: Tensor, kind: str) -> Tensor:
    """See :func:`prunefuse_bench.ops.score_committee`; NaN for a sample that cannot be ranked."""
    scores = variation_ratio(logits) if kind == "variation_ratio" else _score_mean(logits, kind)
    return torch.where(_has_no_score(logits).any(dim=0), torch.nan, scores.float())


def variation_ratio(logits: Tensor) -> Tensor:
    """The share of the members that do not vote for the class with the most votes; ties go to the lowest class."""
    members, samples, classes = logits.shape
    is_top = logits == logits.amax(dim=2, keepdim=True)
    votes = is_top.to(torch.uint8).argmax(dim=2)  # argmax of equal values: the first
    counts = torch.zeros(samples, classes, device=logits.device)
    counts.scatter_add_(1, votes.T, torch.ones_like(votes.T, dtype=counts.dtype))
    return 1 - counts.double().amax(dim=1) / members


def _score_mean(logits: Tensor, kind: str) -> Tensor:
    """The kinds that are made of the members' mean prediction."""
    log_p = torch.log_softmax(logits.double(), dim=2)
    p = log_p.exp()
    mean = p.mean(dim=0)
    if kind == "mean_least_confidence":
        return mean.scatter(1, mean.argmax(dim=1, keepdim=True), 0.0).sum(dim=1)
    mean_entropy = -torch.where(mean > 0, mean * mean.log(), 0.0).sum(dim=1)
    if kind == "mean_entropy":
        return mean_entropy
    entropies = -torch.where(log_p.isneginf(), 0.0, p * log_p).sum(dim=2)
    return (mean_entropy - entropies.mean(dim=0)).clamp_min(0.0)


def score_head(features: Tensor, weight: Tensor, bias: Tensor | None, kind: str) -> Tensor:
    """See :func:`prunefuse_bench.ops.score_head`; NaN for a row that cannot be ranked."""
    logits = features.double() @ weight.double().T
    return score(logits if bias is None else logits + bias.double(), kind)


def _has_no_score(logits: Tensor) -> Tensor:
    return logits.isnan().any(-1) | logits.isposinf().any(-1) | logits.isneginf().all(-1)


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


def fuse_flat(
    dense: Tensor, origin: Tensor, values: Tensor, begins: Tensor, laws: Tensor, parameters: Tensor, seed: int
) -> Tensor:
    """See :func:`prunefuse_bench.ops.fuse_flat`."""
    position = torch.arange(len(dense), device=dense.device)
    segment = torch.searchsorted(begins.to(dense.device), position, right=True) - 1
    law = laws.to(dense.device)[segment]
    a, b = parameters.to(dense.device)[segment].double().unbind(dim=1)
    uniform = ((_philox(position, seed) >> 9).double() + 0.5) / 2**23
    normal = torch.erfinv(2 * uniform - 1) * 2**0.5
    drawn = torch.stack([dense.double(), a, a + (b - a) * uniform, a + b * normal]).gather(0, law.long()[None])[0]
    drawn = torch.where(law == 0, dense, drawn.float().to(dense.dtype))
    if len(values) == 0:
        return drawn
    return torch.where(origin >= 0, values[origin.clamp_min(0).long()], drawn)


def gather_images(
    images: Tensor,
    rows: Tensor,
    levels: Tensor,
    tops: Tensor | None,
    lefts: Tensor | None,
    flips: Tensor | None,
    padding: int,
) -> Tensor:
    """The images of these rows, cropped and flipped, each grey level replaced by its number: [B, H, W, C]."""
    batch = images[rows]
    if tops is not None and lefts is not None:
        height, width = images.shape[-2:]
        windows = F.pad(batch, (padding,) * 4).unfold(2, height, 1).unfold(3, width, 1)  # [B, C, top, left, H, W]
        batch = windows[torch.arange(len(batch), device=batch.device), :, tops, lefts]
    if flips is not None:
        batch = torch.where(flips[:, None, None, None], batch.flip(-1), batch)
    channels = torch.arange(images.shape[1], device=images.device)
    return levels[channels, batch.permute(0, 2, 3, 1).long()]


def _philox(position: Tensor, seed: int) -> Tensor:
    """Word ``position % 4`` of Philox 4x32-10 at counter ``position // 4`` with key ``seed``; int64 below 2^32."""
    low = 0xFFFFFFFF
    counter = position >> 2
    c0, c1, c2, c3 = counter & low, counter >> 32, torch.zeros_like(counter), torch.zeros_like(counter)
    k0, k1 = seed & low, seed >> 32 & low
    for _ in range(10):
        # 64-bit products wrap around, which leaves all of their bits in place.
        product0, product1 = c0 * 0xD2511F53, c2 * 0xCD9E8D57
        c0, c1 = ((product1 >> 32) & low) ^ c1 ^ k0, product1 & low
        c2, c3 = ((product0 >> 32) & low) ^ c3 ^ k1, product0 & low
        k0, k1 = (k0 + 0x9E3779B9) & low, (k1 + 0xBB67AE85) & low
    return torch.stack([c0, c1, c2, c3]).gather(0, (position & 3)[None])[0]
