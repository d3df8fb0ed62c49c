/**
 * The ES module of AdmissionSocket, a WebSocket that reconnects at the server's hint.
 *
 *     import { AdmissionSocket } from "…/admission-socket.js";
 *
 * The class is in `admission-socket.classic.js`, which is also a classic script and so cannot contain
 * an `export`. The import uses the class of a script tag that ran before, if any.
 */
import "./admission-socket.classic.js";

export const { AdmissionSocket } = globalThis;
export default AdmissionSocket;
