"""Vision transformer for small images (Dosovitskiy et al. 2021; sizes of ViT-S in Touvron et al. 2021).

Queries, keys and values have a linear layer each, and the width of a head is what their outputs give it: a network
whose heads were narrowed by pruning needs no mending. The class token has no position of its own, so positions can be
interpolated to images of another size.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from prunefuse_bench.initialisation import Law, draw, layer_laws

__all__ = ["VisionTransformer"]

MLP_RATIO = 4
DEVIATION = 0.02
"""Standard deviation of initial weights; the original truncates at 100 of them, which is never."""


class Attention(nn.Module):
    """Self-attention of several heads.

    Attributes:
        num_heads: neighbouring outputs of ``query``, ``key`` and ``value`` belong to one head.
    """

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.projection = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = (self._heads(layer(x)) for layer in (self.query, self.key, self.value))
        mixed = F.scaled_dot_product_attention(query, key, value)
        return self.projection(mixed.transpose(1, 2).flatten(2))

    def _heads(self, x: Tensor) -> Tensor:
        return x.unflatten(2, (self.num_heads, -1)).transpose(1, 2)


class Block(nn.Module):
    """Attention and a perceptron, each behind a layer norm and beside a shortcut."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=1e-6)
        self.attention = Attention(width, num_heads)
        self.norm2 = nn.LayerNorm(width, eps=1e-6)
        self.mlp = nn.Sequential(nn.Linear(width, MLP_RATIO * width), nn.GELU(), nn.Linear(MLP_RATIO * width, width))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class VisionTransformer(nn.Module):
    """Patches to tokens, a stack of blocks, and a classifier of the class token.

    Args:
        num_classes: outputs of the classifier.
        in_channels: channels of the images.
        width: factor on the 64 channels of each head.
        depth: number of blocks.
        num_heads: of each block.
        patch: side of a patch in pixels.
        grid: patches along a side of the images it is made for; positions are interpolated for others.

    Shapes:
        float [N, in_channels, H, W] -> logits [N, num_classes]; H and W multiples of ``patch``.
    """

    def __init__(
        self,
        num_classes: int,
        in_channels: int = 3,
        width: float = 1.0,
        *,
        depth: int = 12,
        num_heads: int = 6,
        patch: int = 4,
        grid: int = 8,
    ) -> None:
        super().__init__()
        channels = num_heads * max(1, round(64 * width))
        self.grid = grid
        self.patches = nn.Conv2d(in_channels, channels, patch, stride=patch)
        self.class_token = nn.Parameter(torch.zeros(1, 1, channels))
        self.positions = nn.Parameter(torch.zeros(1, grid * grid, channels))
        self.blocks = nn.Sequential(*[Block(channels, num_heads) for _ in range(depth)])
        self.norm = nn.LayerNorm(channels, eps=1e-6)
        self.classifier = nn.Linear(channels, num_classes)
        self.init_weights()

    def init_weights(self) -> None:
        """Draw every weight anew from :meth:`initial_laws`, and reset the layer norms."""
        draw(self, self.initial_laws())

    def initial_laws(self) -> dict[str, Law]:
        """Normal with a standard deviation of 0.02 for weights, tokens and positions; biases are zero."""
        laws = {
            name: Law("constant", 0.0) if name.endswith(".bias") else Law("normal", 0.0, DEVIATION)
            for name, _ in self.named_parameters()
        }
        norms = {name: law for name, law in layer_laws(self).items() if "norm" in name}
        return laws | norms

    def forward(self, x: Tensor) -> Tensor:
        """Float [N, in_channels, H, W] -> logits [N, num_classes]."""
        patches = self.patches(x)
        tokens = patches.flatten(2).transpose(1, 2) + self._positions(patches.shape[2], patches.shape[3])
        tokens = torch.cat([self.class_token.expand(len(x), -1, -1), tokens], dim=1)
        return self.classifier(self.norm(self.blocks(tokens))[:, 0])

    def _positions(self, height: int, width: int) -> Tensor:
        if (height, width) == (self.grid, self.grid):
            return self.positions
        square = self.positions.transpose(1, 2).unflatten(2, (self.grid, self.grid))
        return F.interpolate(square, size=(height, width), mode="bilinear", antialias=True).flatten(2).transpose(1, 2)
