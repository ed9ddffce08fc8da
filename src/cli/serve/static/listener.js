// One for all pages of a browser, as a browser opens few connections to one server: hears what changes, and tells them.

const pages = [];
const tell = (news) => pages.forEach((page) => page.postMessage(news));

function listen() {
  const events = new EventSource("/api/events");
  events.addEventListener("run", (event) => tell(event.data));
  events.addEventListener("open", () => tell(""));
  events.addEventListener("error", () => {
    // Refused, for want of the token say: a browser does not try again by itself then.
    if (events.readyState === EventSource.CLOSED) setTimeout(listen, 5000);
  });
}

addEventListener("connect", (event) => pages.push(event.ports[0]));
listen();
