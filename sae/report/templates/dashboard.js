"use strict";
// The dashboard. data/index.js is read at once, data/search.js at the first search, and the examples of
// a latent, with those of its 127 fellows, when it is opened. Scripts are all that a page on a disk may load.
(() => {
  const ROW = 60, SPARE = 8, DENSE = 0.1, RARE = 1e-4;
  const CONTRACTED = new Set([" s", " t", " d", " m", " ll", " re", " ve"]);
  const byId = (id) => document.getElementById(id);
  const make = (tag, className, text) => {
    const element = document.createElement(tag);
    if (className) element.className = className;
    if (text !== undefined) element.textContent = text; // text from the data never becomes markup
    return element;
  };

  // ---- data -------------------------------------------------------------------------------------

  const waiting = new Map(), arrived = new Map();
  window.dashboardData = (name, value) => {
    arrived.set(name, value);
    const resolve = waiting.get(name);
    if (resolve) resolve(value);
    else if (name === "index") start(value);
  };

  function fetched(name, file) {
    if (arrived.has(name)) return Promise.resolve(arrived.get(name));
    return new Promise((resolve, reject) => {
      waiting.set(name, resolve);
      const script = document.createElement("script");
      script.src = `data/${file}`;
      script.onerror = () => reject(new Error(`data/${file} is missing`));
      document.head.append(script);
    });
  }

  const loading = new Map();
  function once(name, file) {
    if (!loading.has(name)) loading.set(name, fetched(name, file));
    return loading.get(name);
  }

  // ---- numbers ----------------------------------------------------------------------------------

  const number = (x, digits = 3) => x === 0 ? "0" : Math.abs(x) >= 1e5 || Math.abs(x) < 1e-3
    ? x.toExponential(digits - 1) : Number(x.toPrecision(digits)).toString();
  const percent = (x) => x === 0 ? "0%" : x < 1e-5 ? "<0.001%" : `${number(100 * x, x < 0.001 ? 2 : 3)}%`;
  const grouped = (n) => n.toLocaleString("en-US");
  const visible = (text) => text.replace(/\r?\n/g, "\u23ce").replace(/\t/g, "\u21e5");

  function start(index) {
    const F = index.count.length;
    const density = Float64Array.from(index.count, (count) => count / index.n_rows);
    const frequency = (latent) => index.count[latent] === 0 ? "never fired"
      : `1 in ${grouped(Math.max(1, Math.round(1 / density[latent])))}`;
    const state = { found: [], latent: null, query: "", texts: null, cursor: 0 };
    const browser = byId("browser"), list = byId("list"), space = byId("space"), detail = byId("detail");
    const isPhone = () => matchMedia("(max-width: 900px)").matches;

    // ---- list -----------------------------------------------------------------------------------

    const FILTERS = {
      all: () => true,
      alive: (latent) => index.count[latent] > 0,
      dead: (latent) => index.count[latent] === 0,
      dense: (latent) => density[latent] > DENSE,
      rare: (latent) => index.count[latent] > 0 && density[latent] < RARE,
    };
    const down = (column) => (a, b) => index[column][b] - index[column][a] || a - b;
    const ORDERS = {
      id: (a, b) => a - b, density: down("count"), rare: (a, b) => index.count[a] - index.count[b] || a - b,
      max: down("max"), mean: down("mean"), cosine: down("cosine"),
    };

    async function refresh() {
      const query = byId("search").value.trim().toLowerCase();
      state.query = query;
      const id = /^#?\d+$/.test(query) ? Number(query.replace("#", "")) : -1;
      if (query && !state.texts) {
        byId("status").textContent = "Reading the texts ...";
        state.texts = await once("search", "search.js");
        if (byId("search").value.trim().toLowerCase() !== query) return;
      }
      const passes = FILTERS[byId("filter").value], found = [];
      for (let latent = 0; latent < F; latent++) {
        if (latent === id || (passes(latent) && (!query || state.texts[latent].includes(query)))) found.push(latent);
      }
      const order = ORDERS[byId("sort").value];
      state.found = found.sort((a, b) => (b === id) - (a === id) || order(a, b));
      state.cursor = 0;
      list.scrollTop = 0;
      space.style.height = `${found.length * ROW}px`;
      byId("status").textContent = `${grouped(found.length)} of ${grouped(F)} latents`;
      draw();
    }

    /** Draw the rows that are in view, and some around them. */
    function draw() {
      const first = Math.max(0, Math.floor(list.scrollTop / ROW) - SPARE);
      const last = Math.min(state.found.length, Math.ceil((list.scrollTop + list.clientHeight) / ROW) + SPARE);
      const rows = [];
      for (let place = first; place < last; place++) rows.push(listRow(place));
      space.replaceChildren(...rows);
      if (!state.found.length) space.append(make("p", "none", "No latent fits. Try another word or show all."));
      const current = space.querySelector(`[data-place="${state.cursor}"]`);
      if (current) list.setAttribute("aria-activedescendant", current.id);
      else list.removeAttribute("aria-activedescendant");
    }

    function listRow(place) {
      const latent = state.found[place];
      const row = make("div", "row");
      row.id = `row-${place}`;
      row.style.top = `${place * ROW}px`;
      row.dataset.latent = latent;
      row.dataset.place = place;
      row.setAttribute("role", "option");
      row.setAttribute("aria-selected", String(latent === state.latent));
      row.setAttribute("aria-setsize", state.found.length);
      row.setAttribute("aria-posinset", place + 1);
      const line = make("div", "line");
      line.append(make("span", "name", `#${latent}`), make("span", "peaks", visible(index.peaks[latent])),
        make("span", "share", frequency(latent)));
      row.append(line, make("div", "snippet", visible(index.snippet[latent])));
      return row;
    }

    function bringIntoView(place) {
      state.cursor = place;
      if (place * ROW < list.scrollTop) list.scrollTop = place * ROW;
      if ((place + 1) * ROW > list.scrollTop + list.clientHeight) list.scrollTop = (place + 1) * ROW - list.clientHeight;
    }

    function moveTo(place) {
      if (place < 0 || place >= state.found.length) return;
      bringIntoView(place);
      if (isPhone()) draw();
      else open(state.found[place], { quietly: true });
    }

    // ---- one latent -----------------------------------------------------------------------------

    function button(text, action, className = "", disabled = false) {
      const element = make("button", className, text);
      element.type = "button";
      element.disabled = disabled;
      element.addEventListener("click", action);
      return element;
    }

    async function show(latent) {
      state.latent = latent;
      const place = state.found.indexOf(latent);
      if (place >= 0) bringIntoView(place);
      draw();
      const shard = Math.floor(latent / index.per_shard);
      let data;
      try {
        data = await once(`shard-${shard}`, `latents-${String(shard).padStart(5, "0")}.js`);
      } catch (error) {
        detail.replaceChildren(make("p", "warning", `${error.message}: the folder is not complete.`));
        return;
      }
      if (state.latent !== latent) return; // another one was opened while this one came
      const found = data.latents[latent];
      const head = make("div", "detail-head");
      const title = make("h2", "", `Latent ${latent}`);
      title.id = "detail-title";
      head.append(button("\u2190 All latents", close, "back"), title,
        button("Previous", () => open(state.found[place - 1]), "", place <= 0),
        button("Next", () => open(state.found[place + 1]), "", place < 0 || place + 1 >= state.found.length));
      const numbers = make("dl", "numbers");
      for (const [name, value] of [
        ["Fires on", index.count[latent] ? `${frequency(latent)} tokens (${percent(density[latent])})` : "no token"],
        ["Times", grouped(index.count[latent])],
        ["Largest activation", number(index.max[latent])],
        ["Mean when it fires", number(index.mean[latent])],
      ]) {
        const pair = make("div");
        pair.append(make("dt", "", name), make("dd", "", value));
        numbers.append(pair);
      }
      const sides = make("div", "three");
      sides.append(histogram(found.h, index.max[latent]), links("Nearest by decoder cosine", found.n, "neighbor-of"),
        links("Fire together (Jaccard)", found.k, "coactive"));
      if (index.has_logits) sides.append(logits("Promotes", found.p, "up"), logits("Suppresses", found.s, "down"));
      detail.replaceChildren(head, numbers, sides, ...groups(found.e, data.texts, latent));
      detail.dataset.latent = latent;
      detail.scrollTop = 0;
    }

    function svgNode(tag, attributes) {
      const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
      for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
      return node;
    }

    function histogram(bars, largest) {
      const box = make("div");
      box.append(make("h3", "", "Activations, log scale"));
      if (!bars.length) {
        box.append(make("p", "lead", "It never fired on these tokens."));
        return box;
      }
      const width = 100 / bars.length, most = Math.max(...bars.map(([, count]) => count)), low = 2 ** bars[0][0];
      const svg = svgNode("svg", { viewBox: "0 0 100 40", preserveAspectRatio: "none", class: "histogram", role: "img",
        "aria-label": `Activations between ${number(low)} and ${number(largest)}` });
      bars.forEach(([, count], i) => {
        if (!count) return;
        const height = Math.max(0.6, 38 * count / most);
        svg.append(svgNode("rect", { x: i * width + width * 0.06, width: width * 0.88, y: 39.5 - height, height }));
      });
      svg.append(svgNode("line", { x1: 0, x2: 100, y1: 39.7, y2: 39.7, "stroke-width": 0.5 }));
      const scale = make("div", "scale");
      scale.append(make("span", "", number(low)), make("span", "", number(largest)));
      box.append(svg, scale);
      return box;
    }

    function links(heading, pairs, className) {
      const box = make("div"), entries = make("ul", "neighbors");
      box.append(make("h3", "", heading));
      for (const [other, value] of pairs) {
        const link = button("", () => open(other), `neighbor ${className}`);
        link.dataset.latent = other;
        link.append(make("span", "cosine", value.toFixed(2)), make("span", "name", `#${other}`),
          make("span", "peaks", index.count[other] ? visible(index.peaks[other]) : "never fired"));
        const entry = make("li");
        entry.append(link);
        entries.append(entry);
      }
      box.append(pairs.length ? entries : make("p", "lead", "None."));
      return box;
    }

    function logits(heading, pairs, className) {
      const box = make("div"), entries = make("dl", "logits");
      box.append(make("h3", "", `${heading} (logits)`));
      for (const [token, value] of pairs) {
        entries.append(make("dt", className, visible(token)), make("dd", "", (value > 0 ? "+" : "") + value.toFixed(2)));
      }
      box.append(entries);
      return box;
    }

    function groups(examples, texts, latent) {
      return index.groups.flatMap((name, group) => {
        const own = examples.filter((example) => example.g === group);
        if (!own.length) return [];
        const heading = make("h3", "", name);
        if (group === 0 && index.has_text) {
          const legend = make("span", "legend");
          legend.append(" 0", make("i"), number(index.max[latent]));
          heading.append(" ", legend);
        }
        const entries = make("ol", "examples");
        for (const example of own) {
          const entry = make("li", "example"), text = make("div", "text");
          if (index.has_text) text.append(...tokens(example, texts, index.max[latent]));
          else text.append(`row ${grouped(example.r)}`);
          const value = make("span", "value", example.v.toPrecision(3));
          value.title = `row ${grouped(example.r)} of the data`;
          entry.append(value, text);
          entries.append(entry);
        }
        return [heading, entries];
      });
    }

    function tokens(example, texts, largest) {
      // WordPiece forgets spaces: "king's" comes as three words.
      const words = example.t.map((place, i) => {
        const text = texts[place], before = i ? texts[example.t[i - 1]] : "";
        return index.spelling === "wordpiece" && before === "'" && CONTRACTED.has(text) ? text.trimStart() : text;
      });
      const hits = state.query ? hitTokens(words, state.query) : new Set();
      return words.flatMap((text, i) => {
        const shown = visible(i ? text : text.trimStart()), value = example.a[i] || 0;
        if (!value && i !== example.c) return [hits.has(i) ? make("mark", "", shown) : document.createTextNode(shown)];
        const word = shown.trimStart(); // the space in front of a word is not shaded
        const token = make(hits.has(i) ? "mark" : "span", "token on", word);
        const share = Math.min(1, value / largest);
        token.style.setProperty("--a", share.toFixed(3));
        if (share > 0.5) token.classList.add("strong");
        if (i === example.c) token.classList.add("peak");
        token.dataset.value = number(value);
        return word.length < shown.length ? [document.createTextNode(" "), token] : [token];
      });
    }

    function hitTokens(texts, query) {
      const hits = new Set(), ends = [];
      let text = "";
      for (const part of texts) ends.push((text += part.toLowerCase()).length);
      for (let at = text.indexOf(query); at >= 0; at = text.indexOf(query, at + 1)) {
        ends.forEach((end, i) => {
          if (end > at && (i ? ends[i - 1] : 0) < at + query.length) hits.add(i);
        });
      }
      return hits;
    }

    // ---- moving around --------------------------------------------------------------------------

    function open(latent, { quietly = false } = {}) {
      if (latent === undefined) return;
      if (quietly) history.replaceState(null, "", `#latent-${latent}`);
      else if (location.hash !== `#latent-${latent}`) {
        location.hash = `latent-${latent}`; // the browser's Back leads to where one came from
        return;
      }
      browser.classList.add("open");
      show(latent);
      if (!quietly) detail.focus({ preventScroll: !isPhone() });
    }

    function close() {
      browser.classList.remove("open");
      if (location.hash) history.pushState(null, "", "#");
      draw();
      list.focus();
    }

    function follow() {
      const match = /^#latent-(\d+)$/.exec(location.hash);
      const known = match !== null && Number(match[1]) < F;
      if (known) open(Number(match[1]));
      else browser.classList.remove("open");
      return known;
    }

    function showTip(event) {
      const token = event.target.closest ? event.target.closest(".detail .token") : null, tip = byId("tip");
      tip.hidden = !token;
      if (!token) return;
      tip.textContent = `${token.textContent} ${token.dataset.value}`;
      const box = token.getBoundingClientRect();
      const left = Math.min(box.left, document.documentElement.clientWidth - tip.offsetWidth - 8);
      tip.style.left = `${Math.max(8, left) + scrollX}px`;
      tip.style.top = `${box.top + scrollY - tip.offsetHeight - 4}px`;
    }

    // ---- start ----------------------------------------------------------------------------------

    document.title = `${index.heading}: dashboard`;
    byId("heading").textContent = index.heading;
    const found = index.evaluation;
    const facts = [...index.facts, `FVU ${found.fvu === null ? "undefined" : found.fvu.toFixed(4)}`, `L0 ${found.l0.toFixed(1)}`,
      `${percent(index.count.filter((count) => count === 0).length / F)} never fired`, `${grouped(index.n_rows)} tokens read`];
    byId("facts").replaceChildren(...facts.map((fact) => make("span", "", fact)));
    byId("search").placeholder = index.has_text ? "text in the examples, or a number" : "number of a latent";
    let typing = 0;
    byId("search").addEventListener("input", () => {
      clearTimeout(typing);
      typing = setTimeout(refresh, 120);
    });
    byId("search").addEventListener("keydown", (event) => {
      if (event.key !== "ArrowDown" && event.key !== "Enter") return;
      event.preventDefault();
      clearTimeout(typing);
      refresh().then(() => { list.focus(); moveTo(0); });
    });
    for (const id of ["sort", "filter"]) byId(id).addEventListener("change", refresh);
    byId("random").addEventListener("click", () => open(state.found[Math.floor(Math.random() * state.found.length)]));
    list.addEventListener("scroll", draw, { passive: true });
    addEventListener("resize", draw);
    list.addEventListener("click", (event) => {
      const row = event.target.closest(".row");
      if (row) open(Number(row.dataset.latent));
    });
    list.addEventListener("keydown", (event) => {
      const page = Math.max(1, Math.floor(list.clientHeight / ROW) - 1), end = state.found.length - 1;
      const to = { ArrowDown: state.cursor + 1, ArrowUp: state.cursor - 1, Home: 0, End: end,
        PageDown: Math.min(end, state.cursor + page), PageUp: Math.max(0, state.cursor - page) }[event.key];
      if (event.key === "Enter") open(state.found[state.cursor]);
      if (to === undefined) return;
      event.preventDefault();
      moveTo(to);
    });
    document.addEventListener("keydown", (event) => {
      const inField = /^(INPUT|SELECT|TEXTAREA)$/.test(document.activeElement.tagName);
      if (event.key === "/" && !inField && !event.ctrlKey && !event.metaKey) {
        event.preventDefault();
        byId("search").focus();
      } else if (event.key === "Escape" && detail.contains(document.activeElement)) close();
    });
    for (const kind of ["pointerover", "click"]) document.addEventListener(kind, showTip);
    addEventListener("hashchange", follow);
    browser.hidden = false;
    refresh().then(() => {
      if (!follow() && state.found.length && !isPhone()) show(state.found[0]);
      document.documentElement.dataset.ready = "yes";
    });
  }
})();
