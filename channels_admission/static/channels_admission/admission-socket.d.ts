/** Types of `admission-socket.js`, and of the global that `admission-socket.classic.js` defines. Times are in milliseconds. */

/** The wait between two attempts. */
export interface AdmissionWait {
  /** The number of the coming attempt: 1 for the first retry since a connection last stayed open. */
  readonly attempt: number;
  /** The code of the close before. */
  readonly code: number;
  /** The reason of the close before. */
  readonly reason: string;
  /** Whether the server has said how long to wait. */
  readonly hinted: boolean;
  /** The length of the wait when it began. */
  readonly delay: number;
  /** When the attempt comes, since 1970. */
  readonly retryAt: number;
  /** How long from now; 0 when it is over. */
  readonly remaining: number;
  /** What the attempt still waits for when the time is over. */
  readonly paused: "hidden" | "offline" | null;
}

/** What stands in for parts of the browser, in tests. */
export interface AdmissionPlatform {
  WebSocket: new (url: string | URL, protocols?: string | string[]) => WebSocket;
  document: Pick<Document, "visibilityState" | "addEventListener" | "removeEventListener"> | undefined;
  navigator: Pick<Navigator, "onLine"> | undefined;
  events: Pick<EventTarget, "addEventListener" | "removeEventListener">;
  now: () => number;
  random: () => number;
  setTimeout: (action: () => void, delay: number) => unknown;
  clearTimeout: (timer: unknown) => void;
}

export interface AdmissionOptions {
  /** How long a connection must stay open before the page hears of it, unless a message comes: 100. */
  settle?: number;
  /** The shortest wait, whoever asks for less: 500. */
  floor?: number;
  /** The longest first wait after an attempt that failed, doubled for each further one: 1,000. */
  base?: number;
  /** The longest wait without a hint: 60,000. */
  cap?: number;
  /** The longest first wait after a connection that was open: 5,000. */
  firstRetryWindow?: number;
  /** A hint longer than this is ignored: 3,600,000. */
  maxHint?: number;
  /** How long a connection must stay open for the failures before it to be forgotten: 5,000. */
  minUptime?: number;
  /** Retries in a row, after which there is none: Infinity. */
  maxAttempts?: number;
  /** Bytes that may be sent while there is no connection, and are kept for the next one: 0. */
  queue?: number;
  /** Whether retries wait until the page can be seen: true. */
  pauseHidden?: boolean;
  /** Whether retries wait until the browser is online: true. */
  pauseOffline?: boolean;
  /** Whether no retry follows this close event: `AdmissionSocket.isFinal`. */
  isFinal?: (event: CloseEvent) => boolean;
  platform?: Partial<AdmissionPlatform>;
}

export interface AdmissionSocketEventMap extends WebSocketEventMap {
  wait: Event;
}

export interface AdmissionSocket extends WebSocket {
  /** The present wait for an attempt; null while there is none, and after the end. */
  readonly waiting: AdmissionWait | null;
  onwait: ((this: AdmissionSocket, event: Event) => unknown) | null;
  /** Try now instead of waiting, or again after the end; only the floor holds. Does nothing while connected. */
  reconnect(): void;
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
  /** By default, whether no retry follows this close event. */
  isFinal(event: Pick<CloseEvent, "code" | "reason">): boolean;
}

export const AdmissionSocket: AdmissionSocketConstructor;
export default AdmissionSocket;

declare global {
  var AdmissionSocket: AdmissionSocketConstructor;
}
