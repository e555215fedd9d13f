"""Celery's configuration for Flower, which runs without an app of ours: the broker's keys have the deployment's prefix.

``celery --config smarttextgen.launcher.flower_config flower`` reads it. The rule is that of ``shared.queue``, which this
package does not import; a test compares the two.
"""

from __future__ import annotations

import os

broker_transport_options = {
    "global_keyprefix": "{" + os.environ.get("REDIS_PREFIX", "stg") + "}:celery:",
    "socket_keepalive": True,
    "health_check_interval": 10,
    # Through sentinels, CELERY_BROKER_URL is sentinel://:password@host:port/0;sentinel://…
    "master_name": os.environ.get("REDIS_SENTINEL_MASTER") or "mymaster",
    "sentinel_kwargs": {"password": os.environ.get("REDIS_SENTINEL_PASSWORD")},
}
broker_connection_max_retries = None
accept_content = ["json"]
