"""Cells that others run: what is sent, what comes back, what is tried again, and what is given up."""

from __future__ import annotations

import dataclasses
import sys
import threading
from collections.abc import Callable, Hashable, Iterable, Sequence
from pathlib import Path
from typing import Any

import pytest
from test_records import results_of

from prunefuse_bench import cli, group_runner
from prunefuse_bench.atomic import write_json
from prunefuse_bench.cli import _run_on
from prunefuse_bench.config import content_hash
from prunefuse_bench.errors import BadInput, CellLocked, WorkerDiffers
from prunefuse_bench.groups import load_group
from prunefuse_bench.records import CellStore, Shelf
from prunefuse_bench.records.checksums import sealed
from prunefuse_bench.scale import driver
from prunefuse_bench.scale.driver import GridState, run_jobs
from prunefuse_bench.scale.grid import Job, make_jobs
from prunefuse_bench.scale.order import Order, Report, Resources
from prunefuse_bench.scale.sign_of_life import CellTaken, SignOfLife, read_sign, wait_for_dead
from prunefuse_bench.scale.worker import carry_out, carry_out_json, differences

RunCli = Callable[..., tuple[int, str, str]]
ROUNDS = 3


class FakeEngine:
    """Answers each order, one at a time, by what the script says of its cell; the last answer is given again."""

    def __init__(self, answer: Callable[[Order], Report]) -> None:
        self.answer = answer
        self.waiting: dict[Hashable, Order] = {}
        self.submitted: list[str] = []
        self.cancelled = self.ended = False

    def __enter__(self) -> FakeEngine:
        return self

    def __exit__(self, *_: object) -> None:
        self.ended = True

    def submit(self, orders: Sequence[Order]) -> list[Hashable]:
        tickets: list[Hashable] = []
        for order in orders:
            tickets.append(len(self.submitted))
            self.waiting[len(self.submitted)] = order
            self.submitted.append(order.identity)
        return tickets

    def wait(self, seconds: float) -> list[tuple[Hashable, Report]]:
        if not self.waiting:
            return []
        ticket = next(iter(self.waiting))
        return [(ticket, self.answer(self.waiting.pop(ticket)))]

    def cancel(self) -> None:
        self.cancelled = True


class Told:
    """An observer that remembers."""

    def __init__(self) -> None:
        self.outcomes: dict[str, str] = {}
        self.said: list[str] = []
        self.looks = 0

    def look(self, state: GridState) -> None:
        self.looks += 1
        assert state.total >= state.ended + state.submitted

    def cell_ended(self, job: Job, outcome: str) -> None:
        assert job.name not in self.outcomes
        self.outcomes[job.name] = outcome

    def tell(self, job: Job, what: str) -> None:
        self.said.append(f"{job.name}: {what}")


def make_job(run: Path, name: str, waits_for: dict[int, int] | None = None, shelf: Shelf | None = None) -> Job:
    settings = {"name": name, "task": {"label_counts": [10 * (n + 1) for n in range(ROUNDS)]}}
    store = CellStore.create(run / "cells" / content_hash(settings), settings)
    order = Order(content_hash(settings), settings, {}, str(run), 1, (), "0")
    return Job(name, order, store, waits_for or {}, shelf)


def add_rounds(job: Job, count: int) -> None:
    first = job.store.rounds_done
    for number in range(first, first + count):
        content = sealed({"cell": job.store.folder.name, "round": number})
        write_json(job.store.folder / f"round-{number:03d}.json", content)


def finish(job: Job) -> Report:
    add_rounds(job, ROUNDS - job.store.rounds_done)
    return Report("finished")


def by_name(jobs: Iterable[Job]) -> dict[str, Job]:
    return {job.order.identity: job for job in jobs}


def test_a_cell_that_fails_three_times_is_recorded_with_all_reasons_and_the_others_go_on(tmp_path: Path) -> None:
    jobs = [make_job(tmp_path, "good"), make_job(tmp_path, "bad"), make_job(tmp_path, "late")]
    cells, attempts = by_name(jobs), list[str]()

    def answer(order: Order) -> Report:
        if (job := cells[order.identity]).name == "bad":
            attempts.append(order.identity)
            return Report("lost", f"out of memory {len(attempts)}", f"host{len(attempts)}")
        return finish(job)

    told = Told()
    run_jobs(jobs, FakeEngine(answer), told, resume=False, look_every=0)
    assert told.outcomes == {"good": "finished", "bad": "failed", "late": "finished"}
    assert len(attempts) == 3
    failure = jobs[1].store.failure
    assert failure is not None
    assert failure["error"] == "AttemptsFailed"
    for number in (1, 2, 3):
        assert f"{number}. attempt on host{number}, round 0: out of memory {number}" in failure["reason"]
    again = Told()
    run_jobs(jobs, FakeEngine(answer), again, resume=False, look_every=0)
    assert again.outcomes == {"good": "found finished", "bad": "failed", "late": "found finished"}
    assert len(attempts) == 3
    run_jobs(jobs, FakeEngine(lambda order: finish(cells[order.identity])), Told(), resume=True, look_every=0)
    assert all(job.store.finished for job in jobs)


def test_attempts_that_finish_a_round_are_not_counted_against_a_cell(tmp_path: Path) -> None:
    (job,) = jobs = [make_job(tmp_path, "preempted")]
    script = ["lost", "lost", "round", "lost", "round", "lost", "finished"]

    def answer(order: Order) -> Report:
        step = script.pop(0)
        if step == "round":
            add_rounds(job, 1)
        return finish(job) if step == "finished" else Report("lost", step)

    told = Told()
    run_jobs(jobs, FakeEngine(answer), told, resume=False, look_every=0)
    assert told.outcomes == {"preempted": "finished"}
    assert script == []
    assert "again from round 2" in told.said[-1]


def test_a_worker_that_dies_after_the_last_round_has_finished(tmp_path: Path) -> None:
    (job,) = jobs = [make_job(tmp_path, "cell")]

    def answer(order: Order) -> Report:
        finish(job)
        return Report("lost", "the node died")

    told, engine = Told(), FakeEngine(answer)
    run_jobs(jobs, engine, told, resume=False, look_every=0)
    assert told.outcomes == {"cell": "finished"}
    assert len(engine.submitted) == 1


def test_a_cell_waits_until_what_it_shares_is_trained_and_no_longer(tmp_path: Path) -> None:
    jobs = [make_job(tmp_path, "leader"), make_job(tmp_path, "first round", {0: 0}), make_job(tmp_path, "all", {0: 2})]
    cells, submitted_at = by_name(jobs), dict[str, int]()

    class Slow(FakeEngine):
        """The leader makes one round for each look."""

        def submit(self, orders: Sequence[Order]) -> list[Hashable]:
            for order in orders:
                submitted_at[cells[order.identity].name] = jobs[0].store.rounds_done
            return super().submit(orders)

        def wait(self, seconds: float) -> list[tuple[Hashable, Report]]:
            if not jobs[0].store.finished:
                add_rounds(jobs[0], 1)
                return []
            return super().wait(seconds)

    run_jobs(jobs, Slow(lambda order: finish(cells[order.identity])), Told(), resume=False, look_every=0)
    assert submitted_at == {"leader": 0, "first round": 1, "all": 3}


def test_cells_are_let_go_when_the_one_they_wait_for_has_failed(tmp_path: Path) -> None:
    jobs = [make_job(tmp_path, "leader"), make_job(tmp_path, "follower", {0: 2})]
    cells = by_name(jobs)

    def answer(order: Order) -> Report:
        job = cells[order.identity]
        return Report("lost", "no") if job.name == "leader" else finish(job)

    told = Told()
    run_jobs(jobs, FakeEngine(answer), told, resume=False, look_every=0)
    assert told.outcomes == {"leader": "failed", "follower": "finished"}


def test_shared_selectors_are_removed_when_all_who_could_take_them_are_finished(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path / "selectors" / "x")
    jobs = [make_job(tmp_path, "one", shelf=shelf), make_job(tmp_path, "other", shelf=shelf)]
    cells, there = by_name(jobs), list[bool]()
    shelf.folder.mkdir(parents=True)

    def answer(order: Order) -> Report:
        there.append(shelf.folder.exists())
        return finish(cells[order.identity])

    run_jobs(jobs, FakeEngine(answer), Told(), resume=False, look_every=0)
    assert there == [True, True]
    assert not shelf.folder.exists()


def test_a_cell_in_anothers_hands_is_looked_at_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driver, "SECONDS_TO_LOOK_AGAIN", 0.01)
    (job,) = jobs = [make_job(tmp_path, "cell")]
    answers = [*[Report("busy", "another is at work")] * 5, None]
    told = Told()
    engine = FakeEngine(lambda order: answers.pop(0) or finish(job))
    run_jobs(jobs, engine, told, resume=False, look_every=0)
    assert told.outcomes == {"cell": "finished"}
    assert len(told.said) == 5


def test_ctrl_c_stops_the_engine_and_leaves_everything_to_be_resumed(tmp_path: Path) -> None:
    jobs = [make_job(tmp_path, "one"), make_job(tmp_path, "other")]
    cells, calls = by_name(jobs), list[str]()

    def answer(order: Order) -> Report:
        calls.append(order.identity)
        if len(calls) == 2:
            add_rounds(cells[order.identity], 1)
            raise KeyboardInterrupt
        return finish(cells[order.identity])

    engine = FakeEngine(answer)
    with pytest.raises(KeyboardInterrupt):
        run_jobs(jobs, engine, Told(), resume=False, look_every=0)
    assert engine.cancelled
    assert engine.ended
    assert [job.store.failure for job in jobs] == [None, None]
    assert [job.store.rounds_done for job in jobs] == [3, 1]
    told = Told()
    run_jobs(jobs, FakeEngine(answer), told, resume=True, look_every=0)
    assert told.outcomes == {"one": "found finished", "other": "finished"}


def test_ctrl_c_says_how_to_go_on(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run_cli: RunCli) -> None:
    def interrupted(*arguments: Any, **named: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(group_runner, "run_group", interrupted)
    code, _, said = run_cli("run", tiny, "--out", tmp_path / "a run")
    assert code == 130
    assert f"prunefuse-bench run {tiny} --out '{tmp_path}/a run' --resume" in said


def test_workers_that_would_run_other_cells_stop_the_run(tmp_path: Path) -> None:
    jobs = [make_job(tmp_path, "one"), make_job(tmp_path, "other")]
    engine = FakeEngine(lambda order: Report("refused", "worker on far: expected version 1"))
    with pytest.raises(WorkerDiffers, match="worker on far: expected version 1"):
        run_jobs(jobs, engine, Told(), resume=False, look_every=0)
    assert engine.cancelled
    assert not any(job.store.failure for job in jobs)


# ---- the worker ----


def jobs_of(tiny: Path, out: Path, *overrides: str) -> list[Job]:
    return make_jobs(load_group(str(tiny), overrides), out, Resources(), resume=False)


def test_the_records_are_those_of_the_local_executor(tiny: Path, tmp_path: Path, run_cli: RunCli) -> None:
    shared = "recipes=[random, prunefuse, {method: prunefuse, rest: zero, label: zero}]"
    assert run_cli("run", tiny, "--out", tmp_path / "local", "--set", shared)[0] == 0
    jobs = jobs_of(tiny, tmp_path / "sent", shared)
    assert [dict(job.waits_for) for job in jobs] == [{}, {}, {1: 2}]
    engine = FakeEngine(lambda order: Report(**carry_out_json(order.to_json())))
    told = Told()
    run_jobs(jobs, engine, told, resume=False, look_every=0)
    assert set(told.outcomes.values()) == {"finished"}
    assert results_of(tmp_path / "sent") == results_of(tmp_path / "local")
    borrowed = ["borrowed_seconds" in record for job in jobs for record in job.store.read_rounds()]
    assert any(borrowed[6:])
    assert not any(borrowed[:6])
    assert not list((tmp_path / "sent" / "selectors").glob("*"))
    assert not list((tmp_path / "sent").rglob(".sign*"))


def test_a_worker_refuses_what_it_would_run_otherwise(tiny: Path, tmp_path: Path) -> None:
    order = jobs_of(tiny, tmp_path / "run", "recipes=[random]")[0].order
    assert Order.of_json(order.to_json()) == order
    other = dataclasses.replace(order, version="9.9")
    assert carry_out(other).outcome == "refused"
    assert "expected prunefuse-bench 9.9" in carry_out(other).reason
    missing = dataclasses.replace(order, methods_from=((str(tmp_path / "none.py"), "0" * 64),))
    assert "none.py" in carry_out(missing).reason
    data = {**order.settings["task"], "dataset": {**order.settings["task"]["dataset"], "sha256": "other"}}
    settings = {**order.settings, "task": data}
    changed = carry_out(dataclasses.replace(order, settings=settings, identity=content_hash(settings)))
    assert changed.outcome == "refused"
    assert "task.dataset.sha256: expected other, got " in changed.reason
    assert not list((tmp_path / "run").rglob("round-*"))


def test_what_goes_wrong_in_a_worker_is_told(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    order = jobs_of(tiny, tmp_path / "run", "recipes=[random]")[0].order

    def full(*arguments: Any, **named: Any) -> None:
        raise MemoryError("no room")

    monkeypatch.setattr("prunefuse_bench.cell.fit", full)
    report = carry_out(order)
    assert (report.outcome, report.reason) == ("lost", "MemoryError: no room")
    assert report.seconds.keys() == {"planning", "cell"}


def test_differences_name_the_keys() -> None:
    assert differences({"a": {"b": 1, "c": 2}}, {"a": {"b": 1, "c": 3}}) == ["a.c: expected 2, got 3"]
    assert differences({"a": 1}, {"a": 1}) == []


def test_a_suite_is_sent_without_what_depends_on_the_machine(tiny: Path, tmp_path: Path) -> None:
    suite = jobs_of(tiny, tmp_path / "run", "recipes=[random]")[0].order.suite
    assert suite["device"] == "cpu"
    with pytest.raises(BadInput, match="--gpus-per-cell 1"):
        make_jobs(load_group(str(tiny), ["device=cpu"]), tmp_path / "gpu", Resources(gpus=1), resume=False)


# ---- locks of the dead ----


def test_the_lock_of_a_silent_worker_is_set_aside_and_it_is_told_so(tmp_path: Path) -> None:
    store = make_job(tmp_path, "cell").store
    taken = threading.Event()
    with store.lock():
        silent = SignOfLife(store.folder, seconds=1000)
        with silent:
            wait_for_dead(store, silence=0.2, look_every=0.02)
            with store.lock(), SignOfLife(store.folder, seconds=0.01) as own:
                silent._seconds = 0.01
                silent._stop.set()  # its thread wakes up ...
                silent._thread.join()
                silent._stop.clear()
                silent._thread = threading.Thread(target=lambda: (silent._run(), taken.set()), daemon=True)
                silent._thread.start()  # ... and looks
                assert taken.wait(10)
                with pytest.raises(CellTaken):
                    silent.say("training", 1, 2)
                own.say("training", 1, 2)
        assert read_sign(store.folder) is None


def test_the_lock_of_a_worker_with_signs_of_life_is_left_alone(tmp_path: Path) -> None:
    store = make_job(tmp_path, "cell").store
    with store.lock():
        with pytest.raises(CellLocked, match="no signs of life"):
            wait_for_dead(store, silence=0.2, look_every=0.02)
        with SignOfLife(store.folder, seconds=0.01), pytest.raises(CellLocked, match="by process"):
            wait_for_dead(store, silence=30, look_every=0.1)
    wait_for_dead(store)


def test_a_damaged_sign_is_none(tmp_path: Path) -> None:
    for content in (b"", b"{", b"[]", b'{"token": 1}', b"\xff"):
        (tmp_path / ".sign.json").write_bytes(content)
        assert read_sign(tmp_path) is None


# ---- the command line ----


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--cpus-per-cell", "2"], "--cpus-per-cell: expected --executor ray or slurm with it, got local"),
        (["--executor", "slurm", "--ray-address", "x:1"], "--ray-address: expected --executor ray with it, got slurm"),
        (["--executor", "rays"], "unknown executor 'rays'"),
        (["--executor", "ray", "--cpus-per-cell", "0"], "--cpus-per-cell: expected at least 1, got 0"),
        (["--executor", "ray", "--gpus-per-cell", "1.5"], "--gpus-per-cell: expected 0, a share below 1"),
        (["--executor", "ray", "--memory-per-cell", "0"], "--memory-per-cell: expected gigabytes above 0"),
        (["--executor", "slurm", "--slurm", "partition"], "--slurm 'partition': expected key=value"),
        (["--executor", "ray"], 'pip install "prunefuse-bench[ray]"'),
        (["--executor", "slurm"], 'pip install "prunefuse-bench[slurm]"'),
    ],
)
def test_options_that_cannot_be_used_are_refused(
    options: list[str], said: str, tiny: Path, tmp_path: Path, run_cli: RunCli, monkeypatch: pytest.MonkeyPatch
) -> None:
    for package in ("ray", "submitit"):
        monkeypatch.setitem(sys.modules, package, None)  # as if it were not installed
    code, _, errors = run_cli("run", tiny, "--out", tmp_path / "run", *options)
    assert code == 2
    assert said in errors
    assert not (tmp_path / "run").exists()


def test_a_grid_of_parts_is_run_as_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "two.yaml"
    file.write_text(
        "task: {dataset: {name: digits}, model: {name: resnet8, width: 0.125}, training: {epochs: 1}, budgets: [9]}\n"
        "recipes: [random]\nseeds: [0]\nprecision: fp32\n"
        "parts: {small: {task: {dataset: {train_size: 200}}}, large: {task: {dataset: {train_size: 300}}}}\n"
    )
    engine = FakeEngine(carry_out)
    monkeypatch.setattr(cli._Cluster, "engine", lambda cluster, folder: engine)
    cluster = cli._Cluster("ray", Resources(), None, {})
    stores = _run_on(cluster, load_group(str(file)), tmp_path / "run", resume=False, methods_from=[])
    assert [store.finished for store in stores] == [True, True]
    assert (tmp_path / "run" / "small" / "suite.json").exists()
    assert (tmp_path / "run" / "large" / "suite.json").exists()


def test_slurm_jobs_by_submitit_in_this_process(tiny: Path, tmp_path: Path) -> None:
    pytest.importorskip("submitit")
    from prunefuse_bench.scale.slurm_engine import SlurmEngine

    jobs = jobs_of(tiny, tmp_path / "run", "recipes=[random]", "task.budgets=[0.02]")
    engine = SlurmEngine(Resources(), tmp_path / "run" / "slurm", {"partition": "gpu"}, cluster="debug")
    told = Told()
    run_jobs(jobs, engine, told, resume=False, look_every=0)
    assert told.outcomes == {"random, seed 0": "finished"}
    with pytest.raises(BadInput, match="--slurm: "):
        SlurmEngine(Resources(), tmp_path, {"partitions": "gpu"}, cluster="debug")
    with pytest.raises(BadInput, match="expected srun and sbatch"):
        SlurmEngine(Resources(), tmp_path)
