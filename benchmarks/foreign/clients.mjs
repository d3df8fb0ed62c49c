/** One client of a library in Node: `node clients.mjs NAME URL`; with `+` after its name, with an adapter. */

import { WebSocket } from "ws";

const [client, url] = process.argv.slice(2);
const name = client.replace(/\+$/, "");
let Socket = WebSocket;

if (client.endsWith("+")) {
  await import(`${process.env.ADMISSION_STATIC}/admission-socket.classic.js`);
  const { AdmittedSocket } = await import(`${process.env.ADMISSION_STATIC}/admitted-socket.js`);
  // The WebSocket of Node 22 and older fires no close event when a handshake fails.
  const { CloseEvent, WebSocket: Native } = await import("undici");
  AdmittedSocket.options = { platform: { WebSocket: Native, CloseEvent, events: new EventTarget() } };
  Socket = AdmittedSocket;
}

const isAdapted = Socket !== WebSocket;
const HOUR = 3_600_000;
// The time that a connection may take is between the two.
const LONG = { minTimeout: HOUR, timeout: HOUR };

const CLIENTS = {
  async "graphql-ws"() {
    const { createClient } = await import("graphql-ws");
    const client = createClient({ url, webSocketImpl: Socket });
    client.subscribe({ query: "subscription { ticks }" }, { next() {}, error: console.error, complete() {} });
  },
  async "subscriptions-transport-ws"() {
    const { SubscriptionClient } = (await import("subscriptions-transport-ws")).default;
    const client = new SubscriptionClient(url, { reconnect: true, ...(isAdapted && LONG) }, Socket);
    client.request({ query: "subscription { ticks }" }).subscribe({ next() {}, error: console.error });
  },
  async partysocket() {
    const { WebSocket: Party } = await import("partysocket");
    new Party(url, [], isAdapted ? { WebSocket: Socket, connectionTimeout: HOUR } : { WebSocket: Socket });
  },
  async "reconnecting-websocket"() {
    const { default: Reconnecting } = await import("reconnecting-websocket");
    new Reconnecting(url, [], isAdapted ? { WebSocket: Socket, connectionTimeout: HOUR } : { WebSocket: Socket });
  },
};

await CLIENTS[name]();
setInterval(() => {}, 60_000);
