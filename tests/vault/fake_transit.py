"""As much of Vault's transit engine as wraps a keyring, on loopback, with real encryption.

It behaves as documented: base64 in and out, `batch_results` in order, one bad item makes the whole
answer a 400, `vault:vN:` before each ciphertext, errors as {"errors": […]}, 503 while sealed.
Source: https://developer.hashicorp.com/vault/api-docs/secret/transit
"""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

TOKEN = "hvs.made-up-token"


@dataclass
class FakeTransit:
    versions: list[bytes] = field(default_factory=lambda: [AESGCM.generate_key(256)])
    name: str = "evergrant"
    namespace: str | None = None
    sealed: bool = False
    answers: tuple[int, bytes] | None = None  # whatever is asked
    asked: list[tuple[str, int]] = field(default_factory=list)  # (verb, items)
    port: int = 0

    def address(self, file: object) -> str:
        return f"vault+http://127.0.0.1:{self.port}/transit/{self.name}#{file}"

    def rotate(self) -> None:
        self.versions.append(AESGCM.generate_key(256))

    def answer(self, path: str, headers: Any, body: bytes) -> tuple[int, bytes]:
        if self.answers:
            return self.answers
        if self.sealed:
            return _errors(503, "Vault is sealed")
        if headers["X-Vault-Token"] != TOKEN or headers["X-Vault-Namespace"] != self.namespace:
            return _errors(403, "permission denied")
        _, version, mount, verb, name = path.split("/")
        if (version, mount, name) != ("v1", "transit", self.name):
            return _errors(404)
        items = json.loads(body)["batch_input"]
        self.asked.append((verb, len(items)))
        results = [self._one(verb, item) for item in items]
        status = 400 if any("error" in one for one in results) else 200
        return status, json.dumps({"data": {"batch_results": results}}).encode()

    def _one(self, verb: str, item: dict[str, str]) -> dict[str, Any]:
        if verb == "encrypt":
            nonce = os.urandom(12)
            plain = base64.b64decode(item["plaintext"], validate=True)
            body = nonce + AESGCM(self.versions[-1]).encrypt(nonce, plain, None)
            number = len(self.versions)
            told = f"vault:v{number}:{base64.b64encode(body).decode()}"
            return {"ciphertext": told, "key_version": number}
        _, version, told = item["ciphertext"].split(":")
        body = base64.b64decode(told)
        try:
            key = self.versions[int(version[1:]) - 1]
            plain = AESGCM(key).decrypt(body[:12], body[12:], None)
        except (InvalidTag, IndexError):
            return {"error": "cipher: message authentication failed"}
        return {"plaintext": base64.b64encode(plain).decode()}


def _errors(status: int, *errors: str) -> tuple[int, bytes]:
    return status, json.dumps({"errors": errors}).encode()


@contextmanager
def fake_transit() -> Iterator[FakeTransit]:
    fake = FakeTransit()

    class Door(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            status, answer = fake.answer(self.path, self.headers, body)
            self.send_response(status)
            self.send_header("content-length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Door)
    fake.port = server.server_port
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield fake
    finally:
        server.shutdown()
        server.server_close()
