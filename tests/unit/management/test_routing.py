"""The checks of the ASGI application: its pools, what they know of the user, and demultiplexers."""

import sys
from types import ModuleType

import pytest
from channels.auth import AuthMiddlewareStack
from channels.generic.websocket import AsyncWebsocketConsumer
from channels.routing import ProtocolTypeRouter, URLRouter
from channels.security.websocket import AllowedHostsOriginValidator
from django.core import checks
from django.urls import path

from channels_admission.consumers import AdmissionMixin
from channels_admission.exceptions import ConfigurationError
from channels_admission.management import checks as ours
from channels_admission.management.routes import Route, routes
from channels_admission.middleware import AdmissionMiddleware

REDIS = {"LEDGER": "redis://127.0.0.1:6390/0", "MAX_CONNECTIONS": 100}
FAIR = {
    "QUOTAS": [{"key": "user", "max": 5}],
    "CLASSIFY": "support.users.rank",
    "PENDING_SHARE": 0.2,
    "PENDING_DEADLINE": 10,
}


class Plain(AsyncWebsocketConsumer):
    pass


class Chat(AdmissionMixin, AsyncWebsocketConsumer):
    pass


class Other(AdmissionMixin, AsyncWebsocketConsumer):
    admission_pool = "chat"


class TokenAuth:
    def __init__(self, inner):
        self.inner = inner

    async def __call__(self, scope, receive, send):
        await self.inner(scope, receive, send)


class Tracing(TokenAuth):
    pass


def single(consumer=Plain):
    return URLRouter([path("ws/", consumer.as_asgi())])


@pytest.fixture
def site(settings, monkeypatch):
    """``site(websocket, **keys)``: the application whose WebSockets that is; the messages of its checks."""
    settings.CHANNEL_LAYERS = {}
    settings.DEBUG = True
    settings.ROOT_URLCONF = "urls"
    monkeypatch.delitem(sys.modules, "daphne.ws_protocol", raising=False)

    def served(websocket, **keys):
        settings.CHANNELS_ADMISSION = {**REDIS, **keys}
        module = ModuleType("shop_asgi")
        module.application = ProtocolTypeRouter({"http": None, "websocket": AllowedHostsOriginValidator(websocket())})
        monkeypatch.setitem(sys.modules, "shop_asgi", module)
        settings.ASGI_APPLICATION = "shop_asgi.application"
        return checks.run_checks(tags=[ours.TAG])

    return served


# The user


def outside(consumer=Plain):
    return AdmissionMiddleware(AuthMiddlewareStack(single(consumer)))


def test_a_middleware_outside_the_auth_stack_knows_no_user(site):
    (message,) = site(outside, **FAIR)
    assert message.id == "channels_admission.W020"
    assert not message.is_serious()
    assert message.msg == (
        f"The pool 'default' does not know the user of {__name__}.Plain: AdmissionMiddleware stands "
        "only outside the auth stack, and the consumer has no AdmissionMixin. The quota of 'user' applies to no "
        "connection. CLASSIFY sees no user. PENDING_DEADLINE closes every connection after 10 s. Every connection "
        "counts in PENDING_SHARE."
    )
    assert message.hint == (
        "Put a second one inside, which takes no second slot: "
        "AdmissionMiddleware(AuthMiddlewareStack(AdmissionMiddleware(URLRouter(…))))."
    )


@pytest.mark.parametrize("key", FAIR)
def test_each_of_the_settings_that_concern_users_is_enough(site, key):
    (message,) = site(outside, **{key: FAIR[key]})
    assert message.id == "channels_admission.W020"
    assert site(outside, QUOTAS=[{"key": "address", "max": 5}], CONNECT_RATE=5) == []


@pytest.mark.parametrize(
    "websocket",
    [
        lambda: AdmissionMiddleware(AuthMiddlewareStack(AdmissionMiddleware(single()))),
        lambda: AuthMiddlewareStack(AdmissionMiddleware(single())),
        lambda: AuthMiddlewareStack(single(Chat)),
        lambda: outside(Chat),
        lambda: AdmissionMiddleware(TokenAuth(AdmissionMiddleware(single()))),
        lambda: AdmissionMiddleware(Tracing(single(Chat))),
        lambda: AuthMiddlewareStack(single()),
        lambda: AdmissionMiddleware(AuthMiddlewareStack(lambda scope, receive, send: None)),
        lambda: Tracing(AdmissionMiddleware(single())),
    ],
)
def test_a_layer_inside_knows_the_user_and_unknown_layers_may(site, websocket):
    assert site(websocket, **FAIR) == []


def test_a_middleware_for_tokens_is_an_auth_stack_by_its_name(site):
    (message,) = site(lambda: AdmissionMiddleware(TokenAuth(single())), **FAIR)
    assert "AdmissionMiddleware stands only outside the auth stack" in message.msg


def test_nothing_that_authenticates_is_found(site):
    (message,) = site(lambda: AdmissionMiddleware(single()), PENDING_DEADLINE=2.5)
    assert message.msg == (
        f"The pool 'default' does not know the user of {__name__}.Plain: nothing around the consumer "
        "authenticates. PENDING_DEADLINE closes every connection after 2.5 s."
    )
    assert "self.admission_authenticated()" in message.hint


def test_a_consumer_with_the_mixin_may_authenticate_by_itself(site):
    assert site(lambda: single(Chat), PENDING_DEADLINE=2.5, PENDING_SHARE=0.2) == []
    (message,) = site(lambda: single(Chat), **FAIR)
    assert message.msg.endswith("authenticates. The quota of 'user' applies to no connection.")


def test_each_pool_is_told_by_itself_with_the_first_consumers(site):
    pools = {"POOLS": {"chat": {"PENDING_DEADLINE": 5}, "calm": {}}}
    consumers = [type(name, (AsyncWebsocketConsumer,), {"__module__": "shop"}) for name in "ABCDE"]

    def websocket():
        inner = URLRouter([path(each.__name__, each.as_asgi()) for each in consumers])
        return AdmissionMiddleware(AdmissionMiddleware(AuthMiddlewareStack(inner), pool="chat"), pool="calm")

    (message,) = site(websocket, **pools)
    assert message.msg.startswith("The pool 'chat' does not know the user of shop.A, shop.B, shop.C and 2 more: ")


def test_a_site_without_admission_is_told_nothing(site):
    assert site(outside, **FAIR, ENABLED=False) == []


# Pools


def test_the_pool_of_a_consumer_exists_before_the_server_starts(site, settings):
    settings.CHANNELS_ADMISSION = REDIS
    with pytest.raises(ConfigurationError) as caught:
        Other.as_asgi()
    assert str(caught.value) == (
        f"{__name__}.Other: There is no admission pool 'chat'. Declare it in "
        "CHANNELS_ADMISSION['POOLS'], as {'chat': {'MAX_CONNECTIONS': …}}."
    )
    assert site(lambda: single(Other), POOLS={"chat": {}}) == []


def test_a_pool_that_is_missing_is_told(site, settings):
    settings.CHANNELS_ADMISSION = {**REDIS, "POOLS": {"chat": {}}}
    application = single(Other)
    (message,) = site(lambda: application)
    assert message.id == "channels_admission.E044"
    assert message.is_serious()
    assert message.msg.startswith(f"{__name__}.Other: There is no admission pool 'chat'.")
    (message,) = site(lambda: application, POOLS={"chats": {}})
    assert "Did you mean 'chats'?" in message.msg


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("AdmissionMiddleware(None, pool='chat')", "There is no admission pool 'chat'. Declare it in"),
        ("Chat.as_asgi()", "broken_shop.asgi.Chat: There is no admission pool 'chat'. Declare it in"),
    ],
)
@pytest.mark.parametrize("is_named", [True, False])
def test_an_import_that_a_missing_pool_ends_is_told(site, settings, monkeypatch, tmp_path, source, expected, is_named):
    (tmp_path / "broken_shop").mkdir()
    (tmp_path / "broken_shop/asgi.py").write_text(
        "from channels.generic.websocket import AsyncWebsocketConsumer\n"
        "from channels_admission.consumers import AdmissionMixin\n"
        "from channels_admission.middleware import AdmissionMiddleware\n"
        "class Chat(AdmissionMixin, AsyncWebsocketConsumer):\n    admission_pool = 'chat'\n"
        f"application = {source}\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    site(lambda: None)
    settings.ASGI_APPLICATION = "broken_shop.asgi.application" if is_named else None
    settings.ROOT_URLCONF = "broken_shop.urls"
    (message,) = checks.run_checks(tags=[ours.TAG])
    assert message.id == "channels_admission.E044"
    assert message.msg.startswith(expected)
    sys.modules.pop("broken_shop", None)


def test_a_pool_without_a_slot_is_told_if_a_route_uses_it(site, settings):
    pools = {"MAX_CONNECTIONS": 0, "POOLS": {"chat": {"MAX_CONNECTIONS": 5}, "closed": {}}}
    (message,) = site(lambda: single(Chat), **pools)
    assert message.id == "channels_admission.W022"
    assert message.msg == "The pool 'default' refuses every connection: its MAX_CONNECTIONS is 0."
    assert message.hint.endswith("To refuse for a while, use manage.py ws_pause default.")
    assert site(lambda: single(Other), **pools) == []
    settings.ASGI_APPLICATION = None
    assert [each.msg.split("'")[1] for each in checks.run_checks(tags=[ours.TAG])] == ["default", "closed"]


# Demultiplexers


class Streams(AsyncWebsocketConsumer):
    """As channelsmultiplexer has it."""

    applications = {}

    def __init__(self, **applications):
        super().__init__()


def demultiplexer(**applications):
    return URLRouter([path("ws/", Streams.as_asgi(**applications))])


def test_consumers_behind_a_demultiplexer_take_a_slot_each(site):
    (message,) = site(lambda: demultiplexer(a=Chat.as_asgi(), b=Chat.as_asgi(), c=Plain.as_asgi()))
    assert message.id == "channels_admission.W021"
    assert message.msg == (
        f"The 2 consumers with AdmissionMixin behind the demultiplexer {__name__}.Streams take a slot "
        "of the pool 'default' each, 2 for one connection."
    )


@pytest.mark.parametrize(
    "websocket",
    [
        lambda: AdmissionMiddleware(demultiplexer(a=Chat.as_asgi(), b=Chat.as_asgi())),
        lambda: demultiplexer(a=Chat.as_asgi(), b=Other.as_asgi()),
        lambda: demultiplexer(a=Chat.as_asgi(), b=Plain.as_asgi()),
    ],
)
def test_one_slot_of_each_pool_is_right(site, websocket):
    assert site(websocket, POOLS={"chat": {}}) == []


# What is seen


def test_an_application_that_contains_itself_ends(site):
    endless = Tracing(None)
    endless.inner = endless
    assert site(lambda: endless, **FAIR) == []
    (route,) = routes()
    assert route == Route((*route.layers[:2], *[endless] * 39), None)


def test_the_layers_of_other_frameworks_are_seen(site):
    starlette, mount = Tracing(None), Tracing(None)
    del starlette.inner
    mount.app, starlette.routes = AdmissionMiddleware(AuthMiddlewareStack(single())), [mount]
    (message,) = site(lambda: starlette, **FAIR)
    assert message.id == "channels_admission.W020"
