"""Training, evaluation and prediction of one network."""

from prunefuse_bench.training.distillation import Distillation, distillation_loss
from prunefuse_bench.training.precision import Precision, resolve_precision
from prunefuse_bench.training.schedule import StepSchedule
from prunefuse_bench.training.trainer import Diverged, Evaluation, Fit, TrainingRecipe, evaluate, fit, predict

__all__ = [
    "Distillation",
    "Diverged",
    "Evaluation",
    "Fit",
    "Precision",
    "StepSchedule",
    "TrainingRecipe",
    "distillation_loss",
    "evaluate",
    "fit",
    "predict",
    "resolve_precision",
]
