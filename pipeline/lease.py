"""A sign of life in object storage, between a command and whoever started it from another machine.

The owner writes it again every few seconds. The command watches it, and stops as it does for SIGTERM once
nobody renewed it for long enough, or the owner asks for that. Each goes by its own clock: times of two
machines are never compared.
"""

import contextlib
import json
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final, Self

from pipeline import storage
from pipeline.conditional import replace
from pipeline.config import LeaseConfig, StorageConfig
from pipeline.errors import ConflictError, StorageError

RENEW_SECONDS: Final = 10.0
TRIES: Final = 10  # to take it from oneself
LOOK_SECONDS: Final = 3.0  # between two looks of a command at its lease


@dataclass(slots=True)
class Lease:
    """What its owner holds: nobody else writes the object while it is renewed."""

    uri: str
    holder: str
    run: str  # that it is for: a command stops when the lease is for another
    config: StorageConfig
    lost: bool = False  # another owner took it
    _tag: str | None = None
    _beat: int = 0
    _stop: bool = False
    _sent: bytes = b""  # and not yet known to be there
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @classmethod
    def take(cls, uri: str, holder: str, run: str, patience: float, config: StorageConfig) -> Self:
        """Return the lease, new, or taken over from a holder of the same name or one that does not renew it.

        Raises ConflictError if another holder renews it within `patience` seconds, or StorageError.
        """
        lease = cls(uri, holder, run, config)
        found, lease._tag = _read(uri, config)
        deadline = time.monotonic() + (0 if found is None or found["holder"] == holder else patience)
        while (left := deadline - time.monotonic()) > 0:
            time.sleep(min(LOOK_SECONDS, left))
            now, tag = _read(uri, config)
            if now is None:
                lease._tag = None
                break
            if tag != lease._tag:
                raise ConflictError(f"{uri}: {now['holder']} holds it")
        lease._beat = found["beat"] if found else 0
        for _ in range(TRIES):
            try:
                lease._write()
            except ConflictError:  # its own former self may have renewed it just now
                now, lease._tag = _read(uri, config)
                if now is None or now["holder"] != holder:
                    raise
                lease.lost, lease._sent = False, b""
            else:
                return lease
        raise ConflictError(f"{uri}: {holder} still holds it elsewhere")

    @contextlib.contextmanager
    def renewed(self, every: float = RENEW_SECONDS) -> Iterator[Self]:
        """Renew it in the background until the block ends, then give it back."""
        over = threading.Event()

        def renew() -> None:
            while not over.wait(every) and not self.lost:
                with contextlib.suppress(StorageError):  # the store is away: whoever watches waits, too
                    self._write()

        thread = threading.Thread(target=renew, daemon=True, name="masklake-lease")
        thread.start()
        try:
            yield self
        finally:
            over.set()
            thread.join()
            if not self.lost:
                with contextlib.suppress(StorageError):  # else the next owner waits for it to end
                    storage.delete(self.uri, self.config)

    def ask_to_stop(self) -> None:
        """Let the command that watches it stop, after a last commit. Raises StorageError."""
        self._stop = True
        self._write()

    def _write(self) -> None:
        with self._lock:
            self._beat += 1
            told = {"holder": self.holder, "run": self.run, "beat": self._beat, "stop": self._stop}
            data = json.dumps(told).encode()
            try:
                if self._sent:  # the answer was lost: was it written?
                    now, tag = storage.read_version(self.uri, self.config)
                    self._tag = tag if now == self._sent else self._tag
                self._sent = data
                replace(self.uri, data, self._tag, self.config)
                now, self._tag = storage.read_version(self.uri, self.config)
            except (ConflictError, FileNotFoundError):
                self.lost = True
                raise
            if now != data:
                self.lost = True
                raise ConflictError(f"{self.uri}: another holder took it just now")
            self._sent = b""


@contextlib.contextmanager
def watched(lease: LeaseConfig | None, config: StorageConfig, stop: Callable[[str], None]) -> Iterator[None]:
    """Watch a lease while the block runs; call `stop`, once, with the reason when it ends or asks for it.

    A store that does not answer is no reason: the owner cannot reach it either.
    """
    over = threading.Event()
    if lease is not None:
        arguments = (lease, config, stop, over)
        threading.Thread(target=_watch, args=arguments, daemon=True, name="masklake-lease").start()
    try:
        yield
    finally:
        over.set()


def _watch(
    lease: LeaseConfig, config: StorageConfig, stop: Callable[[str], None], over: threading.Event
) -> None:
    seen, moved_at = None, time.monotonic()
    while not over.wait(min(LOOK_SECONDS, lease.seconds / 3)):
        try:
            found, tag = _read(lease.uri, config)
        except StorageError:
            moved_at = time.monotonic()
            continue
        if found is not None and (found["stop"] or found["run"] != lease.run):
            stop(f"{found['holder']} {'asked for it' if found['stop'] else 'started another run'}")
            return
        if tag != seen:
            seen, moved_at = tag, time.monotonic()
        if time.monotonic() - moved_at > lease.seconds:
            stop(f"nobody renewed {lease.uri} for {lease.seconds:g} s: whoever started it is gone")
            return


def _read(uri: str, config: StorageConfig) -> tuple[dict[str, Any] | None, str | None]:
    """Return what the lease says and its version; None if it is not there."""
    try:
        data, tag = storage.read_version(uri, config)
        told = json.loads(data)
        return {name: told[name] for name in ("holder", "run", "beat", "stop")}, tag
    except FileNotFoundError:
        return None, None
    except (ValueError, KeyError, TypeError) as error:
        raise StorageError(f"{uri} is no lease: remove it") from error
