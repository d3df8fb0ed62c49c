// A browser of our own: its clock stands still until it is told to go on, and its servers do as the test says.
import { pathToFileURL } from "node:url";

const FOLDER = new URL("../../channels_admission/static/channels_admission/", import.meta.url);
const { ADMISSION_STATIC } = process.env; // the folder in the wheel under test, if it is not the one beside this
const folder = ADMISSION_STATIC ? pathToFileURL(`${ADMISSION_STATIC}/`) : FOLDER;
await import(new URL("admission-socket.classic.js", folder));

export const { AdmissionSocket } = globalThis;
export const { AdmittedSocket } = await import(new URL("admitted-socket.js", folder));
export const EPOCH = 1_000_000_000;

class Clock {
  now = EPOCH;
  #timers = new Map();
  #last = 0;

  setTimeout(action, delay) {
    this.#last += 1;
    this.#timers.set(this.#last, { action, due: this.now + delay });
    return this.#last;
  }

  clearTimeout(timer) {
    this.#timers.delete(timer);
  }

  /** Let so many milliseconds pass, and everything happen that is due by then. */
  advance(milliseconds) {
    const end = this.now + milliseconds;
    while (this.#timers.size > 0 && this.#first[1].due <= end) this.step();
    this.now = end;
  }

  /** Go on to what is due next. */
  step() {
    const [timer, { action, due }] = this.#first;
    this.#timers.delete(timer);
    this.now = Math.max(this.now, due);
    action();
  }

  get #first() {
    return [...this.#timers].sort((a, b) => a[1].due - b[1].due || a[0] - b[0])[0];
  }

  get pending() {
    return this.#timers.size;
  }
}

class CopyOf extends Event {
  constructor(type, init = {}) {
    super(type);
    for (const name of this.constructor.fields) {
      Object.defineProperty(this, name, { value: init[name], enumerable: true });
    }
  }
}

class CloseEvent extends CopyOf {
  static fields = ["code", "reason", "wasClean"];
}

class MessageEvent extends CopyOf {
  static fields = ["data", "origin"];
}

/** Does what the standard says of WebSocket; the test plays the server. */
class FakeWebSocket {
  static made = [];
  readyState = 0;
  protocol = "";
  extensions = "";
  bufferedAmount = 0;
  sent = [];
  closed = null;
  #binaryType = "blob";

  constructor(url, protocols) {
    if (!/^wss?:/.test(url)) throw new DOMException("bad scheme", "SyntaxError");
    Object.assign(this, { url: String(url), protocols });
    FakeWebSocket.made.push(this);
  }

  get binaryType() {
    return this.#binaryType;
  }

  set binaryType(type) {
    if (["blob", "arraybuffer"].includes(type)) this.#binaryType = type;
  }

  send(data) {
    if (this.readyState === 0) throw new DOMException("connecting", "InvalidStateError");
    if (this.readyState === 1) this.sent.push(data);
    else this.bufferedAmount += data.length ?? data.byteLength;
  }

  close(code, reason = "") {
    if (code !== undefined && code !== 1000 && !(code >= 3000 && code <= 4999)) {
      throw new DOMException("bad code", "InvalidAccessError");
    }
    if (new TextEncoder().encode(reason).length > 123) throw new DOMException("long reason", "SyntaxError");
    if (this.readyState < 2) {
      this.readyState = 2;
      this.closed = [code, reason];
    }
  }

  accept(protocol = "") {
    this.protocol = protocol;
    this.readyState = 1;
    this.onopen?.(new Event("open"));
  }

  say(data) {
    this.onmessage?.(new MessageEvent("message", { data, origin: "ws://server" }));
  }

  end(code, reason = "", wasClean = true) {
    this.readyState = 3;
    this.onclose?.(new CloseEvent("close", { code, reason, wasClean }));
  }

  refuse(reason = "Try Again Later; retry-after=7") {
    this.accept();
    this.end(1013, reason);
  }

  /** No server, or none any more. */
  drop() {
    this.onerror?.(new Event("error"));
    this.end(1006, "", false);
  }
}

/** A page with its network. `random` is what every draw gives. */
export class Page {
  clock = new Clock();
  random = 0.5;
  document = Object.assign(new EventTarget(), { visibilityState: "visible" });
  navigator = { onLine: true };
  events = new EventTarget();

  constructor() {
    FakeWebSocket.made = [];
  }

  get platform() {
    const { clock, document, navigator, events } = this;
    return {
      WebSocket: FakeWebSocket,
      CloseEvent,
      document,
      navigator,
      events,
      now: () => clock.now,
      random: () => this.random,
      setTimeout: (action, delay) => clock.setTimeout(action, delay),
      clearTimeout: (timer) => clock.clearTimeout(timer),
    };
  }

  /** An AdmissionSocket whose events are noted in `seen`. */
  open(options = {}, protocols = undefined, url = "ws://server/") {
    const socket = new AdmissionSocket(url, protocols, { platform: this.platform, ...options });
    socket.seen = [];
    for (const type of ["open", "message", "error", "close", "wait"]) {
      socket.addEventListener(type, (event) => socket.seen.push(event.data ?? event.code ?? event.type));
    }
    return socket;
  }

  /** The browser's own sockets, in the order in which they were made. */
  get attempts() {
    return FakeWebSocket.made;
  }

  get attempt() {
    return FakeWebSocket.made.at(-1);
  }

  show(isVisible) {
    this.document.visibilityState = isVisible ? "visible" : "hidden";
    this.document.dispatchEvent(new Event("visibilitychange"));
  }

  connectNetwork(isOnline) {
    this.navigator.onLine = isOnline;
    this.events.dispatchEvent(new Event(isOnline ? "online" : "offline"));
  }

  /** Go to another page, which may leave this one in the back-forward cache; and come back to it. */
  leave() {
    this.events.dispatchEvent(new Event("pagehide"));
    this.show(false);
  }

  comeBack() {
    this.show(true);
    this.events.dispatchEvent(new Event("pageshow"));
  }

  /** Have the present attempt fail and the next one begin; how long that took. */
  failAndWait(fail = (attempt) => attempt.drop()) {
    const { clock, attempts } = this;
    const [count, start] = [attempts.length, clock.now];
    fail(this.attempt);
    while (attempts.length === count) clock.step();
    return clock.now - start;
  }
}
