"""The broker's side, on a real server that goes away."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress

import pytest
import redis
from celery import Celery

from shared.errors import StoreUnavailableError
from shared.job import JobRef, JobSpec
from shared.queue import make_celery, queue_name, send_hints
from shared.settings import load_settings
from shared.store.protocol import Hint, NewJob, Submission
from shared.store.redis import RedisStore
from tests.servers import RedisServer


@pytest.fixture
def celery(own_redis: RedisServer) -> Iterator[Celery]:
    """An app on a server of the test's own, which may be gone in the end."""
    app = make_celery(load_settings(redis_url=own_redis.url, redis_prefix="t", model_name="demo"))
    yield app
    app.close()


def test_nothing_is_kept_of_a_message_that_was_fetched(own_redis: RedisServer, celery: Celery) -> None:
    """The reconciler finds a hint that got lost; the broker's own way costs two transactions a job."""
    send_hints(celery, [Hint(JobRef("shop", "j1"), "demo")], prefix="t")
    with celery.connection_for_read() as connection:
        message = connection.default_channel.basic_get(queue_name("t", "demo"), no_ack=False)
        kept = redis.Redis.from_url(own_redis.url).keys("*unacked*")
        message.ack()
        connection.transport.cycle.maybe_restore_messages()
    assert kept == []


def test_a_consumer_closes_a_dead_connection_with_a_message_in_its_hands(
    own_redis: RedisServer, celery: Celery
) -> None:
    """kombu would put the message back, and an error that is no connection error would end the worker."""
    send_hints(celery, [Hint(JobRef("shop", "j1"), "demo")], prefix="t")
    connection = celery.connection_for_read()
    assert connection.default_channel.basic_get(queue_name("t", "demo"), no_ack=False) is not None
    own_redis.stop()
    ignored = (*connection.connection_errors, *connection.channel_errors)  # by Celery, when it closes
    connection._do_close_transport()  # as after its collect(), which gives up half-way where the server is gone
    with suppress(*ignored):
        connection.close()


REFUSALS = {
    "full": ("CONFIG", "SET", "maxmemory", "1"),
    "short of replicas": ("CONFIG", "SET", "min-replicas-to-write", "1"),
    "read-only": ("REPLICAOF", "127.0.0.1", "1"),
}


@pytest.mark.parametrize("kind", REFUSALS)
def test_a_redis_that_takes_no_writes_is_as_good_as_away(kind: str, own_redis: RedisServer, celery: Celery) -> None:
    """For the store; and for a consumer, which Celery would end over any error that it does not count as a lost connection."""
    client = redis.Redis.from_url(own_redis.url, decode_responses=True)
    store = RedisStore(client, "{t}:")
    client.execute_command(*REFUSALS[kind])
    spec = JobSpec(prompt="hello", mode="general", model="demo", max_length=20, temperature=0.0)
    with pytest.raises(StoreUnavailableError, match="no writes"):
        store.submit(Submission("shop", "key_1", (NewJob("j1", spec),)))
    with celery.connection_for_read() as connection:
        with pytest.raises(connection.connection_errors):
            connection.default_channel.client.sadd("a", "b")
        with pytest.raises(connection.connection_errors), connection.default_channel.client.pipeline() as pipeline:
            pipeline.sadd("a", "b").sadd("c", "d").execute()  # as kombu binds its queue
    client.close()
