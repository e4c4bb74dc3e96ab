// Text of others: what can not be seen is shown, what is long is cut where it says least.

// Control characters, and those that turn the direction of what follows.
const UNSEEN = /[\u0000-\u001f\u007f-\u009f\u00ad\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb]|[\ud800-\udbff](?![\udc00-\udfff])|(?<![\ud800-\udbff])[\udc00-\udfff]/g;

// Each such character as its code point: U+202E in the place of a turned line.
export const visible = (text) =>
  String(text).replace(UNSEEN, (found) => `⟨U+${found.charCodeAt(0).toString(16).toUpperCase().padStart(4, "0")}⟩`);

// Whether a word of a name ends before `end`: a point within a number ends none.
const endsWord = (text, end) => /[/_ =-]$|(?<!\d)\.$/.test(text.slice(Math.max(0, end - 2), end));

// The longest beginning that all texts share, up to where a word of a name ends.
export function commonPrefix(texts) {
  if (texts.length < 2) return "";
  let end = Math.min(...texts.map((text) => text.length)) - 1;
  for (const text of texts) {
    let i = 0;
    while (i < end && text[i] === texts[0][i]) i++;
    end = i;
  }
  while (end > 0 && !endsWord(texts[0], end)) end--;
  return texts[0].slice(0, end);
}

// The middle of a name says least: what it begins with is its group, what it ends with itself.
export function middleCut(text, most) {
  if (text.length <= most) return text;
  const head = Math.floor((most - 1) / 3);
  return `${text.slice(0, head)}…${text.slice(text.length - (most - 1 - head))}`;
}

// Names without the beginning that they share with the others of their group.
function cutIn(groupOf, names, most) {
  const groups = new Map();
  for (const name of names) {
    const group = groupOf(name);
    if (!groups.has(group)) groups.set(group, []);
    groups.get(group).push(name);
  }
  const prefixes = new Map([...groups].map(([group, some]) => {
    const prefix = commonPrefix(some);
    return [group, prefix.length > 3 && some.some((name) => name.length > most) ? prefix : ""];
  }));
  return names.map((name) => {
    const prefix = prefixes.get(groupOf(name));
    return middleCut(visible(prefix ? `…${name.slice(prefix.length)}` : name), most);
  });
}

// Names cut to the same length that stay different, where the names are: without what all share,
// or what those of a folder do where that tells more of them apart. The others are numbered.
export function distinct(names, most) {
  const ways = [() => "", (name) => name.slice(0, name.lastIndexOf("/") + 1)].map((groupOf) => cutIn(groupOf, names, most));
  const [all, folders] = ways.map((way) => new Set(way).size);
  const seen = new Map();
  return ways[folders > all ? 1 : 0].map((cut) => {
    const number = (seen.get(cut) ?? 0) + 1;
    seen.set(cut, number);
    return number === 1 ? cut : `${cut} (${number})`;
  });
}

// What a filter takes: a regular expression, or plain text where it is none.
export function matcher(pattern) {
  if (!pattern) return () => true;
  try {
    const expression = new RegExp(pattern, "i");
    return (text) => expression.test(text);
  } catch {
    const wanted = pattern.toLowerCase();
    return (text) => text.toLowerCase().includes(wanted);
  }
}

export function isPattern(pattern) {
  try {
    return Boolean(new RegExp(pattern));
  } catch {
    return false;
  }
}
