"""A masklake command as a job of a Ray cluster, by its Jobs API.

The job brings the code of this very version along, and its configuration; never credentials, which everyone
who sees the cluster's page could read: they are in the environment of the cluster's nodes.
"""

import asyncio
import contextlib
import json
import logging
import os
import shlex
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from queue import Queue
from typing import Any, Final

import models
import pipeline
from pipeline.errors import ClusterError, ConfigError

CODE: Final = (models, pipeline)  # that a job brings along
BROUGHT: Final = ("AWS_ENDPOINT_URL", "AWS_REGION", "AWS_DEFAULT_REGION", "MASKLAKE_REGISTRY")
POLL_SECONDS: Final = 1.0  # between two questions to a cluster
ANSWER_SECONDS: Final = 10.0  # in which a cluster must answer the first of them
REQUEST_SECONDS: Final = 60.0  # and each of the others: one of them brings the code
FOLLOW_SECONDS: Final = 120.0  # after which a connection is made anew: one whose other end is gone is silent
MOST_CHUNKS: Final = 1000  # of output that wait to be heard


class RayJob:
    """A command on a cluster; one of the same name that still runs is taken up again."""

    def __init__(
        self,
        address: str,
        arguments: Sequence[str],
        config: Mapping[str, Any] | None,
        name: str,
        holder: str,
        silent_seconds: float = 600.0,
    ) -> None:
        self._address = address
        self._silent_seconds = silent_seconds  # a cluster that does not answer for so long is lost
        self._client = _client(address)
        self._answered = time.monotonic()
        try:
            known = {job.submission_id: job for job in self._client.list_jobs() if job.submission_id}
            tries = [f"{name}-{number}" for number in range(len(known) + 1)]
            self._id = next(one for one in tries if one not in known or _is_ours(known[one], holder))
            if self._id not in known:
                self._submit(arguments, config, holder)
        except (RuntimeError, ConnectionError, OSError) as error:
            raise ClusterError(f"{address}: the job was not taken: {_line(error)}") from error

    def _submit(self, arguments: Sequence[str], config: Mapping[str, Any] | None, holder: str) -> None:
        command = ["python", "-m", "pipeline", *arguments]
        with tempfile.TemporaryDirectory(prefix="masklake-flow-") as name:
            folder = Path(name)
            for package in CODE:
                source = Path(package.__path__[0])
                shutil.copytree(source, folder / source.name, ignore=shutil.ignore_patterns("__pycache__"))
            if config is not None:
                (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
                command += ["--config", "config.json"]
            self._client.submit_job(
                entrypoint=shlex.join(command),
                submission_id=self._id,
                metadata={"holder": holder},
                runtime_env={
                    "working_dir": str(folder),
                    "env_vars": {name: os.environ[name] for name in BROUGHT if name in os.environ},
                },
            )

    def lines(self) -> Iterator[str]:
        """Yield what it prints, from its beginning on, until it ends. Raises ClusterError if it is lost."""
        rest = ""
        for chunk in self._chunks():
            *whole, rest = (rest + chunk).split("\n")
            yield from whole
        if rest:
            yield rest

    def _chunks(self) -> Iterator[str]:
        chunks: Queue[str | ClusterError | None] = Queue(MOST_CHUNKS)
        seen = 0  # characters: a connection that was lost begins anew

        def put(text: str) -> None:
            nonlocal seen
            seen += len(text)
            chunks.put(text)

        async def follow() -> None:
            skipped = 0
            async for chunk in self._client.tail_job_logs(self._id):
                fresh = chunk[max(0, seen - skipped) :]
                skipped += len(chunk)
                if fresh:
                    put(fresh)

        def read() -> None:
            while self.wait(POLL_SECONDS) is None:
                if time.monotonic() - self._answered > self._silent_seconds:
                    chunks.put(
                        ClusterError(
                            f"{self._address} has not answered for {self._silent_seconds:g} s "
                            f"(cluster.silent_seconds): what became of job {self._id} is not known"
                        )
                    )
                    return
                with contextlib.suppress(Exception):  # the connection was lost: the next one goes on
                    asyncio.run(asyncio.wait_for(follow(), FOLLOW_SECONDS))
            with contextlib.suppress(Exception):  # what the last connection did not bring
                put(self._client.get_job_logs(self._id)[seen:])
            chunks.put(None)

        threading.Thread(target=read, daemon=True, name="masklake-logs").start()
        while (chunk := chunks.get()) is not None:
            if isinstance(chunk, ClusterError):
                raise chunk
            yield chunk

    def wait(self, seconds: float) -> int | None:
        """Return 0, or the code that it ended with; None if it did not end within so many seconds."""
        deadline = time.monotonic() + seconds
        while True:
            with contextlib.suppress(RuntimeError, ConnectionError, OSError):  # asked again
                job = self._client.get_job_info(self._id)
                self._answered = time.monotonic()
                if job.status.is_terminal():
                    succeeded = job.status == "SUCCEEDED"
                    return 0 if succeeded else job.driver_exit_code or 1
            left = deadline - time.monotonic()
            if left <= 0:
                return None
            time.sleep(min(POLL_SECONDS, left))

    def kill(self) -> None:
        """End it: the cluster sends SIGTERM, and SIGKILL soon after."""
        with contextlib.suppress(RuntimeError, ConnectionError, OSError):
            self._client.stop_job(self._id)


def _is_ours(job: Any, holder: str) -> bool:
    """Return whether a job goes on, or ended well while this same flow run could not hear it."""
    succeeded = job.status == "SUCCEEDED"
    return not job.status.is_terminal() or (succeeded and (job.metadata or {}).get("holder") == holder)


def _client(address: str) -> Any:
    """Return a client of the Jobs API there. Raises ClusterError, or ConfigError where waiting is no help."""
    import ray
    import requests
    from ray.exceptions import AuthenticationError
    from ray.job_submission import JobSubmissionClient

    for name in ("ray", "ray.dashboard.modules.dashboard_sdk", "ray.dashboard.modules.job.sdk"):
        logging.getLogger(name).setLevel(logging.ERROR)  # they tell of each upload and each connection
    try:
        requests.get(address, timeout=ANSWER_SECONDS)  # Ray's client would wait for ever
        client = _bounded(JobSubmissionClient)(address)
    except AuthenticationError as error:
        raise ConfigError(
            f"{address} refused our token: RAY_AUTH_TOKEN_PATH must name a file with the cluster's, and "
            "RAY_AUTH_MODE must be 'token'"
        ) from error
    except requests.JSONDecodeError as error:
        raise ConfigError(
            f"{address} is no Jobs API of Ray: expected its dashboard, http://head:8265"
        ) from error
    except (requests.RequestException, RuntimeError, ConnectionError) as error:
        raise ClusterError(f"{address}: no Jobs API of Ray answers: {_line(error)}") from error
    if (there := client._server_ray_version) != ray.__version__:  # it has no public name
        raise ConfigError(
            f"{address} runs Ray {there}, here is {ray.__version__}: install the same on both sides"
        )
    return client


def _bounded(kind: Any) -> Any:
    """Return a class of client whose requests end: Ray's own wait for ever."""

    class Client(kind):  # type: ignore[misc] # Ray is imported late
        def _do_request(self, *arguments: Any, **named: Any) -> Any:
            return super()._do_request(*arguments, **{"timeout": REQUEST_SECONDS, **named})

    return Client


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300]
