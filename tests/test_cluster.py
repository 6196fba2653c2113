"""Real workers: a cluster of Ray with three nodes on this machine, and jobs by submitit in processes of their own."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from quick_start import PROGRAM, QuickStart, Started
from test_executors import Told

from prunefuse_bench.groups import load_group
from prunefuse_bench.records import RunFolder, load_results
from prunefuse_bench.scale.driver import GridState, run_jobs
from prunefuse_bench.scale.grid import make_jobs
from prunefuse_bench.scale.order import Resources
from prunefuse_bench.scale.ray_engine import RayEngine
from prunefuse_bench.scale.slurm_engine import SlurmEngine

pytestmark = pytest.mark.slow

TWELVE = (
    "recipes=[random, al, prunefuse, {method: prunefuse, rest: zero, label: zero}]",
    "task.training.min_steps=40",
    "seeds=0-2",
)
MOST_SECONDS = 1800


@pytest.fixture
def local(tiny: Path, tmp_path: Path, python: QuickStart) -> Path:
    """The same cells by the local executor, in one process of one thread."""
    settings = [word for setting in TWELVE for word in ("--set", setting)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    ran = python.run(*PROGRAM, "run", tiny, "--out", tmp_path / "local", *settings, environment=environment)
    assert ran.returncode == 0, ran.stderr
    return tmp_path / "local"


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Three nodes of one processor each, in processes of their own."""
    pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    # Workers find the package of this checkout, and helpers of the tests are none of theirs.
    root = str(Path(__file__).parents[1])
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([root, os.environ.get("PYTHONPATH", "")]))
    monkeypatch.setenv("RAY_worker_register_timeout_seconds", "600")  # importing torch on a busy machine
    node = {"num_cpus": 1, "object_store_memory": 100 << 20, "include_dashboard": False, "wait": False}
    started = Cluster(initialize_head=True, head_node_args=node)
    for _ in range(2):
        started.add_node(**node)
    started.wait_for_nodes(timeout=600)
    yield started
    started.shutdown()


class Killer(Told):
    """Kills a node, once, when cells are at work on it and some have ended."""

    def __init__(self, cluster: Any) -> None:
        super().__init__()
        self.cluster, self.killed = cluster, False

    def look(self, state: GridState) -> None:
        super().look(state)
        at_work = {sign.process: job for job, _, sign in state.at_work()}
        if not self.killed and state.ended >= 2:
            for node in self.cluster.worker_nodes:
                raylet = node.all_processes["raylet"][0].process.pid
                if at_work.keys() & children(raylet):
                    os.kill(raylet, signal.SIGKILL)
                    for worker in at_work.keys() & children(raylet):
                        os.kill(worker, signal.SIGKILL)
                    self.cluster.remove_node(node, allow_graceful=False)
                    self.killed = True
                    break


def results_of(run: Path) -> dict[str, Any]:
    """Of each cell all that it found, and nothing about when, where or how fast."""
    found = {}
    for cell in RunFolder(run).read_suite()["cells"]:
        store = RunFolder(run).open_cell(cell["id"])
        assert store is not None
        keys = ("round", "labels", "query", "tied", "selector", "target")
        found[cell["id"]] = [{key: record[key] for key in keys} for record in store.read_rounds()]
    return found


def children(parent: int) -> set[int]:
    """Processes whose parent this is."""
    found = set()
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if int((folder / "stat").read_text().rpartition(")")[2].split()[1]) == parent:
                found.add(int(folder.name))
        except OSError:
            continue
    return found


def test_one_of_three_nodes_is_killed_and_the_results_are_those_of_the_local_executor(
    tiny: Path, tmp_path: Path, local: Path, cluster: Any
) -> None:
    jobs = make_jobs(load_group(str(tiny), TWELVE), tmp_path / "ray", Resources(), resume=False)
    assert len(jobs) == 12
    killer = Killer(cluster)
    run_jobs(jobs, RayEngine(Resources(), cluster.address), killer, resume=False)
    assert killer.killed
    assert any("tried again" in said for said in killer.said), killer.said
    assert set(killer.outcomes.values()) == {"finished"}
    expected = results_of(local)
    assert [len(rounds) for rounds in expected.values()] == [3] * 12
    assert results_of(tmp_path / "ray") == expected
    threads = {record["environment"]["threads"] for job in jobs for record in job.store.read_rounds()}
    assert threads == {1}
    assert set(load_results([tmp_path / "ray"]).status) == {"finished"}


def wait_until(condition: Callable[[], bool], process: Started) -> None:
    deadline = time.monotonic() + MOST_SECONDS
    while not condition():
        assert process.is_alive()
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_ctrl_c_ends_a_run_on_ray_with_130_and_resume_finishes_it(
    tiny: Path, tmp_path: Path, python: QuickStart, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("ray")
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    arguments = ["run", tiny, "--out", tmp_path / "run", "--set", "recipes=[random, al]", "--executor", "ray"]
    arguments += ["--ray-address", "local"]
    started = python.start(*PROGRAM, *arguments)
    wait_until(lambda: bool(list((tmp_path / "run").glob("cells/*/round-000.json"))), started)
    started.send_signal(signal.SIGINT)
    _, said = started.communicate()
    assert started.wait() == 130, said
    assert "--resume" in said
    assert not list((tmp_path / "run").rglob("failure.json"))
    assert python.run(*PROGRAM, *arguments, "--resume").returncode == 0
    assert set(load_results([tmp_path / "run"]).status) == {"finished"}


def test_jobs_of_submitit_in_processes_of_their_own(tiny: Path, tmp_path: Path) -> None:
    pytest.importorskip("submitit")
    jobs = make_jobs(load_group(str(tiny), ["recipes=[random, al]"]), tmp_path / "run", Resources(), resume=False)
    told = Told()
    engine = SlurmEngine(Resources(), tmp_path / "run" / "slurm", cluster="local")
    run_jobs(jobs, engine, told, resume=False)
    assert set(told.outcomes.values()) == {"finished"}, told.said
    assert json.loads((jobs[0].store.folder / "cell.json").read_text())["schema"]
