"""One attempt over HTTP: to an address that was looked at, without redirects, proxies, or more patience than allowed."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor

import httpcore
import httpx

from shared.addresses import Guard, RefusedUrlError, Target
from worker.courier.schedule import Answer

USER_AGENT = "SmartTextGen-Webhooks/1 (+https://www.standardwebhooks.com)"
MOST_READ = 64 * 1024
"""Bytes of an answer's body that are read; only its status counts, the rest is for a receiver that writes before it
closes."""
MOST_ADDRESSES = 4
RESOLVERS = 64


class Sender:
    """Sends bodies. ``timeout_s`` bounds an attempt in all: name, connection, request, answer."""

    def __init__(self, guard: Guard, timeout_s: float) -> None:
        self._guard = guard
        self._timeout_s = timeout_s
        self._tls = httpx.create_ssl_context()  # certifi's roots, or SSL_CERT_FILE's
        self._resolvers = ThreadPoolExecutor(RESOLVERS, "resolve")  # a name that takes its time holds up nobody else

    def close(self) -> None:
        self._resolvers.shutdown(wait=False, cancel_futures=True)

    async def send(self, url: str, body: bytes, headers: Mapping[str, str]) -> Answer:
        """POST it. Raises nothing but CancelledError: whatever goes wrong is an answer with an error."""
        try:
            async with asyncio.timeout(self._timeout_s):
                return await self._send(self._guard.parse(url), body, headers)
        except TimeoutError:
            return Answer(error=f"No answer within {self._timeout_s:g} s.")
        except (
            RefusedUrlError, socket.gaierror, httpcore.NetworkError, httpcore.TimeoutException, httpcore.ProtocolError,
        ) as error:  # fmt: skip
            return Answer(error=_said(error))

    async def _send(self, target: Target, body: bytes, headers: Mapping[str, str]) -> Answer:
        backend = _CheckedBackend(self._guard, target, self._resolvers, self._timeout_s)
        origin = httpcore.Origin(target.scheme.encode(), target.host.encode(), target.port)
        request = httpcore.Request(
            "POST",
            httpcore.URL(scheme=origin.scheme, host=origin.host, port=origin.port, target=target.path.encode()),
            headers=[
                ("Host", target.authority),
                ("Content-Type", "application/json"),
                ("Content-Length", str(len(body))),
                ("User-Agent", USER_AGENT),
                ("Connection", "close"),
                *headers.items(),
            ],
            content=body,
        )
        connection = httpcore.AsyncHTTPConnection(origin, ssl_context=self._tls, network_backend=backend)
        try:
            response = await connection.handle_async_request(request)
            await _drain(response)
        finally:
            await connection.aclose()
        retry_after = _header(response, b"retry-after")
        return Answer(response.status, retry_after=retry_after.decode("latin-1") if retry_after else None)


def _header(response: httpcore.Response, name: bytes) -> bytes | None:
    return next((value for each, value in response.headers if each.lower() == name), None)


async def _drain(response: httpcore.Response) -> None:
    """Read a little of the body. The status is known: what happens to the rest changes nothing."""
    read = 0
    try:
        async for part in response.aiter_stream():
            read += len(part)
            if read > MOST_READ:
                return
    except (httpcore.NetworkError, httpcore.ProtocolError, httpcore.TimeoutException):
        return


class _CheckedBackend(httpcore.AsyncNetworkBackend):
    """Connects to the target's addresses once they were looked at. TLS is then begun with the name, as ever."""

    def __init__(self, guard: Guard, target: Target, resolvers: ThreadPoolExecutor, timeout_s: float) -> None:
        self._guard = guard
        self._target = target
        self._resolvers = resolvers
        self._timeout_s = timeout_s
        self._plain = httpcore.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,  # noqa: ARG002  # the target's
        port: int,
        timeout: float | None = None,  # noqa: ARG002, ASYNC109  # httpcore's signature; the whole attempt is bounded
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        addresses = self._guard.permit(self._target, await self._resolve())[:MOST_ADDRESSES]
        problem: Exception | None = None
        for address in addresses:
            try:
                return await self._plain.connect_tcp(
                    str(address), port, self._timeout_s / len(addresses), local_address, socket_options
                )
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                problem = error
        assert problem is not None
        raise problem

    async def _resolve(self) -> list[str]:
        if self._target.address is not None:
            return [self._target.host]
        loop = asyncio.get_running_loop()
        try:
            found = await loop.run_in_executor(self._resolvers, _addresses_of, self._target.host, self._target.port)
        except UnicodeError as error:  # a label over 63 characters
            raise socket.gaierror(str(error)) from error
        return list(dict.fromkeys(found))


def _addresses_of(host: str, port: int) -> list[str]:
    return [str(entry[4][0]) for entry in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]


def _said(error: Exception) -> str:
    """What went wrong, in a sentence that tells nothing of where a name leads."""
    match error:
        case RefusedUrlError():
            return f"Not called: {error}."
        case socket.gaierror():
            return "The host's name does not resolve."
        case httpcore.ConnectError() | httpcore.ConnectTimeout():
            return _no_connection(error)
        case httpcore.ProtocolError():
            return "The connection ended without an HTTP answer."
    return "The connection broke."


def _no_connection(error: Exception) -> str:
    cause: BaseException | None = error
    while cause is not None:
        match cause:
            case ssl.SSLCertVerificationError():
                return f"TLS: {cause.verify_message}."
            case ssl.SSLError():
                return "TLS: the handshake failed."
            case ConnectionRefusedError():
                return "The connection was refused."
        cause = cause.__cause__ or cause.__context__
    return "No connection."
