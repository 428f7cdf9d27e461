/** slimvit/engines/onnx-webgpu: the app's onnxruntime-web, for the engine "onnx-webgpu". */
import type { EnginePackage } from "../../protocol.ts";
import { addressOf } from "./address.ts";

export const onnxWebgpu: EnginePackage = {
  packages: {
    "onnxruntime-web/webgpu": () =>
      addressOf(
        "onnxruntime-web/webgpu",
        () => import(/* webpackIgnore: true */ "./onnx-webgpu-package.ts"),
        // webpack's kind looks for this form; a chunk beside it would make it split what both have in common.
        () =>
          new Worker(new URL("./onnx-webgpu-package.js", import.meta.url), {
            type: "module",
            name: "slimvit-address-onnx-webgpu",
          }),
        import.meta.url,
      ),
  },
};
