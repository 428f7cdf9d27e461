// Before the package, in its worker: WebNN contexts that the page can lose. The BroadcastChannel "webnn" takes { after, times }: so many
// contexts are lost, each when it has been given `after` graphs to run; and { refuse: true }: there are no others. It
// answers { alive, made, losses }.
const plan = { after: 0, times: 0, refuse: false };
const state = { alive: 0, made: 0, losses: 0 };
const { createContext } = ML.prototype;
ML.prototype.createContext = async function (...args) {
  if (plan.refuse) throw new DOMException("no context is left", "NotSupportedError");
  const context = await createContext.apply(this, args);
  state.alive++;
  state.made++;
  context.lost.then(() => state.alive--);
  return context;
};
const { dispatch } = MLContext.prototype;
MLContext.prototype.dispatch = function (...args) {
  dispatch.apply(this, args);
  if (plan.times > 0 && --plan.after < 0) {
    plan.times--;
    state.losses++;
    this.destroy();
  }
};
const channel = new BroadcastChannel("webnn");
channel.onmessage = ({ data }) => {
  Object.assign(plan, data);
  setTimeout(() => channel.postMessage(state), 50); // A context reports its end a little later.
};
