"""Seals tokens and secrets, opens them again, and keeps the keys that do so.

AES-256-GCM of `cryptography`; a random data key per grant and kind, wrapped by the keyring. Only
ciphers, keys, their files and the service that wraps them come in here: no database, and what is
needed of the environment is handed in.
"""

from worker.vault.aes import AesVault
from worker.vault.keyring import Keyring, KeyState, Purpose
from worker.vault.source import KeyringSource
from worker.vault.tenants import OF_A_TENANT, TenantVaults

__all__ = [
    "OF_A_TENANT",
    "AesVault",
    "KeyState",
    "Keyring",
    "KeyringSource",
    "Purpose",
    "TenantVaults",
]
