"use strict";
// How the page talks to the studio; what several scripts share.
const talk = (() => {
  const remembered = sessionStorage.getItem("segproto-session");
  const session = remembered || crypto.randomUUID();
  sessionStorage.setItem("segproto-session", session);
  let revision = 0, quiet = null;
  const find = (selector) => document.querySelector(selector);

  function make(tag, props = {}, ...children) {
    const node = Object.assign(document.createElement(tag), props);
    node.append(...children.filter((child) => child !== null && child !== undefined));
    return node;
  }

  // A line for the person; without words it goes away, and after a while, if it is not to stay.
  function say(words, stays = false) {
    clearTimeout(quiet);
    find("#say").textContent = words || "";
    find("#say").hidden = !words;
    if (words && !stays) quiet = setTimeout(() => say(""), 12000);
  }

  function address(path, more = {}) {
    return `${path}?${new URLSearchParams({ s: session, ...more })}`;
  }

  async function answer(request) {
    let response;
    try {
      response = await request;
    } catch {
      const gone = new Error("The studio does not answer: it has ended. Start it again: what you edited and decided is kept.");
      throw Object.assign(gone, { stays: true });
    }
    const value = await response.json().catch(() => ({ error: response.statusText }));
    if (!response.ok) throw new Error(value.error || response.statusText);
    return value;
  }

  const ask = (path, more) => answer(fetch(address(path, more)));
  const send = (path, body, more) =>
    answer(fetch(address(path, more), { method: "POST", body: body instanceof Blob ? body : JSON.stringify(body), headers: { "X-Segproto": "studio" } }));
  const percent = (value, digits = 1) => (value === null || value === undefined ? "\u2013" : (100 * value).toFixed(digits));
  const signed = (value, digits = 2) => {
    const text = (100 * value).toFixed(digits);
    return Number(text) === 0 ? (0).toFixed(digits) : value > 0 ? "+" + text : text.replace("-", "\u2212");
  };
  // Runs something for the person and says what went wrong.
  const guarded = (work) => async (...values) => {
    try {
      return await work(...values);
    } catch (error) {
      say(error.message, error.stays);
      return undefined;
    }
  };
  // Runs what draws parts of the page anew: the keyboard stays at the control that is in the place of the one before.
  async function inPlace(work) {
    const part = document.activeElement.closest("section, header");
    const controls = () => [...part.querySelectorAll("button, input, select")].filter((node) => node.offsetParent);
    const index = part ? controls().indexOf(document.activeElement) : -1;
    const value = await work();
    if (index < 0 || document.activeElement !== document.body) return value;
    const now = controls(), from = now.slice(index).concat(now.slice(0, index).reverse());
    const next = from.find((node) => !node.disabled);
    if (next) next.focus({ preventScroll: true });
    return value;
  }
  // What is being written, and how it ended; again: asks anew, while it goes on.
  let waiting = null;
  function showJob(job, again) {
    find("#job").hidden = !job;
    if (!job) return;
    const running = job.state === "running", gained = job.miou ? `: mIoU ${percent(job.miou.before, 2)} to ${percent(job.miou.after, 2)} %` : "";
    const so = running && job.total && job.kind === "review" ? `: ${job.done} of ${job.total}` : "";
    find("#job-words").textContent = job.words + gained + so;
    find("#job-command").hidden = !job.then;
    find("#job-command").textContent = job.then || "";
    find("#job").dataset.state = job.state;
    find("#job-bar").hidden = !running;
    find("#job-bar").max = job.total || 1;
    if (job.done) find("#job-bar").value = job.done; else find("#job-bar").removeAttribute("value");
    find("#stop").hidden = !(running && job.stops);
    clearTimeout(waiting);
    if (running) waiting = setTimeout(again, 500);
  }
  const typing = (event) => Boolean(event.target.closest("input, select, textarea"));
  return { find, make, say, ask, send, address, percent, signed, guarded, showJob, typing, inPlace, renew: () => ++revision, revision: () => revision };
})();
