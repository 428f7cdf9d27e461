/** The worker's files beside index.js, made by the build. Each exports its own address. */
declare module "*/engine-family.js" {
  export const url: string | undefined;
}
declare module "*/engine-onnx.js" {
  export const url: string | undefined;
}
declare module "*/engine-reference.js" {
  export const url: string | undefined;
}
declare module "*/engine-tfjs.js" {
  export const url: string | undefined;
}
declare module "*/engine-webgpu.js" {
  export const url: string | undefined;
}
declare module "*/engine-webnn.js" {
  export const url: string | undefined;
}
declare module "*/teach.js" {
  export const url: string | undefined;
}
