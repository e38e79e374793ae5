"""A Ray cluster: connecting to it, its nodes, and checking each node before it gets work.

Ray is an optional extra and is imported within functions only. Its messages stay in its own log files.
"""

from __future__ import annotations

import logging
import os
import secrets
import signal
import socket
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from clipstore.errors import ClusterError, MissingExtraError
from clipstore.network import check_online

Answer = TypeVar("Answer")

_ANSWER_SECONDS = 5.0  # for an address to accept a connection
_CONNECT_SECONDS = 30.0  # for Ray to connect to it
_CHECK_SECONDS = 120.0  # for the nodes to answer the check; the first task on a node starts a process

# What a node's vectors depend on. The build of torch after "+", such as "+cu124", may differ: a probe is compared.
_PACKAGES = ("clipstore", "torch", "transformers", "peft", "tokenizers", "pillow", "numpy", "h5py", "ray")

_CONNECT = "import ray, sys; ray.init(sys.argv[1], log_to_driver=False, logging_level='error'); ray.shutdown()"


@dataclass(frozen=True)
class Node:
    """A node that is alive: its id, its name for messages, and the CPUs and GPUs that Ray may give to work there."""

    id: str
    name: str
    cpus: int
    gpus: int


@contextmanager
def connect(address: str) -> Iterator[tuple[Node, ...]]:
    """Connect to the Ray cluster at "auto" or host:port. Gives its nodes, and disconnects at the end.

    A connection to it that this process already has is used, and left open. Usage statistics are off for this process.

    Raises:
        OfflineError: all network is forbidden.
        MissingExtraError: Ray is not installed.
        ClusterError: no cluster answers at the address within a bounded time, or it runs another version of Ray, or
            this process is connected to another cluster.
    """
    check_online("--ray")
    ray = _import_ray()
    connected = ray.is_initialized()
    current = ray.get_runtime_context().gcs_address if connected else address
    if address not in {"auto", current}:
        message = f"this process is connected to the Ray cluster at {current} already: call ray.shutdown() first"
        raise ClusterError(message)
    with redirect_stdout(_WithoutRay(sys.stdout)), redirect_stderr(_WithoutRay(sys.stderr)):
        if not connected:
            _check_answers(address)
            _initialise(ray, address)
        try:
            yield current_nodes()
        finally:
            if not connected:
                ray.shutdown()


class _WithoutRay:
    """A stream without what Ray's threads print: they report the end of other processes, also where it is handled."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Write text, unless a thread of Ray does."""
        if threading.current_thread().name.startswith("ray_"):
            return len(text)
        return int(self._stream.write(text))


def current_nodes() -> tuple[Node, ...]:
    """The nodes of the connected cluster that are alive now, by name."""
    ray = _import_ray()
    alive = [node for node in ray.nodes() if node["Alive"]]
    hosts = [f"{node['NodeManagerHostname']} ({node['NodeManagerAddress']})" for node in alive]
    count = Counter(hosts)
    nodes = []
    for node, host in zip(alive, hosts, strict=True):
        name = host if count[host] == 1 else f"{host[:-1]}, {node['NodeID'][:6]})"
        resources = node["Resources"]
        cpus, gpus = (int(resources.get(kind, 0)) for kind in ("CPU", "GPU"))
        nodes.append(Node(id=node["NodeID"], name=name, cpus=cpus, gpus=gpus))
    return tuple(sorted(nodes, key=lambda node: node.name))


def on_node(node: Node) -> Any:
    """The scheduling strategy that places a task or an actor on this node and no other."""
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    return NodeAffinitySchedulingStrategy(node_id=node.id, soft=False)


def check_nodes(nodes: Sequence[Node], *, folders: Iterable[Path] = (), files: Iterable[Path] = ()) -> tuple[Node, ...]:
    """Check that each node has this process's versions, and sees the same folders and files under the same paths.

    Returns the nodes without those that have gone meanwhile.

    Each of `folders` gets a temporary file, which every node must read, and write one beside it; each of `files` must
    have the same size on every node.

    Raises:
        ClusterError: a node differs, does not see a folder or file, or does not answer. The message names the node.
    """
    versions = _versions_function()
    expected = versions(_PACKAGES)
    answers = _ask(nodes, versions, _PACKAGES)
    for node, answer in answers:
        _check_versions(node, answer, expected)
    nodes = tuple(node for node, _ in answers)
    if not nodes:
        message = "no node of the Ray cluster is left for this work: see 'ray status'"
        raise ClusterError(message)
    with _probe_files(folders) as probes:
        sizes = {str(file): file.stat().st_size for file in files}
        for node, problems in _ask(nodes, _problems_function(), probes, sizes):
            if problems:
                more = f" and {len(problems) - 1} more" if len(problems) > 1 else ""
                message = (
                    f"the node {node.name} does not {problems[0]}{more}: use a shared file system, with the same paths "
                    "on every node, or object storage"
                )
                raise ClusterError(message)
    return nodes


def _check_versions(node: Node, answer: Mapping[str, str], expected: Mapping[str, str]) -> None:
    different = [name for name in expected if answer.get(name) != expected[name]]
    if different:
        theirs, ours = (
            ", ".join(f"{name} {versions.get(name, 'missing')}" for name in different)
            for versions in (answer, expected)
        )
        message = f"the node {node.name} has {theirs}, this process {ours}: install the same versions on every node"
        raise ClusterError(message)


def _import_ray() -> Any:
    """Import Ray, without usage statistics and with its own log messages off the terminal.

    Raises:
        MissingExtraError: it is not installed.
    """
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # also the new default, which Ray warns about
    try:
        import ray
    except ImportError as error:
        message = "a Ray cluster needs the package ray: run pip install 'clipstore[ray]'"
        raise MissingExtraError(message) from error
    return ray


def _check_answers(address: str) -> None:
    """Check in a process of its own that Ray can connect: within this one a failed attempt takes minutes or ends it.

    Raises:
        ClusterError: it cannot.
    """
    if address != "auto":
        _check_port(address)
    command = [sys.executable, "-c", _CONNECT, address]
    try:
        process = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_CONNECT_SECONDS)
    except subprocess.TimeoutExpired as error:
        message = f"no Ray cluster answers at {address} within {_CONNECT_SECONDS:.0f} seconds: {_START}"
        raise ClusterError(message) from error
    if process.returncode:
        reason = last_line(process.stderr)
        message = f"cannot connect to a Ray cluster at {address} ({reason}): {_START}"
        raise ClusterError(message)


_START = "start it with 'ray start --head', and this command on one of its nodes with --ray auto or --ray HOST:6379"


def _check_port(address: str) -> None:
    """Check that a host and port accept a connection.

    Raises:
        ClusterError: the address is malformed, or there is no such host, or nothing listens there.
    """
    host, separator, port = address.rpartition(":")
    if not separator or not host or not port.isdecimal() or "/" in host:
        message = f"the address of a Ray cluster is auto or HOST:PORT, such as 10.0.0.1:6379, and not {address!r}"
        raise ClusterError(message)
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_ANSWER_SECONDS).close()
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        message = f"no Ray cluster answers at {address} ({reason}): {_START}"
        raise ClusterError(message) from error


def _initialise(ray: Any, address: str) -> None:
    """Connect this process. Ray's handler of SIGTERM, which would skip ours, is replaced by the one before."""
    is_main = threading.current_thread() is threading.main_thread()
    before = signal.getsignal(signal.SIGTERM)
    try:
        with _quiet_descriptor():
            ray.init(address, log_to_driver=False, configure_logging=False, namespace="clipstore")
    except (RuntimeError, ConnectionError, ValueError) as error:
        message = f"cannot connect to a Ray cluster at {address} ({last_line(str(error))}): {_START}"
        raise ClusterError(message) from error
    finally:
        if is_main and before is not None:
            signal.signal(signal.SIGTERM, before)
    logging.getLogger("ray").setLevel(logging.CRITICAL)


@contextmanager
def _quiet_descriptor() -> Iterator[None]:
    """Discard what is written to the descriptor of stderr: Ray's library warns there before it opens its log files."""
    stderr, nothing = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nothing, 2)
        yield
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)
        os.close(nothing)


def _ask(nodes: Sequence[Node], function: Callable[..., Answer], *arguments: object) -> list[tuple[Node, Answer]]:
    """What a function returns on each node that has not gone.

    Raises:
        ClusterError: a node does not answer.
    """
    ray = _import_ray()
    task = ray.remote(num_cpus=0, max_retries=0)(function)
    pending = [task.options(scheduling_strategy=on_node(node)).remote(*arguments) for node in nodes]
    _, late = ray.wait(pending, num_returns=len(pending), timeout=_CHECK_SECONDS)
    answers = []
    for node, reference in zip(nodes, pending, strict=True):
        if reference in late:
            message = f"the node {node.name} did not answer within {_CHECK_SECONDS:.0f} seconds: see 'ray status'"
            raise ClusterError(message)
        try:
            answers.append((node, ray.get(reference)))
        except ray.exceptions.RayError as error:
            if node.id not in {alive.id for alive in current_nodes()}:
                continue
            message = f"the node {node.name} cannot be checked ({last_line(str(error))}): see 'ray status'"
            raise ClusterError(message) from error
    return answers


# The functions below are defined within others so that Ray sends them as code, and not as the name of a function of
# clipstore: they also run on a node where clipstore is missing or has another version.


def _versions_function() -> Callable[[Sequence[str]], dict[str, str]]:
    """The function that gives a node's versions of Python and of packages, and the digest of clipstore's code."""

    def versions(packages: Sequence[str]) -> dict[str, str]:
        import hashlib
        import importlib.util
        import sys
        from importlib.metadata import PackageNotFoundError, version
        from pathlib import Path

        present = {"python": f"{sys.version_info.major}.{sys.version_info.minor}"}
        for name in packages:
            try:
                present[name] = version(name).partition("+")[0]
            except PackageNotFoundError:
                present[name] = "missing"
        spec = importlib.util.find_spec("clipstore")
        if spec and spec.submodule_search_locations:
            package, digest = Path(spec.submodule_search_locations[0]), hashlib.sha256()
            for file in sorted(package.rglob("*.py")):
                digest.update(str(file.relative_to(package)).encode() + file.read_bytes())
            present["clipstore"] += f" (code {digest.hexdigest()[:8]})"
        return present

    return versions


def _problems_function() -> Callable[[dict[str, str], dict[str, int]], list[str]]:
    """The function that gives what a node cannot do with folders and files, such as "read /data"."""

    def problems(probes: dict[str, str], sizes: dict[str, int]) -> list[str]:
        import os
        from pathlib import Path

        found = []
        for path, content in probes.items():
            probe, answer = Path(path), Path(f"{path}.{os.getpid()}")
            action = "see"
            try:
                if probe.read_text() != content:
                    raise FileNotFoundError
                action = "have write access to"
                answer.write_text(content)
                answer.unlink()
            except OSError:
                found.append(f"{action} {probe.parent}")
        for path, size in sizes.items():
            try:
                same = Path(path).stat().st_size == size
            except OSError:
                same = False
            if not same:
                found.append(f"see {path}")
        return found

    return problems


@contextmanager
def _probe_files(folders: Iterable[Path]) -> Iterator[dict[str, str]]:
    """A temporary file in each folder for the nodes to read: content by path. They are removed at the end.

    Raises:
        ClusterError: this process cannot write one.
    """
    names = [str(folder.absolute() / f".cluster-{secrets.token_hex(8)}.tmp") for folder in folders]
    probes = {name: secrets.token_hex(8) for name in names}
    try:
        for path, token in probes.items():
            Path(path).write_text(token)
        yield probes
    except OSError as error:
        message = f"cannot write to {error.filename}: {error.strerror}"
        raise ClusterError(message) from error
    finally:
        for path in probes:
            with suppress(OSError):
                Path(path).unlink()


def last_line(text: str) -> str:
    """The last line of a traceback or of a message that is not empty: what went wrong, without where."""
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "no reason was given")
