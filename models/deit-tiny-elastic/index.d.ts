/** For `SlimViT.load`. */
declare const model: { name: string; files: Readonly<Record<string, string>> };
export default model;
