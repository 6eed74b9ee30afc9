// Runs a compiled WebAssembly model on arrays from files: node drive.mjs FOLDER SCRATCH SECONDS
//
// Input `i` is SCRATCH/input_i, output `i` goes to SCRATCH/output_i, raw bytes both. With SECONDS above 0 the model is
// then run for that long, and the milliseconds of every call are printed as JSON.
import { readFile, writeFile } from "node:fs/promises";
import { pathToFileURL } from "node:url";

process.on("uncaughtException", (error) => {
  console.error(`error: ${error}`);
  process.exit(1);
});
const [folder, scratch, seconds] = process.argv.slice(2);
const { load, ARRAYS } = await import(pathToFileURL(`${folder}/model.mjs`).href);
const model = await load(pathToFileURL(`${folder}/`));
const inputs = {};
for (const [i, { name, dtype }] of model.inputs.entries()) {
  const bytes = new Uint8Array(await readFile(`${scratch}/input_${i}`)); // a copy: aligned, and as long as the file
  inputs[name] = new ARRAYS[dtype](bytes.buffer);
}
const outputs = await model.run(inputs);
for (const [i, { name }] of model.outputs.entries()) await writeFile(`${scratch}/output_${i}`, outputs[name].data);

async function times(seconds) {
  const found = [];
  const end = performance.now() + 1e3 * seconds;
  while (performance.now() < end || found.length < 5) {
    const start = performance.now();
    await model.run(inputs);
    found.push(performance.now() - start);
  }
  return found;
}
if (Number(seconds)) {
  await times(seconds / 4); // until the engine has compiled it well
  console.log(JSON.stringify(await times(seconds)));
}
