"""The OpenAPI document, and Swagger UI out of an installed package: nothing is loaded from elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import flask_openapi3_swagger  # type: ignore[import-untyped]  # only its files are used
from flask import Blueprint, Response, current_app, send_from_directory

from api.documents import DocumentedApp
from api.services import services

ASSETS = Path(flask_openapi3_swagger.__file__).parent / "templates" / "swagger"

PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<title>SmartTextGen API</title>
<link rel="icon" href="/apidocs/images/swagger.svg">
<link rel="stylesheet" href="/apidocs/css/swagger-ui.css">
</head>
<body>
<div id="swagger-ui"></div>
<script src="/apidocs/js/swagger-ui-bundle.js"></script>
<script src="/apidocs/start.js"></script>
</body>
</html>
"""

START = """SwaggerUIBundle({
  url: "/openapi.json",
  dom_id: "#swagger-ui",
  deepLinking: true,
  // The default is a badge from a public server, which would be told our document's address.
  validatorUrl: null,
});
"""

POLICY = {
    "default-src": "'none'",
    "script-src": "'self'",
    "style-src": "'self' 'unsafe-inline'",  # Swagger UI sets style attributes
    "img-src": "'self' data:",
    "connect-src": "'self'",
    "frame-ancestors": "'none'",
}

blueprint = Blueprint("docs", __name__)


@blueprint.get("/openapi.json")
def openapi_json() -> Response:
    app = cast("DocumentedApp", current_app)
    fleet = services().fleet
    return Response(app.document(fleet.names(), fleet.adapters()), mimetype="application/json")


@blueprint.get("/apidocs")
def apidocs() -> Response:
    return Response(PAGE, mimetype="text/html")


@blueprint.get("/apidocs/start.js")
def start() -> Response:
    return Response(START, mimetype="text/javascript")


@blueprint.get("/apidocs/<any(css, js, images):kind>/<name>")
def asset(kind: str, name: str) -> Response:
    return send_from_directory(ASSETS / kind, name, max_age=86_400)
