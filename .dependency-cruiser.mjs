// The import rules of src/ and tools/, which `npm run lint` checks. Type imports count. A folder may import what its line
// names, and nothing else; no file imports itself through others.

/** What each part of src/ may import from the others. */
const SRC = {
  errors: [],
  handOver: [],
  format: ["errors"],
  platform: [],
  pictures: ["platform"],
  taught: ["format", "platform", "pictures"],
  protocol: ["errors", "format", "platform", "pictures", "taught"],
  errorTransfer: ["errors"],
  trustedScript: ["protocol"],
  reference: ["errors", "format"],
  teach: ["errors", "format", "protocol", "reference"],
  tfjs: ["errors", "format", "reference"],
  loading: ["errors", "format", "protocol"],
  image: ["errors", "format", "protocol", "loading"],
  engines: ["errors", "handOver", "trustedScript", "format", "protocol", "reference", "tfjs", "loading"],
  worker: ["errors", "errorTransfer", "format", "protocol", "reference", "teach", "loading", "image", "engines"],
  // It sees the worker through protocol.ts.
  page: ["errors", "handOver", "errorTransfer", "trustedScript", "format", "platform", "protocol", "loading", "image"],
  index: ["errors", "format", "protocol", "page"],
};

/** The kernels of the resampler are built with those of the simd engine; Node's page imports the worker to run it in place. */
const SRC_EXCEPTIONS = {
  image: "^src/engines/simd/generated/resample\\.ts$",
  page: "^src/worker/worker\\.ts$",
};

/** The folders of tools/, lowest first: each may import those before it. Commands are entered by the command line alone. */
const TOOLS = [
  "shared",
  "data",
  "models",
  "checkpoints",
  "report",
  "quantise",
  "training",
  "evaluation",
  "teach",
  "masks",
  "elastic",
  "options",
  "bench",
  "recipes",
  "slim",
  "commands",
  "research",
];

const isPart = (part) => `^src/${part}(/|\\.ts$)`;

const srcRules = Object.entries(SRC).map(([part, allowed]) => ({
  name: `src-${part}`,
  comment: `src/${part} may import ${allowed.join(", ") || "nothing"} of src/.`,
  severity: "error",
  from: { path: isPart(part) },
  to: { path: "^src/", pathNot: [part, ...allowed].map(isPart).concat(SRC_EXCEPTIONS[part] ?? []) },
}));

const toolsRules = TOOLS.map((folder, i) => ({
  name: `tools-${folder}`,
  comment: `tools/${folder} may import the folders before it: ${TOOLS.slice(0, i).join(", ")}.`,
  severity: "error",
  from: { path: `^tools/${folder}/` },
  to: {
    path: "^tools/",
    pathNot: TOOLS.slice(0, i + 1)
      .map((below) => `^tools/${below}/`)
      .concat("^tools/package\\.json$"),
  },
}));

export default {
  forbidden: [
    {
      name: "no-cycle",
      comment: "No cycle, type imports included.",
      severity: "error",
      from: {},
      to: { circular: true },
    },
    {
      name: "no-way-back",
      comment: "What ships imports neither tools nor tests.",
      severity: "error",
      from: { path: "^src/" },
      to: { path: "^(tools|test|demo|scripts|peers)/" },
    },
    {
      name: "no-inside-of-an-engine",
      comment:
        "An engine's folder is entered by engine.ts, by index.ts, its chunk, or by the graph that `export` writes.",
      severity: "error",
      from: { path: "^(src|tools)/(?!bench/)", pathNot: "^src/engines/[^/]+/" },
      to: {
        path: "^src/engines/[^/]+/",
        pathNot: ["^src/engines/[^/]+/(engine|index|graph)\\.ts$", SRC_EXCEPTIONS.image],
      },
    },
    {
      name: "no-other-engine",
      comment: "An engine does not import another one's folder.",
      severity: "error",
      from: { path: "^src/engines/([^/]+)/" },
      to: { path: "^src/engines/[^/]+/", pathNot: "^src/engines/$1/" },
    },
    {
      name: "tools-see-no-page-and-no-worker",
      comment: "Tools use format, reference, tfjs, image and the engines' front doors.",
      severity: "error",
      from: { path: "^tools/", pathNot: "^tools/bench/kernelsPage\\.ts$" },
      to: { path: "^src/(page|worker|loading)/" },
    },
    ...srcRules,
    ...toolsRules,
    {
      name: "not-resolved",
      severity: "error",
      from: { path: "^src/" },
      to: { couldNotResolve: true, pathNot: "/(engine-[a-z]+|teach)\\.js$" },
    },
  ],
  options: {
    tsConfig: { fileName: "tsconfig.json" },
    tsPreCompilationDeps: true, // type imports count
    doNotFollow: { path: "node_modules" },
    exclude: { path: "node_modules|^tools/dist|^src/engines/simd/assembly" },
    enhancedResolveOptions: { exportsFields: ["exports"], conditionNames: ["import", "default", "types"] },
  },
};
