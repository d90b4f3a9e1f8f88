// The brush: whole pixels of the picture's own size, so that what is saved is what is seen.

let paint = null, brush = 0;

async function startPainting() {
  const pair = here();
  if (!pair || paint) return;
  const shown = await picturesOf(pair);
  if (here() !== pair) return;
  const mask = Uint8Array.from(painted(pair) && shown.own ? shown.own : shown.mask);
  brush ||= Math.max(2, Math.round(shown.width / 16));
  paint = {pair, shown, mask, strokes: [], erase: false, from: null, pointer: null};
  $("size").max = Math.max(8, Math.round(shown.width / 2));
  setSize(brush);
  setTool(false);
  render();
}

function setSize(size) {
  $("size").value = size;
  brush = Number($("size").value);
  $("size-says").textContent = `${brush} px`;
  if (paint) redrawPaint();
}

function setTool(erase) {
  paint.erase = erase;
  $("tool").setAttribute("aria-pressed", erase);
  $("tool").firstChild.textContent = erase ? "Brush " : "Erase ";
}

function redrawPaint() {
  if (!paint) return;
  drawOver(paint.shown, paint.mask, "filled");
  if (!paint.pointer) return;
  const scale = scaleFor(paint.shown.width), context = $("over").getContext("2d");
  context.lineWidth = 2;
  context.strokeStyle = paint.erase ? "#fff" : "#ff2d55";
  context.beginPath();
  context.arc(paint.pointer[0] * scale, paint.pointer[1] * scale, brush / 2 * scale, 0, 7);
  context.stroke();
}

function stroke([x0, y0], [x1, y1], value) {
  const {width, height} = paint.shown, radius = brush / 2;
  const steps = Math.max(1, Math.ceil(Math.hypot(x1 - x0, y1 - y0) / Math.max(.5, radius / 2)));
  for (let i = 0; i <= steps; i++) {
    const cx = x0 + (x1 - x0) * i / steps, cy = y0 + (y1 - y0) * i / steps;
    for (let y = Math.max(0, Math.floor(cy - radius)); y <= Math.min(height - 1, cy + radius); y++) {
      for (let x = Math.max(0, Math.floor(cx - radius)); x <= Math.min(width - 1, cx + radius); x++) {
        if (Math.hypot(x + .5 - cx, y + .5 - cy) <= Math.max(radius, .71)) paint.mask[y * width + x] = value;
      }
    }
  }
}

function whereIn(event) {
  const box = $("over").getBoundingClientRect();
  return [(event.clientX - box.left) / box.width * paint.shown.width, (event.clientY - box.top) / box.height * paint.shown.height];
}

function replaceMask(mask) {
  paint.strokes.push(paint.mask);
  paint.mask = mask;
  redrawPaint();
  drawFlat($("mask"), paint.mask, paint.shown.width, paint.shown.height);
}

function stopPainting() {
  paint = null;
  render();
}

function savePainted() {
  const {pair, mask, shown} = paint;
  if (!mask.some(Boolean)) {
    note("The mask is empty: paint the defect, or cancel (Esc) and reject the pair.");
    return;
  }
  const canvas = document.createElement("canvas");
  drawFlat(canvas, mask, shown.width, shown.height);
  const before = records[pair.key] || null;
  history.push({key: pair.key, before});
  paint = null;
  records[pair.key] = {verdict: "accepted", mask: before?.mask || null};
  save("paint", {key: pair.key, png: canvas.toDataURL("image/png")}, before);
  goOn();
}

$("over").addEventListener("pointerdown", (event) => {
  if (!paint) return;
  event.preventDefault();
  $("over").setPointerCapture(event.pointerId);
  paint.strokes.push(Uint8Array.from(paint.mask));
  paint.from = whereIn(event);
  paint.value = paint.erase !== (event.button === 2) ? 0 : 1;
  stroke(paint.from, paint.from, paint.value);
  redrawPaint();
});
$("over").addEventListener("pointermove", (event) => {
  if (!paint) return;
  paint.pointer = whereIn(event);
  if (paint.from) {
    stroke(paint.from, paint.pointer, paint.value);
    paint.from = paint.pointer;
  }
  redrawPaint();
});
for (const name of ["pointerup", "pointercancel"]) {
  $("over").addEventListener(name, () => {
    if (!paint) return;
    paint.from = null;
    drawFlat($("mask"), paint.mask, paint.shown.width, paint.shown.height);
  });
}
$("over").addEventListener("pointerleave", () => { if (paint) { paint.pointer = null; redrawPaint(); } });
$("over").addEventListener("contextmenu", (event) => { if (paint) event.preventDefault(); });
$("over").addEventListener("wheel", (event) => {
  if (!paint) return;
  event.preventDefault();
  setSize(brush + (event.deltaY < 0 ? 1 : -1));
}, {passive: false});
