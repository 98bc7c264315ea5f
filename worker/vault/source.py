"""Where a keyring lies, and how it is read and changed without being shown to anyone else."""

from __future__ import annotations

import fcntl
import os
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from worker.domain.errors import ConfigurationError, TransientError
from worker.vault.keyring import Keyring, Purpose
from worker.vault.transit import Place, Transit

_SUPPORTED = "a file path, file:PATH, env:NAME holding the file's content, or vault://…"
_VAULT = frozenset({"vault", "vault+http"})


class KeyringSource:
    """A keyring's address (EVERGRANT_KEYRING), and which purposes this process may have of it.

    `env:NAME` is looked up in the `environment` passed in. `vault://HOST/MOUNT/KEY#FILE` is a
    file whose keys Vault's transit engine has wrapped; `aws-kms://…` is refused by name.
    """

    def __init__(
        self,
        address: str,
        *,
        purposes: Iterable[Purpose | str] | None = None,
        environment: Mapping[str, str] | None = None,
        advice: str = "restore it; in a new deployment `evergrant keys create` makes one",
    ) -> None:
        """`advice`: what to do where there is no file."""
        self._address = address
        self._advice = advice
        self._purposes = None if purposes is None else frozenset(map(Purpose, purposes))
        self._environment = environment or {}
        self._seen: tuple[int, int, int] | None = None
        self._vault = Place.of(address) if address.partition(":")[0] in _VAULT else None
        self._wrapping = Transit(self._vault, self._environment) if self._vault else None

    def load(self) -> Keyring:
        """Raises: ConfigurationError with what to do about it; TransientError, Vault is away."""
        stamp = self._stamp()
        keyring = self._parsed(self._purposes)
        self._seen = stamp  # what could not be read is looked at again
        return keyring

    @property
    def remote(self) -> bool:
        """Whether reading it asks somebody else, and so may take seconds."""
        return self._wrapping is not None

    def stale(self) -> bool:
        """Whether its file was replaced since `load`."""
        stamp = self._stamp()
        return stamp is not None and stamp != self._seen

    def changed(self) -> Keyring | None:
        """The keyring, if its file was replaced since `load`: processes notice a rotation."""
        return self.load() if self.stale() else None

    def create(self, keyring: Keyring) -> Keyring:
        path = self._path()
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        try:
            _write(path, keyring.to_json(self._wrapping))
        except FileExistsError:
            raise ConfigurationError(f"keyring {path} exists; it is never overwritten") from None
        return keyring

    def edit(self, change: Callable[[Keyring], Keyring]) -> Keyring:
        """Replace the file by `change(what is in it)`; atomic, and one editor at a time."""
        path = self._path()
        with _locked(path):
            changed = change(self._parsed(None))
            fresh = path.with_name(f"{path.name}.{os.getpid()}.new")
            _write(fresh, changed.to_json(self._wrapping))
            fresh.replace(path)
            _sync(path.parent)
        return changed

    def _parsed(self, purposes: frozenset[Purpose] | None) -> Keyring:
        try:
            return Keyring.from_json(self._read(), wrapping=self._wrapping, purposes=purposes)
        except (ConfigurationError, TransientError) as error:
            if (told := str(error)).startswith("keyring:"):  # there may be several: say which
                where = self._vault.file if self._vault else self._address
                told = told.replace("keyring:", f"keyring {where}:", 1)
            raise type(error)(told, code=error.code) from None

    def _path(self) -> Path:
        """The file. Raises: ConfigurationError where the keyring is no file of ours to write."""
        if self._vault is not None:
            return self._vault.file
        scheme, separator, rest = self._address.partition(":")
        if not separator or scheme == "file":
            return Path(rest if separator else self._address)
        if scheme == "env":
            raise ConfigurationError(f"the keyring in {self._address} is changed where it is set")
        raise ConfigurationError(f"keyring {scheme}: is not supported; use {_SUPPORTED}")

    def _read(self) -> bytes:
        if self._address.startswith("env:"):
            return self._from_environment(self._address.removeprefix("env:"))
        path = self._path()
        try:
            with path.open("rb") as file:
                _refuse_if_shared(path, os.fstat(file.fileno()))
                return file.read()
        except OSError as error:
            reason = error.strerror or type(error).__name__
            raise ConfigurationError(f"keyring {path}: {reason}; {self._advice}") from None

    def _from_environment(self, name: str) -> bytes:
        if not (value := self._environment.get(name)):
            raise ConfigurationError(f"keyring: the environment has no {name}")
        return value.encode()

    def _stamp(self) -> tuple[int, int, int] | None:
        """Tells one version of the file from the next; None where there is no file to watch."""
        if self._address.startswith("env:"):
            return None
        try:
            found = self._path().stat()
        except OSError:
            return None
        return found.st_ino, found.st_mtime_ns, found.st_size


def _refuse_if_shared(path: Path, found: os.stat_result) -> None:
    """Only the owner may read it; of a file root owns, as of mounted secrets, our group too."""
    mounted = found.st_uid == 0 != os.geteuid()
    forbidden = 0o037 if mounted else 0o077
    if stat.S_IMODE(found.st_mode) & forbidden:
        raise ConfigurationError(f"keyring {path} can be read by others; chmod 600 {path}")
    if found.st_uid not in (0, os.geteuid()):
        raise ConfigurationError(f"keyring {path} belongs to another user")


def _write(path: Path, content: bytes) -> None:
    """Durable before it is used for anything: what it seals opens with nothing else."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    _sync(path.parent)


def _sync(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.with_name(f"{path.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
