// The transform of fourier-toeplitz.ts in AssemblyScript, two rings at a time in the two lanes of a vector. Compiled into
// src/generated/fourier-toeplitz-wasm.ts by scripts/generate-wasm.ts.
//
// One splitting in two is done while the bits are unpacked; from then on lane 0 holds the ring of w, lane 1 the ring of -w, and every step is
// the same for both. An element is 32 bytes: the real parts of both lanes, then the imaginary parts.
// Holds: no branch and no address depends on the bits. The caller zeroes what it and this code wrote, but for the roots.

const ELEMENT: usize = 32

// @ts-ignore: decorator
@inline
function timesReal(ar: v128, ai: v128, br: v128, bi: v128): v128 {
  return f64x2.sub(f64x2.mul(ar, br), f64x2.mul(ai, bi))
}

// @ts-ignore: decorator
@inline
function timesImaginary(ar: v128, ai: v128, br: v128, bi: v128): v128 {
  return f64x2.add(f64x2.mul(ar, bi), f64x2.mul(ai, br))
}

// a times the conjugate of b
// @ts-ignore: decorator
@inline
function backReal(ar: v128, ai: v128, br: v128, bi: v128): v128 {
  return f64x2.add(f64x2.mul(ar, br), f64x2.mul(ai, bi))
}

// @ts-ignore: decorator
@inline
function backImaginary(ar: v128, ai: v128, br: v128, bi: v128): v128 {
  return f64x2.sub(f64x2.mul(ai, br), f64x2.mul(ar, bi))
}

// @ts-ignore: decorator
@inline
function oneBit(byte: u32, i: u32): f64 {
  return f64((byte >> i) & 1)
}

/** Unpacks the bits of one polynomial, 4 * `quarterBytes` bytes, and splits u^M - i in two. */
export function unpack(bits: usize, z: usize, quarterBytes: usize): void {
  const w: f64 = 0.7071067811865476
  for (let at = bits; at < bits + quarterBytes; at += 1) {
    const b0: u32 = load<u8>(at)
    const b1: u32 = load<u8>(at + quarterBytes)
    const b2: u32 = load<u8>(at + 2 * quarterBytes)
    const b3: u32 = load<u8>(at + 3 * quarterBytes)
    for (let i: u32 = 0; i < 8; i += 1) {
      const pr = w * (oneBit(b1, i) - oneBit(b3, i))
      const pi = w * (oneBit(b1, i) + oneBit(b3, i))
      const ar = oneBit(b0, i)
      const ai = oneBit(b2, i)
      store<f64>(z, ar + pr)
      store<f64>(z, ar - pr, 8)
      store<f64>(z, ai + pi, 16)
      store<f64>(z, ai - pi, 24)
      z += ELEMENT
    }
  }
}

/** Every ring of 2 * half bytes into two. */
export function splitInTwo(z: usize, half: usize, root: usize): void {
  const wr = v128.load(root)
  const wi = v128.load(root, 16)
  for (let p = z; p < z + half; p += ELEMENT) {
    const q = p + half
    const br = timesReal(v128.load(q), v128.load(q, 16), wr, wi)
    const bi = timesImaginary(v128.load(q), v128.load(q, 16), wr, wi)
    const ar = v128.load(p)
    const ai = v128.load(p, 16)
    v128.store(p, f64x2.add(ar, br))
    v128.store(p, f64x2.add(ai, bi), 16)
    v128.store(q, f64x2.sub(ar, br))
    v128.store(q, f64x2.sub(ai, bi), 16)
  }
}

/** Undoes `splitInTwo`, but for a factor of 2. */
export function joinTwo(z: usize, half: usize, root: usize): void {
  const wr = v128.load(root)
  const wi = v128.load(root, 16)
  for (let p = z; p < z + half; p += ELEMENT) {
    const q = p + half
    const ar = v128.load(p)
    const ai = v128.load(p, 16)
    const br = v128.load(q)
    const bi = v128.load(q, 16)
    v128.store(p, f64x2.add(ar, br))
    v128.store(p, f64x2.add(ai, bi), 16)
    const dr = f64x2.sub(ar, br)
    const di = f64x2.sub(ai, bi)
    v128.store(q, backReal(dr, di, wr, wi))
    v128.store(q, backImaginary(dr, di, wr, wi), 16)
  }
}

// @ts-ignore: decorator
@inline
function splitInFour(z: usize, h: usize, w1r: v128, w1i: v128, w2r: v128, w2i: v128, w3r: v128, w3i: v128): void {
  for (let p0 = z; p0 < z + h; p0 += ELEMENT) {
    const p1 = p0 + h
    const p2 = p1 + h
    const p3 = p2 + h
    const a0r = v128.load(p0)
    const a0i = v128.load(p0, 16)
    const a2r = timesReal(v128.load(p2), v128.load(p2, 16), w2r, w2i)
    const a2i = timesImaginary(v128.load(p2), v128.load(p2, 16), w2r, w2i)
    const b0r = f64x2.add(a0r, a2r)
    const b0i = f64x2.add(a0i, a2i)
    const b2r = f64x2.sub(a0r, a2r)
    const b2i = f64x2.sub(a0i, a2i)
    const a1r = timesReal(v128.load(p1), v128.load(p1, 16), w1r, w1i)
    const a1i = timesImaginary(v128.load(p1), v128.load(p1, 16), w1r, w1i)
    const a3r = timesReal(v128.load(p3), v128.load(p3, 16), w3r, w3i)
    const a3i = timesImaginary(v128.load(p3), v128.load(p3, 16), w3r, w3i)
    const b1r = f64x2.add(a1r, a3r)
    const b1i = f64x2.add(a1i, a3i)
    const b3r = f64x2.sub(a1r, a3r)
    const b3i = f64x2.sub(a1i, a3i)
    v128.store(p0, f64x2.add(b0r, b1r))
    v128.store(p0, f64x2.add(b0i, b1i), 16)
    v128.store(p1, f64x2.sub(b0r, b1r))
    v128.store(p1, f64x2.sub(b0i, b1i), 16)
    v128.store(p2, f64x2.sub(b2r, b3i))
    v128.store(p2, f64x2.add(b2i, b3r), 16)
    v128.store(p3, f64x2.add(b2r, b3i))
    v128.store(p3, f64x2.sub(b2i, b3r), 16)
  }
}

// @ts-ignore: decorator
@inline
function joinFour(z: usize, h: usize, w1r: v128, w1i: v128, w2r: v128, w2i: v128, w3r: v128, w3i: v128): void {
  for (let p0 = z; p0 < z + h; p0 += ELEMENT) {
    const p1 = p0 + h
    const p2 = p1 + h
    const p3 = p2 + h
    const z0r = v128.load(p0)
    const z0i = v128.load(p0, 16)
    const z1r = v128.load(p1)
    const z1i = v128.load(p1, 16)
    const z2r = v128.load(p2)
    const z2i = v128.load(p2, 16)
    const z3r = v128.load(p3)
    const z3i = v128.load(p3, 16)
    const b0r = f64x2.add(z0r, z1r)
    const b0i = f64x2.add(z0i, z1i)
    const b2r = f64x2.add(z2r, z3r)
    const b2i = f64x2.add(z2i, z3i)
    v128.store(p0, f64x2.add(b0r, b2r))
    v128.store(p0, f64x2.add(b0i, b2i), 16)
    const c2r = f64x2.sub(b0r, b2r)
    const c2i = f64x2.sub(b0i, b2i)
    v128.store(p2, backReal(c2r, c2i, w2r, w2i))
    v128.store(p2, backImaginary(c2r, c2i, w2r, w2i), 16)
    const b1r = f64x2.sub(z0r, z1r)
    const b1i = f64x2.sub(z0i, z1i)
    // -i (z2 - z3)
    const b3r = f64x2.sub(z2i, z3i)
    const b3i = f64x2.sub(z3r, z2r)
    const c1r = f64x2.add(b1r, b3r)
    const c1i = f64x2.add(b1i, b3i)
    v128.store(p1, backReal(c1r, c1i, w1r, w1i))
    v128.store(p1, backImaginary(c1r, c1i, w1r, w1i), 16)
    const c3r = f64x2.sub(b1r, b3r)
    const c3i = f64x2.sub(b1i, b3i)
    v128.store(p3, backReal(c3r, c3i, w3r, w3i))
    v128.store(p3, backImaginary(c3r, c3i, w3r, w3i), 16)
  }
}

/** x becomes x times t in one ring of `length` bytes, times its number of elements. `levels` points at the addresses of the roots of this
 *  depth and of the depths below it. */
export function multiply(x: usize, t: usize, length: usize, ring: usize, levels: usize): void {
  const root = usize(load<u32>(levels)) + ring * ELEMENT
  const w1r = v128.load(root)
  const w1i = v128.load(root, 16)
  const w2r = timesReal(w1r, w1i, w1r, w1i)
  const w2i = timesImaginary(w1r, w1i, w1r, w1i)
  const w3r = timesReal(w1r, w1i, w2r, w2i)
  const w3i = timesImaginary(w1r, w1i, w2r, w2i)
  const h = length >> 2
  splitInFour(x, h, w1r, w1i, w2r, w2i, w3r, w3i)
  splitInFour(t, h, w1r, w1i, w2r, w2i, w3r, w3i)
  if (h == ELEMENT) {
    for (let at: usize = 0; at < 4 * ELEMENT; at += ELEMENT) {
      const xr = v128.load(x + at)
      const xi = v128.load(x + at, 16)
      const tr = v128.load(t + at)
      const ti = v128.load(t + at, 16)
      v128.store(x + at, timesReal(xr, xi, tr, ti))
      v128.store(x + at, timesImaginary(xr, xi, tr, ti), 16)
    }
  } else {
    for (let part: usize = 0; part < 4; part += 1) multiply(x + part * h, t + part * h, h, 4 * ring + part, levels + 4)
  }
  joinFour(x, h, w1r, w1i, w2r, w2i, w3r, w3i)
}

/** Rounds `count` sums from coefficient `first` on, and writes their parities. `quarter` is M / 2.
 *  Returns the largest distance of a sum from a whole number. */
export function readParities(x: usize, quarter: usize, first: usize, count: usize, output: usize): f64 {
  const scale = 0.5 / f64(quarter)
  const scaledW = 0.7071067811865476 * scale
  let largest: f64 = 0
  let byte: u32 = 0
  for (let i: usize = 0; i < count; i += 1) {
    const at = first + i
    const part = at / quarter
    const p = x + (at - part * quarter) * ELEMENT
    let sum: f64
    if (part == 0) {
      sum = scale * (load<f64>(p) + load<f64>(p, 8))
    } else if (part == 2) {
      sum = scale * (load<f64>(p, 16) + load<f64>(p, 24))
    } else {
      const dr = load<f64>(p) - load<f64>(p, 8)
      const di = load<f64>(p, 16) - load<f64>(p, 24)
      sum = scaledW * (part == 1 ? di + dr : di - dr)
    }
    const whole = nearest<f64>(sum)
    largest = max<f64>(largest, abs<f64>(sum - whole))
    byte |= (u32(whole) & 1) << u32(i & 7)
    if ((i & 7) == 7) {
      store<u8>(output + (i >> 3), byte)
      byte = 0
    }
  }
  if ((count & 7) != 0) store<u8>(output + (count >> 3), byte)
  return largest
}
