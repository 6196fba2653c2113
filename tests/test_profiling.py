from __future__ import annotations

import dataclasses
import json
import math
import time
import xml.etree.ElementTree
from collections.abc import Callable
from pathlib import Path

import pandas
import pytest
import torch
from torch import Tensor, nn

from prunefuse_bench import ops
from prunefuse_bench.data import Augmentation, Normalisation
from prunefuse_bench.models import build_model
from prunefuse_bench.profiling import (
    Profile,
    ProfileRequest,
    Realised,
    compare_scores,
    markdown,
    measurements,
    top_k_overlap,
    write_report,
)
from prunefuse_bench.profiling import agreement as agreement_module
from prunefuse_bench.profiling import ceilings as ceilings_module
from prunefuse_bench.profiling.agreement import measure_agreement, overlap
from prunefuse_bench.profiling.alternation import Rates, measure_in_turn, ratios, spread
from prunefuse_bench.profiling.ceilings import Ceilings, RooflinePoint, last_cache_bytes, measure_ceilings
from prunefuse_bench.profiling.figures import write_figures
from prunefuse_bench.profiling.networks import subjects
from prunefuse_bench.profiling.operators import profile_operators
from prunefuse_bench.profiling.paths import plain_copy, plain_logits
from prunefuse_bench.profiling.report import realised_table, scoring_table, screening_table
from prunefuse_bench.profiling.throughput import Preparation, Screening, Throughput, Way
from prunefuse_bench.profiling.traffic import count_traffic
from prunefuse_bench.records import describe_environment
from prunefuse_bench.training import StepSchedule, TrainingRecipe

RunCli = Callable[..., tuple[int, str, str]]
CPU = torch.device("cpu")


# ---- arithmetic ----


def test_the_realised_share_is_the_throughput_ratio_over_the_flops_ratio() -> None:
    realised = Realised(flops_ratio=4.0, throughput_ratio=2.0)
    assert realised.share == 0.5
    assert realised.flops_saved == 0.75
    assert realised.seconds_saved == 0.5
    assert Realised(4.0, 4.0).share == 1
    assert Realised(4.0, 0.5).seconds_saved == -1


def test_ratios_are_taken_round_by_round() -> None:
    contender, reference = Rates((10.0, 40.0), (1.0, 1.0)), Rates((5.0, 10.0), (1.0, 1.0))
    assert ratios(contender, reference).median == 3  # of 2 and 4; the medians' ratio would be 10 / 3


def test_spread_gives_median_and_quartiles() -> None:
    found = spread((5.0, 1.0, 3.0, 2.0, 4.0))
    assert (found.lower, found.median, found.upper) == (2, 3, 4)
    alone = spread((7.0,))
    assert alone.lower == alone.median == alone.upper == 7


def test_contenders_take_turns_and_every_other_round_goes_backwards() -> None:
    calls: list[str] = []
    progress: list[tuple[int, int]] = []

    def contender(name: str) -> Callable[[int], float]:
        def work(units: int) -> float:
            calls.append(name)
            time.sleep(1e-3 * units)
            return 10.0 * units

        return work

    found = measure_in_turn(
        {name: contender(name) for name in "abc"},
        CPU,
        seconds=1e-3,
        rounds=3,
        progress=lambda done, total: progress.append((done, total)),
    )
    assert "".join(calls).endswith("abccbaabc")
    assert "".join(calls[:-9]) == "aabbcc", "a warm-up and a trial of each, before the first round"
    assert [len(rates.per_second) for rates in found.values()] == [3, 3, 3]
    assert all(0 < rate <= 10 / 1e-3 for rates in found.values() for rate in rates.per_second)
    assert progress[-1] == (12, 12)


def test_a_block_grows_until_it_is_long_enough() -> None:
    sizes: list[int] = []

    def work(units: int) -> float:
        sizes.append(units)
        time.sleep(1e-3 * units)
        return units

    measure_in_turn({"only": work}, CPU, seconds=0.05, rounds=1)
    assert sizes[:2] == [1, 1]
    assert sizes[-1] > 5


def test_a_roofline_point_knows_its_ceiling() -> None:
    point = RooflinePoint("net", "scoring", 200.0, 100.0, 10.0, peak_flops=8_000.0, peak_bytes=2_000.0)
    assert point.intensity == 2
    assert point.achieved_flops == 2_000
    assert point.achieved_bytes == 1_000
    assert point.bound == "memory"
    assert point.share == 0.5
    near = RooflinePoint("net", "scoring", 200.0, 10.0, 10.0, peak_flops=8_000.0, peak_bytes=2_000.0)
    assert near.bound == "compute"
    assert near.share == 0.25


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 4, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(4)
        self.second = nn.Conv2d(4, 4, 3, padding=1)
        self.head = nn.Linear(4 * 64, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.first(x)))
        return self.head(torch.relu(self.second(x) + x).flatten(1))


def test_traffic_is_what_a_hand_counts() -> None:
    network = Block()
    traffic = count_traffic(network, (3, 8, 8))
    first, second, shortcut, head = (3 + 4) * 64, (4 + 4) * 64, 4 * 64, 4 * 64 + 5
    assert traffic.activations == first + second + shortcut + head
    assert traffic.weights == sum(parameter.numel() for parameter in network.parameters())
    assert traffic.bytes_per_image(2, 4) == 4 * (traffic.activations + traffic.weights / 2)
    assert next(network.parameters()).device.type == "cpu"


def test_the_networks_are_dense_pruned_and_the_smaller_proxies() -> None:
    found = subjects("resnet14", (0.5, 0.75))
    assert [one.name for one in found] == ["resnet14", "resnet14, p = 0.5", "resnet14, p = 0.75", "resnet8"]
    assert [one.role for one in found] == ["dense", "pruned", "pruned", "smaller"]
    parameters = [one.parameters for one in found[:3]]
    assert parameters == sorted(parameters, reverse=True)
    assert found[0].scoring_flops > found[1].scoring_flops > found[2].scoring_flops > 0
    assert found[0].training_flops > 2 * found[0].scoring_flops


# ---- agreement ----


@pytest.fixture(scope="module")
def scored() -> tuple[nn.Module, Tensor, TrainingRecipe]:
    torch.manual_seed(0)
    network = build_model("resnet8", num_classes=4, in_channels=1, width=0.5)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(1.5)
    images = torch.randint(0, 256, (60, 1, 8, 8), dtype=torch.uint8)
    training = TrainingRecipe(
        StepSchedule(1), 8, 0.9, 0.0, Augmentation(), Normalisation((127.5,), (70.0,)), precision="fp32"
    )
    return network, images, training


def test_the_pool_has_hardly_any_ties(scored: tuple[nn.Module, Tensor, TrainingRecipe]) -> None:
    network, images, training = scored
    scores = ops.score(plain_logits(plain_copy(network), images, training.normalisation, 256), "entropy")
    assert len(set(scores.tolist())) > 50, "an overlap would mean nothing"


def test_identical_paths_agree_entirely(scored: tuple[nn.Module, Tensor, TrainingRecipe]) -> None:
    def plain(network: nn.Module, images: Tensor, training: TrainingRecipe) -> Tensor:
        return plain_logits(plain_copy(network), images, training.normalisation, 256)

    assert top_k_overlap(*scored, 6, "entropy", fast=plain) == 1
    for one in measure_agreement(*scored, fast=plain):
        assert one.overlap == one.chosen == 1
        assert one.spearman == pytest.approx(1)
        assert one.kendall == pytest.approx(1)
        assert (one.pool, one.k) == (60, 1)


def test_the_packages_scoring_agrees_with_the_plain_loop(scored: tuple[nn.Module, Tensor, TrainingRecipe]) -> None:
    assert top_k_overlap(*scored, 10, "margin") >= 0.9


def test_a_broken_path_is_seen(scored: tuple[nn.Module, Tensor, TrainingRecipe]) -> None:
    def in_wrong_order(network: nn.Module, images: Tensor, training: TrainingRecipe) -> Tensor:
        return plain_logits(plain_copy(network), images, training.normalisation, 256).roll(1, 0)

    assert top_k_overlap(*scored, 6, "entropy", fast=in_wrong_order) < 1
    assert all(one.kendall is not None and one.kendall < 0.9 for one in measure_agreement(*scored, fast=in_wrong_order))


def test_the_plain_loop_is_the_network_in_evaluation_mode(scored: tuple[nn.Module, Tensor, TrainingRecipe]) -> None:
    network, images, training = scored
    was_training = network.training
    copied = plain_copy(network)
    expected = copied((images.float() - 127.5) / 70)
    torch.testing.assert_close(plain_logits(copied, images, training.normalisation, 7), expected.detach())
    assert network.training is was_training


def test_overlap_and_rank_correlations_of_known_scores() -> None:
    plain, other = torch.tensor([1.0, 2.0, 3.0, 4.0]), torch.tensor([4.0, 2.0, 3.0, 1.0])
    found = compare_scores("entropy", plain, other, 2)
    assert found.overlap == 0.5
    assert found.chosen is None
    assert compare_scores("entropy", plain, other, 2, [lambda positions: plain[positions]]).chosen == 1
    assert found.spearman == pytest.approx(-0.8)
    assert found.kendall == pytest.approx(-2 / 3)
    constant = compare_scores("entropy", plain, torch.ones(4), 4)
    assert constant.overlap == 1
    assert constant.spearman is None
    assert constant.kendall is None


@pytest.mark.parametrize(("left", "right"), [(0, 0), (2, 3)])
def test_choices_of_different_size_or_none_cannot_overlap(left: int, right: int) -> None:
    with pytest.raises(ValueError, match="expected two choices of one size"):
        overlap(torch.arange(left), torch.arange(right))


# ---- operators and ceilings ----


def test_operators_are_named_and_the_trace_is_json(tmp_path: Path) -> None:
    matrix = torch.ones(64, 64)
    trace = tmp_path / "trace.json"
    found = profile_operators(lambda: torch.mm(matrix, matrix).relu(), CPU, trace)
    assert {"aten::mm", "aten::relu"} <= {one.name for one in found}
    assert math.isclose(sum(one.share for one in found), 1, rel_tol=1e-6)
    seconds = [one.seconds for one in found]
    assert seconds == sorted(seconds, reverse=True)
    assert any(event.get("name") == "aten::mm" for event in json.loads(trace.read_text())["traceEvents"])


@pytest.fixture
def small_arrays(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ceilings and the brief training in no time; their values mean nothing then."""
    monkeypatch.setattr(ceilings_module, "STREAM_BYTES", 2**20)
    monkeypatch.setattr(ceilings_module, "last_cache_bytes", lambda device: 0)
    monkeypatch.setattr(agreement_module, "SAMPLES_SEEN", 1_000)


@pytest.mark.usefixtures("small_arrays")
def test_ceilings_are_measured_for_both_number_formats() -> None:
    found = measure_ceilings(CPU, seconds=1e-4, rounds=1)
    assert set(found.flops_per_second) == set(found.matrix) == {"fp32", "bf16"}
    assert all(value > 0 for value in (*found.flops_per_second.values(), found.bytes_per_second))
    assert found.array_bytes == 2**20


def test_the_last_cache_has_a_size_or_zero() -> None:
    assert 0 <= last_cache_bytes(CPU) < 2**34


# ---- report ----


@pytest.fixture(scope="module")
def profile() -> Profile:
    """Made-up rates: pruned by half, training is 2 times as fast and scoring 3 times, the plain loop as before."""
    networks = tuple(subjects("resnet14", (0.5,)))
    rates: dict[Way, tuple[float, ...]] = {
        "training": (100.0, 200.0, 50.0),
        "plain scoring": (500.0, 500.0, 500.0),
        "scoring": (1_000.0, 1_000.0, 2_000.0),
        "screening": (2_000.0, 2_200.0, 4_000.0),
    }
    factors: dict[Way, float] = {"training": 2.0, "plain scoring": 1.0, "scoring": 3.0, "screening": 2.5}
    throughputs = []
    for network in networks:
        for way, values in rates.items():
            sizes = (64,) if way in ("scoring", "screening") else (16, 32)
            for size in sizes:
                factor = factors[way] if network is networks[1] else 1.0
                faster = 1.1 if (way, size) == ("plain scoring", 32) else 1.0
                images = Rates(tuple(faster * factor * value for value in values), (2.0, 2.0, 1.0))
                throughputs.append(Throughput(network.name, way, size, images))
    environment = {**describe_environment(CPU), "threads": 2, "gpu": None}
    return Profile(
        request=ProfileRequest(network="resnet14", ratios=(0.5,), batch_sizes=(16, 32), rounds=3),
        device=CPU,
        environment=environment,
        precision="bf16",
        subjects=networks,
        preparations=tuple(Preparation("folded", 64, 0.01) for _ in networks),
        screenings=tuple(Screening(Preparation("8 bits", 64, 0.02), 0.012, (0.05, 0.01)) for _ in networks),
        throughputs=tuple(throughputs),
        ceilings=Ceilings({"fp32": 1e11, "bf16": 1e12}, {"fp32": 2048, "bf16": 4096}, 1e10, 2**28),
        operators={("resnet14", "scoring"): profile_operators(lambda: torch.ones(3) + 1, CPU)},
        agreements={"resnet14": [compare_scores("entropy", torch.arange(50.0), torch.arange(50.0), 1)]},
        agreement_data="digits",
        traces=(),
    )


def test_the_main_table_has_ratios_and_realised_shares(profile: Profile) -> None:
    dense, pruned, smaller = (row for _, row in realised_table(profile).iterrows())
    flops = profile.dense.scoring_flops / profile.subjects[1].scoring_flops
    assert dense["p"] == "dense"
    assert dense["training images/s"] == "100"
    assert dense["scoring ratio"] == "1"
    assert pruned["p"] == "0.5"
    assert pruned["scoring ratio"] == "3.00"
    assert pruned["training ratio"] == "2.00"
    assert pruned["realised in scoring"] == f"{300 / flops:.0f}%"
    assert pruned["parameters"] == f"{profile.subjects[1].parameters:,}"
    assert smaller["network"] == "resnet8 (SVP's proxy)"
    assert smaller["scoring ratio"] == "1.00"


def test_scoring_is_compared_with_the_best_batch_of_the_plain_loop(profile: Profile) -> None:
    dense, pruned, _ = (row for _, row in scoring_table(profile).iterrows())
    assert dense["batch"] == 32
    assert dense["times as fast"] == f"{1_000 / 550:.2f}"
    assert pruned["times as fast"] == f"{3_000 / 550:.2f}"
    assert dense["preparation"] == "10 ms"


def test_a_look_in_8_bits_first_has_a_table_of_its_own(profile: Profile) -> None:
    dense, pruned, _ = (row for _, row in screening_table(profile).iterrows())
    assert dense["times the plain loop"] == f"{2_200 / 550:.2f}"
    assert dense["ratio to dense"] == "1"
    assert pruned["times the plain loop"] == f"{2.5 * 2_200 / 550:.2f}"
    assert pruned["times the dense plain loop"] == f"{2.5 * 2_200 / 550:.2f}"
    assert pruned["ratio to dense"] == "2.50"
    flops = profile.dense.scoring_flops / profile.subjects[1].scoring_flops
    assert pruned["realised"] == f"{250 / flops:.0f}%"
    assert (pruned["error of logits"], pruned["preparation"]) == ("1.2%", "20 ms")
    without = dataclasses.replace(profile, screenings=(None, None, None))
    assert "In 8 bits first" in markdown(profile)
    assert "In 8 bits first" not in markdown(without)


def test_the_page_says_what_a_reader_must_know(profile: Profile) -> None:
    page = markdown(profile)
    for words in (
        "| resnet14 | 0.5 |",
        "No GPU has run this",
        "The machine was shared",
        "resnet14; resnet14, p = 0.5; resnet8: folded",
        "Matrix product in bf16: 1,000 GFLOP/s (4,096 x 4,096)",
        "Copy: 10.0 GB/s",
        "| resnet14 | entropy | 50 | 1 | bf16 | 100.0% |",
        "in 8 bits, and of them again 5.0% in bf16, 1.0% in fp32.",
        f"torch {torch.__version__.partition('+')[0]}",
    ):
        assert words in page
    for line in page.splitlines():
        assert not line.startswith("|") or line.endswith("|")


def test_a_machine_to_itself_is_not_called_shared(profile: Profile) -> None:
    alone = tuple(
        dataclasses.replace(one, images=Rates(one.images.per_second, (2.0, 2.0, 1.95))) for one in profile.throughputs
    )
    assert "shared" not in markdown(dataclasses.replace(profile, throughputs=alone))


def test_csv_and_json_can_be_read_again(profile: Profile, tmp_path: Path) -> None:
    files = {file.name for file in write_report(profile, tmp_path)}
    assert {"profile.md", "profile.csv", "profile.json"} <= files
    table = pandas.read_csv(tmp_path / "profile.csv")
    assert len(table) == len(profile.throughputs) == 18
    pandas.testing.assert_frame_equal(table, measurements(profile), check_dtype=False)
    data = json.loads((tmp_path / "profile.json").read_text())
    assert data["throughput"][0]["images"]["per_second"] == [100, 200, 50]
    scoring = next(one for one in data["realised"] if (one["network"], one["way"]) == ("resnet14, p = 0.5", "scoring"))
    assert scoring["throughput_ratio"] == pytest.approx(3)
    assert scoring["share"] == pytest.approx(3 / scoring["flops_ratio"])
    assert data["environment"]["packages"]["torch"]
    assert {point["bound"] for point in data["roofline"]} <= {"memory", "compute"}


def test_the_figures_are_drawn_and_are_the_same_again(profile: Profile, tmp_path: Path) -> None:
    first, again = ([file.read_text() for file in write_figures(profile, tmp_path)] for _ in range(2))
    assert len(first) == 2
    assert first == again
    for drawn in first:
        assert xml.etree.ElementTree.fromstring(drawn).tag.endswith("svg")
    assert "p = 0.5" in first[0]


# ---- command ----


@pytest.mark.usefixtures("small_arrays")
def test_the_command_measures_and_writes(tmp_path: Path, run_cli: RunCli) -> None:
    out = tmp_path / "profile"
    options = ("--ratios", "0.5", "--batch-sizes", "4", "--seconds", "0.001", "--rounds", "1")
    code, printed, errors = run_cli("profile", "resnet8", *options, "--trace", "--out", out)
    assert code == 0, errors
    assert "| resnet8 | 0.5 | 19,954 |" in printed
    assert printed.startswith((out / "profile.md").read_text())
    data = json.loads((out / "profile.json").read_text())
    assert [(one["network"], one["way"], one["batch_size"]) for one in data["throughput"]][:2] == [
        ("resnet8", "training", 4),
        ("resnet8", "plain scoring", 4),
    ]
    assert all(rate > 0 for one in data["throughput"] for rate in one["images"]["per_second"])
    assert set(data["agreement"]["networks"]) == {"resnet8", "resnet8, p = 0.5"}
    assert data["agreement"]["networks"]["resnet8"][0]["k"] == 29
    assert len(data["traces"]) == 6
    for name in data["traces"]:
        assert json.loads((out / name).read_text())["traceEvents"]
    assert len(pandas.read_csv(out / "profile.csv")) == 6


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["resnet21"], "unknown model 'resnet21': did you mean 'resnet"),
        (["--ratios", "1"], "--ratios: expected shares of the channels from 0 to below 1, got 1"),
        (["--ratios", "-0.1"], "got -0.1"),
        (["--ratios", "nan"], "got nan"),
        (["--ratios", "half"], "--ratios: expected numbers with commas between them, as in 1.0,2.0, got 'half'"),
        (["--ratios", "0.5,0.5"], "none twice"),
        (["--batch-sizes", "1"], "--batch-sizes: expected whole numbers of at least 2, got 1"),
        (["--batch-sizes", "1.5"], "--batch-sizes: expected numbers with commas between them, as in 1,2, got '1.5'"),
        (["--seconds", "0"], "--seconds: expected a length from above 0"),
        (["--rounds", "0"], "--rounds: expected at least 1, got 0"),
        (["--device", "tpu"], "--device: expected auto, cpu or cuda, got 'tpu'"),
        (["--device", "cuda"], "--device: expected a CUDA device, but torch finds none"),
        (["--data", "nowhere"], "--data: expected a data set ("),
    ],
)
def test_bad_input_is_refused_before_anything_is_measured(
    arguments: list[str], message: str, run_cli: RunCli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    code, printed, errors = run_cli("profile", *arguments)
    assert code == 2
    assert message in errors
    assert len(errors.strip().splitlines()) == 1
    assert not printed
    assert not list(tmp_path.iterdir())


def test_an_out_that_is_a_file_is_refused(run_cli: RunCli, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    code, _, errors = run_cli("profile", "--out", tmp_path / "file")
    assert code == 2
    assert "expected a folder, or a name for a new one" in errors


def test_help_teaches(run_cli: RunCli) -> None:
    _, printed, _ = run_cli("profile", "--help")
    for words in (
        "Realised",
        "No GPU has run this command",
        "prunefuse-bench profile resnet20 --ratios 0.5",
        "--trace",
    ):
        assert words in printed
