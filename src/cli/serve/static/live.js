// Keeps the page as the server has it: when something has changed it is fetched again, and what differs is put in its
// place. The server makes all of the HTML; no text becomes markup here.

const PAUSE = 500; // Milliseconds from one look to the next, at least.
const SLOW = 5000; // A look without a reason: clocks go on, and silence is no event.
const LINES = 5000; // Of the output so many are kept.

const output = document.getElementById("output");

/** Puts the new element in the place of the old one, unless they are the same or somebody is in it. */
function replace(old, fresh) {
  if (old.isEqualNode(fresh) || old.contains(document.activeElement)) return;
  for (const open of old.querySelectorAll("details[open]")) {
    if (open.id) fresh.querySelector(`#${CSS.escape(open.id)}`)?.setAttribute("open", "");
  }
  old.replaceWith(document.adoptNode(fresh));
}

/** Rows are told apart by their ids: what somebody reads or has focused stays where it is. */
function replaceRows(old, fresh) {
  const known = new Map([...old.children].map((row) => [row.id, row]));
  let place = old.firstElementChild;
  for (const row of [...fresh.children]) {
    const mine = known.get(row.id);
    known.delete(row.id);
    if (!mine) {
      old.insertBefore(document.adoptNode(row), place);
      continue;
    }
    if (mine === place) place = place.nextElementSibling;
    else old.insertBefore(mine, place);
    if (!mine.isEqualNode(row)) {
      [...row.children].forEach((cell, n) => replace(mine.children[n], cell));
    }
  }
  for (const gone of known.values()) gone.remove();
}

/** Puts what was printed since behind what is there. Who has scrolled up stays there. */
function append(fresh) {
  const atEnd = output.scrollHeight - output.scrollTop - output.clientHeight < 40;
  for (const line of [...fresh.children]) output.append(document.adoptNode(line));
  while (output.children.length > LINES) output.firstElementChild.remove();
  output.dataset.after = fresh.dataset.after;
  if (atEnd) output.scrollTop = output.scrollHeight;
}

async function look() {
  const url = new URL(location.href);
  if (output) url.searchParams.set("after", output.dataset.after);
  const answer = await fetch(url, { headers: { Accept: "text/html" } });
  if (answer.status === 401) location.reload();
  if (!answer.ok) return;
  const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
  for (const id of ["link", "summary", "none", "pager", "state", "about", "failures", "tasks", "plot", "foot"]) {
    const [old, next] = [document.getElementById(id), fresh.getElementById(id)];
    if (old && next) replace(old, next);
  }
  const rows = document.getElementById("rows");
  if (rows) replaceRows(rows, fresh.getElementById("rows"));
  if (output) append(fresh.getElementById("output"));
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
    } catch {
      const link = document.getElementById("link");
      if (link) link.textContent = "this page's server does not answer";
    } finally {
      isLooking = false;
    }
  }, pause);
}

if (document.getElementById("link")) {
  // An element's address, as the server writes it: a run's page looks only when its own run has changed.
  const own = decodeURIComponent(location.pathname.split("/")[3] ?? "");
  const events = new EventSource("/api/events");
  events.addEventListener("run", (event) => {
    if (!output || JSON.parse(event.data).runner_ident === own) soon();
  });
  events.addEventListener("open", () => soon());
  setInterval(() => soon(), SLOW);
  document.addEventListener("visibilitychange", () => soon());
  if (output) output.scrollTop = output.scrollHeight;
}

// What is typed into the filter is in the URL, without a button.
const filter = document.getElementById("filter");
if (filter) {
  const apply = () => {
    const query = new URLSearchParams([...new FormData(filter)].filter(([, value]) => value !== ""));
    history.replaceState(null, "", query.size ? `/?${query}` : "/");
    soon(150);
  };
  filter.addEventListener("input", apply);
  filter.addEventListener("submit", (event) => {
    event.preventDefault();
    apply();
  });
}
