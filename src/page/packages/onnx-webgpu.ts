/** slimvit/engines/onnx-webgpu: the app's onnxruntime-web, for the engine "onnx-webgpu". */
import { addressOf, type EnginePackage } from "./address.ts";

export const onnxWebgpu: EnginePackage = {
  packages: {
    "onnxruntime-web/webgpu": () =>
      addressOf(
        "onnxruntime-web/webgpu",
        () => import("./onnx-webgpu-package.ts"),
        // Bundlers look for this form.
        () =>
          new Worker(new URL("./onnx-webgpu-package.js", import.meta.url), { type: "module", name: "slimvit-address" }),
        import.meta.url,
      ),
  },
};
