/** slimvit/engines/onnx: the app's onnxruntime-web, for the engine "onnx-wasm". */
import type { EnginePackage } from "../../protocol.ts";
import { addressOf } from "./address.ts";

export const onnx: EnginePackage = {
  packages: {
    "onnxruntime-web": () =>
      addressOf(
        "onnxruntime-web",
        () => import(/* webpackIgnore: true */ "./onnx-package.ts"),
        // webpack's kind looks for this form; a chunk beside it would make it split what both have in common.
        () =>
          new Worker(new URL("./onnx-package.js", import.meta.url), { type: "module", name: "slimvit-address-onnx" }),
        import.meta.url,
      ),
  },
};
