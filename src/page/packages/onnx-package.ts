/** dist/engines/onnx-package.js: onnxruntime-web/wasm as the app's bundler resolves it. */
import * as ort from "onnxruntime-web/wasm";
import { handOver } from "../../handOver.ts";

handOver({ "onnxruntime-web": ort });

export const url: string | undefined = import.meta.url;
