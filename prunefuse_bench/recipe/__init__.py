"""A recipe is four independent parts: proxy, committee, acquisition and target start."""

from prunefuse_bench.recipe.committee import (
    COMMITTEES,
    Committee,
    MCDropout,
    OnePass,
    Question,
    Snapshots,
    committee,
)
from prunefuse_bench.recipe.fitting import check_training, selector_training, training_of
from prunefuse_bench.recipe.method import Method, load_file, load_outside_parts, method, methods, resolve_recipe
from prunefuse_bench.recipe.own_training import OwnTraining
from prunefuse_bench.recipe.parts import PartEntry, make_part, part_parameters
from prunefuse_bench.recipe.proxy import PROXIES, Proxy, Pruned, PruningMode, Smaller, Target, proxy
from prunefuse_bench.recipe.recipe import PROTOCOLS, ProtocolName, Recipe
from prunefuse_bench.recipe.target_start import (
    TARGET_STARTS,
    Fresh,
    Fused,
    Start,
    TargetStart,
    TrainedSelector,
    target_start,
)
from prunefuse_bench.recipe.trained import Trained

__all__ = [
    "COMMITTEES",
    "PROTOCOLS",
    "PROXIES",
    "TARGET_STARTS",
    "Committee",
    "Fresh",
    "Fused",
    "MCDropout",
    "Method",
    "OnePass",
    "OwnTraining",
    "PartEntry",
    "ProtocolName",
    "Proxy",
    "Pruned",
    "PruningMode",
    "Question",
    "Recipe",
    "Smaller",
    "Snapshots",
    "Start",
    "Target",
    "TargetStart",
    "Trained",
    "TrainedSelector",
    "check_training",
    "committee",
    "load_file",
    "load_outside_parts",
    "make_part",
    "method",
    "methods",
    "part_parameters",
    "proxy",
    "resolve_recipe",
    "selector_training",
    "target_start",
    "training_of",
]
