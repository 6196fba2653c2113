"""Coreset selection (paper, sections 4.2 and 9.13): the target, trained on the whole pool, picks once.

``prunefuse`` with the same acquisitions is the paper's other half of Tables 4 and 27: ``{method: prunefuse,
acquisition: css}``.
"""

from typing import Annotated

from pydantic import Field

from prunefuse_bench.recipe import Fresh, OnePass, OwnTraining, Recipe, method
from prunefuse_bench.recipe.originals import CCS_TRAINING, STEPS_200, SVP_TRAINING, Preset

AS_SVP = (
    "faithful: as in the published code of selection via proxy: 181 epochs, scores augmented images",
    "faithful, not reproduced: its pre-activation ResNets and smaller proxies (use combine); accuracy of the best test "
    "epoch",
)
FORGETTING = (
    "faithful: 200 epochs from 0.1 with Nesterov momentum",
    "faithful, not reproduced: events summed over five trainings (one here); Cutout; ResNet-18 (the task's network "
    "instead)",
)
EL2N = (
    "faithful: 200 epochs from 0.1 with Nesterov momentum; the mean over the first ten epochs of training, as the "
    "published code of CCS has it",
    "faithful, not reproduced: the mean over ten trainings, scored on clean images (one training here, as seen in it)",
)
MODERATE = (
    "faithful: 200 epochs from 0.1 with Nesterov momentum",
    "faithful, not reproduced: ResNet-50 (the task's network instead)",
)
CSS = (
    "faithful: 200 epochs, cosine from 0.1 to 0.0001, batch 256",
    "faithful, not reproduced: 40,000 steps for every coreset (200 epochs instead); ResNet-18 (the task's network)",
)
SELECTED_ONCE = (
    "selected once after training on the whole pool; the original selects anew every 20 epochs while it trains, with "
    "weights, so there is no faithful preset",
)


def _coreset(
    name: str,
    acquisition: str,
    notes: tuple[str, ...] = (),
    own_training: OwnTraining | None = None,
    *,
    augmented: bool = False,
    **options: object,
) -> Recipe:
    return Recipe(
        name,
        committee=OnePass(augmented),
        acquisition=acquisition,
        target_start=Fresh(),
        options=tuple(options.items()),
        own_training=own_training,
        notes=notes,
    )


def _preset(name: str, acquisition: str, preset: Preset, original: OwnTraining, notes: tuple[str, ...]) -> Recipe:
    if preset == "fair":
        return _coreset(name, acquisition)
    return _coreset(name, acquisition, notes, original, augmented=original is SVP_TRAINING)


@method("entropy", source="Shannon 1948; paper, Table 4", protocols=["coreset"])
def entropy(preset: Preset = "fair") -> Recipe:
    """The samples whose prediction has the highest entropy."""
    return _preset("entropy", "entropy", preset, SVP_TRAINING, AS_SVP)


@method("least-confidence", source="Settles 2012; paper, Table 4", protocols=["coreset"])
def least_confidence(preset: Preset = "fair") -> Recipe:
    """The samples whose predicted class has the lowest probability."""
    return _preset("least-confidence", "least_confidence", preset, SVP_TRAINING, AS_SVP)


@method("margin", source="Scheffer, Decomain and Wrobel 2001; not in the paper", protocols=["coreset"])
def margin() -> Recipe:
    """The samples with the smallest gap between the two most likely classes."""
    return _coreset("margin", "margin")


@method("forgetting", source="Toneva et al. 2019; paper, Table 4", protocols=["coreset"])
def forgetting(preset: Preset = "fair") -> Recipe:
    """The samples that training forgot most often; those it never learned come first."""
    return _preset("forgetting", "forgetting", preset, STEPS_200, FORGETTING)


@method("el2n", source="Paul, Ganguli and Dziugaite 2021; not in the paper's tables", protocols=["coreset"])
def el2n(epochs: Annotated[int, Field(ge=1)] = 10, preset: Preset = "fair") -> Recipe:
    """The samples with the largest error norm early in training."""
    original, notes = (STEPS_200, EL2N) if preset == "faithful" else (None, ())
    return _coreset("el2n", "el2n", notes, original, epochs=epochs)


@method("moderate", source="Xia et al. 2023; paper, Table 4", protocols=["coreset"])
def moderate(preset: Preset = "fair") -> Recipe:
    """The samples at middling distance from the median features of their class."""
    return _preset("moderate", "moderate", preset, STEPS_200, MODERATE)


@method("css", source="Zheng et al. 2023 (CCS); paper, Table 4", protocols=["coreset"])
def css(
    cutoff: Annotated[float, Field(ge=0, lt=1)] = 0.1,
    strata: Annotated[int, Field(ge=1)] = 50,
    preset: Preset = "fair",
) -> Recipe:
    """All levels of difficulty alike: strata of the margin over training, the hardest samples cut off."""
    original, notes = (CCS_TRAINING, CSS) if preset == "faithful" else (None, ())
    return _coreset("css", "css", notes, original, cutoff=cutoff, strata=strata)


@method("kcenters", source="Sener and Savarese 2018; paper 4.2", protocols=["coreset"])
def kcenters(preset: Preset = "fair") -> Recipe:
    """Greedy k-centers on the features, from one sample drawn by lot."""
    if preset == "fair":
        return _coreset("kcenters", "kcenters")
    more = ("faithful: the first 1,000 picks are drawn by lot and count toward the budget, as in that code",)
    return _coreset("kcenters", "kcenters", AS_SVP + more, SVP_TRAINING, augmented=True, random_start=1000)


@method("typiclust", source="Hacohen, Dekel and Weinshall 2022; not in the paper's tables", protocols=["coreset"])
def typiclust() -> Recipe:
    """The most typical sample of each cluster, the largest clusters first."""
    note = "features of the trained selector; the original's are self-supervised, so there is no faithful preset"
    return _coreset("typiclust", "typiclust", (note,))


@method("gradmatch", source="Killamsetty et al. 2021a; not in the paper's tables", protocols=["coreset"])
def gradmatch() -> Recipe:
    """The samples whose last-layer gradients together match those of the pool (orthogonal matching pursuit)."""
    return _coreset("gradmatch", "gradmatch", SELECTED_ONCE)


@method("glister", source="Killamsetty et al. 2021b; not in the paper's tables", protocols=["coreset"])
def glister() -> Recipe:
    """The samples whose gradient step helps the rest of the pool most."""
    return _coreset("glister", "glister", SELECTED_ONCE)
