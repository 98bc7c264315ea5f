"""Which addresses a refresh token may be sent to (I13).

Two checks. `target` looks at the spelling: https, a host name, the usual port unless another was
approved. `resolve` looks at what the name means: every answer must be a public unicast address,
and the caller connects to exactly that address, so a name that changes its meaning between check
and use (rebinding) gains nothing. `allow_loopback` lifts both, for the rehearsal and for tests.
"""

from __future__ import annotations

import asyncio
import ipaddress
import re
import socket
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import lru_cache

from worker.domain.errors import ConfigurationError

# Letters, digits and hyphens only: a look-alike in another script must be written as "xn--…",
# where it looks like what it is.
_HOST_NAME = re.compile(
    r"(?=.{1,253}$)([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\.)*[a-z0-9-]{0,62}[a-z0-9]"
)
_URL = re.compile(r"(https?)://([^/?#@\\]+)(/[^#\\]*|\?[^#\\]*)?", re.IGNORECASE)
_AUTHORITY = re.compile(r"(\[[0-9a-fA-F:.]+\]|[^:\[\]]+)(?::(\d{1,5}))?")
_PRINTABLE = re.compile(r"[\x21-\x7e]+")
RESOLVER_THREADS = 16
_DEFAULT_PORTS = {"https": 443, "http": 80}

Addresses = Sequence[str]
Resolve = Callable[[str, int], Awaitable[Addresses]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A checked address."""

    scheme: str
    name: str  # host name, lower case, without port
    port: int
    path: str = field(repr=False)  # with the query, which may hold a token

    @property
    def host(self) -> str:
        """As pinned for a connection: with ":port" unless it is the usual one."""
        usual = self.port == _DEFAULT_PORTS[self.scheme]
        name = f"[{self.name}]" if ":" in self.name else self.name
        return name if usual else f"{name}:{self.port}"


def target(url: str, *, approved_host: str | None, allow_loopback: bool) -> Target:
    """Check the spelling of an address. Raises: ConfigurationError, code "bad_endpoint"."""
    checked = _checked if "?" in url else _checked_before  # a query may hold a token
    return checked(url, approved_host, allow_loopback)


def _checked(url: str, approved_host: str | None, allow_loopback: bool) -> Target:
    match = _URL.fullmatch(url) if _PRINTABLE.fullmatch(url) else None
    authority = _AUTHORITY.fullmatch(match[2]) if match else None
    if match is None or authority is None:
        raise _refused("it is not a plain https address")
    scheme, name = match[1].lower(), authority[1].lower().strip("[]")
    port = int(authority[2] or _DEFAULT_PORTS[scheme])
    path = match[3] or "/"
    found = Target(scheme=scheme, name=name, port=port, path=path if path[0] == "/" else f"/{path}")
    if not allow_loopback:
        _check_public(found, approved_host)
    return found


_checked_before = lru_cache(1024)(_checked)


def _check_public(found: Target, approved_host: str | None) -> None:
    if found.scheme != "https":
        raise _refused("it is not https")
    if _is_number(found.name):
        raise _refused("its host is a number, not a name")
    if not _HOST_NAME.fullmatch(found.name) or "." not in found.name:
        raise _refused("its host is not a host name")
    if found.port != 443 and found.host != approved_host:
        raise _refused(f"port {found.port} was not approved")


def _is_number(name: str) -> bool:
    """IPv4 and IPv6 in every spelling that some resolver takes: 0x7f000001, 2130706433, 127.1."""
    last = name.rpartition(".")[2]
    return ":" in name or last.isdigit() or re.fullmatch(r"0x[0-9a-f]*", last) is not None


def _refused(why: str) -> ConfigurationError:
    return ConfigurationError(f"the token endpoint is refused: {why}", code="bad_endpoint")


def is_public(address: str) -> bool:
    """A global unicast address, also when it wraps another one (mapped, 6to4, Teredo, NAT64)."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        inner = ip.ipv4_mapped or ip.sixtofour or (ip.teredo and ip.teredo[1])
        if ip in _NAT64:
            inner = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
        if inner:
            return False if ip.teredo else is_public(str(inner))
    return ip.is_global and not ip.is_multicast and not ip.is_reserved


_NAT64 = ipaddress.ip_network("64:ff9b::/96")


class SystemResolver:
    """Addresses by the system's resolver, in its order; of one event loop.

    A name server that hangs holds a thread per name, not one per request: whoever asks for the
    same name meanwhile waits for the same answer. Nothing is remembered afterwards.
    """

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(RESOLVER_THREADS, thread_name_prefix="resolver")
        self._asked: dict[tuple[str, int], asyncio.Future[Addresses]] = {}

    async def __call__(self, name: str, port: int) -> Addresses:
        """Raises: OSError."""
        key = (name, port)
        if key not in self._asked:
            loop = asyncio.get_running_loop()
            self._asked[key] = loop.run_in_executor(self._threads, _system_addresses, name, port)
            self._asked[key].add_done_callback(lambda future: self._answered(key, future))
        return await asyncio.shield(self._asked[key])  # one waiter's time-out is not the others'

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _answered(self, key: tuple[str, int], future: asyncio.Future[Addresses]) -> None:
        del self._asked[key]
        if not future.cancelled():
            future.exception()  # seen, even where every waiter has gone


def _system_addresses(name: str, port: int) -> Addresses:
    found = socket.getaddrinfo(name, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


def check_addresses(addresses: Sequence[str], *, allow_loopback: bool) -> None:
    """One private answer among public ones condemns them all: an attacker would retry until
    the private one comes first. Raises: ConfigurationError."""
    if not addresses or not (allow_loopback or all(map(is_public, addresses))):
        raise _refused("its name leads to an address that is not public")
