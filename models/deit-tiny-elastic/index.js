// Where this package's files are served: bundlers look for this form, and copy them.
export default {
  name: "deit-tiny-elastic",
  files: {
    "slimvit.json": new URL("./slimvit.json", import.meta.url).href,
    "model.int8.safetensors.zz": new URL("./model.int8.safetensors.zz", import.meta.url).href,
  },
};
