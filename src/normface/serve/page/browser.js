// Embeds aligned crops in the browser, by onnxruntime-web: nothing is sent. The same steps as InputSpec.prepare.

import { make } from "./dom.js";

let session = null;

export async function embedded(a, b, about) {
  const ort = await import("./ort/ort.wasm.min.mjs");
  ort.env.wasm.wasmPaths = new URL("ort/", document.baseURI).href;
  ort.env.wasm.numThreads = 1;
  session ??= await ort.InferenceSession.create("ort/model.onnx", { executionProviders: ["wasm"] });
  const [first, second] = [await vector(ort, a, about.spec), await vector(ort, b, about.spec)];
  return first.reduce((sum, value, i) => sum + value * second[i], 0);
}

// The unit vector of a crop, the features of both orientations added.
async function vector(ort, file, spec) {
  const pixels = await read(file, spec);
  const straight = await features(ort, prepare(pixels, spec, false), spec);
  const mirrored = await features(ort, prepare(pixels, spec, true), spec);
  const sum = Array.from(straight, (value, i) => value + mirrored[i]);
  const norm = Math.hypot(...sum);
  return sum.map((value) => value / norm);
}

async function read(file, spec) {
  const image = await createImageBitmap(file);
  if (image.width !== spec.width || image.height !== spec.height) {
    throw new Error(`Expected an aligned crop of ${spec.height}×${spec.width}, got ${image.height}×${image.width}; align ${file.name} with normface align, or let the service embed it.`);
  }
  const canvas = make("canvas", { width: spec.width, height: spec.height });
  const context = canvas.getContext("2d");
  context.drawImage(image, 0, 0);
  return context.getImageData(0, 0, spec.width, spec.height).data;
}

function prepare(rgba, spec, mirror) {
  const { width, height, channels } = spec;
  const out = new Float32Array(channels * height * width);
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      const from = 4 * (y * width + (mirror ? width - 1 - x : x));
      const rgb = [rgba[from], rgba[from + 1], rgba[from + 2]];
      const values = channels === 1 ? [0.299 * rgb[0] + 0.587 * rgb[1] + 0.114 * rgb[2]] : spec.order === "BGR" ? rgb.reverse() : rgb;
      values.forEach((value, c) => (out[(c * height + y) * width + x] = (value - spec.mean[c]) / spec.std[c]));
    }
  }
  return out;
}

async function features(ort, pixels, spec) {
  const tensor = new ort.Tensor("float32", pixels, [1, spec.channels, spec.height, spec.width]);
  const found = await session.run({ [session.inputNames[0]]: tensor });
  return found[session.outputNames[0]].data;
}
