// Run by Dash in the browser: the theme, slider labels, and moving between cells of a map with the keyboard.
window.dash_clientside = Object.assign({}, window.dash_clientside, {
  sensitivity: {
    theme: function (clicks, stored) {
      const system = window.matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light";
      const before = stored === "dark" || stored === "light" ? stored : system;
      const now = clicks ? (before === "dark" ? "light" : "dark") : before;
      document.documentElement.dataset.theme = now;
      document.documentElement.dataset.agThemeMode = now; // the table of runs
      return [now, now, now === "dark" ? "Light" : "Dark"];
    },
    arrive: function (pathname, search, shown, arrived) {
      // An address that the page can't follow by itself.
      if (follows(pathname, search, shown, arrived)) return dash_clientside.no_update;
      return { path: pathname, search: search || "", arrival: arrived ? arrived.arrival + 1 : 1 };
    },
    ask: function (search, version, theme, pathname, shown, arrived, asks) {
      // Request the blocks whose content has changed: their part of the address, the version, or the theme.
      const none = dash_clientside.no_update;
      if (!follows(pathname, search, shown, arrived)) return asks.map(() => none); // another page is loading
      const asked = new URLSearchParams(search);
      return asks.map(function ({ of, themed, key }) {
        const names = of || [...new Set(asked.keys())].sort();
        const now = JSON.stringify([version, themed ? theme : "", ...names.map((name) => [name, asked.getAll(name)])]);
        return now === key ? none : { of, themed, key: now };
      });
    },
    opened: function (clicks, ask, before) {
      // The rows of a block's data: requested while they are open, together with the block.
      const none = dash_clientside.no_update, open = Boolean(clicks % 2);
      return open ? [ask.key, "true"] : before ? [null, "false"] : [none, none];
    },
    follow: function (search, pathname, shown, arrived, links) {
      // Links to the study's other pages keep the selection, except the run that a drawer shows.
      if (!follows(pathname, search, shown, arrived)) return links.map(() => dash_clientside.no_update);
      const asked = new URLSearchParams(search);
      asked.delete("run");
      return links.map((link) => link.replace(/\?.*$/, "") + (asked.size ? `?${asked}` : ""));
    },
    mark: function (search) {
      // A letter on each selected cell, in every figure that has it; added again whenever the figure is redrawn.
      const asked = new URLSearchParams(search);
      const letters = [["A", asked.get("cell")], ["B", asked.get("beside")]];
      window.sensitivityMark(letters);
      return dash_clientside.no_update;
    },
    slot: function (slots) {
      // The switch that says which cell a click on a map selects.
      if (slots.length) write((asked) => { slots[0] === "b" ? asked.set("click", "b") : asked.delete("click"); });
    },
    choose: function () {
      // A click on a map selects cell A or B, depending on the switch, or with Shift cell B; both are in the address.
      dash_clientside.callback_context.triggered.forEach(function (each) {
        if (!each.prop_id.endsWith(".clickData")) return;
        const canvas = document.getElementById(each.prop_id.slice(0, -10).replace('"type":"figure"', '"type":"canvas"'));
        if (!canvas || !canvas.classList.contains("choosable")) return;
        const ids = (each.value ? each.value.points : []).map((point) => point.customdata);
        const id = ids.find(isId);
        if (!id) return;
        const second = (asked) => asked.get("click") === "b" || window.sensitivityShift;
        write((asked) => asked.set(canvas.classList.contains("of-runs") ? "run" : second(asked) ? "beside" : "cell", id));
      });
    },
    apply: function (change) {
      // The server's answer to a control: only the control's own change, applied to the current address.
      const from = new URLSearchParams(change.from), to = new URLSearchParams(change.to);
      write(function (asked) {
        new Set([...from.keys(), ...to.keys()]).forEach(function (name) {
          if (from.getAll(name).join("\n") !== to.getAll(name).join("\n")) put(asked, name, to.getAll(name));
        });
      }, change.other_blocks ? { "other blocks": "yes" } : {});
    },
    table: function (data, id) {
      // The rows of a figure's data: built here, because a component per cell would block a browser for seconds.
      const place = document.getElementById(JSON.stringify({ name: id.name, type: id.type }));
      place.replaceChildren();
      if (!data) return "data";
      const make = function (kind, text, number) {
        const made = document.createElement(kind);
        if (text !== undefined) made.textContent = text;
        if (number) made.className = "n";
        return made;
      };
      const row = function (kind, values) {
        const made = make("tr");
        values.forEach((value, k) => made.append(make(kind, value, data.numbers[k])));
        return made;
      };
      const table = make("table"), head = make("thead"), body = make("tbody"), scroll = make("div");
      if (data.header.length) head.append(row("th", data.header));
      head.querySelectorAll("th").forEach((cell) => cell.setAttribute("scope", "col"));
      body.append(...data.rows.map((values) => row("td", values)));
      table.append(make("caption", data.caption), head, body);
      scroll.className = "scroll";
      scroll.tabIndex = 0;
      scroll.setAttribute("role", "region");
      scroll.setAttribute("aria-label", data.caption);
      scroll.append(table);
      place.append(scroll);
      return "data open";
    },
    refresh: function (version, search, before) {
      // Request the visible rows again, keeping scroll and selection; rows that the grid requested itself are current.
      const asked = new URLSearchParams(search);
      const grid = gridOf(), chosen = asked.getAll("chosen");
      if (grid && chosen.join() !== ticked) tick(grid, chosen);
      ["where", "sort", "column", "run", "x", "y", "by", "chosen"].forEach((name) => asked.delete(name));
      const now = `${version} ${asked}`;
      if (now === before) return dash_clientside.no_update;
      if (grid) grid.refreshInfiniteCache();
      return now;
    },
    listed: function (request) {
      // Filters and order of the table of runs, in the format of an address (listing.py), as are the next three.
      if (!request) return;
      write(function (asked) {
        put(asked, "where", filtersOf(request.filterModel || {}));
        put(asked, "sort", (request.sortModel || []).map((one) => one.colId + (one.sort === "desc" ? ":desc" : "")));
      });
    },
    tick: function (changes) {
      // Ticks of the table of runs.
      write(function (asked) {
        const chosen = asked.getAll("chosen");
        (changes || []).filter((one) => one.colId === "chosen" && isId(one.rowId)).forEach(function (one) {
          const at = chosen.indexOf(one.rowId);
          if (one.value && at < 0) chosen.push(one.rowId);
          if (!one.value && at >= 0) chosen.splice(at, 1);
        });
        put(asked, "chosen", chosen.slice(0, MOST_CHOSEN));
        ticked = asked.getAll("chosen").join();
        if (chosen.length > MOST_CHOSEN) tick(gridOf(), chosen.slice(0, MOST_CHOSEN));
      });
    },
    untick: function () {
      // The button of a run beside others takes it from them.
      const removed = dash_clientside.callback_context.triggered.filter((each) => each.value)
        .map((each) => JSON.parse(each.prop_id.slice(0, each.prop_id.lastIndexOf("."))).run);
      write((asked) => put(asked, "chosen", asked.getAll("chosen").filter((one) => !removed.includes(one))));
    },
    columns: function (columns, usual) {
      // The columns that the table of runs has.
      const grid = gridOf(), now = columns.flat();
      if (!grid) return; // the checkboxes exist before the table does
      const all = grid.getColumns().map((column) => column.getColId()).filter((name) => name !== "chosen");
      grid.setColumnsVisible(all.filter((name) => now.includes(name)), true);
      grid.setColumnsVisible(all.filter((name) => !now.includes(name)), false);
      const same = now.length === usual.length && usual.every((name) => now.includes(name));
      write((asked) => put(asked, "column", same ? [] : all.filter((name) => now.includes(name))));
    },
    quick: function () {
      // The button of a status or tag adds it to the filter of its column or removes it; a filter's button removes it.
      const which = dash_clientside.callback_context.triggered.find((each) => each.value);
      const grid = gridOf();
      if (!which || !grid) return dash_clientside.no_update;
      const { column, value } = JSON.parse(which.prop_id.slice(0, which.prop_id.lastIndexOf(".")));
      const model = grid.getColumnFilterModel(column);
      const before = (model ? model.conditions || [model] : []).filter((one) => one.type === "equals").map((one) => one.filter);
      const now = value === "" ? [] : before.includes(value) ? before.filter((one) => one !== value) : [...before, value];
      const conditions = now.map((filter) => ({ filterType: "text", type: "equals", filter }));
      const several = { filterType: "text", operator: "OR", conditions };
      grid.setColumnFilterModel(column, now.length > 1 ? several : conditions[0] || null).then(() => grid.onFilterChanged());
      return dash_clientside.no_update;
    },
    open: function (cell) {
      // A click on a row opens its run.
      if (cell && cell.colId !== "chosen" && isId(cell.rowId)) write((asked) => asked.set("run", cell.rowId));
    },
    close: function (opened, drawn) {
      // The drawer's own button closes the run that it shows. If the page closed the drawer, which then shows no run, a
      // run that was clicked in the meantime stays open.
      if (opened || !drawn) return;
      write((asked) => { if (drawn.run === asked.get("run")) asked.delete("run"); });
    },
  },
});

window.dashMantineFunctions = Object.assign({}, window.dashMantineFunctions, {
  valueAt: function (position, options) {
    return options.words[position];
  },
});

function isId(value) {
  // Whether this is the id of a run or a cell; a row of the table that is still loading has none.
  return typeof value === "string" && /^[0-9a-f]{16}$/.test(value);
}

function follows(pathname, search, shown, arrived) {
  // Whether the current page belongs to this address and no other page is loading. `shown` contains what a control
  // wrote, and whether the page has other blocks because of it.
  if (!shown || !arrived || shown.arrival !== arrived.arrival || "other blocks" in shown) return false;
  return shown.path === pathname && shown.search === (search || "");
}

const MOST_CHOSEN = 12; // as in listing.py

// What the checkboxes of the table of runs last wrote to the address. If the address differs, they follow it, because a
// run was removed with its button, or the reader went back. They don't follow their own change, which may be outdated.
let ticked = "";
function tick(grid, chosen) {
  ticked = chosen.join();
  grid.forEachNode(function (node) {
    const wanted = chosen.includes(node.id);
    if (node.data && Boolean(node.data.chosen) !== wanted) node.setDataValue("chosen", wanted);
  });
}

function put(asked, name, values) {
  asked.delete(name);
  values.forEach((value) => asked.append(name, value));
}

function write(change, also = {}) {
  // Change the address, which the page follows by itself. It is read and set here, not as state and output of callbacks:
  // - callbacks that wait together get the state of one moment, so the second would undo what the first one wrote;
  // - Dash drops what a callback returned when its next call has begun;
  // - if a callback's call merges with one that an update of the page caused, as a click does in the moment in which a
  //   page is filled, Dash takes the update's source for already done and does not call it for the new address.
  const [url, shown] = ["url", "shown"].map((id) => dash_component_api.getLayout(id).props);
  const before = new URLSearchParams(url.search || ""), asked = new URLSearchParams(before);
  change(asked);
  if (asked.toString() === before.toString()) return;
  const search = asked.size ? `?${asked}` : "";
  dash_clientside.set_props("shown", { data: Object.assign({}, shown.data, { search }, also) });
  dash_clientside.set_props("url", { search });
}

function gridOf() {
  // The table of runs, once it exists.
  try {
    const grid = document.getElementById("runs") && dash_ag_grid.getApi("runs");
    return grid && !grid.isDestroyed() ? grid : null;
  } catch {
    return null;
  }
}

function filtersOf(model) {
  // Each filter of the grid's model as COLUMN:KIND:VALUE, alternatives joined by "|"; conditions that must all hold are
  // separate texts.
  const text = (one) =>
    [one.type, ...[one.filter, one.filterTo].filter((v) => v !== null && v !== undefined).map((v) => encodeURIComponent(v).replace(/%20/g, " "))].join(":");
  return Object.keys(model).flatMap(function (column) {
    const own = model[column], parts = own.conditions || [own];
    if (own.operator === "AND") return parts.map((one) => `${column}:${text(one)}`);
    return [`${column}:${parts.map(text).join("|")}`];
  });
}

(function () {
  const chosen = new WeakMap(); // the point of each figure at the keyboard's cursor

  function cells(figure) {
    const found = [];
    figure._fullData.forEach(function (trace) {
      if (!trace.customdata || trace.visible !== true) return;
      const panel = trace.xaxis + trace.yaxis;
      if (trace.type === "heatmap") {
        trace.customdata.forEach(function (row, j) {
          row.forEach(function (id, i) {
            if (id) found.push({ id, panel, grid: true, x: i, y: j, curve: trace.index, point: [j, i], text: trace.hovertext[j][i] });
          });
        });
        return;
      }
      for (let k = 0; k < trace.customdata.length; k++) {
        const x = trace._x ? trace._x[k] : trace.x[k];
        const y = trace.type === "bar" ? trace.base[k] + trace.y[k] / 2 : trace.y[k];
        const log = (axis, value) => (figure._fullLayout[axis].type === "log" ? Math.log10(value) : value);
        const name = (letter) => trace[letter + "axis"].replace(letter, letter + "axis");
        found.push({
          id: trace.customdata[k], panel, x: log(name("x"), x), y: log(name("y"), y), curve: trace.index, point: k,
          text: trace.hovertext ? trace.hovertext[k] : "",
        });
      }
    });
    const seen = new Map(); // a cell may be a point of several traces; use the one with text
    found.forEach((cell) => { if (!seen.has(cell.id) || cell.text) seen.set(cell.id, cell); });
    return [...seen.values()];
  }

  // Plotly checks the pointer at most every 50 ms, not while a button is down, and locates a click by its last check:
  // the cell that the pointer has just left, or none. So reset it when the button goes up, and let it check again.
  let pressed = null;
  document.addEventListener("mousedown", function (event) {
    window.sensitivityShift = event.shiftKey;
    pressed = event.target.closest(".choosable .js-plotly-plot");
  }, true);
  document.addEventListener("mouseup", function (event) {
    if (pressed && pressed._fullLayout) Plotly.Fx.unhover(pressed, event);
    pressed = null;
  }, true);

  let marks = [];
  let shown = null, wrapped = false;
  const watched = new WeakSet();

  function avoidRedraws() {
    // Dash resizes a figure when its place is laid out and again when it has its height. Plotly waits 100 ms before each
    // resize and then redraws everything. So an empty figure is resized at once, and one that fits is left alone.
    const resize = Plotly.Plots.resize;
    const fits = (figure) => ["width", "height"].every(
      (extent) => Math.abs(parseFloat(getComputedStyle(figure)[extent]) - figure._fullLayout[extent]) < 1
    );
    Plotly.Plots.resize = function (figure) {
      if (!figure._fullLayout) return resize(figure);
      if (fits(figure)) return Promise.resolve(figure);
      return figure._fullData.length ? resize(figure) : Plotly.relayout(figure, { autosize: true });
    };
  }

  window.sensitivityMark = function (letters) {
    marks = letters;
    document.querySelectorAll(".choosable .js-plotly-plot").forEach((figure) => { if (figure._fullData) mark(figure); });
  };
  new MutationObserver(function () {
    document.querySelectorAll(".choosable .js-plotly-plot").forEach(function (figure) {
      if (watched.has(figure) || !figure.on) return;
      if (!wrapped) avoidRedraws();
      wrapped = true;
      watched.add(figure);
      figure.on("plotly_afterplot", () => mark(figure));
      figure.on("plotly_relayouting", () => mark(figure));
      if (figure._fullData) mark(figure);
    });
    document.querySelectorAll(".filters:not([data-seen])").forEach(function (filters) {
      filters.dataset.seen = "";
      if (window.matchMedia("(max-width: 600px)").matches) filters.open = false;
    });
    const here = document.querySelector("#nav .here");
    if (here && here !== shown) { // a phone has no room for all links
      const nav = here.parentElement, left = here.offsetLeft - nav.offsetLeft;
      if (left + here.offsetWidth > nav.clientWidth) nav.scrollLeft = left - nav.clientWidth / 3;
    }
    shown = here;
    const heading = [...document.querySelectorAll("#page h1, #page h1 span")].filter((each) => !each.children.length);
    const title = [...heading.map((each) => each.textContent), "Sensitivity"].join(" · ");
    if (heading.length && document.title !== title) document.title = title;
  }).observe(document.documentElement, { childList: true, subtree: true });

  function mark(figure) {
    // A frame around each selected cell and the keyboard's, with a letter: elements over the figure, because Plotly
    // redraws a whole figure when one of its annotations changes.
    const place = figure.querySelector(".svg-container");
    if (!place) return;
    const letters = marks.filter(([, id]) => id);
    const stands = figure.closest(".choosable").matches(":focus") ? chosen.get(figure) : null;
    const all = letters.length || stands ? cells(figure) : []; // many, in a large study
    place.querySelectorAll(".mark").forEach((each) => each.remove());
    [["", stands], ...letters].forEach(function ([letter, id]) {
      const cell = id && all.find((one) => one.id === id);
      if (!cell) return;
      const axis = (kind) => figure._fullLayout[cell.panel.match(new RegExp(kind + "\\d*"))[0].replace(kind, kind + "axis")];
      const made = document.createElement("div");
      made.className = letter ? "mark" : "mark cursor";
      for (const [kind, side, extent] of [["x", "left", "width"], ["y", "top", "height"]]) {
        const own = axis(kind), at = own.l2p(cell[kind]);
        if (at < 0 || at > own._length) return; // outside a zoomed panel
        const length = cell.grid ? Math.max(Math.abs(own.l2p(1) - own.l2p(0)), 14) : 22;
        made.style[side] = `${own._offset + at - length / 2}px`;
        made.style[extent] = `${length}px`;
      }
      if (letter) made.append(Object.assign(document.createElement("b"), { textContent: letter }));
      made.setAttribute("aria-hidden", "true");
      place.append(made);
    });
  }

  function step(all, from, key) {
    if (!from) return all[0];
    const panels = [...new Set(all.map((cell) => cell.panel))];
    if (key === "PageDown" || key === "PageUp") {
      const next = panels[panels.indexOf(from.panel) + (key === "PageDown" ? 1 : -1)];
      return all.find((cell) => cell.panel === next) || from;
    }
    const [dx, dy] = { ArrowRight: [1, 0], ArrowLeft: [-1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] }[key];
    let best = from, distance = Infinity;
    all.forEach(function (cell) {
      if (cell.panel !== from.panel || cell === from) return;
      const along = (cell.x - from.x) * dx + (cell.y - from.y) * dy;
      const across = Math.abs((cell.x - from.x) * dy) + Math.abs((cell.y - from.y) * dx);
      if (along > 1e-9 && along + 3 * across < distance) [best, distance] = [cell, along + 3 * across];
    });
    return best;
  }

  function announce(text) {
    const live = document.getElementById("live");
    if (live) live.textContent = text.replace(/<br>/g, ", ").replace(/<[^>]+>/g, "");
  }

  document.addEventListener("focusout", function (event) {
    const figure = event.target.classList?.contains("choosable") && event.target.querySelector(".js-plotly-plot");
    if (figure && figure._fullData) setTimeout(() => mark(figure)); // without its cursor
  });

  // Paper is white and narrow: wider figures are scaled down.
  addEventListener("beforeprint", function () {
    document.querySelectorAll(".canvas").forEach(function (canvas) {
      const plot = canvas.querySelector(".js-plotly-plot");
      if (plot && plot.offsetWidth > 700) canvas.style.zoom = 700 / plot.offsetWidth;
    });
  });
  addEventListener("afterprint", () => document.querySelectorAll(".canvas").forEach((canvas) => { canvas.style.zoom = ""; }));

  document.addEventListener("keydown", function (event) {
    const row = event.key === "Enter" && event.target.matches?.("#runs .ag-cell") && event.target.closest("[row-id]");
    if (!row || event.target.getAttribute("col-id") === "chosen") return;
    const cell = { colId: event.target.getAttribute("col-id"), rowId: row.getAttribute("row-id"), timestamp: Date.now() };
    dash_clientside.set_props("runs", { cellClicked: cell });
  });

  document.addEventListener("keydown", function (event) {
    const canvas = event.target;
    if (!canvas.classList || !canvas.classList.contains("choosable")) return;
    const figure = canvas.querySelector(".js-plotly-plot");
    if (!figure || !figure._fullData) return;
    const all = cells(figure);
    const current = all.find((cell) => cell.id === chosen.get(figure));
    if (event.key === "Enter" && current) {
      const name = JSON.parse(canvas.id).name;
      window.sensitivityShift = event.shiftKey;
      dash_clientside.set_props({ type: "figure", name }, { clickData: { points: [{ customdata: current.id }] } });
      event.preventDefault();
    } else if (/^(Arrow(Left|Right|Up|Down)|Page(Up|Down))$/.test(event.key) && all.length) {
      const next = step(all, current, event.key);
      chosen.set(figure, next.id);
      mark(figure);
      Plotly.Fx.hover(figure, [{ curveNumber: next.curve, pointNumber: next.point }], [next.panel]);
      announce(next.text || "cell without a value");
      event.preventDefault();
    }
  });
})();
