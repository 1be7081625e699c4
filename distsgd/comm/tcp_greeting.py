"""The greeting of a connection between nodes: each side proves that it knows the run's secret.

    client → server    HELLO: magic, the client's nonce, P, the length of the introduction; then the introduction, JSON
    server → client    the server's nonce, and its proof
    client → server    the client's proof
    server → client    magic

A proof is HMAC-SHA256 (RFC 2104) over the prover's role, the run, the server's node and all that was said before, so
that it is worth nothing on another connection, for the other role or in another run. Nothing of a stranger's is parsed
but sizes, and sizes are limited. Without TLS, a greeting proves how a connection began and no more: see
docs/security.md.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import secrets
import struct
from dataclasses import asdict, dataclass, field

MAGIC = b"distsgd3"
HELLO = struct.Struct("<8s32sqH")
NONCE_BYTES = PROOF_BYTES = 32

MAX_WEIGHT = 2**16
"""Most workers that a peer may claim to have."""

INTRODUCTION_BYTES = 1024
"""Maximum length of an introduction, in bytes."""


class GreetingError(ValueError):
    """The other side is not part of this run."""


@dataclass(frozen=True)
class Secret:
    """What only the processes of a run know; it travels between them through Ray alone."""

    run: str
    """A random name of the run, which is no secret."""

    key: bytes = field(repr=False)

    @classmethod
    def new(cls) -> Secret:
        """Return the secret of a new run."""
        return cls(secrets.token_hex(8), secrets.token_bytes(32))

    def proof(self, role: str, server: str, said: bytes) -> bytes:
        """Return the proof of a side, `client` or `server`; `said` is what went over the connection before."""
        fields = (role.encode(), self.run.encode(), server.encode(), said)
        message = b"".join(struct.pack("<q", len(part)) + part for part in fields)
        return hmac.digest(self.key, message, hashlib.sha256)


@dataclass(frozen=True)
class Introduction:
    """Who connects, and as what: as a peer (see transport.Peer), or as a member of a view (see comm.mesh)."""

    name: str
    host: str
    pid: int
    weight: int
    view: int = 0
    """The number of the view; 0 for a peer."""
    member: int = 0

    def encode(self) -> bytes:
        """Return the introduction as a message."""
        return json.dumps(asdict(self)).encode()

    @classmethod
    def decode(cls, message: bytes) -> Introduction:
        """Parse an introduction; raise GreetingError if it is none."""
        try:
            found = cls(**json.loads(message))
        except (TypeError, ValueError, RecursionError):
            raise GreetingError("the introduction cannot be read") from None
        numbers = (found.pid, found.weight, found.view, found.member)
        kinds = {type(number) for number in numbers}
        if (type(found.name), type(found.host), kinds) != (str, str, {int}) or min(numbers) < 0:
            raise GreetingError("the introduction has a field of the wrong type")
        if not 1 <= found.weight <= MAX_WEIGHT:
            raise GreetingError("the introduction has a field of the wrong type")
        return found


class ServerGreeting:
    """The server's side of one greeting: it is given what arrives, and returns what to send.

    `needed` is the number of bytes that `take` expects next. `introduction` is set once the other side has proved that
    it knows the secret.
    """

    def __init__(self, secret: Secret, server: str, parameters: int) -> None:
        self._secret, self._server, self._parameters = secret, server, parameters
        self._said = b""
        self._next = self._take_hello
        self._introduction = b""
        self.needed = HELLO.size
        self.introduction: Introduction | None = None

    def take(self, received: bytes) -> bytes:
        """Return the answer to the `needed` bytes that have arrived. Raise GreetingError if they are not right."""
        return self._next(received)

    def _take_hello(self, received: bytes) -> bytes:
        magic, _, parameters, length = HELLO.unpack(received)
        if magic != MAGIC:
            raise GreetingError("the other side does not greet as a process of this version of distsgd does")
        if parameters != self._parameters:
            raise GreetingError(f"the other side has a net of {parameters} parameters, not {self._parameters}")
        if not 0 < length <= INTRODUCTION_BYTES:
            raise GreetingError(f"an introduction has at most {INTRODUCTION_BYTES} bytes, not {length}")
        self._said, self.needed, self._next = received, length, self._take_introduction
        return b""

    def _take_introduction(self, received: bytes) -> bytes:
        nonce = secrets.token_bytes(NONCE_BYTES)
        self._introduction = received
        self._said += received + nonce
        self.needed, self._next = PROOF_BYTES, self._take_proof
        return nonce + self._secret.proof("server", self._server, self._said)

    def _take_proof(self, received: bytes) -> bytes:
        if not hmac.compare_digest(received, self._secret.proof("client", self._server, self._said)):
            raise GreetingError("the other side does not know the secret of this run")
        self.introduction, self.needed = Introduction.decode(self._introduction), 0
        return MAGIC


class ClientGreeting:
    """The client's side of one greeting."""

    def __init__(self, secret: Secret, server: str, parameters: int, introduction: Introduction) -> None:
        """`server` is the node that the client means to talk to; `parameters` is P."""
        self._secret, self._server = secret, server
        text = introduction.encode()
        self.hello = HELLO.pack(MAGIC, secrets.token_bytes(NONCE_BYTES), parameters, len(text)) + text
        """The first message."""

    def proof(self, challenge: bytes) -> bytes:
        """Return the client's proof. Raise GreetingError if the server's, in the challenge, is wrong."""
        said = self.hello + challenge[:NONCE_BYTES]
        if not hmac.compare_digest(challenge[NONCE_BYTES:], self._secret.proof("server", self._server, said)):
            raise GreetingError("the process that listens there does not know the secret of this run")
        return self._secret.proof("client", self._server, said)
