// Written by graphprune: runs the compiled model of this folder. For browsers, workers and Node 18 or later.
//
//   import { load } from "./model.mjs";
//   const model = await load();
//   const out = await model.run({ image: new Float32Array(3 * 32 * 32) });
//   out.logits.data, out.logits.dims

const FORMAT = 1;
/** What holds the values of each dtype. */
export const ARRAYS = {
  float32: Float32Array,
  float64: Float64Array,
  float16: Uint16Array, // the bits
  int8: Int8Array,
  int16: Int16Array,
  int32: Int32Array,
  int64: BigInt64Array,
  uint8: Uint8Array,
  uint16: Uint16Array,
  uint32: Uint32Array,
  uint64: BigUint64Array,
  bool: Uint8Array, // 0 or 1
};
// A function that returns a v128: valid only where WebAssembly has SIMD.
const SIMD = [0, 97, 115, 109, 1, 0, 0, 0, 1, 5, 1, 96, 0, 1, 123, 3, 2, 1, 0, 10, 10, 1, 8, 0, 65, 0, 253, 15, 253, 98, 11];

// A function that returns f32x4.relaxed_madd of zeros: valid only where WebAssembly has relaxed SIMD.
const ZERO = [65, 0, 253, 15];
const RELAXED = [...SIMD.slice(0, 19), 10, 19, 1, 17, 0, ...ZERO, ...ZERO, ...ZERO, 253, 133, 2, 11];
const FEATURES = { "relaxed-simd": RELAXED };

const has = (module) => WebAssembly.validate(new Uint8Array(module));

/**
 * The model in `folder`, a URL or a path; by default the folder of this module.
 *
 * Throws an Error that says which file is missing, truncated or of another model, what the engine lacks, or how much
 * memory there was none of.
 */
export async function load(folder = new URL(".", import.meta.url)) {
  if (!has(SIMD)) throw new Error("this engine lacks WebAssembly SIMD");
  const read = reader(await base(folder));
  const manifest = parse(await read("manifest.json"));
  const [file] = Object.entries(manifest.also).find(([, features]) => features.every((f) => has(FEATURES[f]))) ?? [manifest.library];
  const [code, weights] = await Promise.all([read(file), manifest.embedded ? null : read("weights.bin")]);
  return new Model(manifest, await instantiate(file, code), weights);
}

function parse(bytes) {
  let manifest;
  try {
    manifest = JSON.parse(new TextDecoder().decode(bytes));
  } catch (cause) {
    throw new Error("manifest.json is truncated or no JSON", { cause });
  }
  if (manifest.format !== FORMAT) throw new Error(`manifest.json has format ${manifest.format}, not ${FORMAT}`);
  return manifest;
}

async function instantiate(file, code) {
  try {
    return (await WebAssembly.instantiate(code, {})).instance.exports;
  } catch (cause) {
    const reason = cause instanceof RangeError ? "out of memory" : "truncated, or no WebAssembly this engine takes";
    throw new Error(`${file}: ${reason} (${cause.message})`, { cause });
  }
}

class Model {
  #wasm;

  constructor(manifest, wasm, weights) {
    if (this.#text(wasm, wasm.identity()) !== manifest.identity) throw new Error("the module is not the one of manifest.json");
    if (weights && weights.length !== manifest.weights_bytes) {
      throw new Error(`weights.bin has ${weights.length} bytes, not ${manifest.weights_bytes}`);
    }
    if (weights) new Uint8Array(wasm.memory.buffer).set(weights, wasm.weights());
    wasm._initialize();
    wasm.start();
    this.#wasm = wasm;
    this.inputs = manifest.inputs;
    this.outputs = manifest.outputs;
  }

  /** Run on one array, or one `{ data, dims }`, per input; each output comes as `{ data, dims }`, a copy of its own. */
  async run(inputs) {
    const wasm = this.#wasm;
    const arrays = check(this.inputs, inputs);
    this.inputs.forEach((value, i) => view(wasm, wasm.input(i), value).set(arrays[i]));
    const failed = wasm.run();
    if (failed) throw new Error(`kernel ${failed} failed: ${this.#text(wasm, wasm.error())}`);
    return Object.fromEntries(
      this.outputs.map((value, i) => [value.name, { data: view(wasm, wasm.output(i), value).slice(), dims: [...value.shape] }]),
    );
  }

  #text(wasm, at) {
    const bytes = new Uint8Array(wasm.memory.buffer, at);
    return new TextDecoder().decode(bytes.subarray(0, bytes.indexOf(0)));
  }
}

/** The arrays of `inputs` in the order of the model's, if they are what it takes. */
function check(values, inputs) {
  const names = values.map((value) => value.name);
  for (const name of Object.keys(inputs ?? {})) {
    if (!names.includes(name)) throw new TypeError(`the model has no input "${name}"; inputs: ${names.join(", ")}`);
  }
  return values.map(({ name, dtype, shape }) => {
    const given = inputs?.[name];
    const array = given?.dims ? given.data : given;
    const wanted = ARRAYS[dtype];
    if (given === undefined) throw new TypeError(`input "${name}" is missing`);
    if (!(array instanceof wanted)) throw new TypeError(`input "${name}" must be a ${wanted.name} (${dtype})`);
    if (array.length !== size(shape)) {
      throw new RangeError(`input "${name}" has ${array.length} values, the model takes ${size(shape)} (${shape.join("×")})`);
    }
    if (given.dims && given.dims.join() !== shape.join()) {
      throw new RangeError(`input "${name}" has dims ${given.dims.join("×")}, the model takes ${shape.join("×")}`);
    }
    return array;
  });
}

function size(shape) {
  return shape.reduce((a, b) => a * b, 1);
}

function view(wasm, at, { dtype, shape }) {
  return new ARRAYS[dtype](wasm.memory.buffer, at, size(shape));
}

/** `folder` as a URL that ends in a slash; relative to the page or, in Node, to the working directory. */
async function base(folder) {
  const here = globalThis.location?.href ?? (await import("node:url")).pathToFileURL("./").href;
  return new URL(String(folder).replace(/\/?$/, "/"), here);
}

/** What reads a file of the folder at `url`, as bytes. */
function reader(url) {
  return async (name) => {
    const file = new URL(name, url);
    if (file.protocol === "file:" && globalThis.process?.versions?.node) {
      return new Uint8Array(await (await import("node:fs/promises")).readFile(file));
    }
    const response = await fetch(file);
    if (!response.ok) throw new Error(`${file}: ${response.status} ${response.statusText}`);
    return new Uint8Array(await response.arrayBuffer());
  };
}
