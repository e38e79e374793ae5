"""`clipstore eval --ray`: two nodes of a Ray cluster have the ranks and hits of one process, bit for bit."""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from blip_folder import write_random_blip
from helpers import Trained, run_command
from tiny_store import SPLIT, build_store

import clipstore
from clipstore import cluster
from clipstore.bench.evaluate import BenchOptions, _problem
from clipstore.demo.scenes import draw_dataset
from clipstore.errors import ClusterError, ShardError
from clipstore.pipeline.evaluate import worker_pool
from clipstore.pipeline.evaluate.worker_pool import WorkerPool
from clipstore.pipeline.evaluate.workers import rank_on_workers, rank_workers
from clipstore.ranking import BadRowError, Part, Ranks, RankSettings, parts, rank_pairs

Run = Callable[..., Any]

REFUSED: dict[str, tuple[list[str], list[str]]] = {
    "another device": (["--ray", "auto", "--device", "meta"], ["--device meta", "CPU"]),
    "nothing to rank": (["--ray", "auto", "--protocol", "hard-negatives"], ["hard-negatives", "omit --ray"]),
    "CPUs without a cluster": (["--ray-cpus", "2"], ["--ray-cpus", "--ray"]),
}


@pytest.mark.parametrize("case", REFUSED)
def test_options_that_do_not_fit_are_refused(case: str, tmp_path: Path) -> None:
    store = build_store(tmp_path)
    words, facts = REFUSED[case]
    message = run_command(store, "eval", "--model", "m", "--split", SPLIT, *words, code=1).stderr
    assert len(message.strip().splitlines()) == 1
    assert not [fact for fact in facts if fact not in message], message


class Nodes:
    """A Ray cluster of two nodes with one CPU each."""

    def __init__(self) -> None:
        from ray.cluster_utils import Cluster

        self.cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
        self.second = self.cluster.add_node(num_cpus=1)
        self.address = self.cluster.address

    def kill_second(self) -> None:
        self.cluster.remove_node(self.second, allow_graceful=False)

    def restore_second(self) -> None:
        self.cluster.wait_for_nodes(timeout=60)  # until the cluster knows that the former one is dead
        self.second = self.cluster.add_node(num_cpus=1)


@pytest.fixture(scope="module")
def nodes() -> Iterator[Nodes]:
    pytest.importorskip("ray")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_worker_niceness", "0")  # else other work on this machine goes first
        nodes = Nodes()
        yield nodes
        nodes.cluster.shutdown()


@pytest.fixture(scope="module")
def connected(nodes: Nodes) -> Iterator[Nodes]:
    """The cluster, to which this process stays connected; commands without this fixture connect themselves."""
    import ray

    cluster._initialise(ray, nodes.address)
    yield nodes
    ray.shutdown()


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Divide small matrices, too."""
    monkeypatch.setattr(parts, "_LEAST", 16)


@pytest.fixture(scope="module")
def problem(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Vectors in shards, and their pairs."""
    return _problem(tmp_path_factory.mktemp("vectors"), BenchOptions(images=3000, captions=15_000, dim=128))


SETTINGS = RankSettings(top_k=10, memory=2**30)


def ranks_of(problem: Any, settings: RankSettings = SETTINGS) -> Ranks:
    return rank_pairs(problem.images, problem.texts, problem.pairs, **vars(settings))


@pytest.fixture(scope="module")
def expected(problem: Any) -> Ranks:
    """The ranks of one process."""
    return ranks_of(problem)


def assert_same(first: Ranks, second: Ranks) -> None:
    for direction in ("image_to_text", "text_to_image"):
        for name, values in vars(getattr(first, direction)).items():
            other = vars(getattr(second, direction))[name]
            assert values.dtype == other.dtype
            assert np.array_equal(values.view(np.int64), other.view(np.int64)), (direction, name)


def rank(pool: WorkerPool, problem: Any, on_progress: Run, settings: RankSettings = SETTINGS) -> Ranks:
    return rank_on_workers(pool, problem.images, problem.texts, problem.pairs, settings, on_progress)


def evaluation_of(store: Path) -> tuple[pa.Table, pa.Table]:
    """All ranks and all hits, with the names of their evaluations."""
    opened = clipstore.open(store)
    statement = (
        "SELECT model, unseen, {0}.* EXCLUDE (evaluation_id) FROM {0} JOIN evaluation_names USING (evaluation_id) "
        "ORDER BY ALL"
    )
    tables = [opened.sql(statement.format(name)) for name in ("ranks", "hits")]
    assert all(table.num_rows for table in tables)
    return tables[0], tables[1]


@pytest.mark.cluster
@pytest.mark.parametrize("dataset", ["coco-mini", "scenes"])
@pytest.mark.usefixtures("small_parts")
def test_an_evaluation_on_two_workers_equals_one_process(
    dataset: str, nodes: Nodes, cli: Run, cli_json: Run, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    store = tmp_path / "store"
    if dataset == "scenes":
        draw_dataset(tmp_path / "scenes", images=150, seed=3, split="val")
        cli("ingest", "coco", tmp_path / "scenes", "--name", "s")
    else:
        cli("ingest", "coco", request.getfixturevalue("test_data") / "coco-mini", "--name", "s")
    split = clipstore.open(store).sql("SELECT name FROM splits ORDER BY name")["name"].to_pylist()[0]
    cli("embed", "--model", "demo", "--split", split)
    cpus = ("--ray-cpus", "1") if dataset == "scenes" else ()  # all CPUs of a node, here the same
    for options in ((), ("--captions", "first5"), ("--protocol", "paired-rows")):
        check_equal(nodes, store, cli_json, ("--model", "demo", "--split", split, *options), cpus)


def check_equal(
    nodes: Nodes, store: Path, cli_json: Run, words: tuple[object, ...], cpus: tuple[str, ...] = ()
) -> None:
    """Evaluations on workers, which have the CPUs that the options say, equal those of one process."""
    alone = cli_json("eval", *words)["evaluations"]
    expected = evaluation_of(store)
    again = cli_json("eval", *words, "--ray", nodes.address, *cpus)["evaluations"]
    assert [row["metrics"] for row in again] == [row["metrics"] for row in alone]
    for table, other in zip(expected, evaluation_of(store), strict=True):
        assert table.equals(other)


@pytest.mark.cluster
@pytest.mark.usefixtures("small_parts")
def test_several_models_and_unseen_images_on_two_workers(
    nodes: Nodes, trained: Trained, cli: Run, cli_json: Run
) -> None:
    cli("embed", "--model", "tuned", "--split", "t/val")
    for options in ((), ("--unseen",)):
        check_equal(
            nodes, trained.store, cli_json, ("--model", "demo", "--model", "tuned", "--split", "t/val", *options)
        )


@pytest.mark.cluster
@pytest.mark.usefixtures("small_parts")
def test_reranking_after_two_workers(nodes: Nodes, cli: Run, cli_json: Run, store: Path, tmp_path: Path) -> None:
    draw_dataset(tmp_path / "scenes", images=12, seed=3, split="val")
    write_random_blip(tmp_path / "blip", words=["a", "circle", "square"])
    cli("ingest", "coco", tmp_path / "scenes", "--name", "s")
    cli("model", "add", "blip", "--base", tmp_path / "blip")
    cli("embed", "--model", "blip")
    cli("rerank", "--model", "blip", "--split", "s/val", "--top", "12")
    check_equal(nodes, store, cli_json, ("--split", "s/val", "--rerank", "blip", "--top", "12"))


@pytest.mark.cluster
@pytest.mark.parametrize("settings", [SETTINGS, replace(SETTINGS, top_k=300, memory=2**28, screen="fp32")])
def test_ranks_on_two_workers_equal_one_process(connected: Nodes, problem: Any, settings: RankSettings) -> None:
    calls: list[tuple[int, int, str]] = []
    with rank_workers(connected.address, 1) as pool:
        ranks = rank(pool, problem, lambda *progress: calls.append(progress), settings)
    alone = ranks_of(problem, settings)
    assert_same(ranks, alone)
    assert ranks.screen == alone.screen
    assert [done for done, _, _ in calls] == sorted(done for done, _, _ in calls)
    assert calls[-1] == (15_000, 15_000, "part 8 of 8 on 2 workers")


@pytest.mark.cluster
def test_a_killed_worker_changes_nothing(
    connected: Nodes, problem: Any, expected: Ranks, caplog: pytest.LogCaptureFixture
) -> None:
    def kill(worker: worker_pool._Worker) -> None:
        os.kill(worker.process_id, signal.SIGKILL)

    check_loss(connected, problem, expected, kill, caplog)


@pytest.mark.cluster
def test_a_killed_node_changes_nothing(
    connected: Nodes, problem: Any, expected: Ranks, caplog: pytest.LogCaptureFixture
) -> None:
    try:
        check_loss(connected, problem, expected, lambda _: connected.kill_second(), caplog)
    finally:
        connected.restore_second()


@pytest.mark.cluster
def test_a_stopped_worker_changes_nothing(
    connected: Nodes, problem: Any, expected: Ranks, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker_pool, "_PATIENCE", 1.0)
    monkeypatch.setattr(worker_pool, "_POLL_SECONDS", 0.5)
    stopped: list[int] = []

    def stop(worker: worker_pool._Worker) -> None:
        stopped.append(worker.process_id)
        os.kill(worker.process_id, signal.SIGSTOP)

    try:
        check_loss(connected, problem, expected, stop, caplog)
    finally:
        for process in stopped:
            if Path(f"/proc/{process}").exists():
                os.kill(process, signal.SIGCONT)


def check_loss(
    nodes: Nodes,
    problem: Any,
    expected: Ranks,
    attack: Callable[[worker_pool._Worker], None],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Attack a worker of the second node while it ranks a part; the ranks are those of one process."""
    attacked: list[worker_pool._Worker] = []

    def on_progress(done: int, total: int, note: str) -> None:
        second = [worker for worker in pool._running.values() if worker.node.id == nodes.second.node_id]
        if second and not attacked:
            attacked.append(second[0])
            attack(second[0])

    with rank_workers(nodes.address, 1) as pool, caplog.at_level(logging.WARNING):
        ranks = rank(pool, problem, on_progress)
        assert attacked
        assert "was lost" in caplog.text
        assert_same(ranks, expected)
        assert_same(rank(pool, problem, lambda *_: None), ranks)  # the pool is as usable as before


class Poison:
    """An object that ends the process which receives it."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os._exit, (1,)


@pytest.mark.cluster
def test_a_part_that_ends_every_worker_ends_the_evaluation(connected: Nodes) -> None:
    with (
        rank_workers(connected.address, 1) as pool,
        pytest.raises(ClusterError, match=r"3 workers were lost while they ranked the same part.*--memory"),
    ):
        list(pool.results(Poison(), [Part(images=range(1), texts=range(1))]))


@pytest.mark.cluster
def test_errors_of_workers_name_the_node(connected: Nodes, problem: Any, tmp_path: Path) -> None:
    first = replace(problem, pairs=problem.pairs[:5])  # this process reads the first block of texts only
    damaged = problem.texts.shards[1]
    copy = tmp_path / "damaged.h5"
    content = bytearray(damaged.path.read_bytes())
    content[len(content) // 2] ^= 1
    copy.write_bytes(content)
    texts = replace(first.texts, shards=[first.texts.shards[0], replace(damaged, path=copy)])
    values = np.ones((15_000, 128), dtype=np.float32)
    values[14_000, 3] = np.nan
    missing = replace(damaged, path=tmp_path / "missing.h5")
    cases: list[tuple[type[Exception], str, Any]] = [
        (ShardError, rf"^on the node .*{copy}", texts),
        (BadRowError, "text vector 14000", replace(first.texts, loaded=values)),
        (
            ClusterError,
            r"^on the node .*missing.h5 is not visible: .*share",
            replace(texts, shards=[texts.shards[0], missing]),
        ),
    ]
    for kind, message, side in cases:
        with rank_workers(connected.address, 1) as pool, pytest.raises(kind, match=message):
            rank(pool, replace(first, texts=side), lambda *_: None)


@pytest.mark.cluster
def test_an_unexpected_error_of_a_worker_is_one_line(connected: Nodes) -> None:
    part = Part(images=range(1), texts=range(1))
    with (
        rank_workers(connected.address, 1) as pool,
        pytest.raises(ClusterError, match=r"^ranking failed on the node .*AttributeError.*$") as caught,
    ):
        list(pool.results("no task", [part]))
    assert "\n" not in str(caught.value)


@pytest.mark.cluster
def test_a_pool_has_no_results_of_former_parts(connected: Nodes, problem: Any) -> None:
    """After an error, parts of the same matrix may still be ranked somewhere."""

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with rank_workers(connected.address, 1) as pool:
        with pytest.raises(KeyboardInterrupt):
            rank(pool, problem, stop)
        with pytest.raises(ClusterError, match="no worker is left"):
            rank(pool, problem, lambda *_: None)


@pytest.mark.cluster
def test_more_cpus_than_a_node_has_are_an_error(connected: Nodes) -> None:
    with pytest.raises(ClusterError, match="no node of the Ray cluster has 2 CPUs"), rank_workers(connected.address, 2):
        pass
