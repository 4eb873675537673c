// What the explorer draws: controls, legend, cards. Text goes in as text, never as markup.
"use strict";

infraExplorer.view = (() => {
  const EDGES = [1 / 16, 1 / 8, 1 / 4, 1 / 2]; // lower ends of the shades, as parts of the scale's end
  const MOST = 800; // tokens or sentences of an example before it is asked for all of them
  const cards = new WeakMap();

  /** Return an element; values that start with "on" are listeners, null and false are left out. */
  const make = (tag, attributes = {}, ...children) => {
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) {
      if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
      else if (value !== null && value !== false) element.setAttribute(name, value === true ? "" : value);
    }
    element.append(...children.filter((child) => child !== null));
    return element;
  };

  const number = (value) => {
    if (value === 0) return "0";
    const size = Math.abs(value);
    const digits = size >= 1e6 || size < 1e-4 ? value.toExponential(1) : null;
    const text = digits ?? (size >= 100 ? Math.round(value).toLocaleString("en") : String(Number(value.toPrecision(size >= 1 ? 3 : 2))));
    return (value > 0 ? "+" : "") + text.replaceAll("-", "−");
  };

  const effect = (value) => (value > 0 ? "helps" : value < 0 ? "hinders" : "no effect");

  /** Return the class of a score's shade on a scale that ends at end, or nothing near zero. */
  const shade = (value, end) => {
    const reached = EDGES.filter((edge) => Math.abs(value) >= edge * end).length;
    return reached ? `${value > 0 ? "up" : "down"}${reached}` : "";
  };

  const endOf = (data, state, pair) =>
    data.ends[state.level === "example" ? "example" : `${state.level}-${state.reading}`][pair];

  // --- Controls and legend -----------------------------------------------------------------

  const field = (label, control, wide) => make("label", { class: wide ? "explorer-field wide" : "explorer-field" }, make("span", {}, label), control);

  const select = (name, options) =>
    make("select", { name, id: `explorer-${name}` }, ...options.map(([value, text]) => make("option", { value }, text)));

  const legend = (data, state) => {
    const pair = infraExplorer.pairOf(data, state);
    const end = endOf(data, state, pair);
    const swatch = (kind, text) => make("li", { class: `swatch ${kind}` }, text);
    const down = [...EDGES.keys()].reverse().map((k) => swatch(`down${k + 1}`, `≤ ${number(-EDGES[k] * end)}`));
    const up = [...EDGES.keys()].map((k) => swatch(`up${k + 1}`, `≥ ${number(EDGES[k] * end)}`));
    const method = data.methods.find(({ key }) => key === state.method);
    const target = data.targets.find(({ key }) => key === state.target);
    const one = { example: "an example", sentence: "a sentence", token: "a token" }[state.level];
    const words =
      `Score of ${one} on ${target.name} by ${method.name}, in ${method.units}. Purple hinders, orange helps. ` +
      `The target is the mean log-likelihood of ${target.responses.toLocaleString("en")} correct responses.`;
    return [
      make("ul", { class: "explorer-swatches", "aria-label": "Legend" }, ...down, swatch("", "near 0"), ...up),
      make("p", { class: "explorer-words" }, words),
    ];
  };

  // --- One example -------------------------------------------------------------------------

  const shownText = (part, last) => part.text || (last ? "[end]" : "·");

  /** Return the shaded text of an example: one stop of the Tab key, arrow keys within. */
  const shadedText = (data, example, row, state, title, all) => {
    const parts = infraExplorer.parts(data, example, row, state);
    const end = endOf(data, state, infraExplorer.pairOf(data, state));
    if (state.level === "example") {
      return [make("div", { class: `explorer-text whole ${shade(parts[0].score, end)}` }, parts[0].text), []];
    }
    const drawn = all ? parts : parts.slice(0, MOST);
    const sums = row.e[state.reading][infraExplorer.pairOf(data, state)];
    // A sentence's score stands behind its last character that can be seen, before a line's end. The bar says it
    // too, so screen readers need not meet it here.
    const last = new Map(drawn.flatMap((part, i) => (part.text.trim() || i === parts.length - 1 ? [[part.sentence, i]] : [])));
    const spans = drawn.flatMap((part, i) => {
      const kind = `part ${shade(part.score, end)}${part.sentence < 0 ? " prompt" : ""}`;
      const closes = part.sentence >= 0 && last.get(part.sentence) === i;
      const text = shownText(part, i === parts.length - 1);
      const own = closes && text.trim() ? text.trimEnd() : text;
      const name = text.trim() ? null : text.includes("\n") ? "line end" : "white space";
      const span = make(
        "span", { role: "option", class: kind, "data-part": i, tabindex: i ? -1 : 0, "aria-selected": "false", "aria-label": name }, own,
      );
      return closes ? [span, make("span", { class: "sum", "aria-hidden": "true" }, number(sums[part.sentence])), text.slice(own.length)] : [span];
    });
    const name = `${state.level === "token" ? "Tokens" : "Sentences"} of ${title}: arrow keys move along them`;
    const list = make("div", { class: "explorer-text", role: "listbox", "aria-label": name, "aria-orientation": "horizontal" }, ...spans);
    return [list, parts];
  };

  /** Return the table of an example's scores by every method on every target. */
  const scoreTable = (data, example) => {
    const head = make("tr", {}, make("th", { scope: "col" }, "method"), ...data.targets.map(({ name }) => make("th", { scope: "col" }, `on ${name}`)));
    const rows = data.methods.map(({ key, name }) => {
      const cells = data.targets.map((target) => {
        const pair = infraExplorer.pairOf(data, { method: key, target: target.key });
        const rank = infraExplorer.order(data, pair).rank[example.at];
        return make("td", {}, `${number(example.scores[pair])} (rank ${rank.toLocaleString("en")})`);
      });
      return make("tr", {}, make("th", { scope: "row" }, name), ...cells);
    });
    return make("table", {}, make("thead", {}, head), make("tbody", {}, ...rows));
  };

  const card = (data, example, row, state, alone) => {
    const pair = infraExplorer.pairOf(data, state);
    const rank = infraExplorer.order(data, pair).rank[example.at];
    const score = example.scores[pair];
    const title = `Rank ${rank.toLocaleString("en")} of ${data.examples.length.toLocaleString("en")}`;
    const tags = [
      example.domain, example.difficulty === null ? null : `difficulty ${example.difficulty}`, example.category || null,
      `${example.n.toLocaleString("en")} tokens`,
    ];
    const heading = make(
      "h3", { id: `explorer-rank-${rank}` },
      `${title} `, make("span", { class: "explorer-score" }, `${number(score)} `, make("span", { class: effect(score).replace(" ", "-") }, effect(score))),
    );
    // No link: the theme takes the address of any link on the page for a heading's, and fails on this one.
    const link = make("button", { type: "button", class: "explorer-id", title: "Show this example alone; the address then links to it", onclick: () => alone(example) }, example.id);
    const meta = make("p", { class: "explorer-meta" }, link, ...tags.filter(Boolean).flatMap((tag) => [" · ", tag]));
    const body = make("div", { class: "explorer-body" });
    const element = make(
      "article", { class: `explorer-card ${effect(score).replace(" ", "-")}`, "aria-labelledby": `explorer-rank-${rank}` },
      heading, meta, body,
    );
    const fill = (all) => {
      const [text, parts] = shadedText(data, example, row, state, title.toLowerCase(), all);
      const inText = parts.length && parts[0].sentence < 0;
      const prompt = inText ? null : make("div", { class: "explorer-prompt" }, row.p);
      const rest = row.r ? make("div", { class: "explorer-rest" }, `${row.r} (cut in training: no score)`) : null;
      const more = parts.length > MOST && !all
        ? make("button", { type: "button", onclick: () => fill(true) }, `Show all ${parts.length.toLocaleString("en")} ${state.level}s`)
        : null;
      body.replaceChildren(...[prompt, text, more, rest].filter(Boolean));
      cards.set(element, { data, example, row, state, parts, rank });
    };
    fill(false);
    const every = make("details", { class: "explorer-every" }, make("summary", {}, "Scores by every method"));
    every.addEventListener("toggle", () => every.open && every.children.length === 1 && every.append(scoreTable(data, example)));
    element.append(every);
    return element;
  };

  /** Return what the bar says about a token or sentence that is pointed at or focused. */
  const told = (span) => {
    const { data, example, row, state, parts, rank } = cards.get(span.closest(".explorer-card"));
    const pair = infraExplorer.pairOf(data, state);
    const k = Number(span.dataset.part);
    const part = parts[k];
    const text = part.text.trim() ? `“${part.text.trim().slice(0, 60)}${part.text.trim().length > 60 ? "…" : ""}”` : part.text ? span.getAttribute("aria-label") : shownText(part, k === parts.length - 1);
    const kind = part.sentence < 0 ? "prompt" : state.level;
    const says = [`${kind === "prompt" ? "the prompt" : kind} ${text}: `];
    const rest = [];
    if (state.level === "token" && part.sentence >= 0) {
      const name = part.kind ? ` (${part.kind})` : "";
      rest.push(`sentence ${part.sentence + 1}${name} ${number(row.e[state.reading][pair][part.sentence])}`);
    } else if (part.sentence >= 0 && part.kind) rest.push(`kind ${part.kind}`);
    rest.push(`example ${number(example.scores[pair])}, rank ${rank.toLocaleString("en")}`);
    return [
      ...says, make("strong", {}, part.score === 0 && part.off ? `between −${number(part.off).slice(1)} and ${number(part.off)}` : `${number(part.score)} ${effect(part.score)}`), make("span", { class: "explorer-about" }, ` · ${rest.join(" · ")}`),
    ];
  };

  /** Return the part that a key leads to from another, or null. */
  const step = (span, key) => {
    const spans = [...span.parentElement.querySelectorAll(".part")];
    const parts = cards.get(span.closest(".explorer-card")).parts;
    const k = Number(span.dataset.part);
    const sentence = (way) => {
      let at = k;
      while (parts[at] && parts[at].sentence === parts[k].sentence) at += way;
      if (way < 0) while (parts[at - 1] && parts[at - 1].sentence === parts[at]?.sentence) at -= 1;
      return at;
    };
    const ways = { ArrowRight: () => k + 1, ArrowLeft: () => k - 1, Home: () => 0, End: () => spans.length - 1, ArrowDown: () => sentence(1), ArrowUp: () => sentence(-1) };
    return ways[key] ? spans[ways[key]()] ?? span : null;
  };

  return { make, number, field, select, legend, card, told, step };
})();
