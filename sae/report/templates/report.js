"use strict";
(() => {
  const PAGE_SIZE = 50;
  const CONTRACTED = new Set([" s", " t", " d", " ll", " re", " ve", " m", " st", " tis", " twas"]);
  const CLIPPED = new Set([" tis", " twas"]);
  const DENSE = 0.1, RARE = 1e-4;
  const TYPES = {
    uint8: Uint8Array, uint16: Uint16Array, uint32: Uint32Array, float32: Float32Array, float64: Float64Array,
  };
  const byId = (id) => document.getElementById(id);
  const make = (tag, className, text) => {
    const element = document.createElement(tag);
    if (className) element.className = className;
    if (text !== undefined) element.textContent = text; // text from the data never becomes markup
    return element;
  };

  // ---- data -------------------------------------------------------------------------------------

  function bytesOf(base64) {
    const raw = atob(base64);
    const bytes = new Uint8Array(raw.length);
    for (let i = 0; i < raw.length; i++) bytes[i] = raw.charCodeAt(i);
    return bytes;
  }

  function unpackAll(packed) {
    const plain = {};
    for (const [name, value] of Object.entries(packed)) {
      plain[name] = value && value.type && value.data !== undefined
        ? new TYPES[value.type](bytesOf(value.data).buffer) : value;
    }
    return plain;
  }

  const data = unpackAll(JSON.parse(byId("data").textContent));
  data.heights = unpackAll(data.histogram).heights;
  const F = data.n_latents, E = data.examples_per_latent;
  const hasText = data.vocabulary !== undefined;
  const density = Float64Array.from(data.count, (count) => count / data.n_rows);
  const firedStart = hasText ? prefixSums(data.n_fired) : null;

  function prefixSums(lengths) {
    const sums = new Uint32Array(lengths.length + 1);
    for (let i = 0; i < lengths.length; i++) sums[i + 1] = sums[i] + lengths[i];
    return sums;
  }

  /** The examples of a latent that exist, as places in the tables. */
  function examplesOf(latent, first = 0, size = E) {
    const places = [];
    for (let e = latent * E + first; e < latent * E + first + size; e++) if (data.rows[e] > 0) places.push(e);
    return places;
  }

  function tokenTexts(example) {
    const start = data.starts[example];
    const texts = Array.from(data.tokens.subarray(start, start + data.lengths[example]), (t) => data.vocabulary[t]);
    if (data.spelling !== "wordpiece") return texts;
    // WordPiece forgets spaces: "king's" comes as three words.
    return texts.map((text, i) => {
      if (i && texts[i - 1] === "'" && CONTRACTED.has(text)) return text.trimStart();
      return text === "'" && CLIPPED.has(texts[i + 1]) ? " '" : text;
    });
  }

  /** Share of the latent's largest activation on each token. */
  function tokenShares(example) {
    const shares = new Float32Array(data.lengths[example]);
    for (let i = firedStart[example]; i < firedStart[example + 1]; i++) {
      shares[data.fired_at[i]] = data.fired_share[i] / 255;
    }
    return shares;
  }

  const peakCache = new Map();
  /** The different tokens on which the top examples peak, most frequent first. */
  function peaksOf(latent) {
    if (!peakCache.has(latent)) {
      const counts = new Map();
      for (const e of hasText ? examplesOf(latent, 0, data.groups[0].size) : []) {
        const word = visible(data.vocabulary[data.tokens[data.starts[e] + data.centers[e]]]).trim();
        counts.set(word, (counts.get(word) || 0) + 1);
      }
      const words = [...counts].sort((a, b) => b[1] - a[1]).slice(0, 5).map(([word]) => word);
      peakCache.set(latent, words.join(" \u00b7 "));
    }
    return peakCache.get(latent);
  }

  const visible = (text) => text.replace(/\r?\n/g, "\u23ce").replace(/\t/g, "\u21e5");

  const textCache = new Array(F);
  function searchText(latent) {
    if (textCache[latent] === undefined) {
      textCache[latent] = hasText
        ? examplesOf(latent).map((e) => tokenTexts(e).join("")).join("\u0000").toLowerCase() : "";
    }
    return textCache[latent];
  }

  // ---- numbers ----------------------------------------------------------------------------------

  const number = (x, digits = 3) => x === 0 ? "0" : Math.abs(x) >= 1e5 || Math.abs(x) < 1e-3
    ? x.toExponential(digits - 1) : Number(x.toPrecision(digits)).toString();
  const percent = (x) => x === 0 ? "0%" : x < 1e-5 ? "<0.001%" : `${number(100 * x, x < 0.001 ? 2 : 3)}%`;
  const grouped = (n) => n.toLocaleString("en-US");
  const frequency = (latent) => data.count[latent] === 0 ? "never fired"
    : `1 in ${grouped(Math.max(1, Math.round(1 / density[latent])))}`;

  // ---- list -------------------------------------------------------------------------------------

  const state = { found: [], page: 0, latent: null, query: "" };
  const browser = document.querySelector(".browser");
  const list = byId("list"), detail = byId("detail");
  const isPhone = () => matchMedia("(max-width: 900px)").matches;

  const FILTERS = {
    all: () => true,
    alive: (latent) => data.count[latent] > 0,
    dead: (latent) => data.count[latent] === 0,
    dense: (latent) => density[latent] > DENSE,
    rare: (latent) => data.count[latent] > 0 && density[latent] < RARE,
  };
  const ORDERS = {
    id: (a, b) => a - b,
    density: (a, b) => data.count[b] - data.count[a] || a - b,
    rare: (a, b) => data.count[a] - data.count[b] || a - b,
    max: (a, b) => data.max[b] - data.max[a] || a - b,
  };

  function refresh() {
    state.query = byId("search").value.trim().toLowerCase();
    const id = /^#?\d+$/.test(state.query) ? Number(state.query.replace("#", "")) : -1;
    const passes = FILTERS[byId("filter").value];
    state.found = [];
    for (let latent = 0; latent < F; latent++) {
      if (latent === id || (passes(latent) && (!state.query || searchText(latent).includes(state.query)))) {
        state.found.push(latent);
      }
    }
    const order = ORDERS[byId("sort").value];
    state.found.sort((a, b) => (b === id) - (a === id) || order(a, b));
    state.page = 0;
    showPage();
  }

  function showPage() {
    const pages = Math.max(1, Math.ceil(state.found.length / PAGE_SIZE));
    state.page = Math.min(Math.max(0, state.page), pages - 1);
    const first = state.page * PAGE_SIZE;
    list.replaceChildren(...state.found.slice(first, first + PAGE_SIZE).map(listItem));
    list.scrollTop = 0;
    if (!state.found.length) list.append(make("li", "none", "No latent fits. Try another word or show all."));
    byId("status").textContent = `${grouped(state.found.length)} of ${grouped(F)} latents`;
    byId("page").textContent = `Page ${grouped(state.page + 1)} of ${grouped(pages)}`;
    byId("previous-page").disabled = state.page === 0;
    byId("next-page").disabled = state.page === pages - 1;
    markCurrent();
  }

  function listItem(latent) {
    const item = make("button", "item");
    item.type = "button";
    item.dataset.latent = latent;
    const line = make("span", "line");
    line.append(make("span", "name", `#${latent}`), make("span", "peaks", peaksOf(latent)),
      make("span", "share", frequency(latent)));
    item.append(line);
    const best = examplesOf(latent, 0, 1)[0];
    if (best !== undefined) {
      const snippet = make("span", "snippet");
      snippet.append(...(hasText ? tokenNodes(latent, best, Math.max(0, data.centers[best] - 5))
        : [`strongest in row ${grouped(data.rows[best] - 1)}: ${number(data.values[best])}`]));
      item.append(snippet);
    }
    const entry = make("li");
    entry.append(item);
    return entry;
  }

  /** Mark the open latent, and let Tab enter the list in one place only: arrows move inside. */
  function markCurrent() {
    const items = [...list.querySelectorAll(".item")];
    const current = items.find((item) => Number(item.dataset.latent) === state.latent);
    for (const item of items) {
      if (item === current) item.setAttribute("aria-current", "true");
      else item.removeAttribute("aria-current");
      item.tabIndex = item === (current || items[0]) ? 0 : -1;
    }
  }

  function turnPage(by) {
    state.page += by;
    showPage();
    if (isPhone()) byId("latents").scrollIntoView();
  }

  // ---- one latent -------------------------------------------------------------------------------

  function tokenNodes(latent, example, from = 0) {
    const texts = tokenTexts(example), shares = tokenShares(example), center = data.centers[example];
    const hits = state.query ? hitTokens(texts, state.query) : null;
    const nodes = [];
    for (let i = from; i < texts.length; i++) {
      const text = i === from ? texts[i].trimStart() : texts[i];
      const shown = visible(text);
      if (!(shares[i] > 0) && i !== center) {
        nodes.push(hits && hits.has(i) ? make("mark", "", shown) : document.createTextNode(shown));
        continue;
      }
      // The space in front of a word stays outside, so that only the word is shaded.
      const word = shown.trimStart();
      if (word.length < shown.length) nodes.push(document.createTextNode(" "));
      const token = make(hits && hits.has(i) ? "mark" : "span", "token on", word);
      token.style.setProperty("--a", shares[i].toFixed(3));
      if (shares[i] > 0.5) token.classList.add("strong");
      if (i === center) token.classList.add("peak");
      token.dataset.value = number(shares[i] * data.max[latent]);
      nodes.push(token);
    }
    return nodes;
  }

  /** Numbers of the tokens that a search hit covers. */
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

  function show(latent) {
    state.latent = latent;
    markCurrent();
    const head = make("div", "detail-head");
    const title = make("h3", "", `Latent ${latent}`);
    title.id = "detail-title";
    const place = state.found.indexOf(latent);
    head.append(button("\u2190 All latents", close, "back"), title,
      button("Previous", () => open(state.found[place - 1]), "", place <= 0),
      button("Next", () => open(state.found[place + 1]), "", place < 0 || place + 1 >= state.found.length));
    const numbers = make("dl", "numbers");
    const facts = [
      ["Fires on", data.count[latent] ? `${frequency(latent)} tokens (${percent(density[latent])})` : "no token"],
      ["Times", grouped(data.count[latent])],
      ["Largest activation", number(data.max[latent])],
      ["Mean when it fires", number(data.mean[latent])],
    ];
    for (const [name, value] of facts) {
      const pair = make("div");
      pair.append(make("dt", "", name), make("dd", "", value));
      numbers.append(pair);
    }
    const sides = make("div", "sides");
    sides.append(histogram(latent), neighbors(latent));
    detail.replaceChildren(head, numbers, sides, ...groups(latent));
    detail.scrollTop = 0;
  }

  function button(text, action, className = "", disabled = false) {
    const element = make("button", className, text);
    element.type = "button";
    element.disabled = disabled;
    element.addEventListener("click", action);
    return element;
  }

  function histogram(latent) {
    const box = make("div");
    box.append(make("h4", "", "Activations, log scale"));
    const n = data.histogram.n_bins, heights = data.heights.subarray(latent * n, (latent + 1) * n);
    const used = [...heights.keys()].filter((bin) => heights[bin] > 0);
    if (!used.length) {
      box.append(make("p", "lead", "It never fired on these tokens."));
      return box;
    }
    const first = used[0], last = used[used.length - 1] + 1, width = 100 / (last - first);
    const edge = (bin) => 2 ** (data.histogram.first_log2 + bin * data.histogram.step_log2);
    const svg = svgNode("svg", { viewBox: "0 0 100 40", preserveAspectRatio: "none", class: "histogram", role: "img",
      "aria-label": `Activations between ${number(edge(first))} and ${number(data.max[latent])}` });
    for (const bin of used) {
      const height = Math.max(0.6, 38 * heights[bin] / 255);
      svg.append(svgNode("rect", { x: (bin - first) * width + width * 0.06, width: width * 0.88, y: 39.5 - height, height }));
    }
    svg.append(svgNode("line", { x1: 0, x2: 100, y1: 39.7, y2: 39.7, "stroke-width": 0.5 }));
    const scale = make("div", "scale");
    scale.append(make("span", "", number(edge(first))), make("span", "", number(data.max[latent])));
    box.append(svg, scale);
    return box;
  }

  function svgNode(tag, attributes) {
    const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
    return node;
  }

  function neighbors(latent) {
    const box = make("div");
    box.append(make("h4", "", "Nearest latents by decoder cosine"));
    const entries = make("ul", "neighbors");
    for (let i = latent * data.n_neighbors; i < (latent + 1) * data.n_neighbors; i++) {
      const other = data.neighbors[i];
      const link = button("", () => open(other), "neighbor");
      link.dataset.neighbor = other;
      link.append(make("span", "cosine", data.cosines[i].toFixed(2)), make("span", "name", `#${other}`),
        make("span", "peaks", data.count[other] ? peaksOf(other) : "never fired"));
      const entry = make("li");
      entry.append(link);
      entries.append(entry);
    }
    box.append(entries);
    return box;
  }

  function groups(latent) {
    const nodes = [];
    let first = 0;
    for (const group of data.groups) {
      const places = examplesOf(latent, first, group.size);
      first += group.size;
      if (!places.length) continue;
      const heading = make("h4", "", group.name);
      if (!nodes.length && hasText) {
        const legend = make("span", "legend");
        legend.append(" 0", make("i"), number(data.max[latent]));
        heading.append(" ", legend);
      }
      const entries = make("ol", "examples");
      for (const e of places) {
        const entry = make("li", "example");
        const text = make("div", "text");
        text.append(...(hasText ? tokenNodes(latent, e) : [`row ${grouped(data.rows[e] - 1)}`]));
        const value = make("span", "value", data.values[e].toPrecision(3));
        value.title = `row ${grouped(data.rows[e] - 1)} of the data`;
        entry.append(value, text);
        entries.append(entry);
      }
      nodes.push(heading, entries);
    }
    return nodes;
  }

  // ---- moving around ----------------------------------------------------------------------------

  function open(latent, { quietly = false } = {}) {
    if (latent === undefined) return;
    if (quietly) history.replaceState(null, "", `#latent-${latent}`);
    else if (location.hash !== `#latent-${latent}`) {
      location.hash = `latent-${latent}`; // the browser's Back leads to where one came from
      return;
    }
    const wasOpen = browser.classList.contains("open");
    show(latent);
    browser.classList.add("open");
    if (quietly) return;
    detail.focus({ preventScroll: true });
    const top = (isPhone() ? byId("latents") : browser).getBoundingClientRect().top;
    if (isPhone() || !wasOpen || top > innerHeight / 2) {
      (isPhone() ? detail : browser).scrollIntoView({ block: "start" });
    }
  }

  function close() {
    browser.classList.remove("open");
    if (location.hash.startsWith("#latent-")) history.pushState(null, "", "#latents");
    const item = list.querySelector("[aria-current]") || byId("search");
    item.focus();
  }

  function follow() {
    const match = /^#latent-(\d+)$/.exec(location.hash);
    if (match && Number(match[1]) < F) open(Number(match[1]));
    else browser.classList.remove("open");
  }

  function moveInList(event) {
    const items = [...list.querySelectorAll(".item")];
    const at = items.indexOf(document.activeElement);
    const to = { ArrowDown: at + 1, ArrowUp: at - 1, Home: 0, End: items.length - 1 }[event.key];
    if (to === undefined || at < 0) return;
    event.preventDefault();
    if (to < 0 && state.page > 0) turnPage(-1);
    else if (to >= items.length && !byId("next-page").disabled) turnPage(1);
    else if (items[to]) return focusItem(items[to]);
    else return undefined;
    const fresh = list.querySelectorAll(".item");
    return focusItem(to < 0 ? fresh[fresh.length - 1] : fresh[0]);
  }

  function focusItem(item) {
    for (const other of list.querySelectorAll(".item")) other.tabIndex = other === item ? 0 : -1;
    item.focus();
    if (!isPhone()) open(Number(item.dataset.latent), { quietly: true });
  }

  // ---- values on tokens -------------------------------------------------------------------------

  function showTip(event) {
    const token = event.target.closest ? event.target.closest(".detail .token") : null;
    const tip = byId("tip");
    tip.hidden = !token;
    if (!token) return;
    tip.textContent = `${token.textContent} ${token.dataset.value}`;
    const box = token.getBoundingClientRect();
    const left = Math.min(box.left, document.documentElement.clientWidth - tip.offsetWidth - 8);
    tip.style.left = `${Math.max(8, left) + scrollX}px`;
    tip.style.top = `${box.top + scrollY - tip.offsetHeight - 4}px`;
  }

  // ---- charts -----------------------------------------------------------------------------------

  const figures = JSON.parse(byId("figures").textContent);

  async function loadPlotly() {
    const packed = new Blob([bytesOf(byId("plotly").textContent.trim())]);
    const source = await new Response(packed.stream().pipeThrough(new DecompressionStream("gzip"))).text();
    const script = document.createElement("script");
    script.textContent = source;
    document.head.append(script);
    byId("plotly").textContent = "";
  }

  function themed(figure) {
    const style = getComputedStyle(document.documentElement);
    const color = (name) => style.getPropertyValue(name).trim();
    const axis = { gridcolor: color("--grid"), zerolinecolor: color("--grid"), linecolor: color("--strong-line") };
    return {
      ...figure.layout,
      autosize: true, paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
      font: { color: color("--muted"), size: 12, family: getComputedStyle(document.body).fontFamily },
      colorway: [1, 2, 3, 4].map((i) => color(`--series-${i}`)),
      hoverlabel: { bgcolor: color("--text"), bordercolor: color("--text"), font: { color: color("--page") } },
      dragmode: matchMedia("(pointer: coarse)").matches ? false : "zoom",
      xaxis: { ...axis, ...figure.layout.xaxis }, yaxis: { ...axis, ...figure.layout.yaxis },
    };
  }

  function drawCharts() {
    for (const plot of document.querySelectorAll(".plot")) {
      const figure = figures[plot.dataset.chart];
      if (plot.dataset.chart === "latents") {
        const alive = [...density.keys()].filter((latent) => data.count[latent] > 0);
        const trace = figure.data[0];
        trace.x = alive.map((latent) => density[latent]);
        trace.y = alive.map((latent) => data.max[latent]);
        trace.text = alive.map((latent) => `#${latent} ${peaksOf(latent)}`.replace(/[<&]/g, (c) => c === "<" ? "&lt;" : "&amp;"));
        trace.customdata = alive;
      }
      Plotly.react(plot, figure.data, themed(figure), { displayModeBar: false, responsive: true });
      if (plot.dataset.chart === "latents" && !plot.dataset.linked) {
        plot.dataset.linked = "yes";
        plot.on("plotly_click", (event) => open(event.points[0].customdata));
      }
    }
    document.documentElement.dataset.charts = "drawn";
  }

  async function startCharts() {
    try {
      await loadPlotly();
      drawCharts();
      matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawCharts);
    } catch (error) {
      for (const plot of document.querySelectorAll(".plot")) {
        plot.classList.add("empty");
        plot.textContent = "This browser cannot draw the charts.";
      }
      document.documentElement.dataset.charts = "failed";
      console.error(error);
    }
  }

  // ---- start ------------------------------------------------------------------------------------

  let waiting = 0;
  byId("search").addEventListener("input", () => {
    clearTimeout(waiting);
    waiting = setTimeout(refresh, 120);
  });
  byId("search").addEventListener("keydown", (event) => {
    if (event.key !== "ArrowDown" && event.key !== "Enter") return;
    event.preventDefault();
    clearTimeout(waiting);
    refresh();
    const first = list.querySelector(".item");
    if (first) focusItem(first);
  });
  for (const id of ["sort", "filter"]) byId(id).addEventListener("change", refresh);
  byId("random").addEventListener("click", () => open(state.found[Math.floor(Math.random() * state.found.length)]));
  byId("previous-page").addEventListener("click", () => turnPage(-1));
  byId("next-page").addEventListener("click", () => turnPage(1));
  list.addEventListener("click", (event) => {
    const item = event.target.closest(".item");
    if (item) open(Number(item.dataset.latent));
  });
  list.addEventListener("keydown", moveInList);
  document.addEventListener("keydown", (event) => {
    const typing = /^(INPUT|SELECT|TEXTAREA)$/.test(document.activeElement.tagName);
    if (event.key === "/" && !typing && !event.ctrlKey && !event.metaKey) {
      event.preventDefault();
      byId("search").focus();
    } else if (event.key === "Escape" && detail.contains(document.activeElement)) {
      close();
    }
  });
  for (const kind of ["pointerover", "click"]) document.addEventListener(kind, showTip);
  addEventListener("hashchange", follow);

  browser.hidden = false;
  refresh();
  if (state.found.length && !isPhone()) show(state.found[0]);
  follow();
  document.documentElement.dataset.ready = "yes";
  setTimeout(startCharts, 0);
})();
