// Figures are unpacked once and drawn as they scroll into view; the theme and the metric are switched here.
"use strict";
(() => {
  const root = document.documentElement;
  const canvases = [...document.querySelectorAll(".canvas")];
  const prefersDark = matchMedia("(prefers-color-scheme: dark)");

  async function unpack(name) {
    const bytes = Uint8Array.from(atob(document.getElementById(`packed-${name}`).textContent), (c) => c.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    return new Response(stream).text();
  }

  let ready = null;
  function load() {
    ready ??= (async () => {
      const [library, content] = await Promise.all([unpack("plotly"), unpack("figures")]);
      const script = document.createElement("script");
      script.textContent = library;
      document.head.append(script);
      return JSON.parse(content);
    })();
    return ready;
  }

  async function draw(canvas) {
    const { figures, config } = await load();
    const theme = root.dataset.theme; // read after loading: it may have been switched meanwhile
    if (canvas.dataset.painted === theme) return;
    const figure = structuredClone(figures[canvas.id][theme]);
    await Plotly.react(canvas, figure.data, figure.layout, config);
    canvas.dataset.painted = theme;
  }

  function fail(error) {
    const note = document.createElement("p");
    note.className = "nothing";
    note.textContent = `Figures can't be drawn in this browser (${error.message}). The tables hold all numbers.`;
    document.querySelector("main").prepend(note);
    ready = new Promise(() => {});
  }

  const visible = new Set();
  const watcher = new IntersectionObserver(
    (entries) => {
      for (const { target, isIntersecting } of entries) {
        if (isIntersecting) {
          visible.add(target);
          draw(target).catch(fail);
        } else {
          visible.delete(target);
        }
      }
    },
    { rootMargin: "300px" },
  );
  canvases.forEach((canvas) => watcher.observe(canvas));

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

  const buttons = [...document.querySelectorAll("[data-show]")];
  function show(metric) {
    for (const view of document.querySelectorAll(".view")) view.hidden = view.dataset.metric !== metric;
    for (const button of buttons) button.setAttribute("aria-pressed", String(button.dataset.show === metric));
  }
  document.querySelectorAll(".switch").forEach((group) => (group.hidden = false));
  buttons.forEach((button) => button.addEventListener("click", () => show(button.dataset.show)));
  if (buttons.length) show(buttons[0].dataset.show);
})();
