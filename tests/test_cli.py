from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pandas
import pytest
from flat_images import png

from prunefuse_bench.records.checksums import sealed

RunCli = Callable[..., tuple[int, str, str]]


def test_run_prints_and_writes_the_leaderboard(tiny: Path, tmp_path: Path, run_cli: RunCli) -> None:
    out = tmp_path / "run"
    code, printed, errors = run_cli("run", tiny, "--out", out)
    assert code == 0, errors
    assert "digits, resnet8" in printed
    for word in ("random", "al", "prunefuse", "2.02%", "5.01%", "10%", "selector s", "total s"):
        assert word in printed
    markdown = (out / "leaderboard.md").read_text()
    assert "digits, resnet8, width 0.25" in markdown
    assert "1 epochs (the paper: 181)" in markdown
    assert "Seeds: 1 instead of 3" in markdown
    assert "A schedule that is too short favours random sampling" in markdown
    assert len(pandas.read_csv(out / "leaderboard.csv")) == 9
    (board,) = json.loads((out / "leaderboard.json").read_text())
    assert [row["method"] for row in board["table"]] == ["random", "al", "prunefuse"]
    assert len(board["results"]) == 9


def test_results_of_different_machines_say_so(tiny: Path, tmp_path: Path, run_cli: RunCli) -> None:
    out = tmp_path / "run"
    run_cli("run", tiny, "--out", out, "--set", "recipes=[random]")
    file = next(out.glob("cells/*/round-001.json"))
    record = json.loads(file.read_text())
    record["environment"]["cpu"] = "Another Processor"
    del record["sha256"]
    file.write_text(json.dumps(sealed(record)))
    run_cli("report", out, "--out", tmp_path / "report", "--no-figures")
    (board,) = json.loads((tmp_path / "report" / "leaderboard.json").read_text())
    machines = [fact["value"] for fact in board["facts"] if fact["name"] == "Machine"]
    assert len(machines) == 2
    assert machines[1].startswith("Another Processor")
    assert "their seconds do not compare" in (tmp_path / "report" / "leaderboard.md").read_text()


def test_mean_and_deviation_over_seeds(tiny: Path, tmp_path: Path, run_cli: RunCli) -> None:
    out = tmp_path / "run"
    run_cli("run", tiny, "--out", out, "--seeds", "0-2", "--set", "recipes=[random]", "--set", "task.budgets=[0.05]")
    results = pandas.read_csv(out / "leaderboard.csv")
    (board,) = json.loads((out / "leaderboard.json").read_text())
    accuracy = 100 * results["accuracy"]
    assert board["table"][0]["5.01%"] == f"{accuracy.mean():.2f} ± {accuracy.std(ddof=1):.2f}"


def test_reports_of_several_runs(tiny: Path, tmp_path: Path, run_cli: RunCli) -> None:
    run_cli("run", tiny, "--out", tmp_path / "a", "--set", "recipes=[random]")
    run_cli("run", tiny, "--out", tmp_path / "b", "--set", "recipes=[random]", "--set", "task.training.epochs=2")
    code, printed, _ = run_cli("report", tmp_path / "a", tmp_path / "b", "--out", tmp_path / "both", "--no-figures")
    assert code == 0
    assert printed.count("digits, resnet8") >= 2
    assert len(json.loads((tmp_path / "both" / "leaderboard.json").read_text())) == 2


def test_names_mean_nothing_to_markdown_or_html(tiny: Path, tmp_path: Path, run_cli: RunCli) -> None:
    out = tmp_path / "run"
    label = "<script>alert(1)</script> | [bold]x[/bold]"
    code, printed, _ = run_cli(
        "run",
        tiny,
        "--out",
        out,
        "--set",
        f"recipes=[{{method: random, label: '{label}'}}]",
        "--set",
        "task.budgets=[0.05]",
    )
    assert code == 0
    assert "[bold]x[/bold]" in printed
    markdown = (out / "leaderboard.md").read_text()
    assert "<script" not in markdown.replace("\\<script", "")
    assert json.loads((out / "leaderboard.json").read_text())[0]["table"][0]["method"] == label


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "quik"], "unknown preset 'quik': did you mean 'quick'"),
        (["run", "quick", "--set", "task.modle.name=x"], "unknown key in task 'modle': did you mean 'model'"),
        (["run", "quick", "--set", "task.dataset.name=digit"], "unknown dataset 'digit': did you mean 'digits'"),
        (["run", "quick", "--set", "task.model.name=resnet21"], "unknown model 'resnet21': did you mean 'resnet"),
        (["run", "quick", "--set", "recipes=[prunefused]"], "unknown method 'prunefused': did you mean 'prunefuse'"),
        (["run", "quick", "--set", "task.budgets=[0.2, 0.1]"], "expected increasing budgets"),
        (["run", "quick", "--set", "task.budgets=[0.2, 2000]"], "2000 asks for 2000 labels, but the pool has 1437"),
        (["run", "quick", "--set", "recipes=[al, al]"], "expected each method once"),
        (["run", "quick", "--set", "device=cuda"], "expected a CUDA device, but torch finds none"),
        (["run", "quick", "--seeds", "a"], "expected numbers and ranges"),
        (["run", "cifar10-jpeg-short"], "--set task.dataset.path=PATH"),
        (["report", "nowhere", "--out", "x"], "expected the folder of a run"),
        (["report"], "expected the folder of a run, files of pytest-benchmark or --merge"),
        (["report", "a.json", "b.json", "--out", "x"], "leave out --merge and --out"),
        (["report", "a.json", "b.json"], "a.json"),
        (["submit", "nowhere"], "expected the folder of a run"),
        (
            ["run", "quick", "--set", "task.dataset.resize=16"],
            "task.dataset.resize: dataset 'digits' has no such setting",
        ),
    ],
)
def test_bad_input_is_one_message_and_exit_code_2(
    arguments: list[str], message: str, run_cli: RunCli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    code, printed, errors = run_cli(*arguments)
    assert code == 2
    assert message in errors
    assert "Traceback" not in errors + printed
    assert len(errors.strip().splitlines()) == 1
    assert not list(tmp_path.iterdir()), "something was written before the error"


@pytest.mark.parametrize("below", ["", "/below"])
def test_an_out_that_is_a_file(tiny: Path, tmp_path: Path, run_cli: RunCli, below: str) -> None:
    (tmp_path / "file").write_text("mine")
    for command in (("run", tiny), ("report", tmp_path / "run")):
        if command[0] == "report":
            run_cli("run", tiny, "--out", tmp_path / "run", "--set", "recipes=[random]", "--set", "task.budgets=[0.02]")
        code, _, errors = run_cli(*command, "--out", f"{tmp_path}/file{below}")
        assert code == 2
        assert "expected a folder, or a name for a new one" in errors
    assert (tmp_path / "file").read_text() == "mine"


def test_ones_own_images(
    image_files: dict[str, bytes],
    make_zip: Callable[[dict[str, bytes]], Path],
    tiny: Path,
    tmp_path: Path,
    run_cli: RunCli,
) -> None:
    own = ("--set", "task.dataset.name=image-archive", "--set", f"task.dataset.path={make_zip(image_files)}")
    more = ("--set", "task.dataset.title=Pets", "--set", "task.budgets=[4, 10]", "--set", "task.training.min_steps=30")
    code, printed, errors = run_cli("run", tiny, "--out", tmp_path / "run", *own, *more)
    assert code == 0, errors
    assert "Pets, resnet8" in printed
    bad = make_zip({**image_files, "train/cat/00.png": png(1)[:50]})
    own = ("--set", "task.dataset.name=image-archive", "--set", f"task.dataset.path={bad}")
    code, _, errors = run_cli("run", tiny, "--out", tmp_path / "bad", *own, *more)
    assert code == 2
    assert "train/cat/00.png cannot be read as an image" in errors
    assert not (tmp_path / "bad").exists()


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("methods", ["random", "al", "prunefuse", "ratio=0.5", "kcenters", "entropy"]),
        ("datasets", ["digits", "cifar10", "cifar100", "fashion-mnist", "image-archive"]),
        ("models", ["resnet56", "855,770", "vit_small_cifar", "21,341,962", "3x32x32", "VDCNN"]),
        ("presets", ["quick", "cifar10-jpeg-short"]),
        ("doctor", ["torch", "core: compiler", "threads"]),
        ("--help", ["run", "report", "doctor", "prunefuse-bench run quick"]),
    ],
)
def test_lists(command: str, words: list[str], run_cli: RunCli) -> None:
    code, printed, errors = run_cli(command)
    assert code == 0, errors
    for word in words:
        assert word in printed


def test_help_of_run_teaches(run_cli: RunCli) -> None:
    _, printed, _ = run_cli("run", "--help")
    assert "--set" in printed
    assert "prunefuse-bench run quick" in printed
    assert "--set 'recipes=[random, al]'" in printed


def test_the_page_of_methods_is_what_the_code_says(run_cli: RunCli) -> None:
    page = (Path(__file__).parents[1] / "docs" / "methods.md").read_text()
    code, printed, _ = run_cli("methods", "--markdown")
    assert code == 0
    assert printed == page, "write it anew: prunefuse-bench methods --markdown > docs/methods.md"


def test_every_method_of_the_paper_and_more_is_listed_with_its_cost(run_cli: RunCli) -> None:
    from prunefuse_bench.recipe.catalogue import method_rows

    expected = {
        "active_learning": "random al svp bald batchbald alse badge kcenters typiclust prunefuse prunefuse+bald "
        "prunefuse+alse margin combine",
        "coreset": "entropy least-confidence forgetting el2n moderate css kcenters gradmatch glister random margin "
        "typiclust prunefuse combine",
    }
    _, printed, _ = run_cli("methods")
    for protocol, names in expected.items():
        rows = list(method_rows(protocol))  # type: ignore[arg-type]
        assert {row.name for row in rows} >= set(names.split())
        for row in rows:
            assert row.summary.endswith((".", ")"))
            assert row.source
            assert row.cost == "0" if row.name == "random" else "P" in row.cost
            assert row.name in printed
            # Whoever asks for the original's way is told what is not reproduced.
            assert row.preset != "faithful" or any("not reproduced" in note for note in row.notes), row.name
