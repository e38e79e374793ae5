// The state of the page stands in its address, after #: a section's name, and key=value for what was chosen.

const address = {
  /** What the address says: {section, key: value}. */
  read() {
    const state = {};
    for (const token of location.hash.slice(1).split("&").filter(Boolean)) {
      const [key, ...value] = token.split("=");
      if (value.length) state[key] = decoded(value.join("="));
      else state.section = decoded(key);
    }
    return state;
  },

  /** The address of the state with some of it changed (empty: taken out). */
  of(changes) {
    const { section, ...state } = { ...this.read(), ...changes };
    const chosen = Object.entries(state).filter(([, value]) => value !== undefined && value !== "");
    const tokens = chosen.map(([key, value]) => `${key}=${encodeURIComponent(value)}`);
    return `#${[...(section ? [encodeURIComponent(section)] : []), ...tokens].join("&")}`;
  },

  /** Go there: a new entry of the history. */
  go(changes) {
    if (this.of(changes) !== (location.hash || "#")) location.hash = this.of(changes);
  },
};

/** A part of the address as it was before it was encoded; as it is, where somebody wrote it by hand. */
function decoded(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}
