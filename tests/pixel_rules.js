// What is wrong with a page as it stands, by rules on its pixels: a line each. Evaluated in the page by the tests.
() => {
  const found = [];
  const name = (element) => {
    const text = (element.textContent || element.value || "").trim().replace(/\s+/g, " ").slice(0, 60);
    const kind = element.className && element.className.baseVal === undefined ? `.${element.className}` : "";
    return `${element.tagName.toLowerCase()}${kind.split(" ")[0]} "${text}"`;
  };
  const visible = (element) => element.checkVisibility({ opacityProperty: true, visibilityProperty: true });
  const hidden = (style) => style.overflowX === "hidden" || style.overflowX === "clip";
  const scrolls = (style) => style.overflowX === "auto" || style.overflowX === "scroll";
  const unseen = (style) => style.clipPath !== "none" || style.clip !== "auto"; // for screen readers alone

  // The page doesn't scroll sideways.
  const wide = document.documentElement.scrollWidth;
  if (wide > innerWidth) {
    const far = [...document.querySelectorAll("body *")].filter((e) => visible(e) && e.getBoundingClientRect().right > innerWidth + 1);
    found.push(`the page is ${wide} px wide in ${innerWidth}: ${far.slice(-1).map(name)}`);
  }

  // No text is cut, by its own box or by one around it; what scrolls shows it. No text leaves the panel that it stands in.
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const node = walker.currentNode, element = node.parentElement;
    if (!node.data.trim() || element.closest("svg, script, style, .ag-root") || !visible(element)) continue;
    const range = document.createRange();
    range.selectNodeContents(node);
    const text = range.getBoundingClientRect();
    if (!text.width || !text.height) continue;
    let cut = "", reader = false;
    for (let at = element; at && at !== document.documentElement; at = at.parentElement) {
      const style = getComputedStyle(at), box = at.getBoundingClientRect();
      if (unseen(style)) reader = true;
      if (at.title && at.title === at.textContent) break; // told whole beside the pointer
      const outside = text.right > box.right + 1.5 || text.left < box.left - 1.5;
      if (outside && hidden(style) && at !== document.body) cut = cut || `cut by ${name(at)}`;
      if (outside && at.matches(".card, .plot, article, fieldset, button, td, th")) cut = cut || `beyond ${name(at)}`;
      if (scrolls(style) || style.position === "fixed") break;
    }
    if (cut && !reader) found.push(`${name(element)} is ${cut}`);
  }
  for (const input of document.querySelectorAll("input[aria-haspopup=listbox]")) { // a choice; what is typed may scroll
    if (visible(input) && input.scrollWidth > input.clientWidth + 1) found.push(`${name(input)} is cut`);
  }

  // Texts of a figure overlap nothing of their kind, and none lies beyond its figure.
  const corners = (text) => {
    const box = text.getBBox(), matrix = text.getScreenCTM();
    const trim = Math.min(2.5, 0.18 * box.height), side = Math.min(1, box.width / 4); // a line is higher than its letters
    return [[box.x + side, box.y + trim], [box.x + box.width - side, box.y + trim], [box.x + box.width - side, box.y + box.height - trim], [box.x + side, box.y + box.height - trim]].map(
      ([x, y]) => [matrix.a * x + matrix.c * y + matrix.e, matrix.b * x + matrix.d * y + matrix.f]);
  };
  const apart = (one, other) => [one, other].some((shape) => shape.some((corner, k) => {
    const next = shape[(k + 1) % 4], normal = [next[1] - corner[1], corner[0] - next[0]];
    const on = (points) => points.map((p) => p[0] * normal[0] + p[1] * normal[1]);
    const a = on(one), b = on(other);
    return Math.max(...a) <= Math.min(...b) || Math.max(...b) <= Math.min(...a);
  }));
  for (const figure of document.querySelectorAll(".js-plotly-plot")) {
    if (!visible(figure)) continue;
    const paper = figure.querySelector(".main-svg").getBoundingClientRect();
    const texts = [...figure.querySelectorAll(".main-svg text")].filter((text) =>
      text.textContent.trim() && visible(text) && !text.closest(".hoverlayer, .modebar") && text.getBBox().width);
    const shapes = texts.map(corners), title = (figure.querySelector(".gtitle") || { textContent: "?" }).textContent.slice(0, 40);
    shapes.forEach((shape, k) => {
      const out = shape.some(([x, y]) => x < paper.left - 1 || x > paper.right + 1 || y < paper.top - 1 || y > paper.bottom + 1);
      if (out) found.push(`in "${title}": ${name(texts[k])} lies beyond the figure`);
      for (let j = 0; j < k; j++) {
        if (!apart(shape, shapes[j])) found.push(`in "${title}": ${name(texts[j])} and ${name(texts[k])} overlap`);
      }
    });
  }
  return [...new Set(found)];
}
