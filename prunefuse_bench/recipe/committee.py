"""How many opinions does the selector give per sample?"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import torch

from prunefuse_bench.acquisition import Needs, Opinions
from prunefuse_bench.data import Pool
from prunefuse_bench.pruning import Network
from prunefuse_bench.training import TrainingRecipe, predict

__all__ = ["Committee", "OnePass"]


@dataclass(frozen=True)
class Committee(ABC):
    """Asks a trained selector about the unlabeled pool."""

    @abstractmethod
    def ask(
        self,
        selector: Network,
        pool: Pool,
        needs: Needs,
        training: TrainingRecipe,
        generator: torch.Generator,
        progress: Callable[[int, int], None],
    ) -> Opinions:
        """What the acquisition needs to know about the unlabeled samples of the pool."""


@dataclass(frozen=True)
class OnePass(Committee):
    """One forward pass in evaluation mode over clean images."""

    def ask(
        self,
        selector: Network,
        pool: Pool,
        needs: Needs,
        training: TrainingRecipe,
        generator: torch.Generator,
        progress: Callable[[int, int], None],
    ) -> Opinions:
        """Logits [N, C], and features if they are asked for."""
        unlabeled, with_features = pool.unlabeled, Needs.FEATURES in needs
        images = pool.images[unlabeled.to(pool.images.device)]
        logits, features = predict(selector.model, images, training, features=with_features, progress=progress)
        labeled_features = None
        if with_features:
            _, labeled_features = predict(selector.model, pool.labeled.images, training, features=True)
        return Opinions(unlabeled, generator, logits, features, labeled_features)
