// The package's worker, whose WebNN contexts are lost when the page says so.
import "./webnn-contexts.js";
import "/dist/worker.js";
