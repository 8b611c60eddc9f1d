// Reads 8-bit PNGs of one channel (indexed or grey) as numbers. A canvas would give colours, and lose the indices.

const SIGNATURE = [137, 80, 78, 71, 13, 10, 26, 10];

/** Return {width, height, data} of a PNG's bytes; data are width * height numbers, row by row. */
export async function decode(bytes) {
  if (SIGNATURE.some((value, place) => bytes[place] !== value)) throw new Error("not a PNG");
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const parts = [];
  let width = 0, height = 0;
  for (let at = 8; at + 8 <= bytes.length;) {
    const length = view.getUint32(at);
    const kind = String.fromCharCode(...bytes.subarray(at + 4, at + 8));
    if (kind === "IHDR") {
      width = view.getUint32(at + 8);
      height = view.getUint32(at + 12);
      const [depth, color, , , interlace] = bytes.subarray(at + 16, at + 21);
      if (depth !== 8 || (color !== 0 && color !== 3) || interlace) throw new Error("not an 8-bit indexed or grey PNG without interlace");
    }
    if (kind === "IDAT") parts.push(bytes.subarray(at + 8, at + 8 + length));
    at += 12 + length;
  }
  const stream = new Blob(parts).stream().pipeThrough(new DecompressionStream("deflate"));
  const raw = new Uint8Array(await new Response(stream).arrayBuffer());
  return { width, height, data: unfilter(raw, width, height) };
}

function unfilter(raw, width, height) {
  const data = new Uint8Array(width * height);
  for (let row = 0; row < height; row++) {
    const from = row * (width + 1) + 1, to = row * width, up = to - width;
    const filter = raw[from - 1];
    if (filter === 0) { data.set(raw.subarray(from, from + width), to); continue; }
    for (let x = 0; x < width; x++) {
      const a = x ? data[to + x - 1] : 0, b = row ? data[up + x] : 0, c = x && row ? data[up + x - 1] : 0;
      data[to + x] = raw[from + x] + (filter === 1 ? a : filter === 2 ? b : filter === 3 ? (a + b) >> 1 : paeth(a, b, c));
    }
  }
  return data;
}

function paeth(a, b, c) {
  const p = a + b - c, pa = Math.abs(p - a), pb = Math.abs(p - b), pc = Math.abs(p - c);
  return pa <= pb && pa <= pc ? a : pb <= pc ? b : c;
}

/** Return the bytes that a base64 text stands for. */
export function fromBase64(text) {
  if (Uint8Array.fromBase64) return Uint8Array.fromBase64(text);
  const plain = atob(text), bytes = new Uint8Array(plain.length);
  for (let i = 0; i < plain.length; i++) bytes[i] = plain.charCodeAt(i);
  return bytes;
}
