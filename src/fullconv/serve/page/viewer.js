// An image with its labels over it: zoom, pan, opacity, classes, a divider, and the class and confidence of a pixel.
//
// Labels are painted at the screen's resolution from their indices, so that an image of 30 megapixels costs no more than
// a small one, and switching a class is one frame.

const MAX_SCALE = 64;      // screen pixels per image pixel
const SMALL_SIDE = 2048;   // of the copy that is drawn while all of a large image is visible

export class Viewer {
  constructor(stage, canvas, overlay, divider, cross) {
    Object.assign(this, { stage, canvas, overlay, divider, cross });
    this.front = canvas.getContext("2d");
    this.paint = overlay.getContext("2d");
    this.view = { scale: 1, x: 0, y: 0 };
    this.split = 0;
    this.hiddenClasses = new Set();
    this.pointers = new Map();
    this.onProbe = () => {};
    this.onZoom = () => {};
    this.onSplit = () => {};
    new ResizeObserver(() => this.resize()).observe(stage);
    this.listen();
  }

  /** Show an image (ImageBitmap or null) with labels and confidence ({width, height, data}) and colours by class. */
  async show(bitmap, labels, confidence, colors) {
    this.small?.close();
    Object.assign(this, { bitmap, labels, confidence, colors, small: null, probe: null });
    this.cross.hidden = true;
    if (bitmap && Math.max(bitmap.width, bitmap.height) > 2 * SMALL_SIDE) {
      const factor = SMALL_SIDE / Math.max(bitmap.width, bitmap.height);
      const size = { resizeWidth: Math.max(1, Math.round(bitmap.width * factor)), resizeHeight: Math.max(1, Math.round(bitmap.height * factor)) };
      this.small = await createImageBitmap(bitmap, { ...size, resizeQuality: "high" });
    }
    this.resize();
    this.fit();
  }

  clear() {
    this.small?.close();
    Object.assign(this, { bitmap: null, labels: null, small: null, probe: null });
    this.cross.hidden = this.divider.hidden = true;
    this.draw();
  }

  setHidden(classes) { this.hiddenClasses = classes; this.draw(); }
  setOpacity(value) { this.overlay.style.opacity = value; }
  setSplit(share) { this.split = share; this.place(); }

  resize() {
    const ratio = window.devicePixelRatio || 1;
    const width = Math.max(1, Math.round(this.stage.clientWidth * ratio)), height = Math.max(1, Math.round(this.stage.clientHeight * ratio));
    const fitted = this.labels && Math.abs(this.view.scale - this.fitted()) < 1e-6;
    for (const layer of [this.canvas, this.overlay]) { layer.width = width; layer.height = height; }
    this.ratio = ratio;
    fitted ? this.fit() : this.draw();
  }

  fitted() {
    const { width, height } = this.labels;
    return Math.min(MAX_SCALE, this.canvas.width / width, this.canvas.height / height);
  }

  fit() {
    if (!this.labels) return;
    const scale = this.fitted();
    this.view = { scale, x: (this.canvas.width - scale * this.labels.width) / 2, y: (this.canvas.height - scale * this.labels.height) / 2 };
    this.draw();
  }

  /** Zoom by a factor around a point of the stage, in canvas pixels. */
  zoom(factor, x = this.canvas.width / 2, y = this.canvas.height / 2) {
    if (!this.labels) return;
    const scale = Math.min(MAX_SCALE, Math.max(this.fitted(), this.view.scale * factor));
    const by = scale / this.view.scale;
    this.view = { scale, x: x - (x - this.view.x) * by, y: y - (y - this.view.y) * by };
    this.draw();
  }

  pan(dx, dy) {
    this.view.x += dx;
    this.view.y += dy;
    this.draw();
  }

  /** Keep the image on the stage: centred where it is smaller, without a gap where it is larger. */
  hold() {
    for (const [key, size, room] of [["x", this.labels.width, this.canvas.width], ["y", this.labels.height, this.canvas.height]]) {
      const length = size * this.view.scale;
      this.view[key] = length <= room ? (room - length) / 2 : Math.min(0, Math.max(room - length, this.view[key]));
    }
  }

  draw() {
    if (this.waiting) return;
    this.waiting = requestAnimationFrame(() => { this.waiting = 0; this.render(); });
  }

  render() {
    const { width, height } = this.canvas;
    this.front.setTransform(1, 0, 0, 1, 0, 0);
    this.front.clearRect(0, 0, width, height);
    if (!this.labels) { this.paint.clearRect(0, 0, width, height); return; }
    this.hold();
    const { scale, x, y } = this.view;
    if (this.bitmap) {
      const source = this.small && scale * this.labels.width <= this.small.width ? this.small : this.bitmap;
      this.front.imageSmoothingEnabled = scale < 3;
      this.front.imageSmoothingQuality = "high";
      this.front.drawImage(source, x, y, scale * this.labels.width, scale * this.labels.height);
    }
    this.renderLabels(width, height);
    this.place();
    this.onZoom(scale / this.ratio);
  }

  renderLabels(width, height) {
    const { scale, x, y } = this.view, { labels } = this;
    if (this.buffer?.width !== width || this.buffer?.height !== height) this.buffer = this.paint.createImageData(width, height);
    const out = new Uint32Array(this.buffer.data.buffer), table = this.table();
    out.fill(0);
    const left = Math.max(0, Math.ceil(x - .5)), right = Math.min(width, Math.ceil(x + labels.width * scale - .5));
    const top = Math.max(0, Math.ceil(y - .5)), bottom = Math.min(height, Math.ceil(y + labels.height * scale - .5));
    const columns = new Int32Array(Math.max(0, right - left));
    for (let i = 0; i < columns.length; i++) columns[i] = Math.min(labels.width - 1, Math.max(0, Math.floor((left + i + .5 - x) / scale)));
    for (let row = top; row < bottom; row++) {
      const start = labels.width * Math.min(labels.height - 1, Math.max(0, Math.floor((row + .5 - y) / scale)));
      for (let i = 0, at = row * width + left; i < columns.length; i++, at++) out[at] = table[labels.data[start + columns[i]]];
    }
    this.paint.putImageData(this.buffer, 0, 0);
  }

  /** Colours as the memory of an ImageData holds them; 0 is transparent. */
  table() {
    const bytes = new Uint8ClampedArray(1024), table = new Uint32Array(bytes.buffer);
    this.colors.forEach(([r, g, b], index) => {
      if (!this.hiddenClasses.has(index)) bytes.set([r, g, b, 255], 4 * index);
    });
    return table;
  }

  /** Put divider and marker where they belong. */
  place() {
    if (!this.labels) return;
    const at = this.split * this.stage.clientWidth;
    this.divider.hidden = this.split <= 0;
    this.divider.style.left = `${at}px`;
    this.overlay.style.clipPath = this.split > 0 ? `inset(0 0 0 ${at}px)` : "none";
    if (this.probe) {
      const { scale, x, y } = this.view;
      this.cross.style.left = `${(x + (this.probe.x + .5) * scale) / this.ratio}px`;
      this.cross.style.top = `${(y + (this.probe.y + .5) * scale) / this.ratio}px`;
    }
  }

  /** Return the pixel at a point of the stage, in CSS pixels; null outside the image. */
  at(left, top) {
    if (!this.labels) return null;
    const { scale, x, y } = this.view;
    return this.pixel(Math.floor((left * this.ratio - x) / scale), Math.floor((top * this.ratio - y) / scale));
  }

  pixel(x, y) {
    const { labels, confidence } = this;
    if (x < 0 || y < 0 || x >= labels.width || y >= labels.height) return null;
    const place = y * labels.width + x;
    return { x, y, index: labels.data[place], confidence: confidence ? confidence.data[place] : null };
  }

  listen() {
    const { stage } = this;
    const here = (event) => { const box = stage.getBoundingClientRect(); return [event.clientX - box.left, event.clientY - box.top]; };
    stage.addEventListener("wheel", (event) => {
      if (!this.labels) return;
      event.preventDefault();
      const [x, y] = here(event);
      this.zoom(Math.exp(-event.deltaY * (event.ctrlKey ? .01 : .0018)), x * this.ratio, y * this.ratio);
    }, { passive: false });
    stage.addEventListener("pointerdown", (event) => {
      if (event.target.closest("button") || !this.labels) return;
      stage.setPointerCapture(event.pointerId);
      this.pointers.set(event.pointerId, here(event));
      this.dividing = event.target.closest(".divider") !== null;
      if (!this.dividing) stage.classList.add("grabbed");
      if (!this.dividing && event.pointerType !== "mouse") this.onProbe(this.at(...here(event)), ...here(event));  // a finger cannot hover
    });
    stage.addEventListener("pointermove", (event) => this.move(event, here(event)));
    for (const name of ["pointerup", "pointercancel"]) {
      stage.addEventListener(name, (event) => {
        this.pointers.delete(event.pointerId);
        if (!this.pointers.size) { this.dividing = false; stage.classList.remove("grabbed"); }
      });
    }
    stage.addEventListener("pointerleave", (event) => { if (event.pointerType === "mouse") this.onProbe(null); });
    stage.addEventListener("keydown", (event) => this.key(event));
  }

  move(event, [x, y]) {
    const before = this.pointers.get(event.pointerId);
    if (!before) { this.onProbe(this.at(x, y), x, y); return; }
    if (this.dividing) {
      this.setSplit(Math.min(1, Math.max(0, x / this.stage.clientWidth)));
      this.onSplit(this.split);
    } else if (this.pointers.size === 2) {
      const [other] = [...this.pointers].filter(([id]) => id !== event.pointerId).map(([, place]) => place);
      const gap = ([a, b]) => Math.hypot(a - other[0], b - other[1]);
      this.zoom(gap([x, y]) / Math.max(1, gap(before)), (x + other[0]) / 2 * this.ratio, (y + other[1]) / 2 * this.ratio);
    } else {
      this.pan((x - before[0]) * this.ratio, (y - before[1]) * this.ratio);
      this.onProbe(null);
    }
    this.pointers.set(event.pointerId, [x, y]);
  }

  key(event) {
    if (!this.labels || event.ctrlKey || event.metaKey || event.altKey) return;
    const way = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
    if (way && event.shiftKey) this.pan(-way[0] * 60 * this.ratio, -way[1] * 60 * this.ratio);
    else if (way) this.step(...way);
    else if (event.key === "+" || event.key === "=") this.zoom(1.4);
    else if (event.key === "-") this.zoom(1 / 1.4);
    else if (event.key === "0") this.fit();
    else return;
    event.preventDefault();
  }

  /** Move the marker by some ten screen pixels, and the image where it would leave the stage. */
  step(dx, dy) {
    const { width, height } = this.labels, by = Math.max(1, Math.round(10 * this.ratio / this.view.scale));
    const from = this.probe ?? this.at(this.stage.clientWidth / 2, this.stage.clientHeight / 2) ?? { x: width >> 1, y: height >> 1 };
    const moved = this.probe ? by : 0;
    this.probe = this.pixel(Math.min(width - 1, Math.max(0, from.x + dx * moved)), Math.min(height - 1, Math.max(0, from.y + dy * moved)));
    const { scale, x, y } = this.view, left = x + this.probe.x * scale, top = y + this.probe.y * scale, edge = 20 * this.ratio;
    const over = (value, room) => (value < edge ? edge - value : value > room - edge ? room - edge - value : 0);
    this.cross.hidden = false;
    this.pan(over(left, this.canvas.width), over(top, this.canvas.height));
    this.onProbe(this.probe, left / this.ratio, top / this.ratio, true);
  }
}
