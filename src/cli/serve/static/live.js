// Keeps the page as the server has it: when something has changed, the parts that differ are fetched and put in their places.
// The server makes all of the HTML; no text becomes markup here.

const PAUSE = 1000; // Milliseconds from one look to the next, at least.
const SLOW = 5000; // A look without a reason: clocks go on, and silence is no event.

const byId = (id) => document.getElementById(id);
const touched = new WeakSet(); // What somebody has opened or closed stays so.
let zone = localStorage.getItem("zone") ?? "local";
let follows = false;

/** Makes an element what the new one is, in its place: focus, selection and what is open stay. */
function morph(old, fresh) {
  if ("same" in fresh.dataset || "mine" in fresh.dataset) return;
  const runOf = ({ dataset }) => dataset.src?.split("?")[0];
  const isOther = runOf(old) !== runOf(fresh); // A later run of the ident has begun: its lines are others.
  const own = (name) => (name === "open" && touched.has(old)) || (name === "data-after" && !isOther);
  for (const { name, value } of fresh.attributes) {
    if (!own(name) && old.getAttribute(name) !== value) old.setAttribute(name, value);
  }
  for (const { name } of [...old.attributes]) {
    if (!own(name) && !fresh.hasAttribute(name)) old.removeAttribute(name);
  }
  if (isOther) return old.replaceChildren(...fresh.childNodes);
  if ("src" in old.dataset) return; // Lines: they are added, and do not change.
  const known = new Map([...old.children].filter((child) => child.id).map((child) => [child.id, child]));
  let place = old.firstChild;
  for (const child of [...fresh.childNodes]) {
    const isAlike = place?.nodeName === child.nodeName && !place.id && !child.id;
    const mine = child.id ? known.get(child.id) : isAlike && place;
    if (!mine) {
      old.insertBefore(document.adoptNode(child), place);
      continue;
    }
    if (mine === place) place = place.nextSibling;
    else old.insertBefore(mine, place);
    if (mine.nodeType === Node.ELEMENT_NODE) morph(mine, child);
    else if (mine.data !== child.data) mine.data = child.data;
  }
  while (place) {
    const next = place.nextSibling;
    place.remove();
    place = next;
  }
}

async function get(url, headers = {}) {
  const answer = await fetch(url, { headers });
  if (answer.status === 401) location.reload(); // To the form, and back.
  if (!answer.ok) throw new Error(answer.statusText, { cause: answer.status });
  return parse(await answer.text());
}

function parse(text) {
  const fresh = new DOMParser().parseFromString(text, "text/html");
  localize(fresh);
  return fresh;
}

/** Times of the place where this browser is, short if they are of today. */
function localize(root) {
  const now = new Date().toDateString();
  for (const time of root.querySelectorAll("time")) {
    const date = new Date(time.dateTime);
    const utc = time.dateTime.replace("T", " ").slice(0, 19);
    const text = zone === "local" ? date.toLocaleString("sv") : utc;
    time.textContent = date.toDateString() === now ? text.slice(11) : text.slice(0, 16);
  }
  const button = byId("zone");
  if (button) button.textContent = `times: ${zone}`;
}

/** Fetches what a task has printed, as far as it is not there. */
async function fill(lines) {
  const { src, after, last, busy } = lines.dataset;
  if (busy || after === last || !last) return;
  lines.dataset.busy = "yes";
  try {
    const fresh = (await get(`${src}&last=${last}${after && `&after=${after}`}`)).querySelector("[data-src]");
    if (!after) lines.replaceChildren();
    lines.append(...fresh.childNodes);
    lines.dataset.after = fresh.dataset.after;
  } finally {
    delete lines.dataset.busy;
  }
}

async function look() {
  const parts = [...document.querySelectorAll("[data-version]")].map((part) => `${part.id}=${part.dataset.version}`);
  const fresh = await get(location.href.split("#")[0], { "Known-Parts": parts.join(" ") });
  for (const id of ["line", "main"]) morph(byId(id), fresh.getElementById(id));
  await Promise.all([...document.querySelectorAll("details[open] > [data-src], [data-whole]")].map(fill));
  if (follows) scrollTo(0, document.body.scrollHeight);
}

let timer = null;
let isLooking = false;

/** Looks soon, and once however often it is asked. */
function soon(pause = PAUSE) {
  if (timer !== null || document.hidden) return;
  timer = setTimeout(async () => {
    timer = null;
    if (isLooking) return soon();
    isLooking = true;
    try {
      await look();
    } catch ({ cause }) {
      const live = byId("live");
      const isUnknown = cause === 404;
      const why = isUnknown ? "the server of this page does not know it any more" : "the server of this page does not answer";
      if (live) live.textContent = why;
      byId("link")?.removeAttribute("data-version"); // What it says comes again with the next answer.
    } finally {
      isLooking = false;
    }
  }, pause);
}

function listen(address) {
  // An element's address, as the server writes it: a run's page looks only when its own run has changed.
  const ident = decodeURIComponent(location.pathname.split("/")[3] ?? "");
  const hear = (news) => (!news || !ident || JSON.parse(news).runner_ident === ident) && soon();
  if (window.SharedWorker) {
    new SharedWorker(address).port.onmessage = (event) => hear(event.data);
    return;
  }
  let events = null;
  const check = () => {
    events?.close();
    events = document.hidden ? null : new EventSource("/api/events");
    events?.addEventListener("run", (event) => hear(event.data));
  };
  document.addEventListener("visibilitychange", check);
  check();
}

/** The line that the address means, if it is here. */
function show(id) {
  const line = id ? byId(id) : null;
  const around = line?.closest("details");
  if (around) touched.add(around);
  around?.setAttribute("open", "");
  line?.scrollIntoView({ block: "center" });
  return line;
}

document.addEventListener("click", async (event) => {
  const { target } = event;
  const summary = target.closest("summary");
  if (summary) touched.add(summary.parentElement);
  const link = target.closest("a");
  // What is filtered is another page.
  const isFiltered = [location, link].some((place) => new URLSearchParams(place?.search).has("q"));
  if (link?.hash && !isFiltered && show(link.hash.slice(1))) {
    event.preventDefault();
    const look = new URLSearchParams(location.search);
    for (const [name, value] of new URLSearchParams(link.search)) look.set(name, value);
    history.pushState(null, "", link.pathname + (look.size ? `?${look}` : ""));
    location.replace(link.hash); // So the line is marked.
  }
  if (link?.matches(".gap")) {
    event.preventDefault();
    const fresh = (await get(link.href)).querySelector("[data-src]");
    link.parentElement.replaceWith(...fresh.childNodes);
  }
  if (target.id === "zone") {
    zone = zone === "local" ? "UTC" : "local";
    localStorage.setItem("zone", zone);
    localize(document);
  }
  if (target.id === "follow") follows = target.ariaPressed !== "true";
  if (target.id === "follow") target.ariaPressed = String(follows);
  if (follows) soon(0);
});
document.addEventListener("toggle", (event) => {
  const lines = event.target.open && event.target.querySelector(":scope > [data-src]");
  if (lines) fill(lines).catch(() => soon());
}, true);

// What is typed is in the address, without a button.
for (const form of document.querySelectorAll("form[role=search]")) {
  const apply = () => {
    const query = new URLSearchParams([...new FormData(form)].filter(([, value]) => value !== ""));
    history.replaceState(null, "", query.size ? `?${query}` : location.pathname);
    soon(150);
  };
  form.addEventListener("input", apply);
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    apply();
  });
}

// All of it is printed, and printing does not wait for what comes later.
addEventListener("beforeprint", () => {
  const isPart = (lines) => lines.dataset.after !== lines.dataset.last || lines.querySelector(".gap");
  const missing = [...document.querySelectorAll("[data-src]")].filter(isPart);
  if (missing.length === 0) return;
  const request = new XMLHttpRequest();
  request.open("GET", `${location.pathname}?open=all`, false);
  request.send();
  const whole = parse(request.responseText);
  for (const lines of missing) {
    const fresh = whole.getElementById(lines.id);
    if (!fresh) continue;
    lines.replaceChildren(...fresh.childNodes);
    lines.dataset.after = fresh.dataset.after;
  }
});

const { listener } = document.querySelector("script[data-listener]")?.dataset ?? {};
if (listener) {
  for (const mine of document.querySelectorAll("[data-mine]")) mine.hidden = false;
  localize(document);
  if (byId("live")) byId("live").textContent = "live";
  // The part behind `#` does not go through a login.
  const meant = new URLSearchParams(location.search).get("line");
  if (!location.hash && meant) location.replace(`#e${meant}`);
  show(location.hash.slice(1));
  listen(listener);
  setInterval(() => soon(), SLOW);
  document.addEventListener("visibilitychange", () => soon());
}
