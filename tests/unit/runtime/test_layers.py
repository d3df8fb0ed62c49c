"""Whether an exception of a consumer came from its channel layer."""

import asyncio
from functools import partial

import pytest
from channels.exceptions import ChannelFull
from channels.layers import get_channel_layer
from channels.utils import await_many_dispatch
from redis.exceptions import ConnectionError as NoRedis

from channels_admission.core.counters import CHANNELS_FULL, LAYER_FAILED
from channels_admission.runtime.layers import ended_by_layer

from demo.servers import free_port

KINDS = ["core.RedisChannelLayer", "pubsub.RedisPubSubChannelLayer"]


@pytest.fixture(params=KINDS)
def layer(request, settings):
    """One without its Redis."""
    hosts = [("127.0.0.1", free_port("127.0.0.1"))]
    settings.CHANNEL_LAYERS = {"default": {"BACKEND": f"channels_redis.{request.param}", "CONFIG": {"hosts": hosts}}}
    return get_channel_layer()


async def test_a_layer_that_fails(layer):
    try:
        await layer.group_send("room", {"type": "say"})
    except NoRedis:
        assert ended_by_layer() == LAYER_FAILED
    else:
        raise AssertionError("it has a Redis")


@pytest.mark.parametrize("layer", KINDS[:1], indirect=True)
async def test_a_consumer_that_waits_for_a_message(layer):
    receive = partial(layer.receive, await layer.new_channel())
    try:
        await await_many_dispatch([asyncio.Event().wait, receive], None)
    except NoRedis:
        assert ended_by_layer() == LAYER_FAILED
    else:
        raise AssertionError("it has a Redis")


async def test_a_mistake_of_the_caller_is_no_failure(layer):
    try:
        await layer.group_add(42, "no channel")
    except (TypeError, RuntimeError, AssertionError):
        assert ended_by_layer() is None
    else:
        raise AssertionError("it takes everything")


async def test_the_application_s_own_redis_is_none_of_the_layer(layer):
    try:
        raise NoRedis
    except NoRedis:
        assert ended_by_layer() is None


def test_a_full_channel():
    try:
        raise ChannelFull
    except ChannelFull:
        assert ended_by_layer() == CHANNELS_FULL


def test_no_exception():
    assert ended_by_layer() is None
