"""The operators of selection: compiled for the CPU and for CUDA, defined by the plain float64 torch of ``reference``.

Every score is "higher is chosen first". What is not a number is never ranked: it is an error that names the row. No GPU
has run the CUDA kernels yet: they are run by an emulator in the tests.
"""

from prunefuse_bench.ops._library import HAS_CUDA_KERNELS, instruction_set
from prunefuse_bench.ops.checks import NotRankable
from prunefuse_bench.ops.convolving import convolution, convolution_input_gradient, convolution_weight_gradient
from prunefuse_bench.ops.fusing import LAWS, fuse_flat
from prunefuse_bench.ops.images import gather_images
from prunefuse_bench.ops.kcenters import GreedyKCenters, greedy_kcenters
from prunefuse_bench.ops.normalising import (
    batch_norm,
    batch_norm_backward,
    batch_norm_relu,
    batch_norm_relu_backward,
)
from prunefuse_bench.ops.ranking import TopK, top_k
from prunefuse_bench.ops.scores import CommitteeKind, ScoreKind, score, score_committee, score_head

__all__ = [
    "HAS_CUDA_KERNELS",
    "LAWS",
    "CommitteeKind",
    "GreedyKCenters",
    "NotRankable",
    "ScoreKind",
    "TopK",
    "batch_norm",
    "batch_norm_backward",
    "batch_norm_relu",
    "batch_norm_relu_backward",
    "convolution",
    "convolution_input_gradient",
    "convolution_weight_gradient",
    "fuse_flat",
    "gather_images",
    "greedy_kcenters",
    "instruction_set",
    "score",
    "score_committee",
    "score_head",
    "top_k",
]
