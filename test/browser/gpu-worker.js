// The package's worker behind a GPU that counts what is alive on it, and that is lost when the page says so.
import "./devices.js";
import "/dist/worker.js";
