"""All checks, side by side, each with a time limit; what one raises is its own finding."""

import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Final

from pipeline import storage
from pipeline.doctor import cluster, machine, packages, prefect_server, ray_start
from pipeline.doctor.finding import Finding, Findings, fail
from pipeline.doctor.settings import DoctorConfig
from pipeline.registry.versions import VARIABLE
from pipeline.session import last_line

LIMIT: Final = 10.0  # seconds for a check that asks the network
TORCH_LIMIT: Final = 60.0  # seconds to import torch, and to wake a GPU
GRACE: Final = 10.0  # seconds that checks which were given up have, all together, to tidy up
STORE_TIMEOUT: Final = 4.0  # seconds for one request, which is tried twice


@dataclass(frozen=True, slots=True)
class Check:
    """Something to look at. Its findings come one by one: those before a hang count."""

    name: str
    run: Callable[[], Findings]
    limit: float = LIMIT  # seconds


def checks(config: DoctorConfig) -> list[Check]:
    """Return the checks for what is named, those of this machine first."""
    here = config.ray_address is None  # else the cluster's nodes must have what the job asks for
    device = config.predict.device if here else "auto"
    chosen = [
        Check("versions", packages.versions),
        Check("memory", machine.memory),
        Check("shared memory", machine.shared_memory),
        Check("disk", machine.disks),
        Check("gpu", partial(_gpu, device), TORCH_LIMIT),
        _ray(config),
        Check("prefect", prefect_server.prefect),
    ]
    return chosen + _stores(config)


def _gpu(device: str) -> Findings:
    from pipeline.doctor.gpu import gpu  # torch: imported in the check's own thread, beside the others

    yield from gpu(device)


def _ray(config: DoctorConfig) -> Check:
    address = config.ray_address
    if address is None:
        return Check("ray", ray_start.here, ray_start.START_SECONDS + GRACE)
    if address.startswith(("http://", "https://")):
        return Check("ray", partial(cluster.jobs_api, address, config.predict.device), 2 * LIMIT)
    return Check("ray", partial(ray_start.joined, address), ray_start.JOIN_SECONDS + GRACE)


def _stores(config: DoctorConfig) -> list[Check]:
    from pipeline.doctor import store, table  # Arrow and deltalake: only where a store is named

    quick = config.storage.model_copy(update={"timeout": min(config.storage.timeout, STORE_TIMEOUT)})
    chosen = []
    registry = config.registry or os.environ.get(VARIABLE)
    places = [config.source.uri if config.source else None, config.table, registry]
    on_s3 = [uri for uri in places if uri and storage.split(uri)[0] in ("s3", "s3a")]
    if on_s3:
        chosen.append(Check("credentials", partial(store.credentials, on_s3[0], quick)))
        chosen.append(Check("clock", partial(store.clock, on_s3[0], quick)))
    if config.source:
        chosen.append(Check("source", partial(store.source, config.source, quick)))
    if config.table:
        chosen.append(Check("table", partial(table.table, config.table, config.source, quick)))
    if registry or "@" in (config.model or ""):
        chosen.append(Check("registry", partial(store.registry, registry, config.model, quick)))
    return chosen


def examine(chosen: list[Check]) -> Iterator[Finding]:
    """Yield the findings of the checks, in their order, as they come. Ends when all are done or given up."""
    running = [_Running(check) for check in chosen]
    try:
        for one in running:
            yield from one.findings()
    finally:
        deadline = time.monotonic() + GRACE
        for one in running:
            one.end(deadline)


class _Running:
    """A check in a thread of its own, which is left behind if it hangs."""

    def __init__(self, check: Check) -> None:
        self._check = check
        self._found: list[Finding] = []
        self._given_up = threading.Event()
        self._deadline = time.monotonic() + check.limit
        self._thread = threading.Thread(target=self._work, name=f"doctor {check.name}", daemon=True)
        self._thread.start()

    def _work(self) -> None:
        try:
            with contextlib.closing(self._check.run()) as findings:
                for finding in findings:
                    self._found.append(finding)
                    if self._given_up.is_set():
                        return  # closing it runs what tidies up
        except Exception as error:
            remedy = "this is a fault of the check, or something that it does not know: please report it"
            self._found.append(fail(self._check.name, f"{type(error).__name__}: {last_line(error)}", remedy))

    def findings(self) -> list[Finding]:
        """Return what the check has found when it ends, or when its time is over."""
        self._thread.join(max(0.0, self._deadline - time.monotonic()))
        found = list(self._found)
        if self._thread.is_alive():
            what = f"no answer within {self._check.limit:.0f} s"
            found.append(fail(self._check.name, what, "see whether the server is busy, or the network slow"))
        return [finding.without_secrets() for finding in found]

    def end(self, deadline: float) -> None:
        """Let a check that still runs tidy up, until `deadline`."""
        self._given_up.set()
        self._thread.join(max(0.0, deadline - time.monotonic()))
