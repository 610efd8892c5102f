"""Workers in a Ray cluster: actors that load the model and the embedder once."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from semlens.errors import WorkerError, reason_of
from semlens.run.executors.executor import Advance, Inputs, Task, Workers
from semlens.run.executors.pool import Computed, Pool, Worker, compute, pack, start_error, unpack

_LOOK = 1.0
"""Seconds between looks at the nodes of the cluster."""
_ALIVE = 10.0
"""Seconds within which an idle actor must answer."""
_STARTS = 20
"""Actors in a row that may end before they are ready."""


@dataclass(frozen=True)
class Ray:
    """Computes in actors of a Ray cluster.

    Parameters
    ----------
    address
        As for ``ray.init``; by default the cluster that this process or machine is connected to,
        or a new one on this machine.
    threads
        CPUs of an actor, which are its compute threads. With a model on a GPU, each actor has a
        GPU as well.
    """

    address: str | None = None
    threads: int = 1

    @contextmanager
    def start(self, inputs: Inputs) -> Iterator[Workers]:
        """Return the actors, as many as the cluster has room for.

        Raises
        ------
        WorkerError
            If Ray is not installed, the cluster cannot be reached, or no node is large enough.
        """
        ray = _import_ray()
        connected = not ray.is_initialized()
        if connected:
            _connect(ray, self.address)
        try:
            gpus = 1 if inputs.model.device.type == "cuda" else 0
            crew = _Actors(ray, inputs, {"CPU": self.threads, "GPU": gpus})
            try:
                yield Pool(crew)
            finally:
                crew.close()
        finally:
            if connected:
                ray.shutdown()


def _import_ray() -> Any:
    try:
        import ray
    except ImportError as error:
        raise WorkerError(
            "The executor 'ray' needs the package 'ray'.",
            "It is not installed.",
            "Run: pip install 'semlens[ray]'",
        ) from error
    return ray


def _connect(ray: Any, address: str | None) -> None:
    options = {"logging_level": "ERROR", "log_to_driver": False}
    try:
        if address is not None:
            ray.init(address=address, **options)
            return
        try:
            ray.init(address="auto", **options)
        except ConnectionError:  # there is no cluster here
            ray.init(include_dashboard=False, **options)
    except Exception as error:  # the client raises many types
        raise WorkerError(
            f"The Ray cluster '{address or 'auto'}' cannot be reached "
            f"({reason_of(error, whole=True)}).",
            "Expected the address of a running cluster with the same versions of Python and Ray.",
            "Check it with 'ray status', or start one with 'ray start --head'. If the cluster asks "
            "for a token, set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN on other machines.",
        ) from error


class _Actors:
    """As many actors as the nodes that are alive have room for."""

    def __init__(self, ray: Any, inputs: Inputs, needs: Mapping[str, int]) -> None:
        self._ray, self._needs = ray, {name: n for name, n in needs.items() if n}
        errors = ray.exceptions  # what it raises if a worker or a node is lost
        self.lost: tuple[type[Exception], ...] = (
            errors.RayActorError, errors.WorkerCrashedError, errors.ObjectLostError,
        )  # fmt: skip
        self._payload = ray.put(pack(inputs))
        self._actor_class = ray.remote(Actor).options(
            num_cpus=needs["CPU"], num_gpus=needs["GPU"], max_concurrency=2, max_restarts=0
        )
        self._starting: dict[Future[Any], _ActorWorker] = {}
        self._ready: list[_ActorWorker] = []
        self._looked = 0.0
        self._failed = 0
        self.count = self._room()
        if not self.count:
            wanted = " and ".join(f"{n} {name}" for name, n in self._needs.items())
            raise WorkerError(
                f"No node of the Ray cluster has {wanted}, which a worker needs.",
                "Expected at least one such node.",
                "Build with fewer --compute-threads, or start larger nodes.",
            )

    def _room(self) -> int:
        """Return the number of actors for which the living nodes have resources."""
        nodes = [node["Resources"] for node in self._ray.nodes() if node["Alive"]]
        return sum(min(int(n.get(k, 0) // v) for k, v in self._needs.items()) for n in nodes)

    def hire(self) -> list[Worker]:
        """Return the actors that are ready; start more if the cluster has room for them."""
        if time.monotonic() - self._looked > _LOOK:
            self._looked = time.monotonic()
            vacant = self._room() - len(self._ready) - len(self._starting)
            for _ in range(vacant):
                actor = _ActorWorker(self._ray, self._actor_class, self._payload, self._needs)
                self._starting[actor.started] = actor
        hired: list[Worker] = []
        for future in [future for future in self._starting if future.done()]:
            actor = self._starting.pop(future)
            error = future.exception()
            if error is None:
                self._failed = 0
                self._ready.append(actor)
                hired.append(actor)
                continue
            self._failed += 1
            if self._failed > _STARTS or not isinstance(error, self.lost):
                raise start_error(RuntimeError(str(error))) from error
        return hired

    def dismiss(self, worker: Worker) -> None:
        """Forget an actor."""
        assert isinstance(worker, _ActorWorker)  # noqa: S101  # they are its own
        self._ready.remove(worker)
        worker.close()

    def close(self) -> None:
        """End all actors."""
        for actor in [*self._ready, *self._starting.values()]:
            actor.close()


class _ActorWorker:
    """A worker that is an actor of the cluster."""

    def __init__(self, ray: Any, actor_class: Any, payload: Any, needs: Mapping[str, int]) -> None:
        self._ray = ray
        self._actor = actor_class.remote(payload, needs["CPU"])
        self.started: Future[Any] = self._actor.running.remote().future()
        self._poll: Future[Mapping[str, int]] | None = None
        self._done: Mapping[str, int] = {}

    def submit(self, steps: tuple[str, ...], task: Task) -> Future[Computed]:
        """Start a task."""
        self._done, self._poll = {}, None
        return self._actor.compute.remote(steps, task).future()

    def running(self) -> Mapping[str, int]:
        """Return the samples done of the current task, as of the last answer of the actor."""
        if self._poll is not None and self._poll.done():
            if self._poll.exception() is None:  # a loss is noticed by the task's own future
                self._done = self._poll.result()
            self._poll = None
        if self._poll is None:
            self._poll = self._actor.running.remote().future()
        return self._done

    def is_alive(self) -> bool:
        """Whether the actor answers."""
        try:
            self._ray.get(self._actor.running.remote(), timeout=_ALIVE)
        except Exception:  # of Ray, many types
            return False
        return True

    def close(self) -> None:
        """Kill the actor."""
        with suppress(Exception):  # it may be lost already
            self._ray.kill(self._actor)


class Actor:
    """The worker in the cluster.

    It has two threads: one computes, the other one answers how far it is.
    """

    def __init__(self, payload: bytes, threads: int) -> None:
        torch.set_num_threads(threads)
        self._done: Counter[str] = Counter()
        self._inputs: Inputs | Exception
        try:
            self._inputs = unpack(payload, threads)
        except Exception as error:  # classes of the user may raise anything
            self._inputs = start_error(error)

    def compute(self, steps: tuple[str, ...], task: Task) -> Computed:
        """Compute a task."""

        def add(step: str, count: int) -> None:
            self._done[step] += count

        advance: dict[str, Advance] = {step: partial(add, step) for step in steps}
        try:
            return compute(self._inputs, task, advance)
        finally:
            self._done = Counter()

    def running(self) -> Mapping[str, int]:
        """Return the samples done of the current task, by step."""
        return dict(self._done)
