"""The paper's suites in small: the same methods on a task for two cores, on data that is embedded.

What stands in the place of each data set and network, how long networks are trained and which budgets are left is
stated here once. Tasks that become the same are joined.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

__all__ = ["NETWORKS", "shrink"]

Settings = dict[str, Any]

NETWORKS: Mapping[str, tuple[str, float]] = MappingProxyType(
    {
        "resnet8": ("resnet8", 0.5),
        "resnet14": ("resnet8", 1.0),
        "resnet20": ("resnet14", 0.5),
        **dict.fromkeys(("resnet56", "resnet110", "resnet164"), ("resnet14", 1.0)),
        **dict.fromkeys(("resnet18_cifar", "resnet50"), ("resnet18_cifar", 0.25)),
        "wrn28_10": ("wrn28_10", 0.1),
        "mobilenetv2_cifar": ("mobilenetv2_cifar", 0.5),
        "vit_small_cifar": ("vit_small_cifar", 0.25),
        **dict.fromkeys(("vdcnn9", "vdcnn29"), ("vdcnn9", 0.25)),
    }
)
"""(name, width) of what stands for a network; selectors of SVP have the widths of theirs."""

BUDGETS = (0.02, 0.1, 0.3)
SYNCHRONISED = (0.02, 0.1, 0.2, 0.3)
"""Budgets where T_sync of 1 and 2 shall make a difference."""
LAST = 0.4
"""Of a table that compares ways to a budget, each is gone so far."""
TRAINING = MappingProxyType({"epochs": 20, "min_steps": 120, "batch_size": 32})
SEGMENTS = ((1, 0.02), (130, 0.2), (50, 0.02))
"""Learning rates of the paper's kind that so few steps can bear, as the preset quick has them."""
TEXT_TRAINING = MappingProxyType({"epochs": 15, "min_steps": 120, "batch_size": 32, "weight_decay": 1e-4})
PRUNING_EPOCHS = 10
"""Of dynamic pruning, which the paper does in 20 of 181."""
QUICK = ("resnet8", "resnet14")
FEW = 6
"""So many methods or fewer of a quick network have three seeds, otherwise there is one."""


def shrink(settings: Settings, name: str) -> Settings:
    """The twin of a suite or a group, given as a YAML file would state it; ``name`` is what it is the twin of."""
    parts: Mapping[str, Settings] = settings.get("parts") or {"": settings}
    compares_paths = len({tuple(suite["task"]["budgets"]) for suite in parts.values()}) > 1
    joined: dict[str, tuple[list[str], Settings]] = {}
    for part, suite in parts.items():
        small = _small(suite)
        if compares_paths:
            path = [budget for budget in suite["task"]["budgets"] if budget <= LAST]
            small["task"] |= {"budgets": path, "report": [b for b in path if b in suite["task"]["report"]]}
        key = repr({**small, "recipes": None})
        names, before = joined.setdefault(key, ([], small))
        names.append(part)
        before["recipes"] += [recipe for recipe in small["recipes"] if recipe not in before["recipes"]]
    networks = [small["task"]["model"]["name"] for _, small in joined.values()]
    by_network = len(set(networks)) == len(networks)
    suites = {small["task"]["model"]["name"] if by_network else names[0]: small for names, small in joined.values()}
    reads_text = any(suite["task"]["dataset"]["name"] == "text-csv" for suite in suites.values())
    description = _description(name, reads_text)
    if len(suites) == 1:
        (suite,) = suites.values()
        return {"description": description, **suite}
    return {"description": description, "parts": suites}


def _description(name: str, reads_text: bool) -> str:
    data = "texts of your own (a folder with train.csv and test.csv)" if reads_text else "the embedded digits"
    return f"The methods of {name} on {data}, small networks and short training: how it works, not which is best."


def _small(suite: Settings) -> Settings:
    task = suite["task"]
    network, width = NETWORKS[task["model"]["name"]]
    recipes = [_small_recipe(recipe) for recipe in suite["recipes"]]
    reads_text = network.startswith("vdcnn")
    kept = {key: value for key, value in task.items() if key in ("accuracy_by_epoch", "decomposition")}
    if "corruptions" in task:
        kept["corruptions"] = {"names": ["computed"]}
    return {
        **({"protocol": suite["protocol"]} if "protocol" in suite else {}),
        "task": {
            "dataset": {"name": "text-csv", "length": 256} if reads_text else {"name": "digits"},
            "model": {"name": network, "width": width},
            "training": _small_training(task["training"], reads_text),
            **_small_budgets(suite),
            **kept,
        },
        "recipes": recipes,
        "seeds": [0, 1, 2] if len(recipes) <= FEW and network in QUICK else [0],
        "precision": "fp32",
    }


def _small_training(training: Settings, reads_text: bool) -> Settings:
    small = {**TRAINING, "segments": [list(segment) for segment in SEGMENTS]}
    if reads_text:
        small |= {**TEXT_TRAINING, "segments": training["segments"]}
    if "stop_after" in training:
        small["stop_after"] = round(small["epochs"] * training["stop_after"] / training["epochs"])
    return small


def _small_budgets(suite: Settings) -> Settings:
    if suite.get("protocol") == "coreset":
        return {"budgets": suite["task"]["budgets"]}
    synchronised = any(isinstance(recipe, dict) and recipe.get("sync_every") for recipe in suite["recipes"])
    budgets = SYNCHRONISED if synchronised else BUDGETS
    return {"budgets": list(budgets), "report": list(budgets[1:])}


def _small_recipe(recipe: str | Settings) -> str | Settings:
    if isinstance(recipe, dict) and recipe.get("pruning") == "dynamic":
        return {**recipe, "pruning_epochs": PRUNING_EPOCHS}
    if isinstance(recipe, str) or recipe.get("method") != "svp":
        return recipe
    model, width = NETWORKS[recipe["model"]]
    return {**recipe, "model": model, **({"width": width} if width != 1 else {})}
