// The package's worker, with its GPU buffers counted.
import "./gpu-buffers.js";
import "/dist/worker.js";
