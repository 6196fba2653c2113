"""Training, evaluation and prediction of one network."""

from prunefuse_bench.inference.precision import Precision, finer_precisions, resolve_precision
from prunefuse_bench.training.distillation import Distillation, distillation_loss
from prunefuse_bench.training.observer import (
    EpochRecorder,
    History,
    HistoryRecorder,
    SnapshotRecorder,
    TrainingObserver,
)
from prunefuse_bench.training.prediction import (
    Evaluation,
    evaluate,
    predict,
    predict_prepared,
    predict_roughly,
    predict_screened,
)
from prunefuse_bench.training.remaking import Remade, Remaking
from prunefuse_bench.training.schedule import CosineSchedule, Schedule, StepSchedule
from prunefuse_bench.training.stopping import EarlyStopping, StopReason
from prunefuse_bench.training.trainer import Diverged, Fit, OptimizerName, TrainingRecipe, fit

__all__ = [
    "CosineSchedule",
    "Distillation",
    "Diverged",
    "EarlyStopping",
    "EpochRecorder",
    "Evaluation",
    "Fit",
    "History",
    "HistoryRecorder",
    "OptimizerName",
    "Precision",
    "Remade",
    "Remaking",
    "Schedule",
    "SnapshotRecorder",
    "StepSchedule",
    "StopReason",
    "TrainingObserver",
    "TrainingRecipe",
    "distillation_loss",
    "evaluate",
    "finer_precisions",
    "fit",
    "predict",
    "predict_prepared",
    "predict_roughly",
    "predict_screened",
    "resolve_precision",
]
