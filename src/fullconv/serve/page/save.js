// Downloads: the label map of the service, the overlay as shown, the table.

/** Offer bytes as a file. */
export function save(parts, name, type) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob(parts, { type }));
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}

/** Return a file's name without its suffix. */
export const stem = (name) => name.replace(/\.[^.]+$/, "") || "image";

/** Return the classes of images as CSV: [{name, classes}]. */
export function table(images) {
  const quote = (text) => (/[",\n\r]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text);
  const rows = images.flatMap(({ name, classes }) =>
    classes.map((row) => [quote(name), quote(row.name), row.pixels, row.share.toFixed(6)].join(",")));
  return ["image,class,pixels,share", ...rows, ""].join("\n");
}

/** Paint labels over an image at its own size, as the viewer shows them; a PNG. */
export async function overlay(bitmap, labels, colors, hidden, opacity) {
  const canvas = document.createElement("canvas");
  canvas.width = labels.width;
  canvas.height = labels.height;
  const context = canvas.getContext("2d");
  context.fillStyle = "#808080";
  context.fillRect(0, 0, canvas.width, canvas.height);
  if (bitmap) context.drawImage(bitmap, 0, 0, canvas.width, canvas.height);
  const band = Math.max(1, Math.floor(2 ** 22 / labels.width));  // by rows, so that a large image does not double its memory
  for (let top = 0; top < labels.height; top += band) {
    const image = context.getImageData(0, top, labels.width, Math.min(band, labels.height - top));
    for (let i = 0, at = top * labels.width; i < image.data.length; i += 4, at++) {
      const index = labels.data[at], color = hidden.has(index) ? null : colors[index];
      if (color) for (let c = 0; c < 3; c++) image.data[i + c] = image.data[i + c] * (1 - opacity) + color[c] * opacity;
    }
    context.putImageData(image, 0, top);
  }
  return new Promise((resolve, reject) => canvas.toBlob((blob) => (blob ? resolve(blob) : reject(new Error("the overlay is too large for this browser"))), "image/png"));
}
