/** Types of `admitted-socket.js`. */

import type { AdmissionOptions, AdmissionWait } from "./admission-socket.js";

/**
 * A WebSocket for libraries that reconnect by themselves: CONNECTING until the server has admitted it, and the wait that
 * the server asks for is kept between two of them.
 */
export interface AdmittedSocket extends WebSocket {
  /** The current wait for an attempt; null while there is none, and once the connection is open. */
  readonly waiting: AdmissionWait | null;
}

export interface AdmittedSocketConstructor {
  readonly prototype: AdmittedSocket;
  new (url: string | URL, protocols?: string | string[]): AdmittedSocket;
  readonly CONNECTING: 0;
  readonly OPEN: 1;
  readonly CLOSING: 2;
  readonly CLOSED: 3;
  /** The options of each AdmissionSocket that it connects through. */
  options: AdmissionOptions;
}

export const AdmittedSocket: AdmittedSocketConstructor;
export default AdmittedSocket;
