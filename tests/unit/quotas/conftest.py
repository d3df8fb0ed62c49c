"""Limiters with quotas."""

from contextlib import asynccontextmanager

import pytest

from channels_admission.limiter.registry import close_limiters, limiter_of


@pytest.fixture
async def opened(admission):
    @asynccontextmanager
    async def open_limiter(**keys):
        admission(**keys)
        yield limiter_of("default")
        await close_limiters()

    return open_limiter
