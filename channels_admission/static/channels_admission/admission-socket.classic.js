/**
 * AdmissionSocket: a drop-in for WebSocket that reconnects at the server's hint.
 *
 * A full server opens a connection and closes it with 1013 and a reason that ends with
 * `retry-after=SECONDS`. This class waits that long, or without a hint for a random time that grows
 * with every failure. Two attempts are never closer than `floor`.
 *
 * A reason may also contain a ticket, the client's place in the line. The next attempt hands it back as the query
 * parameter `admission_ticket`; `url` stays without it.
 *
 * Each attempt looks like a WebSocket of its own: at most one `open`, its messages, perhaps an
 * `error`, and one `close`. The `open` of a connection that is closed within `settle`, such as a
 * refused one, does not fire. Between two attempts `readyState` is CLOSED, `waiting` has the time
 * and the reason, and a `wait` event fires when it changes. After the last attempt `waiting` is null.
 *
 * A connection is given up, with the code 1006, when it is not there within `connectTimeout`, when no message comes
 * within `maxSilence`, and when the page is left: a page in the back-forward cache holds none, and reconnects when it
 * is shown again.
 *
 * This file defines the global `AdmissionSocket`; `admission-socket.js` exports it. Times are in milliseconds.
 */
globalThis.AdmissionSocket ??= (() => {
  "use strict";

  const STATES = { CONNECTING: 0, OPEN: 1, CLOSING: 2, CLOSED: 3 };
  const EVENTS = ["open", "message", "error", "close", "wait"];
  // The hint, and the ticket if there is one directly before it.
  const HINT = /(?:^|; *)(?:ticket=([A-Za-z0-9_-]{24}); *)?retry-after=(\d{1,5}(?:\.\d{1,3})?)$/;
  const TICKET = "admission_ticket";

  // Codes after which a retry would end in the same way. All others, such as 1001, 1005 and 1006, are retried.
  const FINAL = new Set([1000, 1002, 1003, 1007, 1008, 1009, 1010]);
  const APPLICATION = 3000; // from here on the application has said why; it means it
  const BUSY = 4013; // what servers send that cannot send 1013
  const UNANSWERED = 1006; // the code of an end without a close frame

  const HEARD = ["online", "pagehide", "pageshow"];
  // A timer that is later than this was held back with the page, and with it perhaps the event that it waits for.
  const LATE = 1000;
  const LONGEST_TIMER = 2 ** 31 - 1; // browsers take anything longer for no time at all
  const MOST_DOUBLINGS = 30;

  const DEFAULTS = {
    // Measured: of 200 connections refused at once by two busy cores, the last closed 60 ms after its open.
    settle: 100, // how long a connection must stay open before the page hears of it, unless a message comes
    floor: 500, // the shortest wait, whatever the hint
    base: 1000, // the longest first wait after an attempt that failed, doubled for each further one
    cap: 60_000, // the longest wait without a hint
    firstRetryWindow: 5000, // the longest first wait after a connection that was open
    maxHint: 3_600_000, // a hint longer than this is ignored
    minUptime: 5000, // how long a connection must stay open for the failures before it to be forgotten
    maxAttempts: Infinity, // retries in a row, after which there is none
    // Browsers open one connection to a host at a time: with many sockets the last attempt waits for all others.
    connectTimeout: 60_000, // how long an attempt may take to open
    maxSilence: Infinity, // how long an open connection may be without a message
    ping: null, // what is sent when a message is missed, and when the page can be seen or is online again
    answerTimeout: 5000, // how long the message after a ping may take
    queue: 0, // bytes that may be sent while there is no connection, and are kept for the next one
    pauseHidden: true, // whether retries wait until the page can be seen
    pauseOffline: true, // whether retries wait until the browser is online
    isFinal, // whether no retry follows this close event
    platform: {}, // what stands in for parts of the browser, in tests
  };

  // Options that a page would mean otherwise by 0.
  const POSITIVE = new Set(["connectTimeout", "maxSilence", "answerTimeout"]);
  // Options of which a timer would make no wait at all by Infinity.
  const FINITE = /settle|floor|base|cap|first/;

  const NO_WEBSOCKET =
    "AdmissionSocket needs a WebSocket, and this platform has none. Pass one, such as that of ws or undici: " +
    "new AdmissionSocket(url, [], { platform: { WebSocket } })";

  /** For Node, which has no CloseEvent before version 23. */
  class PlainCloseEvent extends Event {
    constructor(type, { code = 0, reason = "", wasClean = false } = {}) {
      super(type);
      Object.assign(this, { code, reason, wasClean });
    }
  }

  const PLATFORM = {
    WebSocket: globalThis.WebSocket,
    CloseEvent: globalThis.CloseEvent ?? PlainCloseEvent,
    document: globalThis.document, // a worker has none
    navigator: globalThis.navigator,
    events: globalThis.addEventListener ? globalThis : new EventTarget(), // where `online`, `pagehide` and `pageshow` are heard
    now: () => performance.timeOrigin + performance.now(), // since 1970, and never set back
    random: Math.random,
    setTimeout: (action, delay) => setTimeout(action, delay),
    clearTimeout: (timer) => clearTimeout(timer),
  };

  /** The default: whether the code is final, unless the close has a hint. */
  function isFinal({ code, reason }) {
    return !HINT.test(reason) && (FINAL.has(code) || (code >= APPLICATION && code !== BUSY));
  }

  /** The hint in a close reason, or null. */
  function hintOf(reason, longest) {
    const [, , seconds] = HINT.exec(reason) ?? [];
    const hint = 1000 * Number(seconds);
    return hint <= longest ? hint : null;
  }

  /** The ticket in a close reason, or null. */
  function ticketOf(reason) {
    return HINT.exec(reason)?.[1] ?? null;
  }

  /** `address` with the ticket in its query; the other parameters stay as they are written. */
  function withTicket(address, ticket) {
    const url = new URL(address);
    const others = url.search ? url.search.slice(1).split("&") : [];
    const kept = others.filter((parameter) => !parameter.startsWith(`${TICKET}=`));
    url.search = [...kept, `${TICKET}=${ticket}`].join("&");
    return url.href;
  }

  /** A random wait, uniform from the floor on, so that clients that fail together do not return together. */
  function backoff(attempt, wasOpen, { floor, base, cap, firstRetryWindow }, random) {
    const growing = Math.min(cap, base * 2 ** Math.min(attempt - 1, MOST_DOUBLINGS));
    const longest = wasOpen && attempt === 1 ? firstRetryWindow : growing;
    return floor + random() * (longest - floor);
  }

  function checked(options) {
    const given = Object.entries(options).filter(([, value]) => value !== undefined);
    for (const [name, value] of given) {
      if (!Object.hasOwn(DEFAULTS, name)) {
        throw new TypeError(`AdmissionSocket has no option ${name}.`);
      }
      if (!isAllowed(name, value)) {
        throw new TypeError(`The option ${name} of AdmissionSocket cannot be ${String(value)}.`);
      }
    }
    return { ...DEFAULTS, ...Object.fromEntries(given) };
  }

  function isAllowed(name, value) {
    if (name === "ping") return value === null || ["string", "function"].includes(typeof value);
    if ((POSITIVE.has(name) && value === 0) || (FINITE.test(name) && value === Infinity)) return false;
    return typeof value === typeof DEFAULTS[name] && !(value < 0) && !Number.isNaN(value);
  }

  /** The wait for an attempt: its time, whether it has a place in the line, and the close before it. */
  class Wait {
    #now;

    constructor(fields, now) {
      Object.assign(this, fields);
      this.#now = now;
      Object.freeze(this);
    }

    get remaining() {
      return Math.max(0, this.retryAt - this.#now());
    }
  }

  /** Messages queued for the next connection. */
  class Queue {
    bytes = 0;
    #limit;
    #messages = [];

    constructor(limit) {
      this.#limit = limit;
    }

    add(data) {
      const message = copyOf(data);
      // An empty message counts as well.
      const bytes = this.bytes + Math.max(1, sizeOf(message));
      if (bytes > this.#limit) {
        throw new DOMException(`More than ${this.#limit} bytes wait for a connection.`, "QuotaExceededError");
      }
      this.bytes = bytes;
      this.#messages.push(message);
    }

    take() {
      this.bytes = 0;
      return this.#messages.splice(0);
    }
  }

  /** A copy of `data`, since the page may change a buffer after sending it. */
  function copyOf(data) {
    if (data instanceof Blob) return data;
    if (data instanceof ArrayBuffer) return data.slice(0);
    if (ArrayBuffer.isView(data)) return new Uint8Array(data.buffer, data.byteOffset, data.byteLength).slice();
    return String(data);
  }

  function sizeOf(message) {
    if (typeof message === "string") return new TextEncoder().encode(message).length;
    return message.size ?? message.byteLength;
  }

  class AdmissionSocket extends EventTarget {
    static isFinal = isFinal;

    #options;
    #platform;
    #url; // without a ticket
    #protocols;
    #queue;
    #socket = null;
    #binaryType = "blob";
    #timer;
    #isOpen = false; // whether the page has heard of it
    #isEnded = false; // whether no attempt follows
    #isAbandoned = false; // whether the connection was given up, and is closed for the page
    #isAsking = false; // whether a ping is without a message after it
    #isAway = false; // whether the page was left, and may be in the back-forward cache
    #heardAt = -Infinity;
    #openedAt = Infinity;
    #closedAt = -Infinity;
    #attempt = 0; // retries since a connection last stayed open
    #loss = null; // the last close event
    #ticket = null; // handed back by the next attempt
    #waiting = null;
    #due = () => this.#retry();
    #heed = ({ type }) => this.#look(type);

    constructor(url, protocols = [], options = {}) {
      super();
      this.#options = checked(options);
      this.#platform = { ...PLATFORM, ...this.#options.platform };
      if (typeof this.#platform.WebSocket !== "function") throw new TypeError(NO_WEBSOCKET);
      this.#protocols = protocols;
      this.#queue = new Queue(this.#options.queue);
      this.#url = url;
      this.#connect();
      this.#url = this.#socket.url;
      this.#listen();
    }

    get url() {
      return this.#url;
    }

    get protocol() {
      return this.#socket.protocol;
    }

    get extensions() {
      return this.#socket.extensions;
    }

    get readyState() {
      if (this.#isAbandoned) return STATES.CLOSED;
      const { readyState } = this.#socket;
      return readyState === STATES.OPEN && !this.#isOpen ? STATES.CONNECTING : readyState;
    }

    get bufferedAmount() {
      return this.#socket.bufferedAmount + this.#queue.bytes;
    }

    get binaryType() {
      return this.#binaryType;
    }

    set binaryType(type) {
      this.#socket.binaryType = type;
      this.#binaryType = this.#socket.binaryType;
    }

    /** The current wait for an attempt, or null. */
    get waiting() {
      return this.#waiting;
    }

    send(data) {
      if (this.#options.queue > 0 && !this.#isEnded && this.readyState !== STATES.OPEN) {
        this.#queue.add(data);
      } else if (this.readyState === STATES.CONNECTING) {
        throw new DOMException("The connection is not open yet.", "InvalidStateError");
      } else {
        this.#socket.send(data);
      }
    }

    /** Close the connection, or stop waiting for the next one. */
    close(code, reason) {
      this.#socket.close(code, reason);
      this.#end();
    }

    /**
     * Try now instead of waiting, or again after the end, but not before the floor. Does nothing while connected, unless
     * with `force`: then the connection, or the attempt, is given up.
     */
    reconnect({ force = false } = {}) {
      const isClosed = this.readyState === STATES.CLOSED;
      if (!isClosed && !force) return;
      if (this.#isEnded) this.#attempt = 0;
      this.#isEnded = false;
      this.#listen();
      const delay = this.#closedAt + this.#options.floor - this.#platform.now();
      if (!isClosed) {
        this.#abandon("forced", () => this.#wait(this.#options.floor, false));
      } else if (delay > 0 || this.#isAway) {
        this.#wait(Math.max(0, delay), false);
        this.dispatchEvent(new Event("wait"));
      } else {
        this.#connect();
      }
    }

    #connect() {
      this.#stopWaiting();
      const address = this.#ticket === null ? this.#url : withTicket(this.#url, this.#ticket);
      const socket = new this.#platform.WebSocket(address, this.#protocols);
      socket.binaryType = this.#binaryType;
      socket.onopen = () => this.#settle();
      socket.onmessage = (event) => this.#receive(event);
      socket.onerror = (event) => this.#forward(event);
      socket.onclose = (event) => this.#lose(event);
      this.#socket = socket;
      this.#isAbandoned = false;
      this.#openedAt = Infinity;
      this.#deadline(this.#options.connectTimeout, () => this.#abandon("timeout"));
    }

    #settle() {
      this.#platform.clearTimeout(this.#timer);
      this.#openedAt = this.#platform.now();
      if (this.#options.settle > 0) {
        this.#timer = this.#platform.setTimeout(() => this.#open(), this.#options.settle);
      } else {
        this.#open();
      }
    }

    #open() {
      if (this.#isOpen || this.#socket.readyState !== STATES.OPEN) return;
      this.#platform.clearTimeout(this.#timer);
      this.#isOpen = true;
      this.#isAsking = false;
      this.#ticket = null;
      this.#heardAt = this.#platform.now();
      this.#watch();
      this.dispatchEvent(new Event("open"));
      // The page's handler may have given the connection up: the queue is for the next one.
      if (this.readyState !== STATES.OPEN) return;
      // Messages sent by the page's open handler go first: queued ones may depend on them.
      for (const message of this.#queue.take()) {
        this.#socket.send(message);
      }
    }

    #receive(event) {
      this.#open();
      this.#heardAt = this.#platform.now();
      this.#isAsking = false;
      if (this.#isOpen) this.#forward(event);
    }

    /** Wait for the next message, as long as it may take, and then ask for it or give the connection up. */
    #watch() {
      const { maxSilence, ping } = this.#options;
      const allowed = ping === null ? maxSilence : maxSilence - this.#answerTime;
      const rest = this.#heardAt + allowed - this.#platform.now();
      if (rest > 0) this.#deadline(rest, () => this.#watch());
      else if (ping === null) this.#abandon("silent");
      else this.#ask();
    }

    #ask() {
      this.#isAsking = true;
      this.#deadline(this.#answerTime, () => (this.#isAsking ? this.#abandon("silent") : this.#watch()));
      const { ping } = this.#options;
      const message = typeof ping === "function" ? ping() : ping;
      // The page's function may have closed the socket.
      if (this.readyState === STATES.OPEN) this.#socket.send(message);
    }

    get #answerTime() {
      const { answerTimeout, maxSilence } = this.#options;
      return Math.min(answerTimeout, maxSilence / 2);
    }

    /** Run the action after the delay; a little later if the page was held back meanwhile. */
    #deadline(delay, action) {
      const platform = this.#platform;
      platform.clearTimeout(this.#timer);
      if (delay === Infinity) return;
      const due = platform.now() + delay;
      const run = () => {
        if (platform.now() - due <= LATE) action();
        else this.#timer = platform.setTimeout(action, LATE);
      };
      this.#timer = platform.setTimeout(run, Math.min(delay, LONGEST_TIMER));
    }

    /** What the page, or its place in the browser, has become. */
    #look(type) {
      if (type === "pagehide") return this.#leave();
      // Every page is shown once without having been left; while it is away nothing else counts.
      if (this.#isAway !== (type === "pageshow")) return;
      this.#isAway = false;
      if (this.#waiting?.remaining === 0) this.#retry();
      else if (this.readyState === STATES.OPEN && this.#canAsk) this.#ask();
    }

    get #canAsk() {
      return this.#options.ping !== null && !this.#isAsking && this.#obstacle() === null;
    }

    /** Hold no slot for a page that may never be seen again. */
    #leave() {
      this.#isAway = true;
      if (this.readyState !== STATES.CLOSED) this.#abandon("left", () => this.#wait(this.#options.floor, false));
    }

    /** Take the connection for lost, without waiting for the server to answer the close. */
    #abandon(reason, next) {
      const socket = this.#socket;
      socket.onopen = socket.onmessage = socket.onclose = null;
      // The package ws tells the end of an attempt by an error, which ends the process if nobody hears it.
      socket.onerror = () => {};
      this.#isAbandoned = true;
      socket.close();
      const end = { code: UNANSWERED, reason, wasClean: false };
      this.#lose(new this.#platform.CloseEvent("close", end), next);
    }

    /** The end of a connection or an attempt; `next` says what follows. */
    #lose(event, next = (wasOpen) => this.#follow(event, wasOpen)) {
      const wasOpen = this.#isOpen;
      this.#isOpen = false;
      this.#platform.clearTimeout(this.#timer);
      this.#closedAt = this.#platform.now();
      this.#loss = event;
      // An attempt without an answer did not use up the ticket.
      if (event.code !== UNANSWERED) this.#ticket = ticketOf(event.reason);
      if (this.#closedAt - this.#openedAt >= this.#options.minUptime) this.#attempt = 0;
      next(wasOpen);
      const planned = this.#waiting;
      this.#forward(event);
      // The page's handler may have closed the socket or called reconnect().
      if (planned !== null && planned === this.#waiting) this.dispatchEvent(new Event("wait"));
    }

    #follow(event, wasOpen) {
      if (this.#isEnded || this.#attempt >= this.#options.maxAttempts || this.#options.isFinal(event)) {
        this.#end();
      } else {
        this.#plan(wasOpen);
      }
    }

    #plan(wasOpen) {
      this.#attempt += 1;
      const hint = hintOf(this.#loss.reason, this.#options.maxHint);
      const delay = hint ?? backoff(this.#attempt, wasOpen, this.#options, this.#platform.random);
      this.#wait(Math.max(this.#options.floor, delay), hint !== null);
    }

    #wait(time, hinted) {
      this.#stopWaiting();
      const delay = Math.min(Math.ceil(time), LONGEST_TIMER);
      const { now } = this.#platform;
      const { code, reason } = this.#loss;
      const times = { delay, retryAt: now() + delay, paused: null };
      const hasPlace = this.#ticket !== null;
      const attempt = Math.max(1, this.#attempt);
      this.#waiting = new Wait({ attempt, code, reason, hinted, hasPlace, ...times }, now);
      this.#timer = this.#platform.setTimeout(this.#due, delay);
    }

    #retry() {
      const paused = this.#obstacle();
      if (paused === null) {
        this.#connect();
      } else if (paused !== this.#waiting.paused) {
        this.#waiting = new Wait({ ...this.#waiting, paused }, this.#platform.now);
        this.dispatchEvent(new Event("wait"));
      }
    }

    #obstacle() {
      const { document, navigator } = this.#platform;
      if (this.#isAway) return "cached";
      if (this.#options.pauseOffline && navigator?.onLine === false) return "offline";
      if (this.#options.pauseHidden && document?.visibilityState === "hidden") return "hidden";
      return null;
    }

    #stopWaiting() {
      this.#platform.clearTimeout(this.#timer);
      this.#waiting = null;
    }

    #listen() {
      const { document, events } = this.#platform;
      document?.addEventListener("visibilitychange", this.#heed);
      for (const type of HEARD) events.addEventListener(type, this.#heed);
    }

    #end() {
      const { document, events } = this.#platform;
      document?.removeEventListener("visibilitychange", this.#heed);
      for (const type of HEARD) events.removeEventListener(type, this.#heed);
      this.#stopWaiting();
      this.#isEnded = true;
      this.#queue.take();
    }

    /** Dispatch a copy: an event cannot be dispatched twice. */
    #forward(event) {
      const { type } = event;
      if (event instanceof Event) this.dispatchEvent(new event.constructor(type, event));
      // The events of the package ws are of classes of its own.
      else if (type === "close") this.dispatchEvent(new this.#platform.CloseEvent(type, event));
      else if (type === "message") this.dispatchEvent(new MessageEvent(type, { data: event.data }));
      else this.dispatchEvent(new Event(type));
    }
  }

  for (const [name, value] of Object.entries(STATES)) {
    Object.defineProperty(AdmissionSocket, name, { value, enumerable: true });
    Object.defineProperty(AdmissionSocket.prototype, name, { value, enumerable: true });
  }

  /** An `on…` property as on the platform: one function, called with the socket as `this`, in order of its first setting. */
  for (const type of EVENTS) {
    const slots = new WeakMap();
    Object.defineProperty(AdmissionSocket.prototype, `on${type}`, {
      configurable: true,
      enumerable: true,
      get() {
        return slots.get(this)?.handler ?? null;
      },
      set(value) {
        const slot = slots.get(this) ?? { handleEvent: (event) => slot.handler?.call(this, event) };
        slot.handler = typeof value === "function" ? value : null;
        slots.set(this, slot);
        this.addEventListener(type, slot);
      },
    });
  }

  return AdmissionSocket;
})();
