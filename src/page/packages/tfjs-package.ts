/** dist/engines/tfjs-package.js: TensorFlow.js and its WebGPU backend as the app's bundler resolves them. */
import * as webgpu from "@tensorflow/tfjs-backend-webgpu";
import * as core from "@tensorflow/tfjs-core";
import { handOver } from "../../handOver.ts";

handOver({ "@tensorflow/tfjs-core": core, "@tensorflow/tfjs-backend-webgpu": webgpu });

export const url: string | undefined = import.meta.url;
