from asgiref.sync import iscoroutinefunction
from asgiref.testing import ApplicationCommunicator

from channels_admission.consumers import AdmissionMixin, Slot, slots
from channels_admission.middleware import AdmissionMiddleware


async def test_the_slots_of_a_connection():
    held = {}

    async def application(scope, receive, send):
        for name, slot in slots(scope).items():
            held[name] = type(slot), slot.pool

    connection = ApplicationCommunicator(AdmissionMiddleware(application), {"type": "websocket"})
    await connection.wait()
    assert held == {"default": (Slot, "default")}


def test_a_connection_without_slots():
    scope = {"type": "websocket"}
    assert dict(slots(scope)) == {}
    assert scope == {"type": "websocket"}


def test_a_consumer_is_called_as_a_coroutine_function():
    assert iscoroutinefunction(AdmissionMixin.__call__)
