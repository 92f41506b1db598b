"use strict";
(() => {
  const byId = (id) => document.getElementById(id);
  const all = (selector, within = document) => [...within.querySelectorAll(selector)];
  const parsed = (id) => JSON.parse(byId(id).textContent);
  const report = parsed("data");

  /* An element with attributes and children; text is only ever set as text. */
  function make(name, attributes = {}, ...children) {
    const node = document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) {
      if (value !== null && value !== false) node.setAttribute(key, value === true ? "" : value);
    }
    node.append(...children.filter((child) => child !== null));
    return node;
  }

  /* ------------------------------------------------------------------ the reader's choices, kept over a reload */

  const KEPT = `attnbench ${location.pathname}`;

  /* Some browsers refuse storage to pages opened from files; then choices last as long as the page. */
  function recall(storage, key) {
    try { return window[storage].getItem(key); } catch { return null; }
  }
  function keep(storage, key, value) {
    try { window[storage].setItem(key, value); } catch { /* see above */ }
  }

  /* View, pair set, quality and costs are kept by name: their order may differ in a newer page. `place` is null except over a reload. */
  const defaults = { view: "", pairSet: "", quality: "", costs: ["", ""], log: false, tile: null, hidden: [], tables: {}, details: {}, filter: "", place: null };
  const choices = { ...defaults, ...JSON.parse(recall("sessionStorage", KEPT) ?? "{}") };
  const remember = () => keep("sessionStorage", KEPT, JSON.stringify(choices));

  /* The index of the chosen title in a list; 0 if it is not there (any more). */
  const placeOf = (titles, chosen) => Math.max(0, titles.indexOf(chosen));
  const viewPlace = () => placeOf(report.views.map((one) => one.title), choices.view);
  const view = () => report.views[viewPlace()];
  const isShown = (label) => !choices.hidden.includes(label);

  function announce(text) {
    byId("message").textContent = text;
    clearTimeout(announce.timer);
    announce.timer = setTimeout(() => { byId("message").textContent = ""; }, 2500);
  }

  async function copy(text, what) {
    try {
      await navigator.clipboard.writeText(text);
    } catch { // a page served without TLS has no clipboard access
      const area = make("textarea", { readonly: true });
      area.value = text;
      document.body.append(area);
      area.select();
      const done = document.execCommand("copy");
      area.remove();
      if (!done) return announce("The browser does not allow copying");
    }
    return announce(`${what} copied`);
  }

  /* ------------------------------------------------------------------ light and dark */

  const THEMES = { auto: "system default", light: "light", dark: "dark" };

  function showTheme(theme) {
    if (theme === "auto") delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = theme;
    const button = byId("theme");
    button.querySelector(".word").textContent = theme;
    button.firstElementChild.textContent = { auto: "◐", light: "○", dark: "●" }[theme];
    button.setAttribute("aria-label", `Colours: ${THEMES[theme]}`);
  }

  function setUpTheme() {
    let theme = recall("localStorage", "attnbench theme") ?? "auto";
    if (!(theme in THEMES)) theme = "auto";
    showTheme(theme);
    byId("theme").addEventListener("click", () => {
      const names = Object.keys(THEMES);
      theme = names[(names.indexOf(theme) + 1) % names.length];
      keep("localStorage", "attnbench theme", theme);
      showTheme(theme);
      redraw();
    });
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
  }

  /* The current value of a colour in the style sheet. */
  function colour(name) {
    const probe = make("span", { style: `color: var(--${name})` });
    document.body.append(probe);
    const value = getComputedStyle(probe).color;
    probe.remove();
    return value;
  }

  /* ------------------------------------------------------------------ tables */

  function sortTable(table, column, direction) {
    const body = table.tBodies[0];
    const key = (row) => {
      const cell = row.cells[column];
      if (column === 0) return Number(row.dataset.place);
      return cell.dataset.number === undefined ? null : Number(cell.dataset.number);
    };
    const sign = direction === "descending" ? -1 : 1;
    const order = (a, b) => {
      const [x, y] = [key(a), key(b)];
      if (x === null || y === null) return (x === null) - (y === null); // rows without a number come last in either direction
      return sign * (x - y) || a.dataset.place - b.dataset.place;
    };
    body.append(...[...body.rows].sort(order));
    for (const button of all(".sort", table)) {
      const mine = Number(button.dataset.column) === column;
      button.closest("th").setAttribute("aria-sort", mine ? direction : "none");
    }
  }

  function setUpTables() {
    const texts = parsed("texts");
    for (const sheet of all(".sheet")) {
      const number = sheet.dataset.table;
      const table = sheet.querySelector("table");
      const mine = (choices.tables[number] ??= { published: false, costs: false, sort: null });
      [...table.tBodies[0].rows].forEach((row, place) => { row.dataset.place = place; });
      for (const box of all("input[type=checkbox]", sheet)) {
        const show = () => {
          mine[box.name] = box.checked;
          sheet.classList.toggle(`with-${box.name}`, box.checked);
          for (const note of all(`.note.${box.name}`, sheet)) note.hidden = !box.checked;
          remember();
        };
        box.checked = mine[box.name];
        box.addEventListener("change", show);
        show();
      }
      for (const button of all(".sort", table)) {
        button.addEventListener("click", () => {
          const column = Number(button.dataset.column);
          const first = button.dataset.high ? "descending" : "ascending"; // the best on top
          const other = first === "ascending" ? "descending" : "ascending";
          const direction = button.closest("th").getAttribute("aria-sort") === first ? other : first;
          mine.sort = [column, direction];
          sortTable(table, column, direction);
          remember();
        });
      }
      if (mine.sort && table.rows[1].cells[mine.sort[0]]) sortTable(table, ...mine.sort);
      for (const button of all("[data-copy]", sheet)) {
        button.addEventListener("click", () => {
          const now = ["published", "costs"].filter((name) => mine[name]).join(" ");
          copy(texts[number][now][button.dataset.copy], `${button.textContent} of the table`);
        });
      }
    }
  }

  /* ------------------------------------------------------------------ plots: drawn when they come into view */

  const DASHES = ["solid", "dash", "dot", "dashdot"];
  const SYMBOLS = ["circle", "square", "diamond", "triangle-up", "cross", "x", "star", "triangle-down"];
  const waiting = new Map(); // node -> function that draws it
  const drawn = new Set();

  const sight = new IntersectionObserver((entries) => {
    for (const { target, isIntersecting } of entries) if (isIntersecting && waiting.has(target)) inSight.add(target);
    drawNext();
  }, { rootMargin: "200px" });

  const inSight = new Set(); // waiting and in the viewport
  let drawing = false;

  /* One plot at a time, so that scrolling and pictures get a turn in between. */
  function drawNext() {
    const [node] = inSight;
    if (drawing || !node) return;
    drawing = true;
    setTimeout(() => {
      drawing = false;
      drawNow(node);
      drawNext();
    });
  }

  function drawNow(node) {
    inSight.delete(node);
    const draw = waiting.get(node);
    waiting.delete(node);
    if (draw && node.isConnected) draw();
  }

  function plotly() {
    if (!window.Plotly) {
      const script = make("script");
      script.textContent = byId("plotly").textContent; // five megabytes, run only when the first plot is in sight
      document.head.append(script);
    }
    return window.Plotly;
  }

  /* A variant's look on the whole page: colours repeat after eight, with other dashes. */
  function look(label) {
    const place = report.variants.indexOf(label);
    const turn = Math.floor(place / 8);
    return { colour: colour(`series-${place % 8}`), dash: DASHES[turn % 4], symbol: SYMBOLS[(place + turn) % 8] };
  }

  /* `describe()` gives {traces, layout, alt}; the figure has a caption, and the plot a text alternative. */
  function addPlot(panel, caption, describe) {
    const node = make("div", { class: "plot", role: "img" });
    panel.append(make("figure", {}, make("figcaption", {}, ...caption), node));
    const { alt } = describe(() => ({ colour: "", dash: "solid", symbol: "circle" }));
    node.setAttribute("aria-label", alt);
    queue(node, describe);
  }

  function queue(node, describe) {
    waiting.set(node, () => {
      const { traces, layout } = describe(look);
      const [ink, quiet, rule] = ["ink", "quiet", "rule"].map(colour);
      const axis = { gridcolor: rule, linecolor: rule, zerolinecolor: rule, tickfont: { color: quiet }, automargin: true };
      plotly().react(node, traces, {
        paper_bgcolor: "rgba(0,0,0,0)",
        plot_bgcolor: "rgba(0,0,0,0)",
        font: { family: getComputedStyle(document.body).fontFamily, size: 12, color: ink },
        margin: { l: 48, r: 12, t: 8, b: 40 },
        showlegend: false,
        hovermode: "closest",
        modebar: { bgcolor: "rgba(0,0,0,0)", color: quiet, activecolor: ink },
        hoverlabel: { bgcolor: colour("raised"), font: { color: ink }, bordercolor: rule, namelength: -1 },
        ...layout,
        xaxis: { ...axis, ...layout.xaxis },
        yaxis: { ...axis, ...layout.yaxis },
      }, {
        responsive: true,
        displaylogo: false,
        displayModeBar: matchMedia("(hover: none)").matches ? false : "hover", // on a phone it would always cover the curves
        modeBarButtonsToRemove: ["select2d", "lasso2d", "autoScale2d"],
        toImageButtonOptions: { format: "svg" },
      });
      drawn.add(node);
      node.describe = describe;
    });
    sight.unobserve(node);
    sight.observe(node); // observed again, so that a plot already in sight is drawn now
  }

  /* After a change of colours. */
  function redraw() {
    for (const node of drawn) if (node.isConnected) queue(node, node.describe);
  }

  function clear(panel) {
    for (const node of all(".plot", panel)) {
      sight.unobserve(node);
      waiting.delete(node);
      if (drawn.delete(node)) window.Plotly.purge(node);
    }
    panel.replaceChildren();
  }

  /* ------------------------------------------------------------------ quality against cost */

  function scatterOf(quality, cost) {
    return (styled) => {
      const labels = view().variants.filter((label) => isShown(label) && label in quality.values && label in cost.values);
      const xs = labels.map((label) => cost.values[label]);
      const spread = xs.length && Math.min(...xs) > 0 && Math.max(...xs) > 8 * Math.min(...xs);
      const across = spread ? Math.log : (x) => x; // how far right a point is
      const [left, right] = [across(Math.min(...xs)), across(Math.max(...xs))];
      const traces = labels.map((label) => {
        const [mean, deviation, seeds] = quality.values[label];
        const { colour: ink, symbol } = styled(label);
        const x = cost.values[label];
        return {
          x: [x], y: [mean], name: label, mode: "markers+text", text: [escaped(label)], type: "scatter",
          textposition: across(x) > left + 0.65 * (right - left) ? "middle left" : "middle right",
          marker: { color: ink, symbol, size: 11 },
          error_y: deviation === null ? {} : { type: "data", array: [deviation], color: ink, thickness: 1.2, width: 3 },
          hovertemplate: `${escaped(label)}<br>${escaped(quality.title)} %{y}` +
            (deviation === null ? "" : ` ± ${deviation} (${seeds} seeds)`) + `<br>${escaped(cost.title)} %{x}<extra></extra>`,
          cliponaxis: false,
        };
      });
      const better = quality.falls ? "lower is better" : "higher is better";
      const points = labels.map((label) => `${label} ${quality.values[label][0].toFixed(quality.decimals)} at ${cost.values[label]}`);
      return {
        traces,
        layout: {
          xaxis: { title: { text: escaped(cost.title), font: { size: 12 } }, type: spread ? "log" : "linear" },
          yaxis: { title: { text: `${escaped(quality.title)}, ${better}`, font: { size: 12 } } },
        },
        alt: `${quality.title} (${better}) against ${cost.title}: ${points.join("; ") || "no points"}.`,
      };
    };
  }

  /* Plotly reads a few tags in its texts, links among them, and %{name} in templates. */
  const escaped = (text) => text.replace(/[&<>%]/g, (sign) => `&#${sign.charCodeAt(0)};`);

  function showScatter() {
    const panel = byId("scatter");
    clear(panel);
    const { metrics, costs } = view();
    const select = byId("quality");
    select.replaceChildren(...metrics.map((metric) => make("option", {}, metric.title)));
    if (!metrics.length || !costs.length) {
      panel.append(make("p", { class: "quiet" }, "No cell of this dataset has been measured yet."));
      return;
    }
    const quality = metrics[placeOf(metrics.map((metric) => metric.title), choices.quality)];
    select.value = quality.title;
    ["images_per_second", "module_parameters"].forEach((name, side) => {
      const chosen = make("select", { id: `cost-${side}`, "aria-label": `Cost of plot ${side + 1}` }, ...costs.map((cost) => make("option", {}, cost.title)));
      const usual = placeOf(costs.map((cost) => cost.name), name);
      chosen.selectedIndex = costs.some((cost) => cost.title === choices.costs[side]) ? costs.findIndex((cost) => cost.title === choices.costs[side]) : usual;
      const describe = (styled) => scatterOf(quality, costs[chosen.selectedIndex])(styled);
      addPlot(panel, ["against ", chosen], describe);
      const node = panel.lastElementChild.querySelector(".plot");
      chosen.addEventListener("change", () => {
        choices.costs[side] = chosen.value;
        remember();
        node.setAttribute("aria-label", describe(() => ({})).alt);
        queue(node, describe);
      });
    });
  }

  /* ------------------------------------------------------------------ curves */

  const LOSSES = {
    reconstruction: "Reconstruction loss", generator: "Generator, weighted sum", discriminator: "Discriminator loss",
    adversarial: "Adversarial loss", perceptual: "Perceptual loss", style: "Style loss",
  };

  function curvesOf(series, title, xTitle, logarithmic) {
    return (styled) => {
      const shown = series.filter((one) => isShown(one.label));
      const seeds = new Set(shown.map((one) => one.seed)).size;
      const traces = shown.map((one) => {
        const { colour: ink, dash } = styled(one.label);
        const few = one.x.length < 60;
        return {
          x: one.x, y: one.y, name: one.label, type: "scatter", mode: few ? "lines+markers" : "lines",
          line: { color: ink, dash, width: seeds > 2 ? 1.1 : 1.6 }, marker: { color: ink, size: 4 }, opacity: seeds > 2 ? 0.75 : 1,
          hovertemplate: `${escaped(one.label)}, seed ${one.seed}<br>${xTitle} %{x:.0f}: %{y:.4g}<extra></extra>`,
        };
      });
      const ends = shown.slice(0, 24).map((one) => `${one.label}, seed ${one.seed}, from ${one.y[0] ?? "no number"} to ${one.y.at(-1) ?? "no number"}`);
      const rest = shown.length > ends.length ? `; and ${shown.length - ends.length} more` : "";
      const whole = Math.max(...series.flatMap((one) => one.x.at(-1) ?? [])) <= 10 ? { dtick: 1 } : {}; // no 1.5th epoch
      return {
        traces,
        layout: { xaxis: { title: { text: xTitle, font: { size: 12 } }, ...whole }, yaxis: { type: logarithmic ? "log" : "linear" } },
        alt: `${title} over ${xTitle}s: ${ends.join("; ") || "no curves"}${rest}.`,
      };
    };
  }

  function showCurves() {
    const panel = byId("curve-panels");
    clear(panel);
    const { curves, epochs } = report.logs[view().log];
    const notes = [];
    const seeds = new Set(curves.map((curve) => curve.seed)).size;
    if (seeds > 1) notes.push("Each line is a cell; a module's seeds share its colour.");
    if (curves.length) notes.push("Each point is the mean over a range of steps.");
    const measured = [...new Set(epochs.map((one) => one.title))];
    if (!measured.length) notes.push("No cell was measured after each epoch (evaluation.when: each_epoch), so there is no metric over epochs.");
    if (!curves.length) notes.push("No cell of this dataset has kept its losses.");
    byId("curve-note").textContent = notes.join(" ");
    const known = Object.keys(LOSSES);
    const names = [...new Set(curves.flatMap((curve) => Object.keys(curve.losses)))];
    names.sort((a, b) => (known.indexOf(a) + 1 || 99) - (known.indexOf(b) + 1 || 99));
    // The metric by which the best epoch is chosen (the paper's Fig. 9) first, then the losses, then the other metrics.
    const isFirst = (title) => epochs.some((one) => one.title === title && one.first);
    for (const title of measured.filter(isFirst)) addEpochs(panel, epochs, title);
    for (const name of names) addLoss(panel, curves, name);
    for (const title of measured.filter((one) => !isFirst(one))) addEpochs(panel, epochs, title);
  }

  function addEpochs(panel, epochs, title) {
    const mine = epochs.filter((one) => one.title === title);
    const series = mine.map((one) => ({ ...one, x: one.points.map((point) => point[0]), y: one.points.map((point) => point[1]) }));
    addPlot(panel, [`${title} over epochs`], curvesOf(series, title, "epoch", false));
  }

  function addLoss(panel, curves, name) {
    const series = curves.filter((curve) => name in curve.losses).map((curve) => ({ ...curve, x: curve.steps, y: curve.losses[name] }));
    if (series.every((one) => one.y.every((value) => value === 0))) return; // a loss that the recipe does not use
    const title = LOSSES[name] ?? name;
    addPlot(panel, [title], curvesOf(series, title, "step", choices.log));
  }

  /* ------------------------------------------------------------------ which modules are shown */

  function swatch(label) {
    const { colour: ink, dash } = look(label);
    const pattern = { solid: "", dash: "5 3", dot: "2 3", dashdot: "6 3 2 3" }[dash];
    const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
    for (const [key, value] of Object.entries({ width: 20, height: 8, "aria-hidden": "true" })) svg.setAttribute(key, value);
    const line = document.createElementNS("http://www.w3.org/2000/svg", "line");
    const attributes = { x1: 1, x2: 19, y1: 4, y2: 4, "stroke-width": 3, "stroke-dasharray": pattern };
    for (const [key, value] of Object.entries(attributes)) line.setAttribute(key, value);
    line.style.stroke = `var(--series-${report.variants.indexOf(label) % 8}, ${ink})`;
    svg.append(line);
    return svg;
  }

  function showLegends() {
    for (const legend of all(".legend")) {
      legend.replaceChildren(...view().variants.map((label) => {
        const button = make("button", { type: "button", "aria-pressed": String(isShown(label)) }, swatch(label), label);
        button.addEventListener("click", () => {
          choices.hidden = isShown(label) ? [...choices.hidden, label] : choices.hidden.filter((other) => other !== label);
          remember();
          for (const same of all(".legend button")) {
            if (same.textContent === label) same.setAttribute("aria-pressed", String(isShown(label)));
          }
          for (const node of all(".plot")) if (drawn.has(node)) queue(node, node.describe);
        });
        return button;
      }));
    }
  }

  /* ------------------------------------------------------------------ the image grid */

  const albums = new Map();

  /* The picture as a data URL. An album (a view's, or a cell's figures) is parsed when the first of its pictures is in sight. */
  function picture(place, album = viewPlace()) {
    if (!albums.has(album)) albums.set(album, JSON.parse(all(".album")[album].textContent));
    const data = albums.get(album)[place];
    return `data:image/${data.startsWith("iVBOR") ? "png" : "webp"};base64,${data}`;
  }

  const pictureSight = new IntersectionObserver((entries) => {
    for (const { target, isIntersecting } of entries) if (isIntersecting) decode(target);
  }, { rootMargin: "400px" });

  function decode(image) {
    pictureSight.unobserve(image);
    image.src = picture(image.dataset.place, Number(image.dataset.album));
  }

  /* Printing needs everything drawn. */
  addEventListener("beforeprint", () => {
    for (const node of [...waiting.keys()]) drawNow(node);
    for (const image of all("img[data-place]:not([src])")) decode(image);
  });

  function lazyPicture(place, alt) {
    const image = make("img", { alt, "data-album": viewPlace(), "data-place": place, decoding: "async" });
    pictureSight.observe(image);
    return image;
  }

  const written = (score, metric) => (score === null ? "-" : score.toFixed(metric.decimals));

  /* A column of pictures that no network made here has no seed. */
  const named = ({ label, seed }) => (seed === null ? label : `${label}, seed ${seed}`);

  function setTitle(set) {
    const { grid } = view();
    const pairs = `${set.pairs.length} pair${set.pairs.length === 1 ? "" : "s"}`;
    return {
      spread: () => (set.pairs.length === grid.test_pairs ? `all ${pairs}` : `${pairs}, spread over the test set`),
      differ: () => `${pairs} in which modules differ most`,
      best: () => set.label,
      worst: () => set.label,
    }[set.kind]();
  }

  const setName = (set) => `${set.kind} ${set.label}`;

  function pairSet() {
    const { sets } = view().grid;
    return sets[placeOf(sets.map(setName), choices.pairSet)];
  }

  function showPairSets() {
    const { sets } = view().grid;
    const options = (kind) => sets.filter((set) => kind.includes(set.kind)).map((set) => make("option", { value: setName(set) }, setTitle(set)));
    const select = byId("pair-set");
    const groups = [["all modules", ["spread", "differ"]], ["best pairs of", ["best"]], ["worst pairs of", ["worst"]]];
    select.replaceChildren(...groups.map(([label, kind]) => make("optgroup", { label }, ...options(kind))).filter((group) => group.children.length));
    if (sets.length) select.value = setName(pairSet());
    select.disabled = !sets.length;
  }

  /* The metric that ranks pairs, and the column with its best score. */
  function bestColumn(pair, grid) {
    const metric = grid.metrics.findIndex((one) => one.title === grid.chosen_by);
    if (metric < 0 || grid.columns.length < 2) return { metric, best: -1 };
    const scores = pair.scores.map((row) => (row[metric] === null ? Infinity : grid.metrics[metric].falls ? row[metric] : -row[metric]));
    const lowest = Math.min(...scores);
    return { metric, best: Number.isFinite(lowest) ? scores.indexOf(lowest) : -1 };
  }

  function tile(k, column) {
    const { grid } = view();
    const pair = grid.pairs[k];
    const scores = grid.metrics.map((metric, m) => `${metric.title} ${written(pair.scores[column][m], metric)}`);
    if (pair.generated[column] === null) return make("div", { class: "tile nothing" }, "no picture");
    const alt = `${named(grid.columns[column])}: ${pair.sketch} coloured after ${pair.reference}`;
    const button = make("button", { type: "button", class: "tile", id: `tile-${k}-${column}`, "aria-label": `${alt}; ${scores.join(", ")}. Enlarge` },
      lazyPicture(pair.generated[column], alt), make("span", { class: "over", "aria-hidden": "true" }, scores.join("\n")));
    button.addEventListener("click", () => enlarge(k, column));
    return button;
  }

  function given(place, alt) {
    return place === null ? make("div", { class: "tile nothing" }, "no picture") : make("div", { class: "tile" }, lazyPicture(place, alt));
  }

  function showGrid() {
    const { grid } = view();
    const table = byId("grid");
    table.replaceChildren();
    byId("grid-note").textContent = gridNote(grid);
    table.parentElement.hidden = !grid.columns.length;
    if (!grid.columns.length) return;
    const set = pairSet();
    const chosen = (label) => (set.label === label ? "chosen" : null);
    table.append(make("thead", {}, make("tr", {}, make("th", { scope: "col" }, "sketch"), make("th", { scope: "col" }, "reference"),
      ...grid.columns.map(({ label, seed }) =>
        make("th", { scope: "col", class: chosen(label), title: label }, label, seed === null ? null : make("span", { class: "quiet" }, `seed ${seed}`))))));
    const body = make("tbody");
    for (const k of set.pairs) {
      const pair = grid.pairs[k];
      const { metric, best } = bestColumn(pair, grid);
      const score = (column) => (metric < 0 ? null
        : make("span", { class: `score${column === best ? " best" : ""}` }, written(pair.scores[column][metric], grid.metrics[metric])));
      body.append(make("tr", {}, make("th", { scope: "row" }, given(pair.pictures[0], `sketch ${pair.sketch}`)),
        make("td", {}, given(pair.pictures[1], `reference ${pair.reference}`)),
        ...grid.columns.map((_, column) => make("td", {}, tile(k, column), score(column)))));
    }
    table.append(body);
  }

  function gridNote(grid) {
    if (!grid.columns.length) {
      return "No cell of this dataset has pictures of its test pairs (pictures.zip): they are written when a cell is measured, and cells of earlier versions have none.";
    }
    const notes = ["Each column is a module's cell with the lowest seed that has pictures; all columns show the same pairs."];
    if (grid.chosen_by) {
      const falls = grid.metrics.find((metric) => metric.title === grid.chosen_by).falls;
      notes.push(`Below each picture: its ${grid.chosen_by} (${falls ? "lower" : "higher"} is better, a row's best is bold), which ranks the pairs.`);
    }
    if (grid.left_out.length) notes.push(`Without pictures: ${grid.left_out.join(", ")}.`);
    return notes.join(" ");
  }

  /* ------------------------------------------------------------------ one pair enlarged: two sides that are flipped in place */

  const large = { set: [], at: 0, sides: [0, 1], on: 0 };

  /* The choices of a side: the columns, then the colour image that the sketch was made from. */
  const sideLabel = (side) => (side < view().grid.columns.length ? view().grid.columns[side].label : "original");

  function enlarge(k, column) {
    const { grid } = view();
    large.set = pairSet().pairs;
    large.at = large.set.indexOf(k);
    large.sides = [column, column === 0 ? 1 : 0]; // with one column, side 1 is the original
    large.on = 0;
    for (const select of [byId("side-a"), byId("side-b")]) {
      select.replaceChildren(...[...grid.columns.keys(), grid.columns.length].map((side) => make("option", { value: side }, sideLabel(side))));
    }
    showEnlarged();
    byId("enlarged").showModal();
    byId("flip").focus();
  }

  function showEnlarged() {
    const { grid } = view();
    const pair = grid.pairs[large.set[large.at]];
    const side = large.sides[large.on];
    const place = side < grid.columns.length ? pair.generated[side] : pair.pictures[2];
    byId("enlarged-title").textContent = `${pair.sketch} coloured after ${pair.reference} (pair ${large.at + 1} of ${large.set.length})`;
    byId("given").replaceChildren(...["sketch", "reference", "original"].map((name, k) => make("figure", {},
      pair.pictures[k] === null ? make("p", {}, "no picture") : make("img", { src: picture(pair.pictures[k]), alt: name }), make("figcaption", {}, name))));
    const label = sideLabel(side);
    const image = byId("shown");
    if (place === null) image.removeAttribute("src");
    else image.src = picture(place);
    image.alt = place === null ? `${label}: no picture` : `${label}: ${pair.sketch} coloured after ${pair.reference}`;
    byId("whose").textContent = `${"AB"[large.on]}: ${label}`;
    byId("flip").setAttribute("aria-label", `${image.alt}. Flip to ${sideLabel(large.sides[1 - large.on])}`);
    byId("side-a").value = large.sides[0];
    byId("side-b").value = large.sides[1];
    byId("previous").setAttribute("aria-disabled", large.at === 0); // not `disabled`, which would lose the focus and with it the keys
    byId("next").setAttribute("aria-disabled", large.at === large.set.length - 1);
    const cell = (k, m) => {
      const text = large.sides[k] < grid.columns.length ? written(pair.scores[large.sides[k]][m], grid.metrics[m]) : "";
      return make("td", { class: k === large.on ? "on" : null }, text);
    };
    byId("scores").replaceChildren(
      make("thead", {}, make("tr", {}, make("td"), ...[0, 1].map((k) =>
        make("th", { scope: "col", class: k === large.on ? "on" : null, "aria-label": `${"AB"[k]}: ${sideLabel(large.sides[k])}` }, "AB"[k])))),
      make("tbody", {}, ...grid.metrics.map((metric, m) =>
        make("tr", {}, make("th", { scope: "row" }, `${metric.title} ${metric.falls ? "↓" : "↑"}`), cell(0, m), cell(1, m)))));
  }

  function moveModule(by) {
    const count = view().grid.columns.length + 1;
    large.sides[large.on] = (large.sides[large.on] + by + count) % count;
    showEnlarged();
  }

  function movePair(by) {
    large.at = Math.min(large.set.length - 1, Math.max(0, large.at + by));
    showEnlarged();
  }

  function flip() {
    large.on = 1 - large.on;
    showEnlarged();
  }

  function setUpEnlarged() {
    const dialog = byId("enlarged");
    byId("close").addEventListener("click", () => dialog.close());
    byId("flip").addEventListener("click", flip);
    byId("previous").addEventListener("click", () => movePair(-1));
    byId("next").addEventListener("click", () => movePair(1));
    [byId("side-a"), byId("side-b")].forEach((select, k) => select.addEventListener("change", () => {
      large.sides[k] = Number(select.value);
      large.on = k;
      showEnlarged();
    }));
    dialog.addEventListener("click", (event) => { if (event.target === dialog) dialog.close(); }); // a click beside it
    const moves = { ArrowLeft: () => moveModule(-1), ArrowRight: () => moveModule(1), ArrowUp: () => movePair(-1), ArrowDown: () => movePair(1) };
    // On the document: a click beside the controls takes the focus out of the dialog.
    document.addEventListener("keydown", (event) => {
      const control = event.target.closest("button, select");
      const move = moves[event.key] ?? (event.key === " " && !control ? flip : null);
      if (!dialog.open || !move || control?.matches("select")) return;
      event.preventDefault();
      move();
    });
  }

  /* ------------------------------------------------------------------ cells */

  function setUpCells() {
    const cells = all(".cell");
    const search = byId("filter");
    const apply = () => {
      const terms = search.value.toLowerCase().split(/\s+/).filter(Boolean);
      for (const cell of cells) {
        const text = cell.firstElementChild.textContent.toLowerCase();
        cell.hidden = !terms.every((term) => text.includes(term));
      }
      byId("filtered").textContent = terms.length ? `${cells.filter((cell) => !cell.hidden).length} of ${cells.length}` : "";
      choices.filter = search.value;
      remember();
    };
    search.value = choices.filter;
    search.addEventListener("input", apply);
    apply();
    for (const button of all("[data-command]")) {
      button.addEventListener("click", () => copy(button.previousElementSibling.textContent, "Command"));
    }
    for (const details of all("details[id]")) {
      details.open = choices.details[details.id] ?? details.open;
      details.firstElementChild.addEventListener("click", () => {
        choices.details[details.id] = !details.open; // the state after this click
        remember();
      });
    }
    const reveal = () => {
      const target = location.hash && byId(decodeURIComponent(location.hash.slice(1)));
      if (!(target instanceof HTMLDetailsElement)) return;
      target.open = choices.details[target.id] = true;
      remember();
    };
    addEventListener("hashchange", reveal);
    if (!choices.place) reveal();
  }

  /* ------------------------------------------------------------------ live: a newer page when the store has changed */

  const POLL = 2000; // milliseconds
  const STILL = 4000; // milliseconds without a key or a touch before the page may reload

  /* A selector that finds an element again in a newer page; null if there is none. */
  function selectorOf(element) {
    if (element.id) return `#${CSS.escape(element.id)}`;
    return element.matches("details[id] > summary") ? `#${CSS.escape(element.parentElement.id)} > summary` : null;
  }

  /* Whether a reload would interrupt the reader, or lose a state that cannot be restored. */
  function isBusy() {
    const focused = document.activeElement;
    const isZoomed = (node) => [node.layout.xaxis, node.layout.yaxis].some((axis) => axis.autorange === false);
    return byId("enlarged").open || performance.now() - isBusy.acted < STILL || !getSelection().isCollapsed
      || focused.matches("select") || (focused !== document.body && selectorOf(focused) === null) || [...drawn].some(isZoomed);
  }

  /* The top of a section on the screen; of the page if there is no such section. */
  const topOf = (id) => (byId(id) ?? document.documentElement).getBoundingClientRect().top;

  function leave() {
    const offsets = all(".scroll[id]").map((one) => [one.id, one.scrollLeft, one.scrollTop]);
    const section = all("section[id]").findLast((one) => one.getBoundingClientRect().top < innerHeight / 2);
    choices.place = { section: section?.id, top: topOf(section?.id), offsets, focus: selectorOf(document.activeElement) };
    remember();
  }

  /* Restore the reader's place in the page before this one. */
  function comeBack() {
    if (!choices.place) return;
    const { section, top, offsets, focus } = choices.place;
    choices.place = null;
    remember();
    for (const [id, left, top] of offsets) byId(id)?.scrollTo({ left, top, behavior: "instant" });
    if (focus) document.querySelector(focus)?.focus({ preventScroll: true });
    scrollBy({ top: topOf(section) - top, behavior: "instant" });
  }

  async function watch(version) {
    const state = byId("live");
    try {
      const now = await (await fetch("live", { cache: "no-store" })).json();
      state.textContent = "live";
      if (now.version !== version && !isBusy()) return location.reload();
      byId("newer").hidden = now.version === version;
      const board = byId("running");
      if (!board.contains(document.activeElement)) board.innerHTML = now.running; // made by the page's own template
    } catch {
      state.textContent = "the server does not answer; this is its last state";
    }
    setTimeout(watch, POLL, version);
  }

  function setUpLive(version) {
    isBusy.acted = -STILL;
    for (const kind of ["pointerdown", "pointerup", "keydown", "scroll"]) {
      addEventListener(kind, () => { isBusy.acted = performance.now(); }, { capture: true, passive: true });
    }
    byId("newer").addEventListener("click", () => location.reload());
    history.scrollRestoration = "manual"; // browsers restore pixels, but the same place may be elsewhere in a newer page
    addEventListener("pagehide", leave);
    setTimeout(watch, POLL, version);
  }

  /* ------------------------------------------------------------------ set-up */

  function showView() {
    for (const select of all("select.view")) select.selectedIndex = viewPlace();
    showLegends();
    showScatter();
    showPairSets();
    showGrid();
    showCurves();
  }

  function setUpChoices() {
    for (const select of all("select.view")) {
      select.replaceChildren(...report.views.map((one) => make("option", {}, one.title)));
      select.closest("label").hidden = report.views.length < 2;
      select.addEventListener("change", () => {
        choices.view = select.value;
        remember();
        showView();
      });
    }
    byId("quality").addEventListener("change", (event) => {
      choices.quality = event.target.value;
      remember();
      showScatter();
    });
    byId("pair-set").addEventListener("change", (event) => {
      choices.pairSet = event.target.value;
      remember();
      showGrid();
    });
    byId("log").checked = choices.log;
    byId("log").addEventListener("change", (event) => {
      choices.log = event.target.checked;
      remember();
      showCurves();
    });
    const size = byId("tile");
    const resize = () => document.documentElement.style.setProperty("--tile", `${choices.tile}px`);
    if (choices.tile) {
      size.value = choices.tile;
      resize();
    }
    size.addEventListener("input", () => {
      choices.tile = Number(size.value);
      remember();
      resize();
    });
  }

  setUpTheme();
  setUpTables();
  setUpChoices();
  setUpEnlarged();
  setUpCells();
  showView();
  for (const image of all(".figures img")) pictureSight.observe(image);
  comeBack();
  const { live } = document.documentElement.dataset;
  if (live) setUpLive(live);
})();
