// Which of the values that differ a user set, and which only follow from them.

const RANKS = [
  /^user\//,
  /^training\/(learning_rate|batch_size|epochs|loss)$/,
  /^training\/optimizer\//,
  /^training\/(?!assignments\/)/,
  /^regularization\/[^/]+$/,
  /^architecture\/[^/]+$/,
];

const rank = (key) => {
  const found = RANKS.findIndex((pattern) => pattern.test(key));
  return found < 0 ? RANKS.length : found;
};

// A value of a single layer or of the machine: a consequence, or none of the user's doing.
export const isCause = (key) => rank(key) < RANKS.length;

export const causesFirst = (keys) => [...keys].sort((a, b) => rank(a) - rank(b));

// Values arrive as JSON texts, so that 1 and 1.0 stay different; strings are shown as they are.
export function shown(text, otherwise = "—") {
  if (text === undefined || text === null) return otherwise;
  if (!text.startsWith('"') || text === '""') return text;
  return JSON.parse(text);
}
