/** Types of `admission-socket.js`, and of the global that `admission-socket.classic.js` defines. Times are in milliseconds. */

/** The wait between two attempts. */
export interface AdmissionWait {
  /** The number of the next attempt: 1 for the first retry since a connection last stayed open. */
  readonly attempt: number;
  /** The code of the preceding close; 1006 if the connection was given up. */
  readonly code: number;
  /** The reason of the preceding close; `timeout`, `silent`, `left` or `forced` if the connection was given up. */
  readonly reason: string;
  /** Whether the wait is the server's hint. */
  readonly hinted: boolean;
  /** Whether the attempt will hand back a ticket: a place in the line that the server has given. */
  readonly hasPlace: boolean;
  /** The length of the wait when it began. */
  readonly delay: number;
  /** The time of the attempt, since 1970. */
  readonly retryAt: number;
  /** The rest of the wait; 0 when it is over. */
  readonly remaining: number;
  /** What delays the attempt after that time. */
  readonly paused: "hidden" | "offline" | "cached" | null;
}

/** Replacements of parts of the browser, for tests and for Node. */
export interface AdmissionPlatform {
  WebSocket: new (url: string | URL, protocols?: string | string[]) => WebSocket;
  CloseEvent: new (type: string, init?: CloseEventInit) => CloseEvent;
  document: Pick<Document, "visibilityState" | "addEventListener" | "removeEventListener"> | undefined;
  navigator: Pick<Navigator, "onLine"> | undefined;
  events: Pick<EventTarget, "addEventListener" | "removeEventListener">;
  now: () => number;
  random: () => number;
  setTimeout: (action: () => void, delay: number) => unknown;
  clearTimeout: (timer: unknown) => void;
}

export interface AdmissionOptions {
  /** How long a connection must stay open before `open` fires, unless a message comes: 100. */
  settle?: number;
  /** The shortest wait, whatever the hint: 500. */
  floor?: number;
  /** The longest first wait after a failed attempt, doubled for each further one: 1,000. */
  base?: number;
  /** The longest wait without a hint: 60,000. */
  cap?: number;
  /** The longest first wait after a connection that was open: 5,000. */
  firstRetryWindow?: number;
  /** Longer hints are ignored: 3,600,000. */
  maxHint?: number;
  /** How long a connection must stay open to reset the count of failures: 5,000. */
  minUptime?: number;
  /** Most retries in a row: Infinity. */
  maxAttempts?: number;
  /** How long an attempt may take to open: 60,000. */
  connectTimeout?: number;
  /** How long an open connection may be without a message before it counts as lost: Infinity. */
  maxSilence?: number;
  /** What is sent when a message is missed, and when the page can be seen or is online again: null. */
  ping?: string | (() => string | ArrayBufferLike | Blob | ArrayBufferView) | null;
  /** How long the message after a ping may take: 5,000. */
  answerTimeout?: number;
  /** Bytes that may be sent while there is no connection, and are kept for the next one: 0. */
  queue?: number;
  /** Whether retries wait while the page is hidden: true. */
  pauseHidden?: boolean;
  /** Whether retries wait while the browser is offline: true. */
  pauseOffline?: boolean;
  /** Whether no retry follows this close event: `AdmissionSocket.isFinal`. */
  isFinal?: (event: CloseEvent) => boolean;
  platform?: Partial<AdmissionPlatform>;
}

export interface AdmissionSocketEventMap extends WebSocketEventMap {
  wait: Event;
}

export interface AdmissionSocket extends WebSocket {
  /** The current wait for an attempt; null while there is none, and after the end. */
  readonly waiting: AdmissionWait | null;
  onwait: ((this: AdmissionSocket, event: Event) => unknown) | null;
  /**
   * Try now instead of waiting, or again after the end, but not before the floor. Does nothing while connected, unless
   * with `force`: then the connection, or the attempt, is given up.
   */
  reconnect(options?: { force?: boolean }): void;
  addEventListener<K extends keyof AdmissionSocketEventMap>(
    type: K,
    listener: (this: AdmissionSocket, event: AdmissionSocketEventMap[K]) => unknown,
    options?: boolean | AddEventListenerOptions,
  ): void;
  addEventListener(
    type: string,
    listener: EventListenerOrEventListenerObject,
    options?: boolean | AddEventListenerOptions,
  ): void;
}

export interface AdmissionSocketConstructor {
  readonly prototype: AdmissionSocket;
  new (url: string | URL, protocols?: string | string[], options?: AdmissionOptions): AdmissionSocket;
  readonly CONNECTING: 0;
  readonly OPEN: 1;
  readonly CLOSING: 2;
  readonly CLOSED: 3;
  /** The default: whether no retry follows this close event. */
  isFinal(event: Pick<CloseEvent, "code" | "reason">): boolean;
}

export const AdmissionSocket: AdmissionSocketConstructor;
export default AdmissionSocket;

declare global {
  var AdmissionSocket: AdmissionSocketConstructor;
}
