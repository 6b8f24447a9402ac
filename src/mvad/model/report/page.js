"use strict";
// Colour map from black through red to yellow, as in the pictures of the runs.
const STOPS = [[0, 0, 4], [40, 11, 84], [101, 21, 110], [159, 42, 99], [212, 72, 66], [245, 125, 21], [250, 193, 39], [252, 255, 164]];
const MARK = [0, 225, 255];

function heat(share) {
  const place = Math.min(Math.max(share, 0), 1) * (STOPS.length - 1), low = Math.min(Math.floor(place), STOPS.length - 2), part = place - low;
  return STOPS[low].map((value, k) => value * (1 - part) + STOPS[low + 1][k] * part);
}

document.getElementById("theme").addEventListener("click", () => {
  const root = document.documentElement;
  root.dataset.theme = root.dataset.theme === "dark" ? "light" : "dark";
  document.querySelectorAll(".cloud").forEach(cloud => cloud.draw && cloud.draw());
});

// Headings of the columns, for screens on which the cells of a row stand below each other.
for (const table of document.querySelectorAll("table.figures")) {
  const heads = [...table.querySelectorAll("thead th")].map(head => head.textContent);
  table.querySelectorAll("tbody tr").forEach(row => [...row.cells].forEach((cell, k) => { cell.dataset.head = heads[k]; }));
  table.classList.add("headed");
}

// A map is a grey picture; black and white are the values data-low and data-high. It is drawn as soon as its picture is there.
function drawMap(figure, section) {
  const canvas = figure.querySelector("canvas"), image = figure.image;
  if (!image.complete || !image.naturalWidth) return image.addEventListener("load", () => drawMap(figure, section), { once: true });
  if (!figure.grey) {
    canvas.width = image.width;
    canvas.height = image.height;
    const context = canvas.getContext("2d", { willReadFrequently: true });
    context.drawImage(image, 0, 0);
    figure.grey = context.getImageData(0, 0, image.width, image.height).data.filter((_, k) => k % 4 === 0);
  }
  const low = Number(figure.dataset.low), high = Number(figure.dataset.high);
  const least = Number(section.dataset.low), most = Number(section.dataset.high), threshold = section.pixel;
  const colours = Array.from({ length: 256 }, (_, level) => {
    const value = low + (high - low) * level / 255;
    return value >= threshold ? MARK : heat((value - least) / Math.max(most - least, 1e-12));
  });
  const context = canvas.getContext("2d"), pixels = context.createImageData(canvas.width, canvas.height);
  figure.grey.forEach((level, k) => {
    const colour = colours[level];
    pixels.data.set([colour[0], colour[1], colour[2], 255], 4 * k);
  });
  context.putImageData(pixels, 0, 0);
  canvas.dataset.drawn = threshold;
}

const visible = new IntersectionObserver(entries => {
  for (const entry of entries) {
    entry.target.inView = entry.isIntersecting;
    if (entry.isIntersecting) drawMap(entry.target, entry.target.closest("section"));
  }
}, { rootMargin: "200px" });

function score_maps(section) {
  const threshold = section.sample, counts = { caught: 0, bad: 0, alarms: 0, good: 0 };
  for (const row of section.querySelectorAll(".recall tbody tr")) {
    const scores = row.dataset.scores.split(" ").map(Number), called = scores.filter(score => score >= threshold).length;
    const kind = row.dataset.defect === "-1" ? ["alarms", "good"] : ["caught", "bad"];
    counts[kind[0]] += called;
    counts[kind[1]] += scores.length;
    row.querySelector("meter").value = called / scores.length;
    row.querySelector("span").textContent = `${called} of ${scores.length}`;
  }
  for (const figure of section.querySelectorAll("figure[data-score]")) {
    const called = Number(figure.dataset.score) >= threshold, wrong = called !== (figure.dataset.label === "1");
    figure.classList.toggle("wrong", wrong);
    figure.querySelector("b").textContent = wrong ? (called ? "false alarm" : "missed") : (called ? "found" : "passed");
  }
  const text = `${counts.caught} of ${counts.bad} anomalous samples found, ${counts.alarms} of ${counts.good} good ones called anomalous.`;
  section.querySelector(".counts").textContent = text;
  filter(section);
}

function filter(section) {
  const select = section.querySelector(".filter"), wanted = select.value, name = select.selectedOptions[0].textContent;
  for (const figure of section.querySelectorAll("figure[data-score]")) {
    const shown = wanted === "all" || (wanted === "wrong" && figure.classList.contains("wrong"))
      || wanted === `label${figure.dataset.label}` || (wanted.startsWith("defect") && figure.dataset.kind === name);
    figure.hidden = !shown;
  }
}

function sort(section, by) {
  const gallery = section.querySelector(".gallery");
  const value = figure => {
    const score = Number(figure.dataset.score);
    return by === "score" ? -score : (figure.dataset.label === "1" ? score : -score) - section.sample * (figure.dataset.label === "1" ? 1 : -1);
  };
  const order = by === "name" ? (a, b) => a.dataset.name.localeCompare(b.dataset.name) : (a, b) => value(a) - value(b);
  section.by = by;
  gallery.append(...[...gallery.querySelectorAll("figure[data-score]")].sort(order));
  section.querySelectorAll("[data-by]").forEach(button => button.setAttribute("aria-pressed", button.dataset.by === by));
}

for (const section of document.querySelectorAll("section.run")) {
  for (const kind of ["sample", "pixel"]) {
    const slider = section.querySelector(`input.${kind}`);
    const moved = at => {
      section[kind] = at;
      slider.parentElement.querySelector("output").value = section[kind].toPrecision(4);
      if (kind === "sample") return score_maps(section);
      section.querySelectorAll("figure[data-score]").forEach(figure => figure.inView && drawMap(figure, section));
      section.querySelectorAll(".cloud").forEach(cloud => cloud.draw && cloud.draw());
    };
    slider.addEventListener("input", () => moved(Number(slider.value)));
    slider.addEventListener("change", () => section.by === "error" && sort(section, "error"));
    if (kind === "pixel") section.querySelectorAll("figure[data-score]").forEach(figure => {
      figure.image = new Image();
      figure.image.src = figure.querySelector("canvas").dataset.src;
    });
    moved(Number(slider.getAttribute("value")));  // a slider's own value is the nearest of its steps
  }
  section.querySelector(".filter").addEventListener("change", () => filter(section));
  section.querySelectorAll("[data-by]").forEach(button => button.addEventListener("click", () => sort(section, button.dataset.by)));
  section.querySelectorAll("figure[data-score]").forEach(figure => visible.observe(figure));
  sort(section, "error");
}

addEventListener("beforeprint", () => {
  document.querySelectorAll("figure[data-score]").forEach(figure => figure.hidden || drawMap(figure, figure.closest("section")));
  document.querySelectorAll(".cloud").forEach(cloud => cloud.load());
});

// Points are drawn with a depth buffer, so that the nearest one is visible.
for (const cloud of document.querySelectorAll(".cloud")) {
  const canvas = cloud.querySelector("canvas"), select = cloud.querySelector("select"), section = cloud.closest("section");
  const context = canvas.getContext("2d"), view = { turn: 0.5, tilt: -0.4, zoom: 1 };
  let points = null, low = 0, high = 1;
  const load = () => {
    const option = select.selectedOptions[0], bytes = Uint8Array.from(atob(option.dataset.points), c => c.charCodeAt(0));
    points = new Int16Array(bytes.buffer);
    low = Number(option.dataset.low);
    high = Number(option.dataset.high);
    cloud.draw();
  };
  cloud.load = load;
  cloud.draw = () => {
    if (!points) return;
    const { width, height } = canvas, pixels = context.createImageData(width, height), depth = new Float32Array(width * height).fill(1e9);
    const dark = document.documentElement.dataset.theme === "dark", ground = dark ? [20, 21, 24] : [236, 237, 240];
    for (let k = 0; k < width * height; k++) pixels.data.set([...ground, 255], 4 * k);
    const [ct, st, cp, sp] = [Math.cos(view.turn), Math.sin(view.turn), Math.cos(view.tilt), Math.sin(view.tilt)];
    const scale = height * 0.45 * view.zoom / 32000, least = Number(cloud.dataset.low), most = Number(cloud.dataset.high);
    const size = Math.max(2, Math.round(2.2 * view.zoom));
    for (let k = 0; k < points.length; k += 4) {
      const x = points[k] * ct + points[k + 2] * st, z0 = points[k + 2] * ct - points[k] * st;
      const y = points[k + 1] * cp - z0 * sp, z = points[k + 1] * sp + z0 * cp;
      const column = Math.round(width / 2 + x * scale), row = Math.round(height / 2 + y * scale);
      const value = low + (high - low) * points[k + 3] / 32000;
      const colour = value >= section.pixel ? MARK : heat((value - least) / Math.max(most - least, 1e-12));
      for (let r = row; r < row + size; r++) for (let c = column; c < column + size; c++) {
        if (r < 0 || c < 0 || r >= height || c >= width || depth[r * width + c] <= z) continue;
        depth[r * width + c] = z;
        pixels.data.set(colour, 4 * (r * width + c));
      }
    }
    context.putImageData(pixels, 0, 0);
    cloud.dataset.view = [view.turn, view.tilt, view.zoom].map(v => v.toFixed(3)).join(" ");
  };
  let held = null;
  canvas.addEventListener("pointerdown", event => { held = [event.clientX, event.clientY]; canvas.setPointerCapture(event.pointerId); });
  canvas.addEventListener("pointerup", () => { held = null; });
  canvas.addEventListener("pointermove", event => {
    if (!held) return;
    view.turn += (event.clientX - held[0]) * 0.01;
    view.tilt += (event.clientY - held[1]) * 0.01;
    held = [event.clientX, event.clientY];
    cloud.draw();
  });
  const zoom = factor => { view.zoom = Math.min(Math.max(view.zoom * factor, 0.3), 8); cloud.draw(); };
  canvas.addEventListener("wheel", event => { event.preventDefault(); zoom(event.deltaY < 0 ? 1.1 : 1 / 1.1); }, { passive: false });
  canvas.addEventListener("keydown", event => {
    const turns = { ArrowLeft: [-0.1, 0], ArrowRight: [0.1, 0], ArrowUp: [0, -0.1], ArrowDown: [0, 0.1] }[event.key];
    if (turns) { view.turn += turns[0]; view.tilt += turns[1]; cloud.draw(); event.preventDefault(); }
    if (event.key === "+") zoom(1.1);
    if (event.key === "-") zoom(1 / 1.1);
  });
  select.addEventListener("change", load);
  new IntersectionObserver((entries, watch) => { if (entries.some(e => e.isIntersecting)) { watch.disconnect(); load(); } }).observe(canvas);
}
