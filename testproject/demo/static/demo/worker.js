/** A service worker with one AdmissionSocket for all pages of the site; it tells each page what comes. */

importScripts("/static/channels_admission/admission-socket.classic.js");

const socket = new AdmissionSocket(self.location.origin.replace("http", "ws") + "/ws/echo/");
const tell = async (message) => {
  for (const page of await self.clients.matchAll({ includeUncontrolled: true })) page.postMessage(message);
};

socket.onopen = () => tell({ state: "open" });
socket.onmessage = ({ data }) => tell({ data });
socket.onwait = () => tell({ state: "waiting", delay: socket.waiting.delay, hinted: socket.waiting.hinted });
self.onmessage = ({ data }) => socket.send(data);
