"""The fake API's webhook endpoints."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from tests.smarttextgen.answers import Answer, error

DEFAULT_SECRET = "whsec_ZGVmYXVsdC1kZWZhdWx0LWRlZmF1bHQ="
NEW_SECRET = "whsec_bmV3LW5ldy1uZXctbmV3LW5ldy1uZXctbmV3"


@dataclass
class Webhooks:
    """The endpoint ``default`` is always there."""

    endpoints: dict[str, dict[str, Any]] = field(
        default_factory=lambda: {"default": {"id": "default", "url": None, "events": [], "status": "enabled"}}
    )
    deliveries: list[dict[str, Any]] = field(default_factory=list)
    made: int = 0

    def route(self, method: str, words: list[str], body: Any, query: dict[str, str]) -> Answer:
        match (method, *words):
            case ("GET",):
                return Answer(
                    200,
                    {
                        "data": [each for name, each in self.endpoints.items() if name != "default"],
                        "next_cursor": None,
                        "has_more": False,
                    },
                )
            case ("POST",):
                self.made += 1
                endpoint = {"id": f"we_{self.made}", "status": "enabled", "events": ["job.succeeded"], **body}
                self.endpoints[endpoint["id"]] = endpoint
                return Answer(201, {**endpoint, "secret": NEW_SECRET})
            case ("GET", "default", "secret"):
                return Answer(200, {"secret": DEFAULT_SECRET})
            case (_, endpoint_id, *rest) if endpoint_id in self.endpoints:
                return self.endpoint(method, self.endpoints[endpoint_id], rest, body, query)
        return Answer(404, error("not_found", "No such endpoint."))

    def endpoint(  # noqa: PLR0911  a table of routes
        self, method: str, endpoint: dict[str, Any], words: list[str], body: Any, query: dict[str, str]
    ) -> Answer:
        match (method, *words):
            case ("GET",):
                return Answer(200, endpoint)
            case ("PATCH",):
                endpoint.update(body)
                return Answer(200, endpoint)
            case ("DELETE",):
                del self.endpoints[endpoint["id"]]
                return Answer(204)
            case ("POST", "rotate_secret"):
                return Answer(200, {**endpoint, "secret": NEW_SECRET})
            case ("POST", "test") | ("POST", "deliveries", _, "redeliver"):
                delivery = {
                    "id": f"dlv_{len(self.deliveries) + 1}", "message_id": "msg_1", "endpoint_id": endpoint["id"],
                    "type": "job.succeeded", "status": "pending", "attempts": 0,
                }  # fmt: skip
                self.deliveries.append(delivery)
                return Answer(202, delivery)
            case ("GET", "deliveries"):
                own = [each for each in reversed(self.deliveries) if each["endpoint_id"] == endpoint["id"]]
                found = [each for each in own if query.get("status") in (None, each["status"])]
                return Answer(200, {"data": found, "next_cursor": None, "has_more": False})
        return Answer(404, error("not_found", "No such route."))
