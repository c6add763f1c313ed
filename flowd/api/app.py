"""The router's HTTP side: which handler answers what, and the serving itself.

Each request gets an id, and exactly one answer that has it; each error becomes a problem here and
nowhere else. Handlers know no routes, no metrics and no log of refusals. The routes are few and
fixed, so that finding one is a look into a dictionary.
"""

import asyncio
import itertools
import secrets
import socket
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Final, NamedTuple, cast

from aiohttp import web

from flowd.api.answers import Answers
from flowd.api.connection import Connection, ConnectionServer, Phase
from flowd.api.in_flight import ByteBudget, QueryBudget
from flowd.api.ingest import Ingest
from flowd.api.problems import (
    CONTENT_TYPE,
    HANDLER_TIMEOUT,
    INTERNAL,
    MALFORMED_REQUEST,
    METHOD_NOT_ALLOWED,
    NOT_FOUND,
    REQUEST_TIMEOUT,
    Problem,
    internal_problem,
    problem_of,
    retry_after,
)
from flowd.api.refusal_log import RefusalLog
from flowd.api.responses import Exchange, WholeResponse
from flowd.config import Config
from flowd.data_directory import Identity
from flowd.errors import FlowdError
from flowd.kernel.interface import Kernel
from flowd.logs import get_logger
from flowd.metrics import CONTENT_TYPE as METRICS_CONTENT_TYPE
from flowd.metrics import RouterMetrics
from flowd.router import Backend

DRAIN_SECONDS: Final = 25.0
"""How long requests in hand may take after the word to stop; the supervisor waits for 30."""

BACKLOG: Final = 1_024
FLOWS_PATTERNS: Final = ("/flows", "/fas/flows")
"""Where flows come and go; the second is the original service's path."""

UNROUTED: Final = "unrouted"
"""The metrics' word for requests that match no route."""

Handler = Callable[[Exchange], Awaitable[web.StreamResponse]]

log = get_logger()


class Route(NamedTuple):
    """A path and what it takes.

    pattern: its name in metrics and log.
    handlers: method → handler; HEAD is answered by GET's.
    """

    pattern: str
    handlers: Mapping[str, Handler]


class Api:
    """All of HTTP that is not a connection's business.

    Args:
        config: the whole flowd's.
        kernel: the data plane.
        backend: the shards.
        identity: how many they are, and the seed.
        metrics: this router's.
        scrape: makes the text of all processes' metrics.
    """

    def __init__(
        self,
        *,
        config: Config,
        kernel: Kernel,
        backend: Backend,
        identity: Identity,
        metrics: RouterMetrics,
        scrape: Callable[[], Awaitable[str]],
    ) -> None:
        limits = config.limits
        budget = ByteBudget(_share(limits.in_flight_bytes, config))
        query_budget = QueryBudget(_share(limits.queries, config))
        metrics.in_flight_bytes.set_function(lambda: budget.held)
        metrics.in_flight_queries.set_function(lambda: query_budget.held)
        self._backend = backend
        self._metrics = metrics
        self._scrape = scrape
        self._refusals = RefusalLog()
        self._prefix = secrets.token_hex(4)
        self._numbers = itertools.count(1)
        ingest = Ingest(
            limits=limits,
            kernel=kernel,
            backend=backend,
            shard_count=identity.shards,
            seed=identity.seed_number,
            budget=budget,
            metrics=metrics,
        )
        answers = Answers(backend, query_budget)
        flows: dict[str, Handler] = {
            "GET": answers.get_flows,
            "HEAD": answers.get_flows,
            "POST": ingest.post_flows,
        }
        self._routes = {
            route.pattern: route
            for route in (
                *(Route(pattern, flows) for pattern in FLOWS_PATTERNS),
                _reading_route("/hours", answers.get_hours),
                _reading_route("/metrics", self._get_metrics),
                _reading_route("/-/healthy", self._get_healthy),
                _reading_route("/-/ready", self._get_ready),
            )
        }

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer one request; never raises but for a task that somebody else cancels."""
        start = time.perf_counter()
        exchange = self._exchange(request)
        connection = exchange.connection
        connection.enter(Phase.HANDLER)
        # The target as sent is the path, when it has neither query nor escapes.
        route = self._routes.get(request.raw_path) or self._routes.get(request.rel_url.path)
        pattern = UNROUTED if route is None else route.pattern
        try:
            response: web.StreamResponse = await _handler(route, request.method)(exchange)
        except Problem as problem:
            response = self._refuse(exchange, problem, pattern)
        except FlowdError as error:
            response = self._refuse_error(exchange, error, pattern)
        except ConnectionError:
            # Nobody is there to read it; aiohttp finds that out when it sends this.
            response = WholeResponse(exchange, 400, close=True)
        except asyncio.CancelledError:
            phase = connection.phase
            if not connection.take_expiry():
                raise
            response = self._refuse(exchange, _timeout_problem(phase), pattern)
        except Exception:
            log.exception("fault", request_id=exchange.request_id, route=pattern)
            response = self._refuse(exchange, internal_problem(), pattern)
        seconds = time.perf_counter() - start
        self._metrics.request_seconds(pattern, request.method, response.status).observe(seconds)
        return response

    def answer_malformed(self, request: web.BaseRequest, message: str) -> web.StreamResponse:
        """Answer what is not HTTP."""
        exchange = self._exchange(request)
        detail = f"not well-formed HTTP: {message.splitlines()[0] if message else ''}"
        problem = Problem(MALFORMED_REQUEST, detail, reason="malformed", close=True)
        log.debug("malformed", request_id=exchange.request_id, detail=detail)
        self._metrics.request_seconds(UNROUTED, "other", problem.status).observe(0.0)
        return _problem_response(exchange, problem)

    def _exchange(self, request: web.BaseRequest) -> Exchange:
        request_id = f"{self._prefix}-{next(self._numbers):x}"
        return Exchange(request, cast(Connection, request.protocol), request_id)

    def _refuse(self, exchange: Exchange, problem: Problem, pattern: str) -> WholeResponse:
        self._refusals.write(problem, exchange.request_id, pattern)
        if exchange.request.method == "POST" and pattern in FLOWS_PATTERNS:
            self._metrics.refused(problem.reason).inc()
        return _problem_response(exchange, problem)

    def _refuse_error(self, exchange: Exchange, error: FlowdError, pattern: str) -> WholeResponse:
        problem = problem_of(error, keyed=exchange.keyed)
        if problem.kind is INTERNAL:
            log.error("fault", request_id=exchange.request_id, route=pattern, exc_info=error)
        return self._refuse(exchange, problem, pattern)

    async def _get_metrics(self, exchange: Exchange) -> WholeResponse:
        text = await self._scrape()
        return WholeResponse(exchange, 200, text.encode(), METRICS_CONTENT_TYPE)

    async def _get_healthy(self, exchange: Exchange) -> WholeResponse:
        return WholeResponse(exchange, 200, b"ok\n", "text/plain; charset=utf-8")

    async def _get_ready(self, exchange: Exchange) -> WholeResponse:
        ready, total = self._backend.shards_ready, self._backend.shards_total
        status = 200 if ready == total else 503
        body = f"{ready} of {total} shards are ready\n".encode()
        return WholeResponse(exchange, status, body, "text/plain; charset=utf-8")


async def serve_http(
    *,
    config: Config,
    kernel: Kernel,
    backend: Backend,
    identity: Identity,
    metrics: RouterMetrics,
    listen_socket: socket.socket,
    scrape: Callable[[], Awaitable[str]],
    stop: asyncio.Event,
) -> None:
    """Serve HTTP until told to stop, then finish the requests in hand.

    Args:
        config: the whole flowd's.
        kernel: the data plane.
        backend: the shards; closing it is the caller's.
        identity: how many they are, and the seed.
        metrics: this router's.
        listen_socket: bound; all routers accept from it.
        scrape: makes the text of all processes' metrics.
        stop: when set, no more connections are accepted; returns when the requests in hand are
            answered, or after DRAIN_SECONDS.
    """
    api = Api(
        config=config,
        kernel=kernel,
        backend=backend,
        identity=identity,
        metrics=metrics,
        scrape=scrape,
    )
    connections = ConnectionServer(
        api.handle,
        on_malformed=api.answer_malformed,
        on_refused=metrics.refused("connections").inc,
        limits=config.limits,
        connections_max=_share(config.limits.connections, config),
    )
    metrics.connections.set_function(lambda: connections.count)
    loop = asyncio.get_running_loop()
    server = await loop.create_server(connections, sock=listen_socket, backlog=BACKLOG)
    watching = asyncio.create_task(connections.watch())
    try:
        await stop.wait()
        server.close()
        await connections.drain(DRAIN_SECONDS)
    finally:
        watching.cancel()
        server.close()


def _reading_route(pattern: str, handler: Handler) -> Route:
    return Route(pattern, {"GET": handler, "HEAD": handler})


def _handler(route: Route | None, method: str) -> Handler:
    if route is None:
        raise Problem(
            NOT_FOUND,
            "flowd has /flows, /fas/flows, /hours, /metrics, /-/healthy and /-/ready",
            reason="path",
        )
    handler = route.handlers.get(method)
    if handler is None:
        allow = ", ".join(route.handlers)
        raise Problem(
            METHOD_NOT_ALLOWED,
            f"{route.pattern} takes {allow}",
            reason="method",
            headers=(("Allow", allow),),
        )
    return handler


def _timeout_problem(phase: Phase) -> Problem:
    if phase is Phase.BODY:
        return Problem(
            REQUEST_TIMEOUT,
            "the body did not arrive within limits.body_seconds",
            reason="timeout",
            close=True,
        )
    return Problem(
        HANDLER_TIMEOUT,
        "no answer within limits.handler_seconds; try again",
        reason="timeout",
        headers=retry_after(),
    )


def _problem_response(exchange: Exchange, problem: Problem) -> WholeResponse:
    return WholeResponse(
        exchange,
        problem.status,
        problem.encode(exchange.request_id),
        CONTENT_TYPE,
        problem.headers,
        problem.close,
    )


def _share(limit: int, config: Config) -> int:
    """Give a router's part of a limit of the whole."""
    return max(1, limit // config.routers)
