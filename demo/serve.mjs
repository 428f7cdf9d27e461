// Serves the demo with the built package and the shipped models.
//   npm start [-- --no-open] [-- --no-isolation]      PORT=8080
// With the isolation headers (the default) onnxruntime-web gets its threads; without them everything runs on one.
import { spawn } from "node:child_process";
import { createServer } from "node:http";
import { createRequire } from "node:module";
import { dirname } from "node:path";
import { fileURLToPath } from "node:url";
import sirv from "sirv";

const require = createRequire(import.meta.url);
const root = (path) => fileURLToPath(new URL(`../${path}`, import.meta.url));

// The longest prefix first.
const MOUNTS = [
  ["/lib/", root("dist")],
  ["/models/", root("models")],
  ["/ort/", dirname(require.resolve("onnxruntime-web"))],
  ["/search/", root("examples/search")],
  ["/", root("demo")],
];

/** @param {{ port?: number, isolated?: boolean, more?: [string, string][] }} options port 0 takes a free one; `more` folders by their path */
export function serveDemo({ port = 0, isolated = true, more = [] } = {}) {
  const mounts = [...more, ...MOUNTS].map(([prefix, dir]) => [prefix, sirv(dir, { dev: true, etag: true })]);
  const server = createServer((request, response) => {
    if (isolated) {
      response.setHeader("Cross-Origin-Opener-Policy", "same-origin");
      response.setHeader("Cross-Origin-Embedder-Policy", "require-corp");
    }
    const [prefix, handle] = mounts.find(([prefix]) => request.url.startsWith(prefix));
    request.url = request.url.slice(prefix.length - 1);
    handle(request, response, () => {
      response.statusCode = 404;
      response.end("not found");
    });
  });
  return new Promise((resolve, reject) => {
    server.on("error", reject);
    server.listen(port, "127.0.0.1", () => resolve({ server, url: `http://localhost:${server.address().port}/` }));
  });
}

function openBrowser(url) {
  const [command, ...args] = { darwin: ["open"], win32: ["cmd", "/c", "start", ""] }[process.platform] ?? ["xdg-open"];
  if (process.platform === "linux" && !process.env.DISPLAY && !process.env.WAYLAND_DISPLAY) return;
  spawn(command, [...args, url], { stdio: "ignore", detached: true }).on("error", () => {}); // the URL is printed anyway
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const flags = new Set(process.argv.slice(2));
  const unknown = [...flags].find((flag) => !["--no-open", "--no-isolation"].includes(flag));
  const port = Number(process.env.PORT ?? 8080);
  if (unknown || !Number.isInteger(port)) {
    console.error(
      unknown
        ? `start: unknown option ${unknown}; known are --no-open and --no-isolation.`
        : `start: PORT is ${process.env.PORT}; expected a number.`,
    );
    process.exit(2);
  }
  try {
    const { url } = await serveDemo({ port, isolated: !flags.has("--no-isolation") });
    console.log(`SlimViT demo: ${url}`);
    if (!flags.has("--no-open")) openBrowser(url);
  } catch (error) {
    console.error(
      error.code === "EADDRINUSE"
        ? `start: port ${port} is taken; choose another with PORT.`
        : `start: ${error.message}`,
    );
    process.exit(1);
  }
}
