"""Headers for browsers: what pages may do with our answers, and which other origins may call."""

from __future__ import annotations

from flask import Flask
from flask_cors import CORS
from flask_talisman import Talisman  # type: ignore[import-untyped]  # ships no types

from api.routes import console, docs

POLICY = {"default-src": "'none'", "frame-ancestors": "'none'"}

EXPOSED = [
    "ETag", "Idempotent-Replayed", "Location", "Preference-Applied", "RateLimit", "RateLimit-Policy", "Retry-After",
    "X-Batch-Status", "X-Next-Cursor", "X-Request-Id", "traceparent", "x-ratelimit-limit-requests", "x-ratelimit-remaining-requests", "x-ratelimit-reset-requests",
]  # fmt: skip
ACCEPTED = [
    "Authorization", "Content-Type", "Idempotency-Key", "If-None-Match", "Last-Event-ID", "Prefer", "X-API-Key", "X-Request-Id",
    "traceparent",
]  # fmt: skip


def register_security(app: Flask, cors_origins: tuple[str, ...]) -> None:
    """No HTTPS redirect: TLS ends in front of us, and a health check speaks plain HTTP. CORS only for the origins given."""
    talisman = Talisman(
        app,
        force_https=False,
        strict_transport_security_include_subdomains=False,
        session_cookie_secure=False,
        content_security_policy=POLICY,
        frame_options="DENY",
        referrer_policy="no-referrer",
    )
    for endpoint, policy in (
        ("docs.apidocs", docs.POLICY),
        ("console.page", console.POLICY),
        ("console.asset", console.POLICY),
    ):
        app.view_functions[endpoint] = talisman(content_security_policy=policy)(app.view_functions[endpoint])
    if cors_origins:
        CORS(
            app,
            resources={r"/(api|openapi\.json|health|livez|readyz).*": {"origins": list(cors_origins)}},
            allow_headers=ACCEPTED,
            expose_headers=EXPOSED,
            methods=["GET", "POST", "PUT", "PATCH", "DELETE"],
            max_age=600,
        )
