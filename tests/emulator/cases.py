"""Cases for the CUDA kernels: inputs, and what plain float64 torch makes of them. run_cases.cpp reads the file."""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from prunefuse_bench.ops import reference

SCORES = ["least_confidence", "entropy", "margin"]  # in the order of their numbers
COMMITTEE_SCORES = ["bald", "mean_entropy", "variation_ratio", "mean_least_confidence"]
FLOATS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16, "float64": torch.float64}


@dataclass
class Case:
    """One call of a launcher. Arrays may begin some elements past a boundary of 256 bytes."""

    name: str
    operator: str
    numbers: dict[str, float]
    arrays: dict[str, Tensor]
    past: dict[str, int] = field(default_factory=dict)

    def encoded(self) -> bytes:
        parts = [f"case {self.name} {self.operator}\n".encode()]
        parts += [f"number {name} {value!r}\n".encode() for name, value in self.numbers.items()]
        for name, tensor in self.arrays.items():
            past = self.past.get(name, 0)
            parts.append(f"array {name} {tensor.numel()} {tensor.element_size()} {past}\n".encode())
            parts.append(bytes(tensor.contiguous().flatten().view(torch.uint8).numpy()) if tensor.numel() else b"")
            parts.append(b"\n")
        return b"".join([*parts, b"end\n"])


def generator(*seed: object) -> torch.Generator:
    return torch.Generator().manual_seed(sum(ord(c) * 31**i for i, c in enumerate(repr(seed))) % 2**60)


# ---- scores ----


def awkward_logits(rows: int, columns: int, dtype: str) -> Tensor:
    """Rows of every kind: plain, all equal, two tops, sure, far apart, with -inf, and some that cannot be ranked."""
    source = generator("logits", rows, columns, dtype)
    logits = 3 * torch.randn(rows, columns, generator=source)
    for row in range(rows):
        kind = row % 11
        at = torch.randint(columns, (2,), generator=source)
        if kind == 1:
            logits[row] = logits[row, 0]
        elif kind == 2:
            logits[row, at] = logits[row].max()
        elif kind == 3:
            logits[row, at[0]] += 40
        elif kind == 4:
            logits[row] *= 3000
        elif kind == 5 and columns > 1:
            logits[row, torch.rand(columns, generator=source) < 0.5] = -torch.inf
            logits[row, at[0]] = 1.0
        elif kind == 6:
            logits[row, at[0]] = [torch.nan, torch.inf, torch.nan][row // 11 % 3]
        elif kind == 7 and row % 2:
            logits[row] = -torch.inf
        elif kind == 8:
            logits[row] -= 1e4
    return logits.to(FLOATS[dtype])


def score_case(rows: int, columns: int, dtype: str, past: int = 0) -> Iterator[Case]:
    logits = awkward_logits(rows, columns, dtype)
    for number, kind in enumerate(SCORES):
        if columns > 200 and number != (rows + columns) % 3:
            continue  # long rows take long
        expected = reference.SCORES[kind](logits.double())
        refused = logits.isnan().any(1) | logits.isposinf().any(1) | logits.isneginf().all(1)
        yield Case(
            f"score-{kind}-{dtype}-{rows}x{columns}-past{past}",
            f"score:{dtype}",
            {"rows": rows, "columns": columns, "kind": number, "absolute": 3e-7, "relative": 1e-5},
            {"logits": logits, "scores": torch.where(refused, torch.nan, expected)},
            {"logits": past},
        )


def score_cases() -> Iterator[Case]:
    shapes = [(23, 1, 0), (150, 2, 1), (130, 10, 0), (140, 10, 1), (70, 32, 3), (33, 31, 2)]
    shapes += [(45, 33, 1), (40, 100, 0), (37, 101, 2), (12, 125, 1), (12, 128, 0), (12, 126, 0)]
    shapes += [(12, 129, 0), (12, 200, 1), (12, 1000, 0), (12, 1021, 1), (12, 1024, 0)]
    shapes += [(12, 1022, 1), (12, 1024, 1), (12, 1500, 0), (12, 5003, 3)]
    dtypes = itertools.cycle(["float32", "bfloat16", "float16"])
    for rows, columns, past in shapes:
        for dtype in sorted({"float32", next(dtypes)}):
            yield from score_case(rows, columns, dtype, past)
    sure = torch.tensor([[40.0, 0.0], [80.0, 0.0], [0.0, 60.0]])
    yield Case(
        "score-keeps-digits-of-sure-rows",
        "score:float32",
        {"rows": 3, "columns": 2, "kind": 0, "absolute": 0, "relative": 1e-5},
        {"logits": sure, "scores": reference.least_confidence(sure.double())},
    )


# ---- committees ----


def committee_case(name: str, logits: Tensor, dtype: str, past: int = 0, kinds: str = "0123") -> Iterator[Case]:
    members, samples, classes = logits.shape
    logits = logits.to(FLOATS[dtype])
    for number in map(int, kinds):
        kind = COMMITTEE_SCORES[number]
        yield Case(
            f"committee-{kind}-{dtype}-{name}-{members}x{samples}x{classes}-past{past}",
            f"committee:{dtype}",
            {
                "rows": samples,
                "members": members,
                "columns": classes,
                "kind": number,
                "absolute": 1e-7 if number == 2 else 1e-5,
                "relative": 0,
            },
            {"logits": logits, "scores": reference.score_committee(logits, kind).double()},
            {"logits": past},
        )


def committee_cases() -> Iterator[Case]:
    shapes = [(1, 20, 1), (2, 70, 2), (5, 66, 10), (3, 30, 32), (5, 20, 33), (10, 13, 100), (3, 12, 257)]
    shapes += [(9, 12, 300), (2, 11, 1026), (3, 3, 4097)]
    for index, (members, samples, classes) in enumerate(shapes):
        dtype = ["float32", "bfloat16", "float32", "float16"][index % 4]
        logits = torch.stack(
            [awkward_logits(samples, classes, dtype).roll(member // 2, 0) for member in range(members)]
        )
        logits += torch.randn(members, samples, classes, generator=generator(index))
        yield from committee_case("awkward", logits, dtype, index % 3)
    source = generator("committee")
    for samples, classes in [(40, 4), (40, 48), (2, 4800)]:
        ties = torch.rand(6, samples, classes, generator=source) < 3 / classes
        yield from committee_case("ties", ties.float(), "float32", kinds="2")
    alike = torch.randn(1, 2, 10, generator=source).expand(1024, 2, 10)
    yield from committee_case("alike", alike, "float32", kinds="013")
    yield from committee_case("alike", alike[:, :1].repeat(1, 1, 5), "float32", kinds="013")
    many = torch.randn(2, 1, 100_000, generator=source)
    many[:, :, :7] += 11
    yield from committee_case("many", many, "float32", 1, kinds="01")
    yield from committee_case("flat", torch.full((2, 1, 100_000), -1e4), "float32", kinds="1")
    far = 1e4 * (2 * torch.rand(4, 3, 50, generator=source) - 1)
    yield from committee_case("far", far, "float32", kinds="013")
    sure = torch.zeros(2, 2, 40)
    sure[:, :, 3] = 30
    (case,) = committee_case("sure", sure, "float32", kinds="1")
    yield Case(case.name, case.operator, case.numbers | {"absolute": 0, "relative": 1e-4}, case.arrays)


# ---- the k highest ----


def top_k_case(name: str, scores: Tensor, k: int, past: int = 0) -> Case:
    positions = reference.top_k(scores, k).sort().values  # the kernels leave the chosen in the order of positions
    chosen = scores[positions] + 0.0  # zeros lose their sign
    return Case(
        f"top_k-{name}-{str(scores.dtype)[6:]}-{k}-of-{len(scores)}",
        f"top_k:{str(scores.dtype)[6:]}",
        {},
        {"scores": scores, "positions": positions, "chosen": torch.where(chosen == 0, 0.0, chosen)},
        {"scores": past},
    )


def top_k_cases() -> Iterator[Case]:
    for dtype in (torch.float32, torch.float64):
        source = generator("top_k", dtype)
        normal = torch.randn(6000, generator=source, dtype=dtype)
        yield top_k_case("normal", normal[:1], 1)
        yield top_k_case("normal", normal[:2049], 700, past=1)
        yield top_k_case("normal", normal, 1)
        yield top_k_case("normal", normal, 5999, past=3)
        yield top_k_case("normal", normal[:2048], 2048)
        yield top_k_case("equal", torch.full((5000,), 0.25, dtype=dtype), 2500)
        few = torch.randint(-2, 3, (5001,), generator=source).to(dtype) / 3
        for k in (1, 1200, 2000, 3500):
            yield top_k_case("ties", few, k)
        zeros = torch.where(torch.rand(300, generator=source) < 0.5, 0.0, -0.0).to(dtype)
        zeros[7], zeros[200] = 1e-40, -1e-40
        yield top_k_case("zeros", zeros, 100)
        ends = normal[:500].clone()
        ends[::50], ends[1::50], ends[2::50] = torch.inf, -torch.inf, torch.finfo(dtype).max
        yield top_k_case("infinite", ends, 25)
        yield top_k_case("infinite", ends, 495)
        close = torch.full((3000,), 1.0, dtype=dtype)
        close[::3] = torch.nextafter(close[::3], torch.tensor(2.0, dtype=dtype))
        yield top_k_case("neighbours", close, 1100)


# ---- greedy k-centers ----


def smallest_gap(points: Tensor, picks: Tensor, initial: Tensor) -> float:
    """By how much, relatively, the picks were ahead of the second furthest."""
    centers = initial.tolist()
    gap = 1.0
    nearest = torch.full((len(points),), torch.inf, dtype=torch.float64)
    for center in centers:
        nearest = torch.minimum(nearest, (points - points[center]).square().sum(1))
    for pick in picks.tolist():
        distances = nearest if centers else (points - points.mean(0)).square().sum(1)
        distances[centers] = -1.0
        if len(points) - len(centers) > 1:
            best, second = distances.topk(2).values.tolist()
            gap = min(gap, (best - second) / max(best, 1e-300))
        centers.append(pick)
        nearest = torch.minimum(nearest, (points - points[pick]).square().sum(1))
    return gap


def kcenters_case(
    name: str,
    features: Tensor,
    picks: int,
    initial: tuple[int, ...] = (),
    *,
    steps: tuple[int, ...] = (),
    past: int = 0,
    most_reads: int = 1 << 30,
    whole: bool = False,
) -> Case:
    """Whole numbers have ties, and none of their distances is rounded: every pick is known."""
    points = features.double()
    rows, columns = points.shape
    known = torch.tensor(initial, dtype=torch.int64)
    arrays = {
        "features": features,
        "initial": known,
        "steps": torch.tensor([*steps, picks], dtype=torch.float64),
        "points": points,
    }
    expected, _ = reference.greedy_kcenters(points, picks, known)
    if whole or smallest_gap(points, expected, known) > 1e-5:
        arrays["picks"] = expected
    dtype = str(features.dtype)[6:]
    return Case(
        f"kcenters-{name}-{dtype}-{picks}-of-{rows}x{columns}-from{len(initial)}",
        f"kcenters:{dtype}",
        {"rows": rows, "columns": columns, "picks": picks, "relative": 1e-5, "most_reads": most_reads},
        arrays,
        {"features": past},
    )


def kcenters_cases() -> Iterator[Case]:
    source = generator("kcenters")

    def normal(rows: int, columns: int) -> Tensor:
        return torch.randn(rows, columns, generator=source)

    yield kcenters_case("one", normal(1, 3), 1)
    yield kcenters_case("two", normal(2, 1), 2)
    yield kcenters_case("all", normal(70, 5), 70)
    yield kcenters_case("normal", normal(300, 16), 60, (5, 17, 250))
    yield kcenters_case("normal", normal(300, 16), 60, past=1)
    yield kcenters_case("normal", normal(200, 17), 40, tuple(range(0, 160, 2)))
    yield kcenters_case("wide", normal(150, 300), 20)
    yield kcenters_case("wide", normal(140, 301).bfloat16(), 20, (3,), past=1)
    yield kcenters_case("half", normal(400, 24).bfloat16(), 50)
    yield kcenters_case("steps", normal(400, 8), 90, (1,), steps=(1, 7, 40))
    # Bounds that are far from each other are picked in long blocks; those blocks grow and shrink.
    yield kcenters_case("blocks", normal(1500, 6), 500, most_reads=30)
    clusters = 100 * normal(8, 4)[torch.randint(8, (600,), generator=source)] + normal(600, 4)
    yield kcenters_case("clusters", clusters, 200, most_reads=60)
    grid = torch.cartesian_prod(torch.arange(13.0), torch.arange(13.0)) - 6
    yield kcenters_case("ties", grid, 100, (0,), whole=True)
    yield kcenters_case("ties", grid.repeat(3, 1), 300, whole=True)
    crowd = torch.randint(-9, 10, (500, 2), generator=source).float()
    yield kcenters_case("crowd", crowd, 250, (7,), whole=True)
    yield kcenters_case("ties", grid.bfloat16(), 169, steps=(50, 50), whole=True)
    yield kcenters_case("duplicates", torch.ones(90, 3), 89, (40,), whole=True)
    yield kcenters_case("duplicates", normal(5, 3).repeat(40, 1), 150)
    yield kcenters_case("tiny", 1e-30 * normal(150, 9), 30)
    yield kcenters_case("huge", 1e37 * normal(150, 9), 30, (2,))
    yield kcenters_case("subnormal", (1e-41 * normal(150, 9)).clone(), 10, (2,))
    yield kcenters_case("offset", 1e3 + 1e-2 * normal(150, 20), 30)
    yield kcenters_case("line", torch.arange(200.0)[:, None], 100, (0,), whole=True)


# ---- fusion ----


def fuse_case(name: str, dtype: str, index: str, count: int, segments: int, past: int, seed: int) -> Case:
    source = generator(name, count)
    element = FLOATS[dtype]
    dense = torch.randn(count, generator=source, dtype=torch.float64).to(element)
    values = torch.randn(count // 2 + 1, generator=source, dtype=torch.float64).to(element)
    origin = torch.randint(-len(values), len(values), (count,), generator=source).clamp_min(-1)
    origin[count // 3 : count // 2] = -1
    begins = torch.cat([torch.zeros(1, dtype=torch.int64), 1 + torch.randperm(count, generator=source)])
    begins = begins[:segments].sort().values
    laws = torch.randint(4, (segments,), generator=source, dtype=torch.int32)
    parameters = torch.randn(segments, 2, generator=source)
    parameters[:, 1] = parameters[:, 1].abs() + parameters[:, 0].clamp_min(0)
    constant = laws == 1
    parameters[constant, 0] = torch.tensor([1 + 2.0**-8, 1 + 3 * 2.0**-8, 1 + 2.0**-11, 3e-8, 70000.0]).repeat(
        segments
    )[: int(constant.sum())]  # halfway between neighbours, subnormal, too large
    fused = reference.fuse_flat(dense, origin, values, begins, laws, parameters, seed).double()
    law = laws[torch.searchsorted(begins, torch.arange(count), right=True) - 1]
    drawn = (origin < 0) & (law >= 2)
    return Case(
        f"fuse-{name}-{dtype}-{index}-{count}",
        f"fuse:{dtype}:{index}",
        {"past": past, "relative": max(4e-6, torch.finfo(element).eps)},
        {
            "dense": dense,
            "origin": origin.to(getattr(torch, index)),
            "values": values,
            "begins": begins,
            "laws": laws,
            "parameters": parameters,
            "seed": torch.tensor([seed], dtype=torch.int64),
            "fused": fused,
            "drawn": drawn.to(torch.uint8),
        },
        {"dense": past, "origin": past},
    )


def fuse_cases() -> Iterator[Case]:
    kinds = [("float32", "int64"), ("float64", "int32"), ("bfloat16", "int64"), ("float16", "int32")]
    for number, (dtype, index) in enumerate(kinds):
        yield fuse_case("small", dtype, index, 1 + number, 1, 0, 7)
        yield fuse_case("segments", dtype, index, 4099, 60, 0, 2**61 + 12345 + number)
        yield fuse_case("misaligned", dtype, index, 1030, 8, 1, -1)
        yield fuse_case("short-segments", dtype, index, 300, 290, 0, number)


# ---- files ----


def brief_cases() -> Iterator[Case]:
    """One or two small cases of every kernel, for builds that take their time with every thread."""
    for rows, columns, dtype, past in [(5, 2, "float32", 1), (33, 100, "bfloat16", 0), (2, 300, "float16", 1)]:
        yield from itertools.islice(score_case(rows, columns, dtype, past), 1)
    yield from score_case(5, 1500, "float32", 3)
    for members, samples, classes, kinds in [(3, 3, 4, "0"), (2, 1, 40, "02"), (5, 1, 300, "1"), (2, 1, 4097, "3")]:
        logits = torch.randn(members, samples, classes, generator=generator("brief", classes))
        yield from committee_case("brief", logits, "float32", 1, kinds)
    scores = torch.randint(0, 50, (2049,), generator=generator("brief")) / 7
    yield top_k_case("brief", scores, 700, past=1)
    yield top_k_case("brief", scores.double()[:100], 33)
    points = torch.randn(70, 17, generator=generator("brief"))
    yield kcenters_case("brief", points, 4, (1,))
    yield kcenters_case("brief", points[:40].bfloat16(), 3, steps=(1,))
    yield fuse_case("brief", "float32", "int64", 1030, 8, 1, 5)
    yield fuse_case("brief", "float16", "int32", 300, 90, 0, 5)


OPERATORS: dict[str, Callable[[], Iterator[Case]]] = {
    "score": score_cases,
    "committee": committee_cases,
    "top_k": top_k_cases,
    "kcenters": kcenters_cases,
    "fuse": fuse_cases,
}


def write_cases(path: Path, cases: Iterable[Case]) -> list[str]:
    """Returns the names of the cases that it wrote."""
    names = []
    with path.open("wb") as file:
        for case in cases:
            file.write(case.encoded())
            names.append(case.name)
    if len(set(names)) != len(names):
        raise ValueError(f"cases: expected distinct names, got {[name for name in names if names.count(name) > 1]}")
    return names


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("path", type=Path)
    parser.add_argument("--operator", choices=[*OPERATORS, "brief"])
    arguments = parser.parse_args()
    chosen = {**OPERATORS, "brief": brief_cases}
    makers = [chosen[arguments.operator]] if arguments.operator else OPERATORS.values()
    print(len(write_cases(arguments.path, itertools.chain.from_iterable(make() for make in makers))), "cases")
