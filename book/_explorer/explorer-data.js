// Data of the explorer: files on demand, and all that can be said about a view without drawing it.
//
// These are classic scripts, and the data come as scripts that call infraExplorer(name, value): on a page that
// is opened from disk, browsers load no modules and answer no fetch. Nothing is built, and nothing but the
// browser's own controls (select, input, button, details) is needed: what a component library would bring, a table
// with sorting and paging, is the small part here, and the large one, text shaded token by token, is in none.
"use strict";

window.infraExplorer = (() => {
  const FORMAT = 1;
  const KEPT = 60; // shards in memory; the page shows ten examples, so ten at most are in use
  const BOTH = 5; // examples of each end on a page that shows both
  const ONE = 10; // examples on a page that shows one
  const files = new Map();

  /** Called by each data file with its name and what it holds. */
  const api = (name, value) => files.get(name)?.resolve(value);

  /** Load a data file once; a file that does not come is asked for again the next time. */
  api.load = (folder, name) => {
    const known = files.get(name);
    files.delete(name); // and put back behind the others: the first one is the longest unused
    if (known) {
      files.set(name, known);
      return known.promise;
    }
    const file = {};
    file.promise = new Promise((resolve, reject) => {
      file.resolve = resolve;
      const script = document.createElement("script");
      const fail = () => {
        script.remove();
        files.delete(name);
        reject(new Error(`${name}.js did not load`));
      };
      script.src = `${folder}${name}.js`;
      script.onerror = fail;
      script.onload = () => {
        script.remove();
        setTimeout(() => file.done || fail()); // a torn file loads and hands over nothing
      };
      document.head.append(script);
    });
    file.promise.then(() => (file.done = true), () => {});
    files.set(name, file);
    const shards = [...files.keys()].filter((key) => key.startsWith("shard-"));
    shards.slice(0, -KEPT).forEach((key) => files.delete(key));
    return file.promise;
  };

  /** Return the index with examples as objects, or throw for one that this page does not know. */
  api.opened = (index) => {
    if (index.format !== FORMAT) throw new Error(`data of format ${index.format}, not ${FORMAT}: build the book again`);
    const names = ["id", "domain", "difficulty", "category", "n", "words", "scores"];
    const examples = index.examples.map((row, at) => Object.assign({ at }, ...names.map((name, k) => ({ [name]: row[k] }))));
    return { ...index, examples, orders: [], texts: null };
  };

  api.shardOf = (data, at) => `shard-${String(Math.floor(at / data.shard)).padStart(3, "0")}`;

  api.pairOf = (data, state) =>
    data.pairs.findIndex(([method, target]) => method === state.method && target === state.target);

  /** Return {list: examples from most helpful to most harmful, rank: by place in the index} of a pair. */
  api.order = (data, pair) => {
    if (!data.orders[pair]) {
      const ahead = (a, b) => b.scores[pair] - a.scores[pair] || (a.id < b.id ? -1 : 1);
      const list = [...data.examples].sort(ahead);
      const rank = [];
      list.forEach((example, k) => (rank[example.at] = k + 1));
      data.orders[pair] = { list, rank };
    }
    return data.orders[pair];
  };

  // --- What a view shows -------------------------------------------------------------------

  /** Return the state of a view with nothing chosen. */
  api.defaults = (data) => ({
    target: data.targets[0].key, method: data.methods[0].key, level: "token", reading: data.readings[0],
    show: "both", domain: "", difficulty: "", category: "", q: "", page: "1",
  });

  /** Return what each control may hold, as pairs of value and text; what is not listed is free text. */
  api.choices = (data) => {
    const counted = (name) => {
      const counts = new Map();
      for (const example of data.examples) {
        const key = String(example[name] ?? "");
        if (key) counts.set(key, (counts.get(key) ?? 0) + 1);
      }
      const keys = [...counts.keys()].sort((a, b) => a.localeCompare(b, "en", { numeric: true }));
      return [["", "all"], ...keys.map((key) => [key, `${key} (${counts.get(key).toLocaleString("en")})`])];
    };
    return {
      target: data.targets.map(({ key, name }) => [key, name]),
      method: data.methods.map(({ key, name }) => [key, name]),
      level: [["example", "examples"], ["sentence", "sentences"], ["token", "tokens"]],
      reading: [["loss", "loss term"], ["position", "position"]],
      show: [["both", "helpful and harmful"], ["helpful", "most helpful first"], ["harmful", "most harmful first"]],
      domain: counted("domain"), difficulty: counted("difficulty"), category: counted("category"),
    };
  };

  /** Return the state that the text of a link holds; what it names and there is not falls back to the default. */
  api.fromHash = (data, hash) => {
    const state = api.defaults(data);
    const choices = api.choices(data);
    const given = new URLSearchParams(hash.replace(/^#/, ""));
    for (const name of Object.keys(state)) {
      const value = given.get(name);
      if (value === null) continue;
      if (choices[name] ? choices[name].some(([known]) => known === value) : true) state[name] = value;
    }
    if (!/^[1-9]\d{0,6}$/.test(state.page)) state.page = "1";
    state.q = state.q.slice(0, 300);
    return state;
  };

  /** Return the text of a link to a view: what differs from the default. */
  api.toHash = (data, state) => {
    const plain = api.defaults(data);
    const changed = Object.entries(state).filter(([name, value]) => value !== plain[name]);
    return changed.length ? `#${new URLSearchParams(changed)}` : "";
  };

  api.words = (query) => query.toLowerCase().split(/\s+/).filter(Boolean);

  /** Return the examples that a view lists, from most helpful to most harmful; searching needs data.texts. */
  api.listed = (data, state) => {
    const words = api.words(state.q);
    const fits = (example) =>
      ["domain", "difficulty", "category"].every((name) => !state[name] || String(example[name]) === state[name]) &&
      words.every((word) => data.texts[example.at].includes(word));
    return api.order(data, api.pairOf(data, state)).list.filter(fits);
  };

  /** Return {pages, page, parts: [{end, examples}]}: what of a list stands on the view's page. */
  api.onPage = (list, state) => {
    const per = state.show === "both" ? 2 * BOTH : ONE;
    const pages = Math.max(1, Math.ceil(list.length / per));
    const page = Math.min(Number(state.page), pages);
    const cut = (of, size) => of.slice((page - 1) * size, page * size);
    if (state.show !== "both") {
      const turned = state.show === "helpful" ? list : [...list].reverse();
      return { pages, page, parts: [{ end: state.show, examples: cut(turned, ONE) }] };
    }
    const half = Math.ceil(list.length / 2);
    const parts = [
      { end: "helpful", examples: cut(list.slice(0, half), BOTH) },
      { end: "harmful", examples: cut(list.slice(half).reverse(), BOTH) },
    ];
    return { pages, page, parts };
  };

  // --- What an example holds ---------------------------------------------------------------

  /** Return the scores of an example's tokens for a pair of method and target, and how far off they may be. */
  const tokenScores = (row, reading, pair) => {
    const [scale, given] = row.q[reading][pair];
    const whole = Array.isArray(given) ? given : row.q[reading][given][1]; // or the place of the pair with the same
    return { scores: whole.map((n) => n * scale), off: scale / 2 };
  };

  /** Return the sentence of each token. */
  api.sentencesOf = (row) => {
    const owner = [];
    row.s.forEach((start, k) => owner.fill(k, owner.length, (owner.length = row.s[k + 1] ?? row.n)));
    return owner;
  };

  /** Return an example's parts at a level: {text, score, off, sentence, kind}, the prompt's with sentence −1. */
  api.parts = (data, example, row, state) => {
    const pair = api.pairOf(data, state);
    if (state.level === "example") {
      return [{ text: row.t.join(""), score: example.scores[pair], sentence: 0, kind: "" }];
    }
    const sums = row.e[state.reading][pair];
    const prompt = { text: row.p, score: row.h[pair], sentence: -1, kind: "prompt" };
    const first = state.reading === "position" ? [prompt] : [];
    if (state.level === "sentence") {
      const parts = row.s.map((start, k) => ({
        text: row.t.slice(start, row.s[k + 1]).join(""), score: sums[k], sentence: k, kind: row.k[k],
      }));
      return [...first, ...parts];
    }
    const owner = api.sentencesOf(row);
    const { scores, off } = tokenScores(row, state.reading, pair);
    const parts = row.t.map((text, i) => ({ text, score: scores[i], off, sentence: owner[i], kind: row.k[owner[i]] }));
    return [...first, ...parts];
  };

  // --- Tables ------------------------------------------------------------------------------

  /** Return a cell of a CSV file: quoted where it must be, and no formula. */
  const cell = (value) => {
    if (typeof value === "number") return String(value);
    const text = /^[=+\-@\t\r]/.test(value ?? "") ? `'${value}` : String(value ?? "");
    return /[",\n\r]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
  };

  const lines = (rows) => rows.map((row) => row.map(cell).join(",") + "\r\n").join("");

  /** Return the examples of a list as CSV. */
  api.exampleCsv = (data, list, state) => {
    const pair = api.pairOf(data, state);
    const { rank } = api.order(data, pair);
    const head = ["id", "target", "method", "score", "rank", "domain", "difficulty", "category", "n_tokens", "prompt_begins"];
    const rows = list.map((ex) => [
      ex.id, state.target, state.method, ex.scores[pair], rank[ex.at], ex.domain, ex.difficulty, ex.category, ex.n, ex.words,
    ]);
    return lines([head, ...rows]);
  };

  /** Return the sentences or tokens of examples, given with their rows, as CSV. */
  api.partCsv = (data, shown, state) => {
    const head = ["id", "target", "method", "reading", state.level, "sentence", "kind", "score", "text"];
    const rows = shown.flatMap(([example, row]) => {
      const parts = api.parts(data, example, row, state);
      const before = parts.length && parts[0].sentence < 0 ? 1 : 0;
      return parts.map((part, k) => [
        example.id, state.target, state.method, state.reading, k - before, part.sentence, part.kind,
        Number(part.score.toPrecision(6)), part.text,
      ]);
    });
    return lines([head, ...rows]);
  };

  return api;
})();
