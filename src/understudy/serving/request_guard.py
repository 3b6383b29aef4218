"""Who may change something: the token, and no web page of somebody else."""

from __future__ import annotations

import hmac
import ipaddress

from starlette.datastructures import Headers

from understudy.serving.bodies import Scope
from understudy.serving.request_errors import NotAllowed, NoToken, UnsupportedMediaType


def check_allowed(scope: Scope, token: str | None) -> None:
    """Refuse a request that changes something, or shows images, where it may not.

    With a token, the request has it as `Authorization: Bearer TOKEN`. Without one, a server that
    listens on this machine alone is asked by the names of this machine alone: the name of a web
    page could point to it, and the page then read and change what it likes (DNS rebinding).

    Args:
        scope: of the request.
        token: of the server, or None.

    Raises:
        NoToken: no token, or another.
        NotAllowed: a name of somebody else.
    """
    headers = Headers(scope=scope)
    if token is not None:
        scheme, _, given = headers.get("authorization", "").partition(" ")
        same = hmac.compare_digest(given.strip().encode("utf-8", "replace"), token.encode())
        if scheme.lower() != "bearer" or not same:
            raise NoToken(
                "this needs the token of the server, found "
                f"{'another' if given else 'none'}: send the header Authorization: Bearer TOKEN"
            )
        return
    server = scope.get("server")
    if server is not None and is_loopback(str(server[0])):
        host = host_in(headers.get("host", ""))
        if not is_loopback(host):
            raise NotAllowed(
                f"a server without a token is asked this from its own machine, found the host "
                f"{host!r:.80}: use localhost, or start the server with a token"
            )


def check_json(scope: Scope) -> None:
    """Refuse a body that is not said to be JSON.

    A web page may not send that to another server without its browser asking the server first.

    Raises:
        UnsupportedMediaType: another type, or none.
    """
    kind = Headers(scope=scope).get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise UnsupportedMediaType(
            f"the body has the Content-Type application/json, found {kind!r:.80}: add the header"
        )


def host_in(header: str) -> str:
    """The name or address in a Host header, without the port.

    >>> host_in("localhost:8000"), host_in("[::1]:80"), host_in("127.0.0.1")
    ('localhost', '::1', '127.0.0.1')
    """
    if header.startswith("["):
        return header[1:].partition("]")[0]
    return header.rpartition(":")[0] if header.count(":") == 1 else header


def is_loopback(host: str) -> bool:
    """Whether a name or address is that of this machine for itself.

    >>> is_loopback("localhost"), is_loopback("127.0.0.9"), is_loopback("::1")
    (True, True, True)
    >>> is_loopback("example.com"), is_loopback("0.0.0.0"), is_loopback("localhost.example.com")
    (False, False, False)
    """
    if host.lower().rstrip(".") == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
