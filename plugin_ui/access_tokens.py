"""Bearer tokens for programs: signed, short claims, ended by time or by a change of the password.

Pure: the secret, the user and the clock come in. It knows neither Flask nor MLflow.
"""

from __future__ import annotations

import hashlib
import time
from dataclasses import dataclass

import jwt

ISSUER = "mlflow-lmms"
SCOPE_ALL = "all"
LONGEST_DAYS = 365
_ALGORITHM = "HS256"
_DAY_S = 24 * 3600


@dataclass(frozen=True)
class TokenClaims:
    """What a valid token says: whose it is, and the fingerprint of the password that it was made under."""

    username: str
    fingerprint: str


def make_token(secret: str, claims: TokenClaims, days: int, now: float | None = None) -> tuple[str, float]:
    """Make a token for `days` days; returns it and the time (unix seconds) at which it ends."""
    issued = time.time() if now is None else now
    expires = issued + days * _DAY_S
    content = {
        "iss": ISSUER,
        "sub": claims.username,
        "iat": int(issued),
        "exp": int(expires),
        "scope": SCOPE_ALL,
        "fpr": claims.fingerprint,
    }
    return jwt.encode(content, _key(secret), _ALGORITHM), expires


def read_token(secret: str, token: str) -> TokenClaims | None:
    """The claims of a token that this server signed and that has not ended; None for any other text."""
    try:
        content = jwt.decode(
            token,
            _key(secret),
            algorithms=[_ALGORITHM],
            issuer=ISSUER,
            options={"require": ["sub", "exp", "scope", "fpr"]},
        )
    except jwt.InvalidTokenError:
        return None
    if content["scope"] != SCOPE_ALL:
        return None
    return TokenClaims(username=content["sub"], fingerprint=str(content["fpr"]))


def _key(secret: str) -> bytes:
    # Not the session's own key: whoever can make one kind of signature must not be able to make the other.
    return hashlib.sha256(b"mlflow-lmms bearer token\0" + secret.encode()).digest()
