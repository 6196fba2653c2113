"""How much of the FLOPs that pruning saves comes out as time.

A network with a quarter of the FLOPs is four times as fast at best: small channels fill vector registers and matrix
units badly, and what moves memory or launches kernels does not shrink with the square of the width.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Realised"]


@dataclass(frozen=True)
class Realised:
    """A smaller network against the dense one, on the same path (training, or scoring).

    Attributes:
        flops_ratio: FLOPs per image, dense / smaller; at least 1 if it is smaller.
        throughput_ratio: images per second, smaller / dense.
    """

    flops_ratio: float
    throughput_ratio: float

    @property
    def share(self) -> float:
        """Throughput ratio / FLOPs ratio: 1 if all of the saving is realised, ``1 / flops_ratio`` if none is."""
        return self.throughput_ratio / self.flops_ratio

    @property
    def flops_saved(self) -> float:
        """Share of the dense network's FLOPs, from 0 to below 1."""
        return 1 - 1 / self.flops_ratio

    @property
    def seconds_saved(self) -> float:
        """Share of the dense network's seconds; negative if the smaller network is slower."""
        return 1 - 1 / self.throughput_ratio
