"""What gunicorn loads: one app a process."""

from __future__ import annotations

from api.app import build_app

app = build_app()
