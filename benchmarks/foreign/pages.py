"""The pages of the clients that need a browser: one each, with what its documentation says to write."""

from html import escape

ADMITTED = 'import { AdmittedSocket } from "/static/channels_admission/admitted-socket.js";'

PAGES = {
    "htmx-2": """
<script src="/modules/htmx2/dist/htmx.js"></script>
<script src="/modules/htmx-ext-ws/dist/ws.js"></script>
{adapter}
<div hx-ext="ws" ws-connect="{url}"></div>""",
    "htmx-4": """
<script src="/modules/htmx4/dist/htmx.js"></script>
<script src="/modules/htmx4/dist/ext/hx-ws.js"></script>
{adapter}
<div hx-ws:connect="{url}"></div>""",
    "robust-websocket": """
<script src="/modules/robust-websocket/robust-websocket.js"></script>
{adapter}
<script type="module">new RobustWebSocket("{url}")</script>""",
    "Turbo": """
<script src="/modules/@hotwired/turbo/dist/turbo.es2017-umd.js"></script>
{adapter}
<turbo-stream-source src="{url}"></turbo-stream-source>""",
    "ActionCable": """
<script src="/modules/@rails/actioncable/app/assets/javascripts/actioncable.js"></script>
{adapter}
<script type="module">ActionCable.createConsumer("{url}").subscriptions.create("RoomChannel")</script>""",
    "phoenix": """
<script src="/modules/phoenix/priv/static/phoenix.js"></script>
{adapter}
<script type="module">
const options = globalThis.AdmittedSocket ? {{ transport: AdmittedSocket }} : {{}};
new Phoenix.Socket("{url}", options).connect();
</script>""",
    "SignalR": """
<script src="/modules/@microsoft/signalr/dist/browser/signalr.js"></script>
{adapter}
<script type="module">
const {{ HubConnectionBuilder, HttpTransportType }} = signalR;
const options = {{
  skipNegotiation: true,
  transport: HttpTransportType.WebSockets,
  ...(globalThis.AdmittedSocket && {{ WebSocket: AdmittedSocket }}),
}};
new HubConnectionBuilder().withUrl("{http}", options).withAutomaticReconnect().build().start();
</script>""",
}
"""By the name of a client; ``{adapter}`` is empty for the library alone."""

PLACES = {
    "htmx-2": "htmx.createWebSocket = (url) => new AdmittedSocket(url);",
    "htmx-4": "globalThis.WebSocket = AdmittedSocket;",
    "robust-websocket": "globalThis.WebSocket = AdmittedSocket;",
    "Turbo": "",
    "ActionCable": "ActionCable.adapters.WebSocket = AdmittedSocket;",
    "phoenix": "globalThis.AdmittedSocket = AdmittedSocket;",
    "SignalR": "globalThis.AdmittedSocket = AdmittedSocket;",
}
"""Where each library takes another WebSocket, as docs/clients.md says it."""

TURBO = """
<script src="/modules/@hotwired/turbo/dist/turbo.es2017-umd.js"></script>
<script type="module">
import { AdmissionSocket } from "/static/channels_admission/admission-socket.js";
Turbo.connectStreamSource(new AdmissionSocket("%s"));
</script>"""
"""Turbo takes every source of messages."""


def page(client: str, url: str) -> str:
    """The page of a client, or with ``+`` after its name the same with an adapter."""
    name = client.removesuffix("+")
    if client == "Turbo+":
        body = TURBO % url
    else:
        line = PLACES[name] if client.endswith("+") else ""
        adapter = f'<script type="module">{ADMITTED}\n{line}</script>' if line else ""
        body = PAGES[name].format(url=escape(url), http=url.replace("ws://", "http://", 1), adapter=adapter)
    return f"<!doctype html><meta charset=utf-8><title>{name}</title><link rel=icon href=data:,>{body}"
