ML.prototype.createContext = async () => {
  throw new Error("not today");
};
