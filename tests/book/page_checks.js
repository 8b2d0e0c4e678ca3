// What tests/test_site.py asks inside a page. Every check returns a list of complaints.
({
  // Every equation was drawn, and no TeX is left over.
  async math() {
    if (window.MathJax && MathJax.startup) await MathJax.startup.promise;
    const article = document.querySelector("article"), bad = [];
    for (const m of article.querySelectorAll(".math"))
      if (!m.querySelector("mjx-container")) bad.push("not rendered: " + m.textContent.slice(0, 60));
    for (const m of article.querySelectorAll("mjx-merror, [data-mjx-error]"))
      bad.push("MathJax error: " + m.textContent.slice(0, 80));
    const texts = document.createTreeWalker(article, NodeFilter.SHOW_TEXT);
    while (texts.nextNode()) {
      const text = texts.currentNode;
      if (text.parentElement.closest("pre, code, script, style, mjx-container")) continue;
      if (/\$\$|\\begin\{|\\\(|\\\[/.test(text.data)) bad.push("raw TeX: " + text.data.trim().slice(0, 60));
    }
    return bad;
  },

  // Every picture is loaded, says in words what it shows, and has nothing painted behind it.
  pictures() {
    const bad = [];
    for (const image of document.querySelectorAll("article img")) {
      const alt = (image.getAttribute("alt") || "").trim();
      if (alt.length < 12 || /_build|\.(png|svg|jpe?g)$/.test(alt)) bad.push("no real alt text: " + image.src.slice(-90));
      if (!image.complete || !image.naturalWidth) bad.push("not loaded: " + image.src.slice(-90));
      if (!/, 0\)$|transparent/.test(getComputedStyle(image).backgroundColor)) bad.push("painted behind: " + image.src.slice(-90));
    }
    for (const svg of document.querySelectorAll("article svg")) {
      if (svg.closest("[aria-hidden=true], button, a, summary, mjx-container")) continue;
      if (!/^(img|group)$/.test(svg.getAttribute("role"))) bad.push("svg without a role");
      if (!svg.hasAttribute("aria-label") && !svg.hasAttribute("aria-labelledby") && !svg.querySelector("title"))
        bad.push("svg without a title");
    }
    return bad;
  },

  // Nothing is wider than the window, unless it scrolls in its own box.
  overflow() {
    const width = document.documentElement.clientWidth, bad = [];
    if (document.documentElement.scrollWidth > width) bad.push(`the page is ${document.documentElement.scrollWidth} wide`);
    const scrolls = (e) => e.tagName !== "BODY" && (/auto|scroll/.test(getComputedStyle(e).overflowX) || scrolls(e.parentElement));
    const blocks = "p, li, h1, h2, h3, h4, pre, table, img, figure, dt, mjx-container, svg, .admonition";
    for (const e of document.querySelectorAll(`article :is(${blocks})`)) {
      const box = e.getBoundingClientRect();
      if (box.width && box.right > width + 1 && !scrolls(e))
        bad.push(`${e.tagName} reaches ${Math.round(box.right)}: ${e.textContent.slice(0, 50)}`);
    }
    return bad;
  },

  // WCAG AA: 4.5 to 1 between a text and what is behind it, 3 to 1 where it is large.
  contrast() {
    const canvas = Object.assign(document.createElement("canvas"), { width: 1, height: 1 });
    const ctx = canvas.getContext("2d", { willReadFrequently: true }), known = {};
    const rgba = (colour) => {                              // any CSS colour as four numbers in [0, 1]
      if (!known[colour]) {
        ctx.clearRect(0, 0, 1, 1);
        ctx.fillStyle = colour;
        ctx.fillRect(0, 0, 1, 1);
        known[colour] = [...ctx.getImageData(0, 0, 1, 1).data].map((v) => v / 255);
      }
      return known[colour];
    };
    const over = (top, below) => below.map((b, i) => top[i] * top[3] + b * (1 - top[3]));
    const behind = (e) => {
      if (!e) return [1, 1, 1];
      const colour = rgba(getComputedStyle(e).backgroundColor);
      return colour[3] > 0.999 ? colour.slice(0, 3) : over(colour, behind(e.parentElement));
    };
    const luminance = (colour) => {
      const [r, g, b] = colour.map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4));
      return 0.2126 * r + 0.7152 * g + 0.0722 * b;
    };
    const bad = new Set(), texts = document.createTreeWalker(document.querySelector(".bd-container"), NodeFilter.SHOW_TEXT);
    const skipped = "script, style, svg, mjx-assistive-mml, .headerlink, .copybtn, .onlyprint";
    while (texts.nextNode()) {
      const e = texts.currentNode.parentElement;
      if (!texts.currentNode.data.trim() || e.closest(skipped) || !e.checkVisibility()) continue;
      const style = getComputedStyle(e), back = behind(e), size = parseFloat(style.fontSize);
      let [r, g, b, opacity] = rgba(style.color);
      for (let p = e; p; p = p.parentElement) opacity *= Number(getComputedStyle(p).opacity);
      const front = luminance(over([r, g, b, opacity], back)), ground = luminance(back);
      const ratio = (Math.max(front, ground) + 0.05) / (Math.min(front, ground) + 0.05);
      const large = size >= 24 || (size >= 18.66 && Number(style.fontWeight) >= 700);
      if (ratio < (large ? 3 : 4.5)) bad.add(`${ratio.toFixed(2)} ${e.tagName}.${e.className}: ${e.textContent.trim().slice(0, 40)}`);
    }
    return [...bad];
  },

  // On paper nothing scrolls: all fits, every fold is open or says where its content stands, no button is left.
  paper() {
    const width = document.documentElement.clientWidth, bad = [];
    const say = (what, e) => bad.push(`${what}: ${e.tagName}.${e.className} ${e.textContent.trim().slice(0, 50)}`);
    for (const e of document.querySelectorAll(".bd-main *, #jb-print-docs-body *")) {
      if (!e.checkVisibility() || e.closest("script, .visually-hidden") || e.parentElement.closest("mjx-container, svg")) continue;
      const box = e.getBoundingClientRect();
      if (box.width && (box.right > width + 1 || box.left < -1)) say(`reaches from ${Math.round(box.left)} to ${Math.round(box.right)}`, e);
      if (getComputedStyle(e).overflowX !== "visible" && e.scrollWidth > e.clientWidth + 1) say("cut", e);
      if (e.matches("button, input, nav.bd-links, .headerlink")) say("of no use on paper", e);
    }
    for (const fold of document.querySelectorAll("article details:not([open])"))
      if (!/site/.test(getComputedStyle(fold.querySelector("summary"), "::after").content) || fold.querySelector("summary").innerText.trim())
        say("folded without the right word", fold);
    const text = document.querySelector("article > section > p").getBoundingClientRect();
    if (text.width < 0.95 * width) bad.push(`the text takes ${Math.round(text.width)} of ${width}`);
    for (const fold of document.querySelectorAll("article .toggle-hidden")) say("folded", fold);
    if ([...document.querySelectorAll("h1")].filter((h) => h.checkVisibility()).length !== 1) bad.push("not one title");
    return bad;
  },

  unfold() {
    for (const d of document.querySelectorAll("details")) d.open = true;
    for (const d of document.querySelectorAll(".toggle-hidden")) d.classList.remove("toggle-hidden");
    return [];
  },
})
