
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

/** `folder` as a URL that ends in a slash; relative to the page or, in Node, to the working directory. */
async function base(folder) {
  const here = globalThis.location?.href ?? (await import("node:url")).pathToFileURL("./").href;
  return new URL(String(folder).replace(/\/?$/, "/"), here);
}

/** What reads a file of the folder at `url`, as bytes. */
function reader(url) {
  return async (name) => (await ask(new URL(name, url))).bytes();
}

/** A file that was asked for: it gives its `bytes`, or puts them `into` an array as they come and says how many there are. */
async function ask(file) {
  if (file.protocol === "file:" && globalThis.process?.versions?.node) {
    const { open, readFile } = await import("node:fs/promises");
    const into = async (array) => {
      const handle = await open(file);
      try {
        for (let at = 0, count = 1; count && at < array.length; at += count) {
          count = (await handle.read(array, at, array.length - at, at)).bytesRead;
        }
        return (await handle.stat()).size;
      } finally {
        await handle.close();
      }
    };
    return { bytes: async () => new Uint8Array(await readFile(file)), into };
  }
  const response = await fetch(file);
  if (!response.ok) throw new Error(`${file}: ${response.status} ${response.statusText}`);
  const into = async (array) => {
    const stream = response.body.getReader();
    for (let size = 0; ; ) {
      const { done, value } = await stream.read();
      if (done) return size;
      if (size + value.length <= array.length) array.set(value, size);
      size += value.length;
    }
  };
  return { bytes: async () => new Uint8Array(await response.arrayBuffer()), into };
}
