// How long a search takes: node examples/search/bench.js [pictures]
import { VectorIndex } from "./vectors.js";

const count = Number(process.argv[2] ?? 10_000);
for (const dim of [192, 384, 768]) {
  const random = () => Float32Array.from({ length: dim }, () => Math.random() - 0.5);
  const index = new VectorIndex(dim);
  for (let i = 0; i < count; i++) index.add(String(i), random());
  const times = [];
  for (let run = 0; run < 50; run++) {
    const query = random();
    const start = performance.now();
    index.search(query, 20);
    times.push(performance.now() - start);
  }
  times.sort((a, b) => a - b);
  console.log(`${count} pictures, ${dim} features: median ${times[25].toFixed(1)} ms, p90 ${times[45].toFixed(1)} ms`);
}
