// Holds the documentation against the project: code blocks, commands, links and paths.
//   npm run build && tsx scripts/check-docs.ts
// JavaScript blocks are type-checked against dist/index.d.ts, YAML and JSON blocks are parsed, every command and option
// of a shell block exists, every relative link and every path in backticks leads to a file. Prints each fault with its
// page and line; exits 1 when there is one.
import { spawnSync } from "node:child_process";
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { dirname, join } from "node:path";
import ts from "typescript";
import { parse as parseYaml } from "yaml";
import { ROOT } from "./section.ts";

interface Block {
  page: string;
  /** of the fence, from 1 */
  line: number;
  language: string;
  code: string;
}

/** Names that a reader of a page has at hand. A block that declares one of them itself uses its own. */
const AT_HAND: Record<string, string> = {
  SlimViT: 'import { SlimViT } from "slimvit";',
  vit: 'declare const vit: import("slimvit").SlimViT;',
  image: "declare const image: HTMLImageElement;",
  signal: "declare const signal: AbortSignal;",
  videoElement: "declare const videoElement: HTMLVideoElement;",
  label: "declare const label: HTMLElement;",
};

function main(): void {
  const pages = ["README.md", "CONTRIBUTING.md", "SECURITY.md", "examples/README.md", ...pagesIn("docs")];
  const blocks = pages.flatMap(blocksOf);
  const faults = [
    ...typeFaults(blocks.filter(({ language }) => language === "js" || language === "ts")),
    ...blocks.flatMap(dataFaults),
    ...commandFaults(blocks.filter(({ language }) => language === "sh")),
    ...pages.flatMap(linkFaults),
    ...pages.flatMap(scriptFaults),
  ];
  for (const fault of faults) console.error(`docs: ${fault}`);
  if (faults.length) process.exit(1);
  console.log(`docs: ${blocks.length} code blocks of ${pages.length} pages hold`);
}

const pagesIn = (folder: string) =>
  readdirSync(join(ROOT, folder), { recursive: true, encoding: "utf8" })
    .filter((name) => name.endsWith(".md"))
    .map((name) => `${folder}/${name}`);

const textOf = (page: string) => readFileSync(join(ROOT, page), "utf8");

function blocksOf(page: string): Block[] {
  const blocks: Block[] = [];
  let open: Block | undefined;
  textOf(page)
    .split("\n")
    .forEach((text, k) => {
      const fence = text.match(/^```(\w*)/);
      if (fence && open) {
        blocks.push(open);
        open = undefined;
      } else if (fence) open = { page, line: k + 1, language: fence[1], code: "" };
      else if (open) open.code += `${text}\n`;
    });
  return blocks;
}

/** Each block is a module of its own, checked as TypeScript checks JavaScript that names no types. */
function typeFaults(blocks: Block[]): string[] {
  const modules = new Map(
    blocks.map((block, k) => {
      const missing = Object.entries(AT_HAND).filter(([name]) => !declares(block.code, name));
      const prelude = missing.map(([, declaration]) => declaration).join(" ");
      return [join(ROOT, `docs-block-${k}.ts`), { block, text: `${prelude}\n${block.code}export {};\n` }] as const;
    }),
  );
  const options: ts.CompilerOptions = {
    target: ts.ScriptTarget.ES2022,
    module: ts.ModuleKind.ESNext,
    moduleResolution: ts.ModuleResolutionKind.Bundler,
    lib: ["lib.es2023.d.ts", "lib.dom.d.ts", "lib.dom.iterable.d.ts", "lib.dom.asynciterable.d.ts"],
    types: ["node"],
    paths: { slimvit: [join(ROOT, "dist/index.d.ts")], "slimvit-*": [join(ROOT, "models/*/index.d.ts")] },
    esModuleInterop: true,
    skipLibCheck: true,
    noEmit: true,
  };
  const host = ts.createCompilerHost(options);
  const { readFile, fileExists } = host;
  host.readFile = (name) => modules.get(name)?.text ?? readFile(name);
  host.fileExists = (name) => modules.has(name) || fileExists(name);
  const getSourceFile = host.getSourceFile.bind(host);
  host.getSourceFile = (name, version, ...rest) => {
    const module = modules.get(name);
    return module ? ts.createSourceFile(name, module.text, version) : getSourceFile(name, version, ...rest);
  };
  const program = ts.createProgram([...modules.keys()], options, host);
  return ts.getPreEmitDiagnostics(program).map(({ file, start, messageText }) => {
    const message = ts.flattenDiagnosticMessageText(messageText, " ");
    const module = file && modules.get(file.fileName);
    if (!module) return message;
    const { line } = file.getLineAndCharacterOfPosition(start!); // line 0 is the prelude, line 1 the one after the fence
    return `${module.block.page}:${module.block.line + line}: ${message}`;
  });
}

const declares = (code: string, name: string) =>
  new RegExp(`\\b(const|let|import)\\s+(type\\s+)?(\\{[^}]*\\b)?${name}\\b`).test(code);

function dataFaults({ page, line, language, code }: Block): string[] {
  try {
    if (language === "yaml") parseYaml(code);
    if (language === "json") JSON.parse(code);
    if (language === "jsonc") {
      const { error } = ts.parseConfigFileTextToJson(page, code);
      if (error) throw new Error(ts.flattenDiagnosticMessageText(error.messageText, " "));
    }
    return [];
  } catch (error) {
    return [`${page}:${line}: is no ${language} (${(error as Error).message}).`];
  }
}

/** Checks commands and options of `slimvit` in shell blocks against its help. */
function commandFaults(blocks: Block[]): string[] {
  const helps = new Map<string, string>();
  const help = (command: string) => {
    const known = helps.get(command);
    if (known !== undefined) return known;
    const bin = join(ROOT, "tools/bin/slimvit.mjs");
    const { stdout } = spawnSync(process.execPath, [bin, command, "--help"], { encoding: "utf8" });
    helps.set(command, stdout);
    return stdout;
  };
  return blocks.flatMap(({ page, line, code }) =>
    code
      .replaceAll("\\\n", " ")
      .split("\n")
      .flatMap((text) => {
        const [, command, args] = text.match(/^(?:npx )?slimvit ([a-z]+)\b([^#]*)/) ?? [];
        if (!command) return [];
        const listed = help(command);
        if (!listed.includes(`slimvit ${command} `)) return [`${page}:${line}: slimvit has no command "${command}".`];
        const options = args.match(/(?<=\s)--?[a-z][\w-]*/g) ?? [];
        const unknown = options.filter((option) => !new RegExp(`(^|[\\s,])${option}\\b(?!-)`, "m").test(listed));
        return unknown.map((option) => `${page}:${line}: slimvit ${command} has no option "${option}".`);
      }),
  );
}

/** The root, the page's folder and the folders in it: a page about examples names files of each of them. */
function foldersOf(page: string): string[] {
  const here = dirname(join(ROOT, page));
  const inside = readdirSync(here, { withFileTypes: true }).filter((entry) => entry.isDirectory());
  return [ROOT, here, ...inside.map(({ name }) => join(here, name))];
}

/** Checks relative links, and paths of the repository in backticks. */
function linkFaults(page: string): string[] {
  const here = dirname(join(ROOT, page));
  const folders = foldersOf(page);
  return textOf(page)
    .split("\n")
    .flatMap((text, k) => {
      const links = [...text.matchAll(/\]\((?!https?:|#|mailto:)([^)#\s]+)/g)].map(([, path]) => path);
      const paths = [
        ...text.matchAll(/`((?:src|tools|test|docs|scripts|demo|examples)\/[\w./-]+\.(?:ts|mjs|js|md|py|json|yaml))`/g),
      ].map(([, path]) => path);
      const missing = [
        ...links.filter((path) => !existsSync(join(here, path))),
        ...paths.filter((path) => !folders.some((folder) => existsSync(join(folder, path)))),
      ];
      return missing.map((path) => `${page}:${k + 1}: ${path} does not exist.`);
    });
}

/** Checks "npm run NAME" anywhere in a page, for scripts of the package or of one beside the page. */
function scriptFaults(page: string): string[] {
  const packages = foldersOf(page).map((folder) => join(folder, "package.json"));
  const scripts = Object.assign(
    {},
    ...packages.filter((file) => existsSync(file)).map((file) => JSON.parse(readFileSync(file, "utf8")).scripts),
  );
  return textOf(page)
    .split("\n")
    .flatMap((text, k) =>
      [...text.matchAll(/\bnpm run ([\w:-]+\w)/g)]
        .filter(([, name]) => !Object.hasOwn(scripts, name))
        .map(([, name]) => `${page}:${k + 1}: no package.json has a script "${name}".`),
    );
}

main();
