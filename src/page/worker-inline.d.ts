/** Written by rollup: the source of worker.js as a string. */
declare const source: string;
export default source;
