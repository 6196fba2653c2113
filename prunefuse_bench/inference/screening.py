"""A quick look at a whole pool, before those near the threshold are looked at closely.

Who is chosen depends on the scores near the k-th highest, which are computed again in full precision (see
:mod:`prunefuse_bench.acquisition.refinement`). For the others a score that is right to within a few percent will do. On
processors that multiply bytes, and have no matrix units for bfloat16, such scores come at twice the speed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from prunefuse_bench.inference.quantised import QuantisedChain, quantise_chain
from prunefuse_bench.inference.rewriting import NotAChain, fold_batch_norms, trace_chain
from prunefuse_bench.ops.quantised import has_quantised_chains

__all__ = ["SCREENED_FROM", "Screen", "can_screen", "prepare_screen"]

SCREENED_FROM = 10_000
"""Images of a pool; in smaller ones those near the threshold are too large a part."""
SAMPLE = 256
"""Images of the pool that say how large activations become."""
BATCH = 2_000
LARGEST_ERROR = 0.1
"""Root mean square of the error of the sample's logits, as a share of their deviation: beyond it nothing is gained."""


@dataclass(frozen=True)
class Screen:
    """A function that nearly computes the logits of a network in evaluation mode.

    Attributes:
        how: what was done, in words; ``prunefuse-bench profile`` prints it.
        batch_size: how many images it likes to see at once.
        error: of the logits of a sample of the pool, root mean square, as a share of their deviation.
    """

    how: str
    batch_size: int
    error: float
    chain: QuantisedChain = field(repr=False)

    def __call__(self, images: Tensor) -> Tensor:
        """Uint8 [N, C, H, W] -> logits float32 [N, classes]; for each image the same whatever comes with it."""
        return self.chain(images)


def can_screen(device: torch.device) -> bool:
    """Whether a network can be faster in 8 bits here than in the precision of training."""
    return device.type == "cpu" and has_quantised_chains()


def prepare_screen(network: nn.Module, images: Tensor, mean: Sequence[float], std: Sequence[float]) -> Screen | None:
    """Make ``network`` ready for a quick look at a pool; it is left in evaluation mode and otherwise not changed.

    Args:
        network: a classifier.
        images: uint8 [N, C, H, W], the pool.
        mean, std: per channel, how its pixels 0 to 255 are normalised.

    Returns:
        None where it does not pay or cannot be: a small pool, a processor without such products, a network that is no
        chain of convolutions (see :func:`prunefuse_bench.inference.prepare`), or one that is too far off in 8 bits.
    """
    if len(images) < SCREENED_FROM or images.dtype != torch.uint8 or images.dim() != 4 or not can_screen(images.device):
        return None
    network.eval()
    sample = images[torch.arange(SAMPLE) * (len(images) - 1) // (SAMPLE - 1)]
    means, deviations = torch.tensor(mean), torch.tensor(std)
    try:
        with torch.no_grad():
            chain = trace_chain(network, (sample[:2] - means[:, None, None]) / deviations[:, None, None])
            fold_batch_norms(chain)
            quantised = quantise_chain(chain, sample, means, deviations)
    except (NotAChain, RuntimeError):  # images too large for its tables, above all
        return None
    if not quantised.error <= LARGEST_ERROR:
        return None
    how = f"{len(quantised.layers)} convolutions in one call (own kernels), 8 bits"
    return Screen(how, BATCH, quantised.error, quantised)
