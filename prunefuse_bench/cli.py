"""The command line: commands, nothing else."""

from __future__ import annotations

import contextlib
import shlex
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NoReturn

import rich.box
import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from prunefuse_bench.errors import AnotherRankFailed, BadInput, CannotWrite, RankLost
from prunefuse_bench.plain_text import for_terminal

if TYPE_CHECKING:
    from prunefuse_bench.groups import SuiteGroup
    from prunefuse_bench.paper import PublishedTable
    from prunefuse_bench.paper.measured import MeasuredMethod
    from prunefuse_bench.paper.sheets import Sheet
    from prunefuse_bench.publishing import Merged
    from prunefuse_bench.records import CellStore
    from prunefuse_bench.report import Leaderboard
    from prunefuse_bench.report.sheets import Sheet as ReportSheet
    from prunefuse_bench.rounds import Progress as StageProgress
    from prunefuse_bench.runner import PlannedCell
    from prunefuse_bench.scale.driver import Engine
    from prunefuse_bench.scale.order import Resources
    from prunefuse_bench.verifying import Verification

__all__ = ["app", "main"]

app = typer.Typer(
    name="prunefuse-bench",
    help="Which data-selection method gives the most accuracy for the labels, FLOPs and seconds it costs?",
    epilog="Start with: prunefuse-bench run quick",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    add_completion=False,
)
console = Console(width=None if sys.stdout.isatty() else 160)  # a pipe has no width of its own
errors = Console(stderr=True, width=None if sys.stderr.isatty() else 160)


MethodsFrom = Annotated[
    list[Path] | None,
    typer.Option("--methods-from", metavar="FILE.py", help="A Python file with methods of your own. Repeatable."),
]


@app.command()
def run(
    suite: Annotated[
        str, typer.Argument(metavar="PRESET_OR_YAML", help="A preset's name, or a YAML file of your own.")
    ],
    out: Annotated[
        Path | None, typer.Option(help="Folder for records and leaderboard.", show_default="runs/NAME of the suite")
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change a setting, as in task.training.epochs=30. Repeatable."),
    ] = None,
    seeds: Annotated[str | None, typer.Option(help="Seeds instead of the suite's: 0-2, or 0,3,5.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with a run that was stopped.")] = False,
    part: Annotated[
        list[str] | None, typer.Option("--part", metavar="NAME", help="Of a suite with parts, this one. Repeatable.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Train nothing: list the cells, their FLOPs and how long they would take.")
    ] = False,
    json_: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="With --dry-run: all of it, cell by cell.")
    ] = None,
    methods_from: MethodsFrom = None,
    executor: Annotated[
        str, typer.Option(help="Where cells are run: local (one after another, here), ray or slurm.")
    ] = "local",
    cpus_per_cell: Annotated[
        int | None, typer.Option(metavar="N", help="With ray and slurm: processors of a cell.", show_default="1")
    ] = None,
    gpus_per_cell: Annotated[
        float | None, typer.Option(metavar="N", help="With ray and slurm: GPUs; with ray also 0.5.", show_default="0")
    ] = None,
    memory_per_cell: Annotated[
        float | None, typer.Option(metavar="GB", help="With ray and slurm: memory of a cell, in gigabytes.")
    ] = None,
    ray_address: Annotated[
        str | None,
        typer.Option(metavar="HOST:PORT", help="A cluster of Ray.", show_default="the one here, or a new one here"),
    ] = None,
    slurm: Annotated[
        list[str] | None,
        typer.Option("--slurm", metavar="KEY=VALUE", help="For Slurm, as in partition=gpu or time=600. Repeatable."),
    ] = None,
) -> None:
    """Run every method of a suite and print the leaderboard.

    Finished cells are kept and not run again, so a suite can be extended: add seeds or methods and run it once more.
    The parts of a suite that has some are run one after another, each in a folder of its own.

    \b
    Examples:
      prunefuse-bench run quick
      prunefuse-bench run quick --seeds 0-4 --set 'recipes=\\[random, al]'
      prunefuse-bench run my-suite.yaml --out runs/mine --resume
      prunefuse-bench run paper-table2 --part cifar10 --part cifar100 --dry-run
      prunefuse-bench run my-suite.yaml --out /shared/mine --executor ray --gpus-per-cell 1
    """
    from prunefuse_bench.distributed import joined
    from prunefuse_bench.group_runner import run_group
    from prunefuse_bench.groups import load_group
    from prunefuse_bench.recipe import load_file

    cluster = _cluster(executor, cpus_per_cell, gpus_per_cell, memory_per_cell, ray_address, slurm or [])
    with joined() as world:
        console.quiet = errors.quiet = not world.is_first  # one of them talks
        if cluster and world.size > 1:
            raise BadInput(
                f"--executor {executor}: expected one process, got {world.size} under torchrun: use one of them"
            )
        for file in methods_from or ():
            load_file(file)
        asked = load_group(suite, [*(set_ or []), *([f"seeds={seeds!r}"] if seeds else [])], part or ())
        if dry_run:
            _print_forecast(asked, json_)
            return
        if json_ is not None:
            raise BadInput("--json: only --dry-run writes it; the results of a run are in leaderboard.json")
        folder = out or Path("runs") / asked.name
        with _resumable():
            if cluster:
                stores = _run_on(cluster, asked, folder, resume=resume, methods_from=methods_from or [])
            else:
                with _LiveView() as view:
                    stores = run_group(asked, folder, resume=resume, observer=view, decode_progress=view.decoding)
        if world.is_first:
            _write_results(asked, folder)
        failed = world.from_first(lambda: any(store.failure for store in stores))
    if failed:
        raise typer.Exit(1)


@contextlib.contextmanager
def _resumable() -> Iterator[None]:
    """Ctrl-C within the block ends the program with the command that goes on."""
    try:
        yield
    except KeyboardInterrupt:
        command = shlex.join(["prunefuse-bench", *(word for word in sys.argv[1:] if word != "--resume"), "--resume"])
        errors.print(f"Stopped. Every whole round is kept; go on with: {for_terminal(command)}", soft_wrap=True)
        raise typer.Exit(130) from None


def _write_results(asked: SuiteGroup, folder: Path) -> None:
    from prunefuse_bench.report import write_leaderboard, write_page

    folders = [one.folder(folder) for one in asked.parts]
    for own in folders if len(folders) > 1 else ():
        write_leaderboard([own], own)
        write_page([own], own)
    for board in write_leaderboard(folders, folder):
        _print_leaderboard(board)
    write_page(folders, folder)
    _say_written(folder, "leaderboard.html, .md, .csv, .json")


@dataclass(frozen=True)
class _Cluster:
    """What was asked for with --executor ray or slurm."""

    executor: Literal["ray", "slurm"]
    resources: Resources
    ray_address: str | None
    slurm: dict[str, Any]

    def engine(self, folder: Path) -> Engine:
        """BadInput if it is not there."""
        if self.executor == "ray":
            from prunefuse_bench.scale.ray_engine import RayEngine

            return RayEngine(self.resources, self.ray_address)
        from prunefuse_bench.scale.slurm_engine import SlurmEngine

        return SlurmEngine(self.resources, folder.resolve() / "slurm", self.slurm)


def _cluster(
    executor: str,
    cpus: int | None,
    gpus: float | None,
    memory: float | None,
    ray_address: str | None,
    slurm: list[str],
) -> _Cluster | None:
    """None for the local executor; BadInput for options that it, or the one that was chosen, does not have."""
    from prunefuse_bench.errors import unknown_name
    from prunefuse_bench.scale.order import Resources

    given = {"--cpus-per-cell": cpus, "--gpus-per-cell": gpus, "--memory-per-cell": memory}
    belong = dict.fromkeys(given, ("ray", "slurm")) | {"--ray-address": ("ray",), "--slurm": ("slurm",)}
    for option, value in {**given, "--ray-address": ray_address, "--slurm": slurm or None}.items():
        if value is not None and executor not in belong[option]:
            raise BadInput(f"{option}: expected --executor {' or '.join(belong[option])} with it, got {executor}")
    if executor == "local":
        return None
    if executor not in ("ray", "slurm"):
        raise unknown_name("executor", executor, ("local", "ray", "slurm"))
    parameters = {}
    for one in slurm:
        key, equals, text = one.partition("=")
        if not (key and equals):
            raise BadInput(f"--slurm {one!r}: expected key=value, as in partition=gpu")
        parameters[key] = int(text) if text.isdecimal() else text
    chosen: Literal["ray", "slurm"] = "ray" if executor == "ray" else "slurm"
    return _Cluster(chosen, Resources(1 if cpus is None else cpus, gpus or 0, memory), ray_address, parameters)


def _run_on(
    cluster: _Cluster, group: SuiteGroup, folder: Path, *, resume: bool, methods_from: list[Path]
) -> list[CellStore]:
    from prunefuse_bench.group_runner import recover_group
    from prunefuse_bench.scale.driver import run_jobs
    from prunefuse_bench.scale.grid import make_jobs
    from prunefuse_bench.scale.view import GridView

    engine = cluster.engine(folder)  # what is missing is said before anything is planned
    with GridView(errors) as view:
        for line in recover_group(group, folder) if resume else ():
            view.recovered(line)
        jobs = make_jobs(
            group,
            folder,
            cluster.resources,
            resume=resume,
            methods_from=methods_from,
            decode_progress=view.planning,
        )
        return run_jobs(jobs, engine, view, resume=resume)


def _print_forecast(group: SuiteGroup, file: Path | None) -> None:
    from prunefuse_bench.atomic import write_json
    from prunefuse_bench.forecast import as_data, forecast_part, part_sheet, total_sheet

    forecasts = []
    with _LiveView("nothing is trained") as view:
        for done, part in enumerate(group.parts):
            view.stage(part.suite.name, done, len(group.parts))
            try:
                forecasts.append(forecast_part(part.name, part.suite, view.say))
            except BadInput as error:
                raise part.explain(error) from error
    _print_sheets([*map(part_sheet, forecasts), total_sheet(forecasts)])
    if file is not None:
        write_json(file, as_data(group.name, forecasts))
        _say("Written:", str(file))


MergedFiles = Annotated[
    list[Path] | None,
    typer.Option("--merge", metavar="FILE.zip", help="A run that others sent ('submit'). Repeatable."),
]


@app.command()
def report(
    runs: Annotated[
        list[Path] | None,
        typer.Argument(metavar="[DIR|JSON]...", help="Folders that 'run' wrote, or files of pytest-benchmark."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder for the report.", show_default="the folder of a single run, or report")
    ] = None,
    merge: MergedFiles = None,
    figures: Annotated[bool, typer.Option(help="Also the figures for papers, PDF and PNG; takes seconds.")] = True,
) -> None:
    """Write the leaderboard of one or more runs, as a page, tables and figures.

    leaderboard.html opens in any browser, from disk and without a network. Two runs are also compared: what changed,
    and what cannot be said. Files that 'submit' packed are verified first; what does not fit is refused, with the
    reason. Files that pytest-benchmark wrote (--benchmark-json) are compared with each other, two commits at a time.

    \b
    Examples:
      prunefuse-bench report runs/quick
      prunefuse-bench report runs/before runs/after --out report
      prunefuse-bench report --merge theirs.zip --merge others.zip --out report
      prunefuse-bench report before.json after.json
    """
    given = runs or []
    if given and all(run.suffix == ".json" for run in given):
        if merge or out:
            raise BadInput("files of pytest-benchmark are compared with each other alone: leave out --merge and --out")
        _compare_benchmarks(given)
        return
    if not given and not merge:
        raise BadInput("expected the folder of a run, files of pytest-benchmark or --merge FILE.zip; see --help")
    folder = out or (given[0] if len(given) == 1 and not merge else Path("report"))
    refused = 0
    if merge:
        merged = _merge(merge, folder)
        given, refused = [*given, *merged.runs], len(merged.refused)
    _write_report(given, folder, figures=figures)
    if refused:
        raise typer.Exit(1)


def _write_report(runs: list[Path], folder: Path, *, figures: bool) -> None:
    from prunefuse_bench.atomic import write_atomically
    from prunefuse_bench.records import find_runs
    from prunefuse_bench.report import compare_runs, write_figures, write_leaderboard, write_page, write_tables

    given, runs = runs, find_runs(runs)
    for board in write_leaderboard(runs, folder):
        _print_leaderboard(board)
    written = "leaderboard.html, .md, .csv, .json"
    write_page(runs, folder)
    files = write_tables(runs, folder)
    if figures:
        with _LiveView("figures for papers") as view:
            files += write_figures(runs, folder, view.figures)
    if len(given) == len(runs) == 2:
        comparison = compare_runs(*runs)
        _print_sheets(comparison.sheets)
        page = comparison.markdown().encode()
        write_atomically(folder / "comparison.md", lambda stream: stream.write(page))
        written += ", comparison.md"
    folders = {file.parent.name for file in files if file.parent != folder}
    tables = sorted(file.name for file in files if file.parent == folder)
    _say_written(folder, ", ".join([written, *tables, *(f"{name}/" for name in sorted(folders))]))


def _merge(files: list[Path], folder: Path) -> Merged:
    """At least one of them; says what was refused."""
    from prunefuse_bench.publishing import merge

    merged = merge(files, folder)
    for file, reason in merged.refused:
        _say("[yellow]refused:[/]", f"{file}: {reason}")
    for file, same in merged.duplicates:
        _say("[yellow]left out:[/]", f"{file} is the same as {same}")
    for note in merged.notes:
        _say("[yellow]note:[/]", note)
    if not merged.runs:
        raise BadInput(f"none of the {len(files)} files can be used")
    return merged


def _compare_benchmarks(files: list[Path]) -> None:
    from prunefuse_bench.report import compare_benchmark_files

    _print_sheets(compare_benchmark_files(files).sheets)


@app.command()
def submit(
    run: Annotated[Path, typer.Argument(metavar="DIR", help="Folder that 'run' wrote.")],
    out: Annotated[
        Path | None, typer.Option(metavar="FILE.zip", help="The file to write.", show_default="NAME of the run.zip")
    ] = None,
) -> None:
    """Pack the records of a run into one file, to be sent to others.

    Settings, chosen indices, accuracies and costs, with the hash of each file; no data, no weights, no paths of this
    machine. Others read it with: prunefuse-bench report --merge FILE.zip

    \b
    Examples:
      prunefuse-bench submit runs/quick
      prunefuse-bench submit runs/quick --out quick-on-my-machine.zip
    """
    from prunefuse_bench.publishing import pack
    from prunefuse_bench.records import expect_one_run

    expect_one_run(run, "pack")
    _say("Written:", str(pack(run, out or Path(f"{run.resolve().name}.zip"))))


@app.command()
def verify(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Folder that 'run' wrote.")],
    cell: Annotated[
        str | None, typer.Option(metavar="ID", help="Its folder's name in RUN/cells.", show_default="the first")
    ] = None,
    all_: Annotated[bool, typer.Option("--all", help="Every cell that has a whole round.")] = False,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Where the data is now: task.dataset.path=PATH. Repeatable."),
    ] = None,
    methods_from: MethodsFrom = None,
) -> None:
    """Run the last round of a cell again and compare it with its record, bit for bit.

    Compares the chosen indices, accuracies, losses and the weights of the selector; where they differ, says whether the
    machine, the threads, the packages or the commit do. Nothing is written. Exit code 1 if anything differs.

    It costs the round itself and the selector of the round before, which is trained again from its labels; for a method
    that synchronises also the fused network and selector of every round since the last one that did not synchronise,
    which with sync_every=1 is the whole chain from the random start, without the targets.

    \b
    Examples:
      prunefuse-bench verify runs/quick
      prunefuse-bench verify runs/mine --all --set task.dataset.path=/data/mine.zip
    """
    from prunefuse_bench.recipe import load_file
    from prunefuse_bench.records import expect_one_run
    from prunefuse_bench.verifying import verify_run

    if cell is not None and all_:
        raise BadInput("--cell and --all: give one of them")
    for file in methods_from or ():
        load_file(file)
    expect_one_run(run, "verify")
    with _LiveView("verifying") as view:

        def watched(title: str) -> StageProgress:
            view.say(title)
            return view.stage

        found = verify_run(run, cell=cell, every=all_, overrides=set_ or (), progress=watched)
    for one in found:
        title = f"{one.title} ({one.cell}), round {one.number}"
        _print_verification(title, one)
    if any(one.differing for one in found):
        raise typer.Exit(1)


def _print_verification(title: str, one: Verification) -> None:
    console.print(f"[bold]{for_terminal(title)}[/]", highlight=False, soft_wrap=True)
    for style, what, lines in (
        ("green", "agrees to the bit:", one.agreed),
        ("red", "differs:", one.differing),
        ("yellow", "not compared:", one.unchecked),
        ("yellow", "another environment:", one.environment),
    ):
        for line in lines:
            _say(f"  [{style}]{what}[/]", line)
    if one.differing and not one.environment:
        _say("  -", "machine, threads, packages and commit are those on record: something else changed the result")


@app.command()
def paper(
    table: Annotated[
        list[str] | None, typer.Option("--table", metavar="N", help="Number of a table, 1 to 31. Repeatable.")
    ] = None,
    runs: Annotated[
        list[Path] | None, typer.Option("--runs", metavar="DIR", help="Folder that 'run' wrote. Repeatable.")
    ] = None,
    merge: MergedFiles = None,
    out: Annotated[Path | None, typer.Option(help="Folder for paper.md, paper.html and figures/.")] = None,
) -> None:
    """Show the paper's tables: published beside recomputed beside measured.

    Recomputed are the selector FLOPs of Tables 2 and 3, by the rule that was fitted from them. Measured are the
    accuracies of runs, each with all that differs from the published experiment: yours, or those that others packed
    with 'submit', which are verified first.

    \b
    Examples:
      prunefuse-bench paper
      prunefuse-bench paper --table 2 --table 3
      prunefuse-bench paper --table 3 --runs runs/table3-small --out report
      prunefuse-bench paper --table 20 --merge theirs.zip
    """
    from prunefuse_bench.paper import published_table, published_tables

    tables = [published_table(number) for number in dict.fromkeys(table or ())] or list(published_tables())
    methods, refused = _methods_of(runs or [], merge or [])
    if out is not None:
        from prunefuse_bench.paper.report import write_report

        files = write_report(tables, methods, out)
        names = ", ".join(str(file.relative_to(out)) for file in files)
        console.print(f"Written to {for_terminal(out)}: {names}", highlight=False, soft_wrap=True)
    else:
        _print_paper(tables, methods, chosen=bool(table))
    if refused:
        raise typer.Exit(1)


def _methods_of(runs: list[Path], files: list[Path]) -> tuple[list[MeasuredMethod], int]:
    """What is in the folders of runs and in submissions, and how many of these were refused."""
    if not runs and not files:
        return [], 0
    from prunefuse_bench.paper.measured import load_methods
    from prunefuse_bench.records import find_runs

    methods = load_methods(find_runs(runs)) if runs else []
    if not files:
        return methods, 0
    with tempfile.TemporaryDirectory(prefix="prunefuse-bench-") as folder:
        merged = _merge(files, Path(folder))
        for one in merged.accepted:
            methods += [replace(method, run=one.file) for method in load_methods([one.run])]
    return methods, len(merged.refused)


def _print_paper(tables: list[PublishedTable], methods: list[MeasuredMethod], *, chosen: bool) -> None:
    """Tables that were asked for, or else what all of them hold."""
    from prunefuse_bench.paper.sheets import overview, table_sheets, unmatched_notes

    sheets = (
        [sheet for one in tables for sheet in table_sheets(one, methods)] if chosen else [overview(tables, methods)]
    )
    for sheet in sheets:
        _print_sheet(sheet)
    for note in unmatched_notes(tables, methods):
        console.print(f"[yellow]beside no cell:[/] {for_terminal(note)}", highlight=False)


@app.command()
def profile(
    network: Annotated[str, typer.Argument(metavar="NETWORK", help="Dense network, see 'models'.")] = "resnet56",
    ratios: Annotated[str, typer.Option(help="Pruning ratios p: shares of the channels removed.")] = "0.5,0.6,0.7,0.8",
    batch_sizes: Annotated[
        str, typer.Option(help="Batch sizes of training and of the plain loop; the first is the main table's.")
    ] = "128",
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    seconds: Annotated[float, typer.Option(help="Length of one block of one contender.")] = 1.0,
    rounds: Annotated[int, typer.Option(help="Blocks of each contender; medians and quartiles are over them.")] = 5,
    data: Annotated[
        str, typer.Option(metavar="NAME|PATH", help="Images to compare choices on: a data set, or a folder or .zip.")
    ] = "digits",
    trace: Annotated[bool, typer.Option("--trace", help="Write traces for chrome://tracing or Perfetto.")] = False,
    out: Annotated[
        Path | None, typer.Option(help="Folder for the report.", show_default="runs/profile-NETWORK")
    ] = None,
) -> None:
    """Measure what selection costs on this machine: does pruning save seconds, or only FLOPs?

    Measures the images per second of training and of scoring, dense and pruned, beside SVP's proxies and a plain
    PyTorch loop; compares them with the FLOPs that pruning saves and with what this machine can do at best; says which
    operators take the time, and whether the fast scoring chooses the samples that the plain loop chooses.

    "Realised" is the throughput ratio over the FLOPs ratio: 100% if a network with a quarter of the FLOPs is four times
    as fast. All contenders take turns, so leave the machine alone meanwhile: with the defaults it takes a few minutes.
    No GPU has run this command yet.

    \b
    Examples:
      prunefuse-bench profile
      prunefuse-bench profile resnet20 --ratios 0.5 --seconds 0.2 --rounds 3
      prunefuse-bench profile resnet110 --batch-sizes 128,512 --data cifar10.zip --trace --out runs/mine
    """
    from prunefuse_bench.profiling import ProfileRequest, markdown, numbers_of, run_profile, write_report

    request = ProfileRequest(
        network=network,
        ratios=numbers_of(ratios, "--ratios", float),
        batch_sizes=numbers_of(batch_sizes, "--batch-sizes", int),
        device=device,
        seconds=seconds,
        rounds=rounds,
        data=data,
    )
    folder = out or Path("runs") / f"profile-{network}"
    with _LiveView(f"profile of {network}") as view:
        measured = run_profile(request, folder, trace=trace, progress=view.stage)
    files = write_report(measured, folder)
    print(markdown(measured))
    names = ", ".join(file.name for file in (*files, *measured.traces))
    console.print(f"Written to {for_terminal(folder)}: {names}", highlight=False, soft_wrap=True)


@app.command("methods")
def list_methods(
    methods_from: MethodsFrom = None,
    markdown: Annotated[
        bool, typer.Option("--markdown", help="Print docs/methods.md instead: every setting and deviation.")
    ] = False,
) -> None:
    """List the methods with their cost, and the parts that they are made of."""
    from prunefuse_bench.recipe import PROTOCOLS, load_file, methods
    from prunefuse_bench.recipe.catalogue import HEADINGS, acquisition_rows, markdown_page, part_rows

    for file in methods_from or ():
        load_file(file)
    if markdown:
        print(markdown_page(), end="")
        return
    for protocol in PROTOCOLS:
        rows = [
            (name, m.summary, m.build().cost_formula(protocol), "\n".join(f"{k}={v}" for k, v in m.parameters.items()))
            for name, m in methods(protocol).items()
        ]
        columns = "method", "what it does", "selector FLOPs by the paper's rule", "parameters and defaults"
        _print_table(f"{HEADINGS[protocol]}: protocol {protocol}", columns, rows)
    _print_table(
        "Acquisitions (higher is chosen first, equal scores are drawn by lot)",
        ("acquisition", "what it is", "needs", "options", "source"),
        [(name, summary, needs, options, source) for name, summary, _, needs, options, source in acquisition_rows()],
    )
    parts = [(row.kind, row.name, row.summary, row.settings) for row in part_rows()]
    _print_table("Other parts, for the method combine", ("part", "name", "what it is", "settings"), parts)


@app.command("datasets")
def list_datasets() -> None:
    """List the data sets."""
    from prunefuse_bench.data import DATASETS

    _print_table("Data sets", ("dataset", "what it is"), [(name, entry.summary) for name, entry in DATASETS.items()])


@app.command("corruptions")
def list_corruptions() -> None:
    """List the corruptions of test images that targets can be judged on: names for task.corruptions.names."""
    from prunefuse_bench.data.corruptions import CIFAR10_C, COMPUTED, COMPUTED_PREFIX

    rows = [("published", "all of those published as CIFAR-10-C (Hendrycks and Dietterich 2019)", "")]
    rows += [(name, "read from the folder task.corruptions.path", "as published") for name in CIFAR10_C]
    rows.append(("computed", "all of those that are computed from the data set's own test images; not CIFAR-10-C", ""))
    for name, (_, strengths) in COMPUTED.items():
        rows.append(
            (f"{COMPUTED_PREFIX}{name}", "by torchvision", ", ".join(f"{strength:g}" for strength in strengths))
        )
    _print_table("Corruptions of test images", ("corruption", "what it is", "at severities 1 to 5"), rows)


@app.command("models")
def list_models(
    paper: Annotated[
        bool,
        typer.Option(
            "--paper", help="Instead: every network of the paper, pruned, with counts beside the printed ones."
        ),
    ] = False,
) -> None:
    """List the target networks, with their parameters at 10 classes.

    Besides them, torchvision:NAME and timm:NAME are the networks that these libraries build.
    """
    import torch

    from prunefuse_bench.models import MODELS, build_model, count_parameters

    if paper:
        _print_paper_networks()
        return
    rows = []
    with torch.device("meta"):
        for name, entry in MODELS.items():
            network = build_model(name, num_classes=10, in_channels=3)
            shape = "x".join(map(str, entry.example_shape))
            rows.append((name, f"{count_parameters(network):,}", shape, entry.summary))
    _print_table("Target networks", ("model", "parameters", "made for", "what it is"), rows)


def _print_paper_networks() -> None:
    from prunefuse_bench.paper.networks import NETWORKS, RATIOS, count, network_sheet

    counted = []
    with _LiveView("pruning the paper's networks") as view:
        for network in NETWORKS:
            for one in count(network):
                counted.append(one)
                view.stage(f"{network.model} for {network.dataset}", len(counted), len(NETWORKS) * len(RATIOS))
    _print_sheet(network_sheet(counted))


@app.command("presets")
def list_presets(
    markdown: Annotated[
        bool, typer.Option("--markdown", help="Print docs/presets.md instead: every part of every preset.")
    ] = False,
) -> None:
    """List the suites that come with the package."""
    from prunefuse_bench.preset_pages import markdown_page, paper_rows, preset_rows

    if markdown:
        print(markdown_page(), end="")
        return
    _print_table("Presets", ("preset", "what it is"), preset_rows())
    columns = "preset", "of the paper", "parts", "cells"
    _print_table("The paper's tables and figures; each also in small, as NAME-small", columns, paper_rows())


@app.command()
def doctor() -> None:
    """Say what this installation and machine can do."""
    import torch

    from prunefuse_bench import _host, ops
    from prunefuse_bench.data.cache import cache_folder
    from prunefuse_bench.inference import can_screen
    from prunefuse_bench.records import describe_environment
    from prunefuse_bench.training import resolve_precision

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    environment = describe_environment(device)
    rows = [(name, value) for name, value in environment.items() if not isinstance(value, dict)]
    rows += list(environment["packages"].items())
    rows += [(f"core: {name}", value) for name, value in _host.build_info().items()]
    rows.append(("core: vector instructions", ops.instruction_set()))
    rows.append(("precision auto means", resolve_precision("auto", device)))
    rows.append(("screening auto means", "large pools in 8 bits first" if can_screen(device) else "off"))
    rows.append(("cache", cache_folder()))
    _print_table("This installation", ("what", "value"), [(name, str(value)) for name, value in rows])
    if device.type == "cpu":
        console.print("No CUDA device is found: everything runs on the CPU.")
    console.print("No GPU has run the CUDA kernels of the core yet: they are proven by an emulator in the tests.")


def main() -> NoReturn:
    """Entry point: errors that a user can mend are one message and exit code 2, never a traceback."""
    try:
        app()
    except BadInput as error:
        _fail(str(error), 2)
    except (CannotWrite, RankLost) as error:
        _fail(str(error), 1)
    except AnotherRankFailed:
        sys.exit(1)
    sys.exit(0)


def _fail(message: str, code: int) -> NoReturn:
    errors.quiet = False  # of several processes, whichever fails first talks
    errors.print(f"[bold red]error:[/] {for_terminal(message)}", highlight=False, soft_wrap=True)
    sys.exit(code)


def _print_leaderboard(board: Leaderboard) -> None:
    from prunefuse_bench.report.leaderboard import COST_COLUMNS

    costs = [column for column in board.table.columns if column in COST_COLUMNS]
    accuracies = [column for column in board.table.columns if column not in COST_COLUMNS]
    for columns, subject in (
        (accuracies, f"{board.title}: accuracy"),
        (["method", *costs], "Cost to the last budget"),
    ):  # side by side they are too wide
        table = Table(title=for_terminal(subject), box=rich.box.SIMPLE_HEAVY)
        for position, column in enumerate(columns):
            table.add_column(for_terminal(column), justify="left" if position == 0 else "right", no_wrap=True)
        for row in board.table[columns].itertuples(index=False):
            table.add_row(*(for_terminal(value) for value in row))
        console.print(table)
    for measured in board.measurements:
        _print_sheets(measured.sheets)
    for problem in board.problems:
        console.print(f"[yellow]no result:[/] {for_terminal(problem)}", highlight=False)


def _say(what: str, text: str) -> None:
    console.print(f"{what} {for_terminal(text)}", highlight=False, soft_wrap=True)


def _say_written(folder: Path, names: str) -> None:
    _say("Written to", f"{folder}: {names}")


def _print_sheets(sheets: Sequence[ReportSheet]) -> None:
    for sheet in sheets:
        if sheet.rows:
            _print_table(sheet.title, sheet.columns, sheet.rows)
        else:
            console.print(f"[bold]{for_terminal(sheet.title)}[/]", highlight=False)
        for note in sheet.notes:
            _say("-", note)


def _print_table(title: str, columns: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> None:
    table = Table(title=for_terminal(title), box=rich.box.SIMPLE_HEAVY)
    for column in columns:
        table.add_column(for_terminal(column), overflow="fold")
    for row in rows:
        table.add_row(*(for_terminal(value) for value in row))
    console.print(table)


def _print_sheet(sheet: Sheet) -> None:
    grid = Table(title=for_terminal(sheet.title), box=rich.box.SIMPLE_HEAVY)
    for position, column in enumerate(sheet.columns):
        is_text = sheet.is_text or position == 0
        grid.add_column(for_terminal(column), justify="left" if is_text else "right", overflow="fold")
    for line in sheet.lines:
        style = {"published": None, "recomputed": "cyan", "measured": "green"}[line.kind]
        grid.add_row(*(for_terminal(cell) for cell in line.cells), style=style)
    console.print(grid)
    for note in sheet.notes:
        console.print(f"- {for_terminal(note)}", highlight=False)


class _LiveView:
    """What a person sees of a run: a bar for the cells and one for the stage at work."""

    def __init__(self, title: str = "preparing") -> None:
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=errors,
            transient=True,
        )
        self._cells = self._progress.add_task(for_terminal(title), total=None)
        self._stage = self._progress.add_task("", total=None, visible=False)

    def __enter__(self) -> _LiveView:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def decoding(self, done: int, total: int) -> None:
        self.stage("decoding", done, total)

    def figures(self, done: int, total: int) -> None:
        self.stage("figures", done, total)

    def stage(self, stage: str, done: int, total: int) -> None:
        self._progress.update(self._stage, description=stage, completed=done, total=total, visible=True)

    def say(self, what: str) -> None:
        self._progress.update(self._cells, description=for_terminal(what))

    def recovered(self, what: str) -> None:
        line = f"[yellow]recovered:[/] {for_terminal(what)}"
        self._progress.console.print(line, highlight=False, soft_wrap=True)

    def cell_started(self, cell: PlannedCell, position: int, total: int) -> None:
        name = for_terminal(f"{cell.recipe.label}, seed {cell.seed}")
        self._progress.update(self._cells, description=name, completed=position, total=total)

    def cell_ended(self, cell: PlannedCell, outcome: str) -> None:
        self._progress.advance(self._cells)
        if outcome != "found finished":
            name = for_terminal(f"{cell.recipe.label}, seed {cell.seed}")
            self._progress.console.print(f"{name}: {outcome}", highlight=False)
