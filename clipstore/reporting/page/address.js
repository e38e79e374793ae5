// The state of the page is encoded in its address, after #: the name of a section, and key=value for each choice.

const address = {
  /** The state in the address: {section, key: value}. */
  read() {
    const state = {};
    for (const token of location.hash.slice(1).split("&").filter(Boolean)) {
      const [key, ...value] = token.split("=");
      if (value.length) state[key] = decoded(value.join("="));
      else state.section = decoded(key);
    }
    return state;
  },

  /** The address of the state with changes (an empty value removes the key). */
  of(changes) {
    const { section, ...state } = { ...this.read(), ...changes };
    const entries = Object.entries(state).filter(([, value]) => value !== undefined && value !== "");
    const tokens = entries.map(([key, value]) => `${key}=${encodeURIComponent(value)}`);
    return `#${[...(section ? [encodeURIComponent(section)] : []), ...tokens].join("&")}`;
  },

  /** Go to the state with changes: a new entry of the history. */
  go(changes) {
    if (this.of(changes) !== (location.hash || "#")) location.hash = this.of(changes);
  },
};

/** A decoded part of the address; unchanged if it is not encoded correctly. */
function decoded(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}
