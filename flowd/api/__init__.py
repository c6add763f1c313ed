"""HTTP: requests in, answers out; the only place that knows statuses.

`app` routes and serves. `connection` bounds what a client costs; `body`, `decoding`, `headers` and
`in_flight` read what it sends; `ingest` and `answers` do what it asks; `responses` and `problems`
say it; `refusal_log` tells the operator.
"""

from flowd.api.app import serve_http

__all__ = ["serve_http"]
