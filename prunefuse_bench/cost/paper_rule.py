"""The cost rule of the paper's tables: FLOPs of a selector from parameters, input values, samples and epochs.

The paper never states it. Its section 9.1 gives orders of growth alone; the factors are fitted from the cells of
Tables 2 and 3 (docs/paper.md). It is the rule "6 per parameter and token" of language models with input values in the
place of tokens, and not a count of operations: for ResNet-56 on 32x32 images it charges 21 times what the convolutions
do. Use it to compare with the paper's tables, and for nothing else.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

__all__ = [
    "SYNC_EPOCHS",
    "cumulative_selector_flops",
    "paper_flops",
    "scoring_flops",
    "synchronised_rounds",
    "synchronised_training_flops",
    "training_flops",
]

SYNC_EPOCHS = 110
"""Epochs of the fused network, and again of the network pruned from it, at a synchronised round; fitted (Table 3).

It is also the length at which Table 24 stops early. The tables show the sum of both alone (137.4 dense epochs, the
pruned ones counting a quarter each), so this split is the simplest that fits, not the only one.
"""

TRAINING = 6
"""FLOPs per parameter, input value, sample and epoch: 2 forward and 4 backward."""
FORWARD = 2
"""FLOPs per parameter, input value and sample of one forward pass."""


def paper_flops(
    params: float, input_size: float, labeled: Sequence[int] | int, unlabeled: Sequence[int] | int, epochs: float
) -> float:
    """FLOPs of a selector by the paper's rule: sum over rounds of 6 P D |L_i| T + 2 P D |U_i|.

    This is what Tables 2 and 3 print for a selector that is trained from scratch in every round and asked once (section
    6.1), to the last digit for dense selectors. More passes and synchronised rounds: :func:`cumulative_selector_flops`.

    Args:
        params: P, parameters of the selector.
        input_size: D, values of one input: 3 * 32 * 32 for CIFAR, 3 * 224 * 224 for ImageNet.
        labeled: |L_i|, samples that the selector of each round is trained on; a number alone is one round.
        unlabeled: |U_i|, samples that it then scores.
        epochs: T of each training: 181 for CIFAR, 100 for Tiny-ImageNet and ImageNet.

    Returns:
        FLOPs of all rounds together; 0 for none.

    Raises:
        ValueError: something is negative, or there are not as many counts of labeled as of unlabeled samples.
    """
    spent = cumulative_selector_flops(params, input_size, _rounds(labeled), _rounds(unlabeled), epochs)
    return spent[-1] if spent else 0.0


def training_flops(params: float, input_size: float, samples: int, epochs: float) -> float:
    """FLOPs of one training: 6 P D |L| T."""
    return TRAINING * params * input_size * samples * epochs


def scoring_flops(params: float, input_size: float, samples: int, passes: int = 1) -> float:
    """FLOPs of scoring the unlabeled samples once: 2 P D |U| for each pass.

    Fitted from Table 3: BALD costs 2 passes, whatever the number of its dropout samples, and ALSE 5, one for each
    snapshot (section 6.2).
    """
    return passes * FORWARD * params * input_size * samples


def synchronised_rounds(rounds: int, sync_every: int) -> tuple[int, ...]:
    """Rounds that begin with a synchronisation, counted from 0, the training on the random start.

    Fitted from Table 3: T_sync = 1 synchronises every round but the first; T_sync = 2 the rounds 1 and 3 alone, whose
    cost shows in the cells of 20% and 40%.

    Args:
        rounds: how many there are.
        sync_every: T_sync (Algorithm 1); 0 for never.
    """
    return tuple(range(1, rounds, sync_every)) if sync_every else ()


def synchronised_training_flops(
    params: float, dense_params: float, input_size: float, samples: int, epochs: float = SYNC_EPOCHS
) -> float:
    """FLOPs of training at a synchronised round: the fused dense network, then the network pruned from it.

    Both are fine-tuned for ``epochs`` in the place of the selector's training from scratch. Section 9.1 writes these
    terms beside that training; the cells of Table 3 fit only if they replace it.
    """
    return training_flops(dense_params, input_size, samples, epochs) + training_flops(
        params, input_size, samples, epochs
    )


def cumulative_selector_flops(
    params: float,
    input_size: float,
    labeled: Sequence[int],
    unlabeled: Sequence[int],
    epochs: float,
    *,
    passes: int = 1,
    sync_every: int = 0,
    dense_params: float | None = None,
) -> list[float]:
    """FLOPs that a selector has cost after each round, as the columns of Tables 2 and 3 grow.

    Round 0 trains on the random start, so its figure is that of the first budget which is selected: 2% labeled give the
    cell of 10%.

    Args:
        params: P, parameters of the selector.
        input_size: D, values of one input.
        labeled: |L_i| of each round.
        unlabeled: |U_i| of each round.
        epochs: T, of a training from scratch.
        passes: over the unlabeled samples in each round.
        sync_every: T_sync; 0 for never.
        dense_params: parameters of the target network; needed with ``sync_every``.

    Raises:
        ValueError: something is negative, lengths differ, or ``dense_params`` is missing.
    """
    if len(labeled) != len(unlabeled):
        raise ValueError(f"expected as many labeled as unlabeled counts, got {len(labeled)} and {len(unlabeled)}")
    if min((params, input_size, epochs, passes, sync_every, *labeled, *unlabeled)) < 0:
        raise ValueError("expected parameters, input size, counts, epochs, passes and T_sync of at least 0")
    if sync_every and dense_params is None:
        raise ValueError("expected dense_params with sync_every: a synchronised round trains the dense network too")
    synced = synchronised_rounds(len(labeled), sync_every)

    def round_flops(number: int, trained: int, scored: int) -> float:
        scoring = scoring_flops(params, input_size, scored, passes)
        if dense_params is not None and number in synced:
            return synchronised_training_flops(params, dense_params, input_size, trained) + scoring
        return training_flops(params, input_size, trained, epochs) + scoring

    rounds = enumerate(zip(labeled, unlabeled, strict=True))
    return [float(sum_) for sum_ in itertools.accumulate(round_flops(i, *counts) for i, counts in rounds)]


def _rounds(counts: Sequence[int] | int) -> Sequence[int]:
    return counts if isinstance(counts, Sequence) else [counts]
