"""NATS's decentralised authentication in small: an operator, one account, and users that it signs."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import time
from dataclasses import dataclass, field
from typing import Any

import nkeys

UNLIMITED = dict.fromkeys(("subs", "data", "payload", "imports", "exports", "conn", "leaf"), -1) | {
    "wildcards": True
}


@dataclass(frozen=True)
class Key:
    """An nkey of one of NATS's kinds."""

    prefix: int
    seed: bytes = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "seed", nkeys.encode_seed(os.urandom(32), self.prefix))

    @property
    def public(self) -> str:
        public: bytes = nkeys.from_seed(bytearray(self.seed)).public_key
        return public.decode()

    def sign(self, subject: Key, name: str, nats: dict[str, Any], expires: float | None = None) -> str:
        """A JWT (version 2) about ``subject``."""
        claims = {
            "iss": self.public,
            "sub": subject.public,
            "name": name,
            "iat": int(time.time()),
            "nats": {"version": 2, **nats},
        }
        if expires is not None:
            claims["exp"] = int(expires)
        digest = hashlib.new("sha512_256", json.dumps(claims).encode()).digest()
        claims["jti"] = base64.b32encode(digest).decode().rstrip("=")
        head = {"typ": "JWT", "alg": "ed25519-nkey"}
        signed = ".".join(b64(json.dumps(part).encode()) for part in (head, claims))
        signature: bytes = nkeys.from_seed(bytearray(self.seed)).sign(signed.encode())
        return f"{signed}.{b64(signature)}"


def b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


class Authority:
    """Signs for one operator and one account."""

    def __init__(self) -> None:
        self.operator = Key(nkeys.PREFIX_BYTE_OPERATOR)
        self.account = Key(nkeys.PREFIX_BYTE_ACCOUNT)
        # Once, as it has a time: a server does not reload another operator.
        self.signed_operator = self.operator.sign(self.operator, "operator", {"type": "operator"})

    def server_config(self, limits: dict[str, int] | None = None, *, revoke_all: bool = False) -> str:
        """Operator mode with a memory resolver; the account may have limits, or have revoked its users."""
        rights: dict[str, Any] = {"type": "account", "limits": {**UNLIMITED, **(limits or {})}}
        if revoke_all:
            rights["revocations"] = {"*": int(time.time()) + 60}
        account = self.operator.sign(self.account, "account", rights)
        return (
            f"operator: {self.signed_operator}\nresolver: MEMORY\n"
            f"resolver_preload: {{ {self.account.public}: {account} }}"
        )

    def creds(self, name: str, expires: float | None = None) -> str:
        """The content of a ``.creds`` file for a new user."""
        user = Key(nkeys.PREFIX_BYTE_USER)
        rights = {"type": "user", "pub": {}, "sub": {}, "subs": -1, "data": -1, "payload": -1}
        jwt = self.account.sign(user, name, rights, expires)
        return (
            f"-----BEGIN NATS USER JWT-----\n{jwt}\n------END NATS USER JWT------\n\n"
            f"-----BEGIN USER NKEY SEED-----\n{user.seed.decode()}\n------END USER NKEY SEED------\n"
        )
