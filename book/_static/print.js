// Before a page goes to paper: light colours, folds open, animations at their still frame, long equations fitted.
// What only draws stays folded (print.css says where it stands); afterwards all is as it was.
(() => {
  const PAPER = 42;   // width of a line of equations on A4 and Letter, em
  const undo = [], root = document.documentElement, stills = new Map();

  function put(object, key, value) {
    const old = object[key];
    undo.push(() => { object[key] = old; });
    object[key] = value;
  }

  addEventListener("DOMContentLoaded", () => {
    for (const image of document.querySelectorAll(".lab-animation img")) stills.set(image, image.src);
  });

  addEventListener("beforeprint", () => {
    put(root.dataset, "theme", "light");
    for (const fold of document.querySelectorAll("article details:not(.hide)")) put(fold, "open", true);
    for (const [image, still] of stills) put(image, "src", still);
    for (const box of document.querySelectorAll("div.math")) {
      const wide = box.scrollWidth / parseFloat(getComputedStyle(box).fontSize);
      if (wide > PAPER) box.style.setProperty("--fit", PAPER / wide);
    }
  });

  addEventListener("afterprint", () => { while (undo.length) undo.pop()(); });
})();
