import { createHash } from "node:crypto";
import { createServer, type IncomingMessage, type Server, type ServerResponse } from "node:http";
import v8 from "node:v8";
import vm from "node:vm";
import { gzipSync } from "node:zlib";
import { afterAll, beforeAll, expect, test } from "vitest";
import { SlimViTError } from "../../src/errors.ts";
import type { Manifest } from "../../src/format/model.ts";
import { MAX_MANIFEST_BYTES } from "../../src/format/read.ts";
import { manifestJson, writeWeights } from "../../src/format/write.ts";
import { loadModel } from "../../src/loading/loadModel.ts";
import type { LoadRequest, Source } from "../../src/protocol.ts";
import { randomModel } from "../helpers.ts";
import { listen } from "../servers.ts";
import { tinyArchitecture } from "../tools/fixtures.ts";
import { count, Tally } from "./tally.ts";

v8.setFlagsFromString("--expose-gc");
const collect = vm.runInNewContext("gc") as () => void;

const model = randomModel(tinyArchitecture(), 1);
const bytes = writeWeights(model.tensors);
const entry = {
  dtype: "f32" as const,
  file: "model.f32.safetensors",
  bytes: bytes.length,
  sha256: createHash("sha256").update(bytes).digest("hex"),
};
const manifestWith = (changes: object, of: object = {}) =>
  JSON.stringify(manifestJson({ ...model.manifest, ...of, weights: [{ ...entry, ...changes }] } satisfies Manifest));

let server: Server;
let folder: string;
let asked: string[];
let answer: (request: IncomingMessage, response: ServerResponse) => void;
beforeAll(async () => {
  server = createServer((request, response) => {
    asked.push(request.url!);
    answer(request, response);
  });
  server.keepAliveTimeout = 600_000; // a connection that is closed just as it is used again looks like a lost network
  folder = `${await listen(server)}/at/model/`;
});
afterAll(() => {
  server.closeAllConnections();
  server.close();
});

const load = (source: Source, changes: Partial<LoadRequest> = {}) =>
  loadModel({ source, engine: "reference", dtype: "f32", cache: false, ...changes });
const codeOf = (loading: Promise<unknown>): Promise<string> =>
  loading.then(
    () => "none",
    (error) => (error instanceof SlimViTError ? error.code : String(error)),
  );

test("no manifest makes the runtime read outside of its folder", async () => {
  const tally = new Tally("untrusted", "file names in a manifest");
  const names = [
    "../x",
    "..%2fx",
    "%2e%2e/x",
    "..\\x",
    "./x",
    "/x",
    "//127.0.0.1/x",
    "\\\\127.0.0.1\\x",
    "http://127.0.0.1/x",
    "https:x",
    "file:///etc/x",
    "blob:x",
    "data:,x",
    "javascript:x",
    "hf:x/x",
    "sub/x",
    "x?",
    "x#",
    "x?y=",
    " x",
    "x ",
    "\nx",
    "x\0",
    "x;y",
    "~/x",
    "C:x",
    "",
    ".",
    "..",
    "...",
    "-",
    "\u202ex",
    "x\u2024\u2024/",
    "ｘ",
    "con:",
    `${"x".repeat(1e5)}/`,
  ].flatMap((name) => [name, `${name}.safetensors`]);
  for (const file of [...names, null, 7, ["x.safetensors"], { toString: "x" }]) {
    asked = [];
    answer = (_, response) => response.end(manifestWith({ file }));
    const code = await codeOf(load({ url: folder }));
    const outside = asked.filter((url) => url !== "/at/model/slimvit.json");
    tally.add(code === "bad-model" && outside.length === 0 ? "" : `${JSON.stringify(file)}: ${code}, asked ${outside}`);
  }
  const polluted = ({} as { polluted?: unknown }).polluted;
  asked = [];
  answer = (_, response) => response.end(`{"__proto__":{"polluted":1},"constructor":{"prototype":{"polluted":1}}}`);
  tally.add(
    (await codeOf(load({ url: folder }))) === "bad-model" && polluted === undefined ? "" : "a polluted prototype",
  );
  tally.close();
});

/** What may be asked for on a manifest's word (docs/robustness.md), … */
const TRUSTED_BYTES = 2 ** 26;
/** … and be held, with room for what else this process does in that time. */
const HELD_BYTES = TRUSTED_BYTES + 2 ** 25;

/** The largest array of bytes that anyone asks for meanwhile, also where memory is given only when it is written to. */
async function largestAsked(work: () => Promise<unknown>): Promise<number> {
  let largest = 0;
  const plain = globalThis.Uint8Array;
  globalThis.Uint8Array = new Proxy(plain, {
    construct(target, args, newTarget) {
      if (typeof args[0] === "number") largest = Math.max(largest, args[0]);
      return Reflect.construct(target, args, newTarget === globalThis.Uint8Array ? target : newTarget);
    },
  });
  try {
    await work();
  } finally {
    globalThis.Uint8Array = plain;
  }
  return largest;
}

test("before integrity is known, no more is held than the stated bounds and what has come", async () => {
  const tally = new Tally("untrusted", "claims of size");
  const endless = (piece: Buffer) => (response: ServerResponse) => {
    const more = () => {
      while (!response.destroyed && response.write(piece));
      if (!response.destroyed) response.once("drain", more);
    };
    more();
  };
  const mebibyte = Buffer.alloc(2 ** 20, " ");
  const inflated = gzipSync(Buffer.alloc(2 ** 28, " "));
  /** by what serves it: the manifest, and then the weights */
  const hosts: [string, string, (response: ServerResponse) => void, (response: ServerResponse) => void][] = [
    [
      "2 GiB promised, 9 bytes sent",
      "network",
      (r) => r.end(manifestWith({ bytes: 2 ** 31 })),
      (r) => r.end("too short"),
    ],
    ["more than 2 GiB promised", "bad-model", (r) => r.end(manifestWith({ bytes: 2 ** 31 + 1 })), (r) => r.end()],
    ["more sent than promised", "integrity", (r) => r.end(manifestWith({})), endless(mebibyte)],
    ["a manifest without end", "bad-model", endless(mebibyte), (r) => r.end()],
    [
      "a manifest that inflates",
      "bad-model",
      (r) => r.writeHead(200, { "Content-Encoding": "gzip" }).end(inflated),
      (r) => r.end(),
    ],
    [
      "weights that inflate",
      "integrity",
      (r) => r.end(manifestWith({})),
      (r) => r.writeHead(200, { "Content-Encoding": "gzip" }).end(inflated),
    ],
    [
      "a million tokens",
      "bad-model",
      (r) => r.end(manifestWith({}, { imageSize: [4096, 4096], patchSize: 1 })),
      (r) => r.end(),
    ],
    [
      "a network of terabytes",
      "integrity",
      (r) => r.end(manifestWith({ sha256: "0".repeat(64) }, { embedDim: 16384, headDim: 16384 })),
      (r) => r.end(bytes),
    ],
  ];
  for (const [what, expected, manifest, weights] of hosts) {
    asked = [];
    const held = () => process.memoryUsage().arrayBuffers;
    collect(); // what is freed on the way would hide what is taken
    const before = held();
    let most = 0;
    const look = () => (most = Math.max(most, held() - before));
    const watch = setInterval(look, 1);
    answer = ({ url }, response) => {
      look(); // memory for a file is taken before it is asked for
      (url!.endsWith("slimvit.json") ? manifest : weights)(response);
    };
    let code = "";
    const largest = await largestAsked(async () => void (code = await codeOf(load({ url: folder }))));
    clearInterval(watch);
    most = Math.max(most, held() - before);
    tally.measured = `at most ${MAX_MANIFEST_BYTES / 2 ** 20} MiB of manifest and ${2 ** 6} MiB of weights beyond what has come`;
    const isBounded = largest <= TRUSTED_BYTES && most < HELD_BYTES;
    tally.add(code === expected && isBounded ? "" : `${what}: ${code}, ${largest} bytes asked for, ${most} held`);
    if (what.startsWith("2 GiB")) expect(largest).toBe(TRUSTED_BYTES); // what is counted is what is asked for
  }
  tally.close();
});

test("single-bit flips in the weights are integrity errors", async () => {
  const tally = new Tally("bit-flips", "single bits flipped in weights, from the page's files");
  const manifest = new Blob([manifestWith({})]);
  const total = count(1000, 100);
  for (let k = 0; k < total; k++) {
    const flipped = Uint8Array.from(bytes);
    const bit = Math.floor((k * bytes.length * 8) / total) + (k % 8);
    flipped[bit >> 3] ^= 1 << (bit & 7);
    const files = [
      { name: "slimvit.json", blob: manifest },
      { name: entry.file, blob: new Blob([flipped]) },
    ];
    const code = await codeOf(load({ files }));
    tally.add(code === "integrity" ? "" : `bit ${bit}: ${code}`);
  }
  const whole = [
    { name: "slimvit.json", blob: manifest },
    { name: entry.file, blob: new Blob([bytes as Uint8Array<ArrayBuffer>]) },
  ];
  expect(await codeOf(load({ files: whole }))).toBe("none");
  tally.close();
});
