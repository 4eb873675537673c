// The explorer's page: one state, kept in the address; every change of it draws the list again.
"use strict";

document.addEventListener("DOMContentLoaded", async () => {
  const root = document.getElementById("influence-explorer");
  if (!root) return;
  const { make, field, select, legend, card, told, step } = infraExplorer.view;
  const folder = root.dataset.folder;

  const failed = (error) =>
    root.replaceChildren(make("p", { class: "explorer-failed", role: "alert" }, `The explorer's data did not load: ${error.message}.`));
  let data;
  try {
    data = infraExplorer.opened(await infraExplorer.load(folder, "index"));
  } catch (error) {
    return failed(error);
  }
  const choices = infraExplorer.choices(data);
  let state = infraExplorer.fromHash(data, location.hash);
  let shown = []; // examples on the page with their rows
  let list = []; // examples that the view lists
  let turn = 0;
  let pause;

  // --- The page's parts --------------------------------------------------------------------

  const labels = {
    target: "Target", method: "Method", level: "Granularity", reading: "A token's reading", show: "Show",
    domain: "Domain", difficulty: "Difficulty", category: "Category",
  };
  const controls = Object.fromEntries(Object.keys(labels).map((name) => [name, select(name, choices[name])]));
  controls.q = make("input", { type: "search", name: "q", id: "explorer-q", autocomplete: "off", spellcheck: "false", maxlength: 300 });
  const fields = Object.fromEntries(Object.keys(labels).map((name) => [name, field(labels[name], controls[name])]));
  const button = (text, onclick) => make("button", { type: "button", onclick }, text);
  const copy = button("Copy link", () => copyLink());
  const csv = button("Download CSV", () => download());
  const reset = button("Reset", () => change(infraExplorer.defaults(data)));
  const linkField = make("input", { type: "text", readonly: true, hidden: true, "aria-label": "Link to this view", class: "explorer-link" });
  const said = make("span", { class: "explorer-said", role: "status" });
  const key = make("div", { class: "explorer-legend" });
  const status = make("p", { class: "explorer-status", role: "status" });
  const lists = make("div", { class: "explorer-lists" });
  const before = button("Previous", () => turnTo(-1));
  const after = button("Next", () => turnTo(1));
  const where = make("span", {});
  const pager = make("nav", { class: "explorer-pager", "aria-label": "Pages of examples" }, before, where, after);
  const hint = "Point at a token or tap it, or tab to a text and use the arrow keys: its score stands here.";
  const bar = make("div", { class: "explorer-bar", role: "status", "aria-atomic": "true" }, hint);
  const view = make("div", { class: "explorer-fields" }, ...["target", "method", "level", "reading", "show"].map((n) => fields[n]));
  // Closed on a phone, where examples would be out of sight, unless something is searched for.
  const filtered = ["q", "domain", "difficulty", "category"].some((name) => state[name]);
  const find = make(
    "details", { open: filtered || matchMedia("(min-width: 600px)").matches }, make("summary", {}, "Search and filter"),
    make("div", { class: "explorer-fields" }, field("Search for words", controls.q, true), ...["domain", "difficulty", "category"].map((n) => fields[n])),
  );
  const form = make("form", { class: "explorer-controls", "aria-label": "What to show", onsubmit: (event) => event.preventDefault() }, view, find);
  const tools = make("div", { class: "explorer-tools" }, copy, csv, reset, said, linkField);
  root.replaceChildren(form, tools, key, status, lists, pager, bar);

  // --- The state ---------------------------------------------------------------------------

  const address = () => location.href.split("#")[0] + infraExplorer.toHash(data, state);

  const change = (values) => {
    clearTimeout(pause);
    const moved = "page" in values ? {} : { page: "1" };
    state = { ...state, ...moved, q: controls.q.value, ...values }; // with what was typed a moment ago
    try {
      history.replaceState(null, "", address());
    } catch {
      // Browsers limit how often an address changes; the next change brings it up to date.
    }
    return draw();
  };

  const toControls = () => {
    for (const [name, control] of Object.entries(controls)) if (control.value !== state[name]) control.value = state[name];
    fields.reading.hidden = state.level === "example";
    csv.title = state.level === "example" ? "The examples that the view lists" : `The ${state.level}s of the examples on this page`;
  };

  const ready = async (examples) => {
    const rows = await Promise.all(examples.map((example) => infraExplorer.load(folder, infraExplorer.shardOf(data, example.at))));
    return examples.map((example, k) => [example, rows[k][example.at % data.shard]]);
  };

  const draw = async () => {
    const own = ++turn;
    toControls();
    root.setAttribute("aria-busy", "true");
    try {
      if (infraExplorer.words(state.q).length && !data.texts) {
        status.textContent = "Reading the texts …";
        data.texts = (await infraExplorer.load(folder, "search")).map((text) => text.toLowerCase());
      }
      if (own !== turn) return;
      const found = infraExplorer.listed(data, state);
      const page = infraExplorer.onPage(found, state);
      const rows = new Map(await ready(page.parts.flatMap((part) => part.examples)));
      if (own !== turn) return; // another change came while data were loading
      list = found;
      shown = [...rows];
      place(page, rows);
    } catch (error) {
      if (own === turn) status.textContent = `Could not show this view: ${error.message}.`;
    } finally {
      if (own === turn) root.removeAttribute("aria-busy");
    }
  };

  const place = (page, rows) => {
    const of = data.examples.length.toLocaleString("en");
    status.textContent = list.length ? `${list.length.toLocaleString("en")} of ${of} examples` : `None of ${of} examples fits: take away a word or a filter.`;
    if (infraExplorer.words(state.q).length && data.cut) {
      status.textContent += ` (of ${data.cut.toLocaleString("en")} long ones, only the first ${data.searched.toLocaleString("en")} characters are searched)`;
    }
    key.replaceChildren(...legend(data, state));
    const titles = { helpful: "Most helpful", harmful: "Most harmful" };
    const alone = (example) => change({ ...infraExplorer.defaults(data), target: state.target, method: state.method, level: state.level, reading: state.reading, show: "helpful", q: example.id });
    lists.replaceChildren(
      ...page.parts.filter((part) => part.examples.length).map(({ end, examples }) =>
        make("section", { "aria-label": titles[end] }, make("h2", { tabindex: -1 }, titles[end]),
          ...examples.map((example) => card(data, example, rows.get(example), state, alone)))),
    );
    lists.classList.toggle("two", page.parts.length === 2);
    state.page = String(page.page);
    before.disabled = page.page === 1;
    after.disabled = page.page === page.pages;
    where.textContent = `Page ${page.page.toLocaleString("en")} of ${page.pages.toLocaleString("en")}`;
    pager.hidden = page.pages === 1;
    bar.hidden = state.level === "example";
    bar.replaceChildren(hint);
  };

  const turnTo = async (way) => {
    await change({ page: String(Number(state.page) + way) });
    const heading = lists.querySelector("h2");
    heading?.focus({ preventScroll: true });
    heading?.scrollIntoView({ block: "start" });
  };

  // --- Link and table ----------------------------------------------------------------------

  const say = (text) => {
    said.textContent = text;
    setTimeout(() => said.textContent === text && (said.textContent = ""), 4000);
  };

  const copyLink = async () => {
    const link = address();
    try {
      await navigator.clipboard.writeText(link);
      say("Link copied");
    } catch {
      linkField.hidden = false;
      linkField.value = link;
      linkField.select();
      say("Copy it from here:");
    }
  };

  const download = () => {
    const text = state.level === "example" ? infraExplorer.exampleCsv(data, list, state) : infraExplorer.partCsv(data, shown, state);
    const file = URL.createObjectURL(new Blob(["\ufeff", text], { type: "text/csv;charset=utf-8" })); // spreadsheets read UTF-8 by this mark
    make("a", { href: file, download: `influence-${state.target}-${state.method}-${state.level}.csv`.replace(/[^\w.-]+/g, "_") }).click();
    setTimeout(() => URL.revokeObjectURL(file), 10_000);
    say("Downloaded");
  };

  // --- What is listened to -----------------------------------------------------------------

  form.addEventListener("input", ({ target: { name, value } }) => {
    clearTimeout(pause);
    if (name === "q") {
      turn++; // from the first letter on, what is shown or being drawn is not what is asked for
      root.setAttribute("aria-busy", "true");
      pause = setTimeout(() => change({ q: value }), 200);
    } else change({ [name]: value });
  });
  window.addEventListener("hashchange", () => {
    clearTimeout(pause);
    state = infraExplorer.fromHash(data, location.hash);
    draw();
  });
  const part = (event) => event.target.closest?.(".explorer-text .part");
  const tell = (event) => {
    const span = part(event);
    if (span) bar.replaceChildren(...told(span));
  };
  lists.addEventListener("pointerover", tell);
  lists.addEventListener("focusin", (event) => {
    const span = part(event);
    if (!span) return;
    const old = span.parentElement.querySelector('[tabindex="0"]');
    old?.setAttribute("tabindex", "-1");
    old?.setAttribute("aria-selected", "false");
    span.setAttribute("tabindex", "0");
    span.setAttribute("aria-selected", "true");
    tell(event);
  });
  lists.addEventListener("keydown", (event) => {
    const span = part(event);
    const next = span && !event.ctrlKey && !event.metaKey && !event.altKey ? step(span, event.key) : null;
    if (!next) return;
    event.preventDefault();
    next.focus();
  });

  draw();
});
