// The package's worker in a browser that has WebNN and gives no context.
import "./webnn-refuse.js";
import "/dist/worker.js";
