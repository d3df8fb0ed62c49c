/**
 * The ES module of AdmissionSocket, a WebSocket that comes back when the server says so.
 *
 *     import { AdmissionSocket } from "…/admission-socket.js";
 *
 * The class is in `admission-socket.classic.js`, which is also a script by itself: a file with an
 * `export` in it could not be one. The import gets the class from a script tag that ran before.
 */
import "./admission-socket.classic.js";

export const { AdmissionSocket } = globalThis;
export default AdmissionSocket;
