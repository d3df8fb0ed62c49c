"""The servers that the package is tested with."""

SERVERS = {
    "uvicorn-sansio": ("uvicorn", ["--ws", "websockets-sansio"]),
    "uvicorn-wsproto": ("uvicorn", ["--ws", "wsproto"]),
    "daphne": ("daphne", []),
    "hypercorn": ("hypercorn", []),
    "granian": ("granian", []),
}
"""Each by the name of its WebSocket implementation: the server, and its arguments."""
