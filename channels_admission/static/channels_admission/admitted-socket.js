/**
 * AdmittedSocket: a WebSocket for libraries that reconnect by themselves.
 *
 *     import { AdmittedSocket } from "…/admitted-socket.js";
 *
 * It connects through an AdmissionSocket and is CONNECTING until the server has admitted it, however many attempts that
 * takes. So the library's own backoff never counts a refusal. Once open it has one `close`, as a WebSocket does. The wait
 * that the server has asked for goes on, and the next AdmittedSocket for the same URL takes it over with its ticket.
 */
import { AdmissionSocket } from "./admission-socket.js";

const { CONNECTING, OPEN, CLOSED } = AdmissionSocket;
const STATES = ["CONNECTING", "OPEN", "CLOSING", "CLOSED"];
const FORWARDED = ["message", "error"];
// A wait that no library has taken over ends so many milliseconds before its attempt.
const MARGIN = 50;
// A library whose address is another one each time takes none over.
const MOST_PARKED = 16;
const TIMERS = {
  setTimeout: (action, delay) => setTimeout(action, delay),
  clearTimeout: (timer) => clearTimeout(timer),
};

/** Waits without a library, the oldest first. */
const parked = new Set();

/** Keep the wait of `socket` for the next AdmittedSocket with the same URL and subprotocols. */
function park(key, socket, { setTimeout, clearTimeout }) {
  const end = () => unpark(wait).close();
  const timer = setTimeout(end, Math.max(0, socket.waiting.remaining - MARGIN));
  const wait = { key, socket, stop: () => clearTimeout(timer) };
  parked.add(wait);
  if (parked.size > MOST_PARKED) unpark(parked.values().next().value).close();
}

/** The socket of a wait, if there is one. */
function unpark(wait) {
  wait?.stop();
  parked.delete(wait);
  return wait?.socket;
}

function parkedFor(key) {
  for (const wait of parked) if (wait.key === key) return wait;
  return undefined;
}

export class AdmittedSocket extends EventTarget {
  /** The options of each AdmissionSocket. */
  static options = {};

  #key;
  #socket;
  #timers;
  #state = CONNECTING;
  #heard = new AbortController();

  constructor(url, protocols = []) {
    super();
    const { options } = new.target;
    this.#timers = { ...TIMERS, ...options.platform };
    this.#key = JSON.stringify([String(url), protocols]);
    this.#socket = unpark(parkedFor(this.#key)) ?? new AdmissionSocket(url, protocols, options);
    this.#hear("open", () => this.#open());
    this.#hear("close", (event) => this.#lose(event));
    for (const type of FORWARDED) {
      this.#hear(type, (event) => this.#state === CONNECTING || this.#forward(event));
    }
  }

  get url() {
    return this.#socket.url;
  }

  get protocol() {
    return this.#state === CONNECTING ? "" : this.#socket.protocol;
  }

  get extensions() {
    return this.#state === CONNECTING ? "" : this.#socket.extensions;
  }

  get readyState() {
    return this.#state === OPEN ? this.#socket.readyState : this.#state;
  }

  get bufferedAmount() {
    return this.#socket.bufferedAmount;
  }

  get binaryType() {
    return this.#socket.binaryType;
  }

  set binaryType(type) {
    this.#socket.binaryType = type;
  }

  /** The current wait for an attempt, as that of an AdmissionSocket, or null. */
  get waiting() {
    return this.#state === CONNECTING ? this.#socket.waiting : null;
  }

  send(data) {
    if (this.#state === CONNECTING) throw new DOMException("The connection is not open yet.", "InvalidStateError");
    this.#socket.send(data);
  }

  close(code, reason) {
    if (this.#state === OPEN) this.#socket.close(code, reason);
    else if (this.#state === CONNECTING) this.#giveUp();
  }

  #hear(type, listener) {
    this.#socket.addEventListener(type, listener, { signal: this.#heard.signal });
  }

  #open() {
    this.#state = OPEN;
    this.dispatchEvent(new Event("open"));
  }

  #lose(event) {
    // A refusal, or another attempt that failed.
    if (this.#state === CONNECTING && this.#socket.waiting !== null) return;
    this.#leave();
    this.#forward(event);
  }

  /** Before it is open: such as when the library allows a connection less time than the server's hint. */
  #giveUp() {
    this.#leave();
    const code = 1006;
    const end = Object.assign(new Event("close"), { code, reason: "", wasClean: false });
    queueMicrotask(() => this.dispatchEvent(end));
  }

  #leave() {
    this.#state = CLOSED;
    this.#heard.abort();
    if (this.#socket.waiting !== null) park(this.#key, this.#socket, this.#timers);
    else this.#socket.close();
  }

  #forward(event) {
    this.dispatchEvent(new event.constructor(event.type, event));
  }
}

/** What the platform gives every WebSocket class: the states, and the `on…` properties. */
for (const name of STATES) {
  const state = Object.getOwnPropertyDescriptor(AdmissionSocket, name);
  Object.defineProperty(AdmittedSocket, name, state);
  Object.defineProperty(AdmittedSocket.prototype, name, state);
}
for (const type of ["open", "message", "error", "close"]) {
  const handler = Object.getOwnPropertyDescriptor(AdmissionSocket.prototype, `on${type}`);
  Object.defineProperty(AdmittedSocket.prototype, `on${type}`, handler);
}

export default AdmittedSocket;
