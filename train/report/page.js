"use strict";
const source = document.getElementById("figures").textContent;
const touch = matchMedia("(pointer: coarse)").matches;
const palette = /^@(stage\d|source\d|part\d|ink|muted|card|rule|grid)$/;

// The plotting library is embedded as gzip in base64; decompressed, it runs as a script of this page.
async function loadPlotly() {
  const bytes = Uint8Array.from(atob(document.getElementById("plotly").textContent), letter => letter.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  const script = document.createElement("script");
  script.textContent = await new Response(stream).text();
  document.head.append(script);
}

// Colours are names in the figures ("@stage0") and values in the style sheet (--stage0).
function readFigures() {
  const style = getComputedStyle(document.documentElement);
  return JSON.parse(source, (key, value) =>
    typeof value === "string" && palette.test(value) ? style.getPropertyValue("--" + value.slice(1)).trim() : value);
}

// A stage's name is shown above its band only where it fits; elsewhere its colour identifies it.
function fitLabels(layout, width) {
  const pen = document.createElement("canvas").getContext("2d");
  pen.font = "12px system-ui, sans-serif";
  const bands = (layout.shapes || []).filter(shape => shape.type === "rect");
  const labels = (layout.annotations || []).filter(label => label.name === "stage");
  if (!bands.length) return;
  const inner = width - layout.margin.l - layout.margin.r;
  const perToken = inner / (layout.xaxis.range[1] - layout.xaxis.range[0]);
  labels.forEach((label, i) => {
    label.visible = pen.measureText(label.text).width + 6 < (bands[i].x1 - bands[i].x0) * perToken;
  });
}

function fewerTicks(layout) {
  for (const axis of [layout.xaxis, layout.yaxis]) {
    axis.nticks = 5;
    if (axis.tickvals && axis.tickvals.length > 6) {
      const kept = (_, i) => i % Math.ceil(axis.tickvals.length / 6) === 0;
      axis.ticktext = axis.ticktext.filter(kept);
      axis.tickvals = axis.tickvals.filter(kept);
    }
  }
}

// On a narrow screen panels side by side have no room for numbers in their cells, and for two ticks only.
function fewerNumbers(figure) {
  const axes = Object.keys(figure.layout).filter(key => key.startsWith("xaxis"));
  if (axes.length < 3) return;
  for (const key of axes) Object.assign(figure.layout[key], {nticks: 2, tickangle: 0});
  for (const trace of figure.data) delete trace.texttemplate;
}

function draw() {
  for (const figure of readFigures()) {
    const place = document.getElementById("plot-" + figure.key);
    fitLabels(figure.layout, place.clientWidth);
    figure.layout.font.family = getComputedStyle(document.body).fontFamily;
    figure.layout.dragmode = touch ? false : "zoom";
    if (place.clientWidth < 420) fewerTicks(figure.layout);
    if (place.clientWidth < 560) fewerNumbers(figure);
    Plotly.react(place, figure.data, figure.layout, {displayModeBar: false, displaylogo: false, responsive: true});
  }
}

async function start() {
  if (!JSON.parse(source).length) return;
  if (!("DecompressionStream" in window)) {
    throw "this browser is too old (it lacks DecompressionStream, which came with Chrome 80, Firefox 113 and Safari 16.4)";
  }
  await loadPlotly();
  draw();
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
  let width = innerWidth;
  addEventListener("resize", () => { if (innerWidth !== width) { width = innerWidth; draw(); } });
}

start().catch(reason => {
  const note = document.getElementById("trouble");
  note.textContent = "The pictures cannot be drawn: " + reason + ". Tables and numbers are complete.";
  note.hidden = false;
});
