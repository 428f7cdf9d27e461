/**
 * The guided search for small models. It goes from the dense model one step at a time. The frontier has every model that
 * no other of its picture size beats in both cost and divergence, and each neighbour of the frontier is tried, on few
 * pictures first, where most candidates end. Accuracy on val is measured for few points. It chooses among them, also
 * between picture sizes: at another size a network is less confident in the same classes, which divergence counts and
 * accuracy does not.
 */
import { type Axis, DENSE, neighbours, type Point, type Space, smallestFirst } from "./space.ts";

/** How far a candidate is from the dense model on pictures that no choice of cuts has seen. */
export interface Closeness {
  /** nats, mean over the pictures */
  divergence: number;
  /** share of the pictures with another best class */
  disagreement: number;
}

/** The measurements of a point. The methods cost nothing, a second, or some seconds; results are kept. */
export interface Measurer {
  /** The cost that the target limits; undefined for a point that cannot be built. */
  cost(point: Point): Promise<number | undefined>;
  /** @param stage 0 on few pictures, 1 on more */
  closeness(point: Point, stage: 0 | 1): Promise<Closeness>;
  /** Share of the val pictures lost against the dense model, in points; negative where some are won. */
  loss(point: Point): Promise<number>;
}

export interface Candidate {
  point: Point;
  cost: number;
  divergence: number;
  disagreement: number;
}

/** A candidate whose loss on val was measured. */
export interface Measured extends Candidate {
  loss: number;
}

/**
 * After the look at few pictures, a candidate goes on when it diverges at most this many times as much as the best one
 * of its cost.
 */
const PROMISING = 2.2;
/** Two points whose neighbours are both looked at differ in cost by at least this factor. */
const STRIDE = 0.93;
/** A step that saves less than this share is skipped. */
const LEAST_SAVING = 0.003;

export interface Limits {
  /** nothing cheaper is looked at */
  leastCost: number;
  /** the frontier goes on until it has a point of this cost, whatever its divergence */
  reach?: number;
  /** from points with a larger share of other best classes the search does not go on */
  mostDisagreement: number;
  /** axes along which the cost falls */
  axes: readonly Axis[];
}

/**
 * @param onLook called after each look at a candidate
 * @returns the frontier: the dense model, then every point that no other of its picture size beats in both cost and divergence
 */
export async function exploreFrontier(
  space: Space,
  measurer: Measurer,
  limits: Limits,
  onLook: (looked: number, frontier: Candidate[]) => void = () => {},
): Promise<Candidate[]> {
  const seen = new Set<string>();
  const dense = { point: DENSE, cost: (await measurer.cost(DENSE))!, ...(await measurer.closeness(DENSE, 1)) };
  let frontier: Candidate[] = [dense];
  seen.add(nameOf(DENSE));
  let [looked, from]: [number, Candidate | undefined] = [0, dense];
  const expanded = new Set<string>();
  while (from) {
    expanded.add(nameOf(from.point));
    for (const point of neighbours(space, from.point)) {
      if (seen.has(nameOf(point)) || !limits.axes.some((axis) => point[axis] > from!.point[axis])) continue;
      seen.add(nameOf(point));
      const cost = await measurer.cost(point);
      if (cost === undefined || cost > from.cost * (1 - LEAST_SAVING) || cost < limits.leastCost) continue;
      const look = await measurer.closeness(point, 0);
      onLook(++looked, frontier);
      if (look.divergence > PROMISING * divergenceAt(frontier, point, cost)) continue;
      frontier = withCandidate(frontier, { point, cost, ...(await measurer.closeness(point, 1)) });
    }
    from = nextFrom(frontier, expanded, limits);
  }
  const { reach } = limits;
  if (reach !== undefined && frontier.at(-1)!.cost > reach) {
    for (const point of smallestFirst(space, limits.axes)) {
      const cost = await measurer.cost(point);
      if (cost === undefined) continue;
      frontier = withCandidate(frontier, { point, cost, ...(await measurer.closeness(point, 1)) });
      break;
    }
  }
  return frontier;
}

const nameOf = (point: Point) => JSON.stringify(point);

/**
 * The most expensive point of the frontier that is not close to one whose neighbours were looked at; at last the
 * cheapest one.
 */
function nextFrom(frontier: Candidate[], expanded: Set<string>, limits: Limits): Candidate | undefined {
  const before = frontier.filter(({ point }) => expanded.has(nameOf(point)));
  const isClose = (a: Candidate, b: Candidate) =>
    isSameSize(a.point, b.point) && Math.min(a.cost, b.cost) > STRIDE * Math.max(a.cost, b.cost);
  const next = frontier.find(
    (one) =>
      !expanded.has(nameOf(one.point)) &&
      one.disagreement <= limits.mostDisagreement &&
      !before.some((other) => isClose(one, other)),
  );
  const last = frontier.at(-1)!;
  const isShort = limits.reach !== undefined && last.cost > limits.reach && !expanded.has(nameOf(last.point));
  return next ?? (isShort ? last : undefined);
}

const isSameSize = (a: Point, b: Point): boolean => a.size === b.size;

/**
 * The least divergence that is known at this picture size and at this cost or below; infinite where no point that cheap
 * is known.
 */
function divergenceAt(frontier: Candidate[], point: Point, cost: number): number {
  const others = frontier.filter((one) => isSameSize(one.point, point) && one.cost <= cost);
  return others.reduce((least, one) => Math.min(least, one.divergence), Infinity);
}

/** Sorted from the most expensive to the cheapest. The dense model stays, because it meets every target of accuracy. */
function withCandidate(frontier: Candidate[], one: Candidate): Candidate[] {
  const beats = (a: Candidate, b: Candidate) =>
    isSameSize(a.point, b.point) && a.cost <= b.cost && a.divergence <= b.divergence;
  if (frontier.some((other) => beats(other, one))) return frontier;
  const stays = (other: Candidate) => other.point === DENSE || !beats(one, other);
  return [...frontier.filter(stays), one].sort((a, b) => b.cost - a.cost);
}

/**
 * For each picture size, the number of points that are measured on either side of the border between meeting and
 * missing the target.
 */
const BESIDE = 2;
/** Share of the pictures with another best class that are lost: some were wrong before, and others become right. */
const LOST_OF_CHANGED = 0.4;

export interface Choice {
  chosen: Measured;
  /** the points that were measured on val, the most expensive first */
  measured: Measured[];
}

/**
 * The cheapest point of the frontier that loses at most `most` points on val. A single lucky result does not count: a point
 * must also meet the target when losses are smoothed, so that a cheaper model of the same picture size never looks
 * better than a more expensive one.
 *
 * @returns nothing where no point keeps the target
 */
export async function cheapestWithin(
  frontier: Candidate[],
  measurer: Measurer,
  most: number,
): Promise<Choice | undefined> {
  const all: Measured[] = [];
  let cheapest: Measured | undefined;
  for (const group of likeliestFirst(bySize(frontier), most)) {
    const { chosen, measured } = await cheapestOfSize(group, measurer, most, cheapest?.cost);
    all.push(...measured);
    if (chosen && chosen.cost < (cheapest?.cost ?? Infinity)) cheapest = chosen;
  }
  return cheapest && { chosen: cheapest, measured: all.sort((a, b) => b.cost - a.cost) };
}

/** The parts of the frontier with one picture size each, the largest first. */
function bySize(frontier: Candidate[]): Candidate[][] {
  const sizes = [...new Set(frontier.map(({ point }) => point.size))].sort((a, b) => a - b);
  return sizes.map((size) => frontier.filter(({ point }) => point.size === size));
}

/** The sooner the cheapest point is found, the fewer of the other sizes are measured. */
function likeliestFirst(groups: Candidate[][], most: number): Candidate[][] {
  const expectedCost = (group: Candidate[]) => group[expectedBorder(group, most)]?.cost ?? Infinity;
  return groups.toSorted((a, b) => expectedCost(a) - expectedCost(b));
}

/** The last point that should meet the target, by its closeness; −1 where none should. */
const expectedBorder = (group: Candidate[], most: number): number =>
  group.findLastIndex(({ disagreement }) => 100 * LOST_OF_CHANGED * disagreement <= most);

/**
 * @param frontier of one picture size, the most expensive first
 * @param below cost of a point that meets the target at another size: only cheaper points are useful, and the next more
 * expensive ones to compare with
 */
async function cheapestOfSize(
  frontier: Candidate[],
  measurer: Measurer,
  most: number,
  below = Infinity,
): Promise<{ chosen: Measured | undefined; measured: Measured[] }> {
  const useful = frontier.findIndex(({ cost }) => cost < below);
  if (useful < 0) return { chosen: undefined, measured: [] };
  const losses = new Map<number, number>();
  const lossAt = async (k: number) => {
    if (!losses.has(k)) losses.set(k, await measurer.loss(frontier[k].point));
    return losses.get(k)!;
  };
  const meets = async (k: number) => (await lossAt(k)) <= most;
  // Cheaper points lose more, so where the first useful one misses, the others are left out.
  if (await meets(useful)) {
    let [low, high] = [useful, frontier.length];
    let probe = expectedBorder(frontier, most);
    while (high - low > 1) {
      const next = Math.min(high - 1, Math.max(low + 1, probe));
      if (await meets(next)) low = next;
      else high = next;
      if (high === frontier.length) probe = low + BESIDE;
      else probe = low === useful ? high - BESIDE : (low + high) >> 1;
    }
    const last = Math.min(frontier.length - 1, low + BESIDE);
    for (let k = Math.max(0, low - BESIDE); k <= last; k++) await lossAt(k);
  }
  const known = [...losses.keys()].sort((a, b) => a - b);
  const measured = known.map((k): Measured => ({ ...frontier[k], loss: losses.get(k)! }));
  const smooth = nonDecreasing(measured.map(({ loss }) => loss));
  return { chosen: measured.filter(({ loss }, k) => loss <= most && smooth[k] <= most).at(-1), measured };
}

/**
 * The most accurate on val of the points that cost at most `most`: of each picture size, the most expensive ones are
 * measured, where they do not change the best class of far more pictures than those of another size.
 */
export async function mostAccurateUnder(frontier: Candidate[], measurer: Measurer, most: number): Promise<Choice> {
  const groups = bySize(frontier)
    .map((group) => ({ group, first: group.findIndex(({ cost }) => cost <= most) }))
    .filter(({ first }) => first >= 0);
  const changed = ({ group, first }: (typeof groups)[number]) => group[first].disagreement;
  const least = Math.min(...groups.map(changed));
  const measured: Measured[] = [];
  for (const size of groups) {
    if (changed(size) > FAR_MORE * least + DRAWN) continue;
    for (const one of size.group.slice(Math.max(0, size.first - 1), size.first + BESIDE))
      measured.push({ ...one, loss: await measurer.loss(one.point) });
  }
  measured.sort((a, b) => b.cost - a.cost);
  const under = measured.filter(({ cost }) => cost <= most);
  // Where two lose the same, the one that diverges less is better.
  const isBetter = (a: Measured, b: Measured) => a.loss < b.loss || (a.loss === b.loss && a.divergence < b.divergence);
  return { chosen: under.reduce((best, one) => (isBetter(one, best) ? one : best)), measured };
}

/** A size is left out where the share of changed pictures is so many times as large as at the best size, … */
const FAR_MORE = 1.5;
/** … and by so much larger: 160 pictures do not tell less apart. */
const DRAWN = 0.03;

/** The closest non-decreasing values by least squares: neighbours that fall are averaged (pool adjacent violators). */
export function nonDecreasing(values: number[]): number[] {
  const pools: { sum: number; count: number }[] = [];
  for (const value of values) {
    pools.push({ sum: value, count: 1 });
    while (pools.length > 1 && meanOf(pools.at(-2)!) > meanOf(pools.at(-1)!)) {
      const last = pools.pop()!;
      pools.at(-1)!.sum += last.sum;
      pools.at(-1)!.count += last.count;
    }
  }
  return pools.flatMap((pool) => Array(pool.count).fill(meanOf(pool)));
}

const meanOf = ({ sum, count }: { sum: number; count: number }) => sum / count;
