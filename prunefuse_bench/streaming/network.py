"""A trained network and an acquisition as a scorer of batches."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from prunefuse_bench.acquisition import ACQUISITIONS, Acquisition, Needs, Opinions
from prunefuse_bench.errors import BadInput
from prunefuse_bench.inference import Prepared, prepare
from prunefuse_bench.training import TrainingRecipe

__all__ = ["NetworkScorer"]


class NetworkScorer:
    """Scores each sample by what the network says of it alone.

    In the number format of ``training``; unlike in a cell, nothing is scored again in float32 near the threshold.

    Args:
        network: a trained classifier; the samples are moved to its device.
        training: how samples are prepared.
        acquisition: name of a score that needs logits or features and looks at no other sample.
        options: of the acquisition.

    Raises:
        BadInput: another acquisition.
    """

    def __init__(
        self,
        network: nn.Module,
        training: TrainingRecipe,
        acquisition: str,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        found: Acquisition = ACQUISITIONS[acquisition]
        if found.score is None or found.randomised or found.relative or found.needs & ~(Needs.LOGITS | Needs.FEATURES):
            raise BadInput(
                f"acquisition {acquisition!r} cannot score a stream: it needs more than the logits and features of one "
                "sample at a time; least_confidence, entropy and margin can"
            )
        self._network, self._training, self._name = network.eval(), training, acquisition
        self._options = found.check_options(options or {})
        self._ready: Prepared | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_ready": None}  # made anew wherever it is sent to

    @property
    def fingerprint(self) -> str:
        """Of the weights, the acquisition and how samples are prepared."""
        settings = (self._name, sorted(self._options.items()), repr(self._training))
        digest = hashlib.sha256(repr(settings).encode())
        for name, tensor in self._network.state_dict().items():
            digest.update(name.encode())
            digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()[:32]

    def __call__(self, samples: Tensor) -> Tensor:
        """Float [B] on the CPU."""
        device = next(self._network.parameters()).device
        samples, prepared = samples.to(device), self._training.normalisation
        if self._ready is None:
            self._ready = prepare(self._network, prepared.apply(samples[:2]), self._training.precision)
        rows = torch.arange(len(samples), device=device)
        logits, features = self._ready(prepared.gather(samples, rows, dtype=self._ready.dtype))
        score = ACQUISITIONS[self._name].score
        assert score is not None
        opinions = Opinions(torch.arange(len(samples)), torch.Generator(), logits, features)
        return score(opinions, **self._options).cpu()
