/** slimvit/engines/onnx: the app's onnxruntime-web, for the engine "onnx-wasm". */
import { addressOf, type EnginePackage } from "./address.ts";

export const onnx: EnginePackage = {
  packages: {
    "onnxruntime-web": () =>
      addressOf(
        "onnxruntime-web",
        () => import("./onnx-package.ts"),
        // Bundlers look for this form.
        () => new Worker(new URL("./onnx-package.js", import.meta.url), { type: "module", name: "slimvit-address" }),
        import.meta.url,
      ),
  },
};
