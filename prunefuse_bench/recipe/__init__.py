"""A recipe is four independent parts: proxy, committee, acquisition and target start."""

from prunefuse_bench.recipe.committee import Committee, OnePass
from prunefuse_bench.recipe.method import METHODS, Method, method, methods, resolve_recipe
from prunefuse_bench.recipe.proxy import Proxy, Pruned, Target
from prunefuse_bench.recipe.recipe import Recipe
from prunefuse_bench.recipe.target_start import Fresh, Fused, Start, TargetStart, TrainedSelector

__all__ = [
    "METHODS",
    "Committee",
    "Fresh",
    "Fused",
    "Method",
    "OnePass",
    "Proxy",
    "Pruned",
    "Recipe",
    "Start",
    "Target",
    "TargetStart",
    "TrainedSelector",
    "method",
    "methods",
    "resolve_recipe",
]
