"""FLOPs of a network, counted on the graph that really runs, and by a second counter.

A FLOP is a multiplication or an addition, so a multiply-add is two. Only matrix products, convolutions and attention
are counted, as everywhere in the field; what else ran is listed by name. The counter is torch's own, which looks at the
operators of a real forward and backward pass. Its rules are completed where they are wrong or missing (torch 2.14):

- The gradient of a grouped convolution by its weight comes out too large by the number of groups.
- Attention on the CPU, products with vectors, outer products, distance matrices and products that are added to a tensor
  in place count nothing.

The second counter is fvcore's, which looks at a trace of the forward pass. It counts a multiply-add as one FLOP, which
is converted here.
"""

from __future__ import annotations

import contextlib
import copy
import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

__all__ = ["CannotTrace", "CounterComparison", "ModuleFlops", "NetworkFlops", "compare_counters", "count_flops"]

BATCH = 2
"""Samples of the batch that is run: batch norm cannot be trained on one."""
TOLERANCE = 0.01
"""Share of the FLOPs by which the two counters may differ."""
PLACES = 5
"""Modules that a message names."""

Shape = Sequence[int]
aten = torch.ops.aten


class CannotTrace(ValueError):
    """fvcore cannot trace the network."""


@dataclass(frozen=True)
class NetworkFlops:
    """FLOPs of one sample, two per multiply-add.

    Attributes:
        forward: of one pass.
        backward: of the gradients by all weights that have one and by whatever lies between them and the output; about
            twice ``forward``.
        uncounted: operators that ran in either pass and that nobody counts, such as ``aten.native_batch_norm``, sorted.
        fvcore_forward: ``forward`` as fvcore has it, or None if it cannot trace the network.
        disagreement: empty if the two counters agree, else where they differ or why they could not be compared.
    """

    forward: int
    backward: int
    uncounted: tuple[str, ...]
    fvcore_forward: int | None
    disagreement: str


@dataclass(frozen=True)
class ModuleFlops:
    """Forward FLOPs of one sample that a module spends itself, its children not included, by both counters."""

    name: str
    torch: int
    fvcore: int


@dataclass(frozen=True)
class CounterComparison:
    """What the two counters say about the forward pass.

    Attributes:
        modules: every module for which one of them counted something; the network itself is named "".
        skipped: operators that fvcore came upon and does not know, sorted: additions and the like, but also attention.
    """

    modules: tuple[ModuleFlops, ...]
    skipped: tuple[str, ...]

    @property
    def torch(self) -> int:
        """Torch's total."""
        return sum(module.torch for module in self.modules)

    @property
    def fvcore(self) -> int:
        """fvcore's total."""
        return sum(module.fvcore for module in self.modules)

    @property
    def agrees(self) -> bool:
        """Whether the differences of all modules, none of which makes up for another, are within 1% of the total."""
        differences = sum(abs(module.torch - module.fvcore) for module in self.modules)
        return differences <= TOLERANCE * max(self.torch, self.fvcore)

    @property
    def differing(self) -> tuple[ModuleFlops, ...]:
        """The modules about which they differ by more than 1% of the larger count."""
        return tuple(
            module
            for module in self.modules
            if abs(module.torch - module.fvcore) > TOLERANCE * max(module.torch, module.fvcore)
        )

    def __str__(self) -> str:
        parts = [f"torch counts {self.torch:,} forward FLOPs, fvcore {self.fvcore:,}"]
        parts += [
            f"{module.name or 'the network itself'}: torch {module.torch:,}, fvcore {module.fvcore:,}"
            for module in self.differing[:PLACES]
        ]
        if len(self.differing) > PLACES:
            parts.append(f"and {len(self.differing) - PLACES} other modules")
        if self.skipped:
            parts.append(f"fvcore skips {', '.join(self.skipped)}")
        return "; ".join(parts)


def count_flops(network: nn.Module, example_input: Tensor) -> NetworkFlops:
    """FLOPs of one sample in training. A forward pass in evaluation mode takes as many as one in training mode.

    A batch of two samples goes forward and backward through a copy of the network in training mode, on the network's
    device; the network, its buffers and torch's global generators stay as they are. There is no loss, the gradient of
    the output is given. Products that do not depend on the batch, of two weights, say, are spread over the two samples.

    The gradient by the images is not asked for, so it does not run and is not counted: the first convolution takes as
    much backward as forward, where every other one takes twice as much. Frozen weights save their gradients likewise.

    Args:
        network: any classifier.
        example_input: [N, ...] with N of at least 1; float, or int64 for a network that begins with an embedding.
    """
    batch = _batch(network, example_input)
    fvcore_forward = None
    with _isolated(network, batch) as copied:
        counts = _run(copied, batch, backward=True)
        try:
            comparison = _compare(copied, batch, counts)
        except CannotTrace as error:
            disagreement = f"not compared: {error}"
        else:
            fvcore_forward, disagreement = comparison.fvcore, "" if comparison.agrees else str(comparison)
    return NetworkFlops(
        forward=counts.forward[""] // BATCH,
        backward=counts.backward // BATCH,
        uncounted=counts.uncounted,
        fvcore_forward=fvcore_forward,
        disagreement=disagreement,
    )


def compare_counters(network: nn.Module, example_input: Tensor) -> CounterComparison:
    """Hold torch's count of the forward pass against fvcore's, module by module.

    Convolutions, linear layers, other matrix products and attention are compared; what fvcore counts besides (norms,
    pooling and interpolation as elementwise work) is left out. fvcore does not know fused attention, so that of a
    transformer is a difference, at the module that calls it. The arguments are those of :func:`count_flops`.

    Raises:
        CannotTrace: fvcore cannot trace the network.
    """
    batch = _batch(network, example_input)
    with _isolated(network, batch) as copied:
        return _compare(copied, batch, _run(copied, batch, backward=False))


def flop_counter() -> FlopCounterMode:
    """Torch's counter with the rules of this module: ``with flop_counter() as counter: ...``."""
    return FlopCounterMode(display=False, custom_mapping=dict(_RULES))


@dataclass(frozen=True)
class _Counts:
    """FLOPs of the batch: forward by module name, children included; backward; and what ran and was not counted."""

    forward: Mapping[str, int]
    backward: int
    uncounted: tuple[str, ...]


def _batch(network: nn.Module, example_input: Tensor) -> Tensor:
    weight = next(iter(network.parameters()), example_input)
    with torch.inference_mode(False):
        return example_input[:1].detach().to(weight.device, copy=True).repeat_interleave(BATCH, dim=0)


@contextlib.contextmanager
def _isolated(network: nn.Module, batch: Tensor) -> Iterator[nn.Module]:
    """A copy in training mode. In the block gradients are on; after it the global generators are as before."""
    devices = [batch.device] if batch.device.type == "cuda" else []
    with torch.random.fork_rng(devices), torch.inference_mode(False), torch.enable_grad():
        copied = copy.deepcopy(network).train()
        copied.zero_grad(set_to_none=True)
        yield copied


def _run(network: nn.Module, batch: Tensor, *, backward: bool) -> _Counts:
    seen, names = _Seen(), _names(network)
    with seen, flop_counter() as counter:
        output = network(batch)
        forward = counter.get_total_flops()
        by_module = dict.fromkeys(names.values(), 0)
        for name, flops in counter.get_flop_counts().items():
            if name in names:  # it also has a total, and modules that are made on the way
                by_module[names[name]] += sum(flops.values())
        by_module[""] = forward
        if backward and output.requires_grad:
            output.backward(torch.ones_like(output))
        total = counter.get_total_flops()
    calculating = {operator._overloadpacket for operator in seen.operators if _calculates(operator)}
    return _Counts(
        forward=by_module,
        backward=total - forward,
        uncounted=tuple(sorted(map(str, calculating - counter.flop_registry.keys()))),
    )


def _names(network: nn.Module) -> dict[str, str]:
    """From torch's names of modules, "CifarResNet.blocks.0", to "blocks.0"; a shared module has its first name."""
    root = type(network).__name__
    first: dict[nn.Module, str] = {}
    return {
        f"{root}.{name}" if name else root: first.setdefault(module, name)
        for name, module in network.named_modules(remove_duplicate=False)
    }


class _Seen(TorchDispatchMode):
    """Notes which operators run."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.operators: set[Any] = set()

    def __torch_dispatch__(
        self, func: Any, types: object, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        self.operators.add(func)
        return func(*args, **(kwargs or {}))


def _calculates(operator: Any) -> bool:
    """Whether it does arithmetic on tensors.

    Not what only makes, moves or renames them: views, operators without a tensor among their arguments, and those that
    ``_MOVES`` names.
    """
    takes_tensors = any("Tensor" in str(argument.type) for argument in operator._schema.arguments)
    return takes_tensors and not operator.is_view and operator._overloadpacket.__name__.strip("_") not in _MOVES


_MOVES = frozenset(
    {
        *("alias", "cat", "clone", "constant_pad_nd", "contiguous", "copy", "detach", "embedding", "empty_like"),
        *("fill", "flip", "full_like", "gather", "index", "index_put", "index_select", "lift_fresh", "masked_fill"),
        *("new_empty", "new_empty_strided", "new_full", "new_ones", "new_zeros", "ones_like", "repeat"),
        *("reshape_alias", "resize", "roll", "scatter", "select_backward", "slice_backward", "slice_scatter", "stack"),
        *("to_copy", "unsafe_view", "where", "zero", "zeros_like"),
    }
)
"""Operators that copy numbers or fill them in, by name without underscores at its ends."""


def _compare(network: nn.Module, batch: Tensor, counts: _Counts) -> CounterComparison:
    by_fvcore, skipped = _fvcore_forward(network, batch)
    own_torch, own_fvcore = _without_children(counts.forward), _without_children(by_fvcore)
    modules = tuple(
        ModuleFlops(name, own_torch[name] // BATCH, own_fvcore.get(name, 0) // BATCH)
        for name in counts.forward
        if own_torch[name] or own_fvcore.get(name)
    )
    return CounterComparison(modules, skipped)


def _fvcore_forward(network: nn.Module, batch: Tensor) -> tuple[dict[str, int], tuple[str, ...]]:
    """FLOPs of the batch by module name, children included, and the operators that were skipped."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it compiles functions in a way that torch is giving up
        from fvcore.nn import FlopCountAnalysis

        analysis = FlopCountAnalysis(network, batch)
        analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False)
        analysis.ancestor_mode("caller")  # as torch's counter has it: a shared module counts where it is called
        try:
            by_module = analysis.by_module_and_operator()
        except Exception as error:  # whatever a network of the user's own does to a tracer
            raise CannotTrace(
                f"fvcore cannot trace {type(network).__name__} ({type(error).__name__}: {error})"
            ) from error
    counts = {
        name: 2 * int(sum(count for operator, count in operators.items() if operator in _FVCORE_PRODUCTS))
        for name, operators in by_module.items()
    }
    return counts, tuple(sorted(analysis.unsupported_ops()))


_FVCORE_PRODUCTS = frozenset({"addmm", "bmm", "conv", "einsum", "linear", "matmul", "mm"})
"""What fvcore counts besides is elementwise: norms, pooling, interpolation."""


def _without_children(counts: Mapping[str, int]) -> dict[str, int]:
    """What each module spends itself, by name."""
    own = dict(counts)
    for name, count in counts.items():
        if name:
            own[name.rpartition(".")[0]] -= count
    return own


def _convolution_backward(
    grad_output: Shape,
    inputs: Shape,
    weight: Shape,
    _bias: object,
    _stride: object,
    _padding: object,
    _dilation: object,
    transposed: bool,
    _output_padding: object,
    _groups: object,
    output_mask: Sequence[bool],
    **_: object,
) -> int:
    """Each of the two gradients takes the multiply-adds of the forward pass; only those that are asked for run."""
    positions = (inputs if transposed else grad_output)[2:]
    return sum(output_mask[:2]) * 2 * inputs[0] * math.prod(positions) * math.prod(weight)


def _attention(query: Shape, key: Shape, value: Shape, *_: object, **__: object) -> int:
    """Scores, and their product with the values; tensors are [N, heads, length, D]."""
    return 2 * math.prod(query[:-1]) * key[-2] * (query[-1] + value[-1])


def _attention_backward(_: Shape, query: Shape, key: Shape, value: Shape, *__: object, **___: object) -> int:
    """The scores once more, and the gradients by scores, values, queries and keys."""
    return 2 * math.prod(query[:-1]) * key[-2] * (3 * query[-1] + 2 * value[-1])


def _with_vector(a: Shape, _: Shape, **__: object) -> int:
    """A product of two vectors, or of a matrix and a vector."""
    return 2 * math.prod(a)


def _with_vector_added(_: Shape, a: Shape, __: Shape, **___: object) -> int:
    """A product of a matrix and a vector, added to another vector."""
    return 2 * math.prod(a)


def _outer_added(_: Shape, a: Shape, b: Shape, **__: object) -> int:
    """An outer product, added to a matrix."""
    return 2 * math.prod(a) * math.prod(b)


def _product_added(_: Shape, a: Shape, b: Shape, **__: object) -> int:
    """A product of matrices, or of batches of them, added to another."""
    return 2 * math.prod(a) * b[-1]


def _distances(a: Shape, b: Shape, **_: object) -> int:
    """Distances by the product a b^T."""
    return 2 * math.prod(a) * b[-2]


_RULES: Mapping[Any, Callable[..., int]] = {
    aten.convolution_backward: _convolution_backward,
    aten._scaled_dot_product_flash_attention_for_cpu: _attention,
    aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward,
    aten.mv: _with_vector,
    aten.dot: _with_vector,
    aten.vdot: _with_vector,
    aten.addmv: _with_vector_added,
    aten.addmv_: _with_vector_added,
    aten.addr: _outer_added,
    aten.addr_: _outer_added,
    aten.addmm_: _product_added,
    aten.baddbmm_: _product_added,
    aten._euclidean_dist: _distances,
}
"""By operator; tensors come as their shapes."""
