"use client";

import { useState } from "react";
import { useSlimViT } from "./use-slimvit.js";

/** Rendered on the server too, where importing slimvit does nothing; the model loads in the browser. */
export function Classifier() {
  const { vit, error } = useSlimViT("/models/deit-tiny-slim/");
  const [answer, setAnswer] = useState("");

  async function classify(file) {
    try {
      const { classes, latencyMs, engine } = await vit.classify(file);
      setAnswer(`${classes[0].label}, ${Math.round(latencyMs.total)} ms on ${engine}`);
    } catch (failure) {
      setAnswer(failure.message);
    }
  }

  return (
    <>
      <label>
        A picture:{" "}
        <input type="file" accept="image/*" disabled={!vit} onChange={(event) => classify(event.target.files[0])} />
      </label>
      <output>{error?.message ?? answer}</output>
    </>
  );
}
