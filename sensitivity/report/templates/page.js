// Unpacks figures and draws them as they scroll into view, the rest when the browser is idle; switches the theme and
// the tabs, and downloads figures.
"use strict";
(() => {
  const root = document.documentElement;
  const canvases = [...document.querySelectorAll(".canvas")];
  const prefersDark = matchMedia("(prefers-color-scheme: dark)");
  const figures = new Map(); // name -> JSON of data and layout, once unpacked

  async function unpack(name) {
    const bytes = Uint8Array.from(atob(document.getElementById(`packed-${name}`).textContent), (one) => one.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    return new Response(stream).text();
  }

  let ready = null;
  function load() {
    ready ??= (async () => {
      const [library, shared] = await Promise.all([unpack("plotly"), unpack("shared")]);
      const script = document.createElement("script");
      script.textContent = library;
      document.head.append(script);
      return JSON.parse(shared);
    })();
    return ready;
  }

  // Figures and the template use placeholder colours, each standing for one of the theme's.
  function inTheme(text, theme) {
    return JSON.parse(text.replace(/#fade[0-9a-f]{2}/g, (standIn) => theme[standIn] ?? standIn));
  }

  function paint(canvas, shared, theme, width) {
    const figure = inTheme(figures.get(canvas.dataset.figure), shared.themes[theme]);
    figure.layout.template = inTheme(JSON.stringify(shared.template), shared.themes[theme]);
    if (width) figure.layout.width = width;
    canvas.dataset.painted = theme; // at once: a second call must not draw it again
    return Plotly.react(canvas, figure.data, figure.layout, shared.config);
  }

  async function draw(canvas) {
    const shared = await load();
    if (!figures.has(canvas.dataset.figure)) figures.set(canvas.dataset.figure, await unpack(`figure-${canvas.dataset.figure}`));
    const theme = root.dataset.theme; // read after loading, because it may have been switched
    if (canvas.dataset.painted !== theme) await paint(canvas, shared, theme);
  }

  function fail(error) {
    if (document.querySelector(".failed")) return;
    const note = document.createElement("p");
    note.className = "nothing failed";
    note.textContent = `Figures can't be drawn in this browser (${error.message}). The tables hold the numbers.`;
    document.querySelector("main").prepend(note);
  }

  const visible = new Set();
  const watcher = new IntersectionObserver(
    (entries) => {
      for (const { target, isIntersecting } of entries) {
        if (isIntersecting) {
          visible.add(target);
          draw(target).then(drawRest).catch(fail);
        } else {
          visible.delete(target);
        }
      }
    },
    { rootMargin: "300px" },
  );
  canvases.forEach((canvas) => watcher.observe(canvas));

  // One figure per idle moment, those behind tabs not before they open, so that printing finds all of them drawn. A
  // busy browser, or a tab in the background, has no idle moments; there the time limit draws.
  const idle = window.requestIdleCallback ?? ((callback) => setTimeout(callback, 50));
  let resting = true;
  function drawRest() {
    const next = canvases.find((canvas) => !canvas.dataset.painted && canvas.offsetParent);
    if (!resting || !next) return;
    resting = false;
    idle(() => draw(next).catch(fail).finally(() => ((resting = true), drawRest())), { timeout: 200 });
  }

  const toggle = document.getElementById("theme");
  function setTheme(theme) {
    root.dataset.theme = theme;
    toggle.textContent = theme === "dark" ? "Light" : "Dark";
    toggle.setAttribute("aria-label", `Switch to the ${toggle.textContent.toLowerCase()} theme`);
    visible.forEach((canvas) => draw(canvas).catch(fail));
  }
  toggle.hidden = false;
  toggle.addEventListener("click", () => setTheme(root.dataset.theme === "dark" ? "light" : "dark"));
  prefersDark.addEventListener("change", (event) => setTheme(event.matches ? "dark" : "light"));
  setTheme(prefersDark.matches ? "dark" : "light");

  // Browsers don't wait for promises before they print: figures are unpacked soon after the page has opened, and all
  // visible ones are drawn in the light theme at the width of paper, at once. Wider ones are scaled down.
  const PAPER = 700; // CSS pixels between the margins of A4; letter paper is wider
  let shared = null;
  async function unpackAll() {
    const loaded = await load();
    for (const { dataset } of canvases) {
      if (!figures.has(dataset.figure)) figures.set(dataset.figure, await unpack(`figure-${dataset.figure}`));
    }
    shared = loaded;
    root.dataset.printable = "yes";
  }
  const unpacked = canvases.length ? unpackAll().catch(fail) : Promise.resolve();
  addEventListener("keydown", (event) => { // Ctrl+P before the figures are unpacked
    if (event.key.toLowerCase() !== "p" || !(event.ctrlKey || event.metaKey) || shared || !canvases.length) return;
    event.preventDefault();
    unpacked.then(() => print());
  });

  let printed = null;
  let opened = [];
  const fit = (element, width) => (element.style.zoom = width > PAPER ? PAPER / width : "");
  const shownCanvases = () => canvases.filter((canvas) => canvas.offsetParent);
  addEventListener("beforeprint", () => {
    if (printed) return; // the page is printed again from its print preview
    printed = root.dataset.theme;
    root.dataset.theme = "light";
    root.classList.add("printing");
    opened = [...document.querySelectorAll("details.why:not([open])")];
    opened.forEach((details) => (details.open = true));
    for (const canvas of shared ? shownCanvases() : []) {
      const width = Math.max(PAPER, parseFloat(canvas.style.minWidth) || 0);
      paint(canvas, shared, "light", width);
      fit(canvas, width);
    }
    for (const table of document.querySelectorAll("main table")) fit(table, table.scrollWidth);
  });
  addEventListener("afterprint", () => {
    if (!printed) return;
    root.dataset.theme = printed;
    root.classList.remove("printing");
    opened.forEach((details) => (details.open = false));
    document.querySelectorAll("main table").forEach((table) => (table.style.zoom = ""));
    for (const canvas of shared ? shownCanvases() : []) {
      canvas.style.zoom = "";
      paint(canvas, shared, printed);
    }
    printed = null;
  });

  const buttons = [...document.querySelectorAll("[data-show]")];
  function show(group, key) {
    const views = [...document.querySelectorAll(".view")].filter((view) => view.dataset.group === group);
    const places = new Set(views.filter((view) => view.dataset.view === key).map((view) => view.parentElement));
    for (const view of views) if (places.has(view.parentElement)) view.hidden = view.dataset.view !== key;
    for (const button of buttons.filter((button) => button.dataset.group === group)) {
      const there = [...button.parentElement.children].some((each) => each.dataset.show === key);
      if (there) button.setAttribute("aria-pressed", String(button.dataset.show === key));
    }
  }
  document.querySelectorAll(".switch").forEach((group) => (group.hidden = false));
  for (const button of buttons) button.addEventListener("click", () => show(button.dataset.group, button.dataset.show));
  // Show the first view of each switch; the first switch of a group last, so that it decides.
  for (const button of [...buttons].reverse()) {
    if (button === button.parentElement.firstElementChild) show(button.dataset.group, button.dataset.show);
  }

  function save(name, type, content) {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([content], { type }));
    link.download = name;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  }

  async function take(name, kind, table) {
    if (kind === "csv") return save(`${name}.csv`, "text/csv", await unpack(`data-${table}`));
    const canvas = canvases.find((one) => one.dataset.figure === name);
    await draw(canvas);
    const { width, height } = canvas.getBoundingClientRect();
    return Plotly.downloadImage(canvas, { format: kind, width, height, scale: kind === "png" ? 2 : 1, filename: name });
  }
  for (const button of document.querySelectorAll("[data-take]")) {
    button.addEventListener("click", () => take(button.dataset.figure, button.dataset.take, button.dataset.table).catch(fail));
  }

  // Fields of CSV (RFC 4180), quoted ones with their commas, quotes and line ends.
  function parse(csv) {
    const rows = [[]];
    for (const [, quoted, plain, end] of csv.matchAll(/(?:"((?:[^"]|"")*)"|([^,\r\n]*))(,|\r?\n|$)/g)) {
      rows.at(-1).push(quoted === undefined ? plain : quoted.replaceAll('""', '"'));
      if (end === "") break;
      if (end !== ",") rows.push([]);
    }
    return rows.filter((row) => row.length > 1 || row[0] !== "");
  }

  const MOST_ROWS = 500;
  function number(text) {
    const value = Number(text);
    return text === "" || Number.isNaN(value) ? null : value;
  }
  async function fill(details) {
    if (details.dataset.filled) return;
    details.dataset.filled = "yes";
    const [header, ...rows] = parse(await unpack(`data-${details.dataset.table}`));
    const table = document.createElement("table");
    const caption = table.createCaption();
    const more = rows.length > MOST_ROWS ? `; the first ${MOST_ROWS} are shown, the CSV has all` : "";
    caption.textContent = `${rows.length.toLocaleString("en")} rows${more}.`;
    const head = table.createTHead().insertRow();
    const numeric = header.map((_, k) => rows.some((row) => row[k]) && rows.every((row) => !row[k] || number(row[k]) !== null));
    header.forEach((name, k) => {
      const cell = document.createElement("th");
      cell.scope = "col";
      cell.textContent = name.replaceAll("_", " ");
      cell.className = numeric[k] ? "n" : "";
      head.append(cell);
    });
    const body = table.createTBody();
    for (const row of rows.slice(0, MOST_ROWS)) {
      const line = body.insertRow();
      row.forEach((text, k) => {
        const cell = line.insertCell();
        const value = numeric[k] ? number(text) : null;
        cell.textContent = value === null ? text || "–" : Number.isInteger(value) ? text : String(Number(value.toPrecision(5)));
        cell.className = numeric[k] ? "n" : "";
      });
    }
    const scroll = document.createElement("div");
    scroll.className = "scroll";
    scroll.append(table);
    details.append(scroll);
  }
  for (const details of document.querySelectorAll("details.data")) {
    details.addEventListener("toggle", () => fill(details).catch(fail));
  }

  drawRest();
})();
