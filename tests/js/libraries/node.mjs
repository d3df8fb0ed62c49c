/** AdmissionSocket in Node: `node node.mjs PLATFORM URL [OPTIONS]`. Writes what happens, one JSON array a line. */

import { AdmissionSocket } from "admission-socket";

const [name, url, options = "{}"] = process.argv.slice(2);
const { WebSocket, CloseEvent } = await import(name);
const start = performance.now();
const tell = (...what) => console.log(JSON.stringify([Math.round(performance.now() - start), ...what]));

const origin = new URL(url.replace("ws", "http")).origin;

class Watched extends WebSocket {
  constructor(address, protocols) {
    tell("attempt", address);
    // Each has a way of its own to send the header.
    if (name === "ws") super(address, protocols, { origin });
    else super(address, { protocols, headers: { origin } });
  }
}

const platform = { WebSocket: Watched, ...(CloseEvent && { CloseEvent }) };
const socket = new AdmissionSocket(url, [], { platform, ...JSON.parse(options) });
socket.onclose = ({ code, reason }) => tell("close", code, reason);
socket.onmessage = ({ data }) => tell("message", data);
socket.onopen = () => socket.send("hello");
