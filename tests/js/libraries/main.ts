/** Clients of other libraries, each with an AdmittedSocket; the tests build this page and try them. */

import { AdmissionSocket, type AdmissionOptions, type AdmissionWait } from "admission-socket";
import { AdmittedSocket } from "admission-socket/admitted-socket.js";
import { createClient } from "graphql-ws";
import { WebSocket as PartySocket } from "partysocket";
import ReconnectingWebSocket from "reconnecting-websocket";

class Watched extends WebSocket {
  constructor(url: string | URL, protocols?: string | string[]) {
    super(url, protocols);
    const { attempts, endings } = storyOf(url);
    attempts.push({ url: this.url, at: performance.now() });
    this.addEventListener("close", ({ code, reason }) => endings.push({ code, reason, at: performance.now() }));
  }
}

/** What a library did: its attempts with their ends, and the events that it heard of. */
interface Story {
  attempts: { url: string; at: number }[];
  endings: { code: number; reason: string; at: number }[];
  seen: (string | number)[];
}

const stories: Record<string, Story> = {};
const storyOf = (url: string | URL): Story =>
  (stories[new URL(url, location.href).searchParams.get("library")!] ??= { attempts: [], endings: [], seen: [] });
const options: AdmissionOptions = { platform: { WebSocket: Watched } };
AdmittedSocket.options = options;

/** Notes the events of a library's socket. */
function note(url: string, socket: Pick<WebSocket, "addEventListener">): void {
  const { seen } = storyOf(url);
  socket.addEventListener("open", () => seen.push("open"));
  socket.addEventListener("close", ({ code }) => seen.push(code));
}

const patient = { WebSocket: AdmittedSocket, connectionTimeout: 3_600_000 };

const LIBRARIES: Record<string, (url: string) => void> = {
  admission: (url) => {
    const socket = new AdmissionSocket(url, [], options);
    const wait: AdmissionWait | null = socket.waiting;
    if (wait !== null) throw new Error("It waits before its first attempt.");
    note(url, socket);
  },
  graphql: (url) => {
    const { seen } = storyOf(url);
    createClient({
      url,
      webSocketImpl: AdmittedSocket,
      lazy: false,
      // The server of the tests echoes, so that the client acknowledges its own connection.
      jsonMessageReplacer: (_, value) => (value === "connection_init" ? "connection_ack" : value),
      on: { connected: () => seen.push("open"), closed: (event) => seen.push((event as CloseEvent).code) },
    });
  },
  party: (url) => note(url, new PartySocket(url, [], patient) as unknown as WebSocket),
  reconnecting: (url) => note(url, new ReconnectingWebSocket(url, [], patient) as unknown as WebSocket),
  plain: (url) => {
    globalThis.WebSocket = AdmittedSocket;
    note(url, new WebSocket(url));
  },
};

Object.assign(globalThis, { LIBRARIES, stories });
