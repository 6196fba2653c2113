"""Knowledge distillation from the trained selector (paper, section 4.5)."""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

__all__ = ["Distillation", "distillation_loss"]


@dataclass(frozen=True)
class Distillation:
    """``cross_entropy_weight * CE + (1 - cross_entropy_weight) * KD``.

    Attributes:
        cross_entropy_weight: lambda of the paper, 0.3 (section 9.3).
        temperature: softens teacher and student. The paper names a temperature and states no value; 4 is ours.
    """

    cross_entropy_weight: float = 0.3
    temperature: float = 4.0


def distillation_loss(student_logits: Tensor, teacher_logits: Tensor, temperature: float) -> Tensor:
    """Mean Kullback-Leibler divergence of the softened student from the softened teacher, times temperature squared.

    The factor keeps its gradients in the size of the cross entropy's (Hinton et al. 2015). Float [N, C] each; scalar.
    """
    return F.kl_div(
        F.log_softmax(student_logits / temperature, dim=1),
        F.log_softmax(teacher_logits / temperature, dim=1),
        reduction="batchmean",
        log_target=True,
    ) * (temperature * temperature)
