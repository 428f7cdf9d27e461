/** dist/engines/onnx-webgpu-package.js: onnxruntime-web/webgpu as the app's bundler resolves it. */
import * as ort from "onnxruntime-web/webgpu";
import { handOver } from "../../handOver.ts";

handOver({ "onnxruntime-web/webgpu": ort });

export const url: string | undefined = import.meta.url;
