"""The transit engine of HashiCorp Vault, or of OpenBao: a key that never leaves it wraps ours.

Asked once at each start and once after each rotation of the keyring; in between the keys are in
memory, so a Vault that is away stops no renewal. Source:
https://developer.hashicorp.com/vault/api-docs/secret/transit (encrypt, decrypt, `batch_input`).
"""

from __future__ import annotations

import base64
import ssl
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import httpx

from worker.domain.errors import ConfigurationError, TransientError

_FORM = "vault://HOST:PORT/MOUNT/KEY#/PATH/keyring.json"
_TIMEOUT = httpx.Timeout(10, connect=5)
_TRANSIENT = frozenset(
    {408, 412, 429, 472, 473, 500, 502, 503, 504}
)  # 503: sealed; 412: not yet here


@dataclass(frozen=True, slots=True)
class Place:
    """Where the engine is, and the file that holds what it wrapped."""

    url: str  # https://vault.example:8200/v1/transit
    key: str
    file: Path

    @classmethod
    def of(cls, address: str) -> Place:
        """Raises: ConfigurationError with the form of it."""
        told = urlsplit(address)
        mount, _, key = told.path.strip("/").rpartition("/")
        if not (told.hostname and mount and key and told.fragment) or told.username or told.query:
            raise ConfigurationError(f"keyring {address}: write {_FORM}")
        plain = told.scheme == "vault+http"
        if plain and not _loopback(told.hostname):
            raise ConfigurationError(f"keyring {address}: vault+http is for loopback; use vault")
        scheme = "http" if plain else "https"
        return cls(f"{scheme}://{told.netloc}/v1/{quote(mount)}", key, Path(told.fragment))


class Transit:
    """Wraps and unwraps the keyring's keys; blocking.

    `environment`: VAULT_TOKEN (or `file:PATH`, read anew each time, as an agent renews it),
    VAULT_NAMESPACE and VAULT_CACERT, as Vault's own tools name them.
    Every call raises: TransientError (away, sealed), ConfigurationError (token, policy, key).
    """

    def __init__(self, place: Place, environment: Mapping[str, str]) -> None:
        self._place = place
        self._environment = environment

    def wrap(self, keys: Sequence[bytes]) -> list[str]:
        items = [{"plaintext": base64.b64encode(key).decode()} for key in keys]
        return [str(told) for told in self._asked("encrypt", items, "ciphertext")]

    def unwrap(self, wrapped: Sequence[str]) -> list[bytes]:
        items = [{"ciphertext": told} for told in wrapped]
        try:
            return [
                base64.b64decode(told, validate=True)
                for told in self._asked("decrypt", items, "plaintext")
            ]
        except ValueError:
            raise self._unreadable() from None

    def _asked(self, verb: str, items: Sequence[Mapping[str, str]], field: str) -> list[str]:
        if not items:
            return []
        url = f"{self._place.url}/{verb}/{quote(self._place.key, safe='')}"
        headers = {"X-Vault-Token": self._token(), "X-Vault-Request": "true"}
        if namespace := self._environment.get("VAULT_NAMESPACE"):
            headers["X-Vault-Namespace"] = namespace
        try:
            with httpx.Client(
                timeout=_TIMEOUT, trust_env=False, follow_redirects=False, verify=self._trusted()
            ) as http:
                answer = http.post(url, headers=headers, json={"batch_input": list(items)})
        except httpx.HTTPError as error:
            name = type(error).__name__
            raise TransientError(f"keyring: Vault is away ({name})", code="vault_away") from None
        if answer.status_code != 200:
            raise self._refused(verb, answer.status_code)
        return self._results(answer, field, len(items))

    def _results(self, answer: httpx.Response, field: str, count: int) -> list[str]:
        try:
            results: list[Any] = answer.json()["data"]["batch_results"]
            told = [result[field] for result in results]
        except (ValueError, KeyError, TypeError):
            raise self._unreadable() from None
        if len(told) != count or not all(isinstance(one, str) and one for one in told):
            raise self._unreadable()
        return told

    def _unreadable(self) -> TransientError:
        return TransientError("keyring: Vault's answer is none of its own", code="vault_unreadable")

    def _refused(self, verb: str, status: int) -> Exception:
        if status in _TRANSIENT:
            return TransientError(f"keyring: Vault answered {status}: sealed?", code="vault_away")
        path = f"{urlsplit(self._place.url).path.removeprefix('/v1/')}/{verb}/{self._place.key}"
        advice = {
            400: "its keys were wrapped under another key, or a version that is no longer allowed",
            403: f"VAULT_TOKEN has ended, or its policy lacks `update` on {path}",
            404: f"there is no {path}",
        }.get(status, f"status {status}; the address must be the active node's, over TLS")
        return ConfigurationError(f"keyring: Vault refuses: {advice}", code="vault_refused")

    def _token(self) -> str:
        told = self._environment.get("VAULT_TOKEN", "")
        try:
            named = told.removeprefix("file:")
            token = Path(named).read_text(encoding="utf-8").strip() if named != told else told
        except OSError as error:
            raise ConfigurationError(f"VAULT_TOKEN: {named}: {error.strerror}") from None
        if not token or not token.isascii() or not token.isprintable():
            raise ConfigurationError("keyring: set VAULT_TOKEN, or VAULT_TOKEN=file:PATH")
        return token

    def _trusted(self) -> ssl.SSLContext | bool:
        if not self._place.url.startswith("https:"):
            return False
        try:
            return ssl.create_default_context(cafile=self._environment.get("VAULT_CACERT") or None)
        except OSError as error:
            raise ConfigurationError(f"VAULT_CACERT: {error.strerror or error}") from None


def _loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
