"""Selection methods of one's own: an acquisition, a committee, a proxy, and methods made of them."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from prunefuse_bench import ops
from prunefuse_bench.acquisition import Needs, Opinions, StoredMembers, acquisition
from prunefuse_bench.pruning import Network, prune
from prunefuse_bench.recipe import (
    Committee,
    Proxy,
    Question,
    Recipe,
    Target,
    Trained,
    TrainedSelector,
    committee,
    method,
    proxy,
)
from prunefuse_bench.training import predict


@acquisition(
    "information_density",
    needs=Needs.LOGITS | Needs.FEATURES,
    source="Settles and Craven 2008",
    equation="H[p(.|x)] * (1 + mean over the pool of cos(h(x), h(z))) / 2",
    relative="density is that of the pool",
)
def information_density(opinions: Opinions) -> Tensor:
    """Entropy, weighted by how alike the sample is to the rest of the pool; float32 [N], higher = choose first."""
    unusable = (~opinions.features.isfinite().all(1)).nonzero()
    if len(unusable):  # the mean would spread it to every sample
        raise ops.NotRankable("features: NaN or infinity", row=int(unusable[0]))
    directions = F.normalize(opinions.features, dim=1)
    density = (1 + directions @ directions.mean(0)) / 2
    return ops.score(opinions.logits, "entropy") * density


@committee("mirror")
@dataclass(frozen=True)
class Mirror(Committee):
    """Two opinions: of the image, and of its mirror image."""

    @property
    def provides(self) -> Needs:
        """Predictions of two members, which are the same network for every sample."""
        return Needs.MEMBERS | Needs.JOINT

    @property
    def passes(self) -> int:
        """Two."""
        return 2

    def ask(self, selector: Trained, question: Question) -> Opinions:
        """Two passes over the candidates."""
        logits = [
            predict(selector.network.model, images, question.training, features=False)[0]
            for images in (question.images, question.images.flip(-1))
        ]
        return question.answer(members=StoredMembers(torch.stack(logits)))


@proxy("half")
@dataclass(frozen=True)
class Half(Proxy):
    """The target with a half of its channels pruned away, whatever the target."""

    def start(self, target: nn.Module, example_input: Tensor, seed: int) -> Network:
        """A pruned copy."""
        return prune(target, example_input, 0.5)

    @property
    def parameters(self) -> str:
        """As cost formulas name it."""
        return "P_half"

    @property
    def fusible(self) -> bool:
        """What prune() returns can be fused."""
        return True


@method("density", source="Settles and Craven 2008")
def density() -> Recipe:
    """Active learning by entropy, weighted by density."""
    return Recipe("density", proxy=Target(), acquisition="information_density", target_start=TrainedSelector())


@method("mirror", source="this example")
def mirror() -> Recipe:
    """Active learning where the predictions of an image and its mirror image disagree."""
    return Recipe("mirror", proxy=Target(), committee=Mirror(), acquisition="bald", target_start=TrainedSelector())
