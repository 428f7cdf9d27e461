/** slimvit/engines/tfjs: the app's TensorFlow.js, for the engine "tfjs-webgpu". */
import type { EnginePackage } from "../../protocol.ts";
import { addressOf } from "./address.ts";

let address: Promise<string> | undefined;

/** Both packages are in one script. */
function locate(): Promise<string> {
  address ??= addressOf(
    "@tensorflow/tfjs-core",
    () => import(/* webpackIgnore: true */ "./tfjs-package.ts"),
    // webpack's kind looks for this form; a chunk beside it would make it split what both have in common.
    () => new Worker(new URL("./tfjs-package.js", import.meta.url), { type: "module", name: "slimvit-address-tfjs" }),
    import.meta.url,
  );
  return address;
}

export const tfjs: EnginePackage = {
  packages: { "@tensorflow/tfjs-core": locate, "@tensorflow/tfjs-backend-webgpu": locate },
};
