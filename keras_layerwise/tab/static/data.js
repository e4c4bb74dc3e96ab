// Requests to the server side, and what was already answered.

const REMEMBERED = 96 * 2 ** 20; // bytes
const AT_ONCE = 25; // runs in one request: the first answers while the next is read
const LONGEST = 6000; // characters of an address

const matrices = new Map();
let remembered = 0;
const answers = new Map();

// Not by the address's own list of parameters: that writes the whole address again for each.
function addressOf(route, parameters) {
  const query = Object.entries(parameters).flatMap(([key, value]) => [value].flat().map((one) => `${key}=${encodeURIComponent(one)}`));
  return new URL(query.length ? `${route}?${query.join("&")}` : route, import.meta.url).href;
}

async function asked(route, parameters = {}) {
  const response = await fetch(addressOf(route, parameters));
  if (!response.ok) throw new Error((await response.text()) || response.statusText);
  return response;
}

// Whether the server is there.
export async function beat() {
  const response = await fetch(new URL("page.html", import.meta.url), { method: "HEAD", cache: "no-store" });
  if (!response.ok) throw new Error(response.statusText);
}

let listed = null; // the last listing as it came

// The runs, or null where nothing is new. Runs of a sweep share their rows. listing: an answer
// that was asked for before.
export async function fetchRuns(listing = null) {
  const response = listing ? await listing : await asked("runs");
  if (!response.ok) throw new Error(response.statusText);
  const text = await response.text();
  if (text === listed) return null;
  const { runs, rows } = JSON.parse(text);
  listed = text;
  return runs.map((run) => ({ ...run, rows: rows[run.rows] }));
}

function unpacked(buffer, start) {
  const size = new DataView(buffer).getUint32(start, true);
  const header = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, start + 4, size)));
  if (header.error !== undefined) return header;
  const width = header.first.length;
  const values = new Float32Array(buffer, start + 4 + size, width * header.rows.length);
  const place = new Map(header.rows.map((name, i) => [name, i]));
  const row = (name) => {
    const i = place.get(name);
    return i === undefined ? null : values.subarray(i * width, (i + 1) * width);
  };
  return { ...header, row, bytes: values.byteLength + 60 * header.rows.length };
}

function packets(buffer) {
  const found = [];
  for (let start = 0; start < buffer.byteLength; ) {
    found.push(unpacked(buffer, start + 4));
    start += 4 + new DataView(buffer).getUint32(start, true);
  }
  return found;
}

function remember(key, stamp, matrix) {
  remembered += matrix.bytes - (matrices.get(key)?.matrix.bytes ?? 0);
  matrices.delete(key);
  matrices.set(key, { stamp, matrix });
  for (const [oldest, { matrix: old }] of matrices) {
    if (remembered <= REMEMBERED) break;
    matrices.delete(oldest);
    remembered -= old.bytes;
  }
}

function chunks(runs) {
  const found = [];
  let length = Infinity;
  for (const run of runs) {
    const own = encodeURIComponent(run.name).length + 5;
    if (length + own > LONGEST || found.at(-1).length >= AT_ONCE) {
      found.push([]);
      length = 0;
    }
    found.at(-1).push(run);
    length += own;
  }
  return found;
}

// [{run, matrix}] or [{run, error}]. A quick one is asked for first; `exact` says whether it is
// the whole truth already. span: the first and last step that are wanted, all where it is null.
export async function fetchMatrices(runs, topic, columns, quick, span = null) {
  const keyOf = (run) => JSON.stringify([run.name, topic, columns, span]);
  const steps = span ? { first: span[0], last: span[1] } : {};
  const found = new Map();
  const missing = [];
  for (const run of runs) {
    const stamp = JSON.stringify(run.stamps[topic]);
    const known = [keyOf(run), ...(quick ? [`quick ${keyOf(run)}`] : [])].map((key) => matrices.get(key)).find((one) => one?.stamp === stamp);
    if (known) found.set(run, { run, matrix: known.matrix });
    else missing.push(run);
  }
  await Promise.all(
    chunks(missing).map(async (some) => {
      try {
        const parameters = { topic, columns, quick: quick ? 1 : 0, ...steps, run: some.map((run) => run.name) };
        const buffer = await (await asked("matrices", parameters)).arrayBuffer();
        packets(buffer).forEach((matrix, i) => {
          const run = some[i];
          if (matrix.error !== undefined) return found.set(run, { run, error: matrix.error });
          remember(matrix.exact ? keyOf(run) : `quick ${keyOf(run)}`, JSON.stringify(run.stamps[topic]), matrix);
          return found.set(run, { run, matrix });
        });
      } catch (error) {
        for (const run of some) found.set(run, { run, error: error.message });
      }
    })
  );
  return runs.map((run) => found.get(run));
}

// An answer in JSON is remembered for as long as the series of its runs are the same.
async function once(route, parameters, runs) {
  const key = JSON.stringify([route, parameters, runs.map((run) => run.name)]);
  const stamp = JSON.stringify(runs.map((run) => run.stamps));
  if (answers.get(key)?.stamp !== stamp) {
    if (answers.size > 64) answers.delete(answers.keys().next().value);
    const answer = asked(route, { ...parameters, run: runs.map((run) => run.name) }).then((response) => response.json());
    answers.set(key, { stamp, answer });
    answer.catch(() => answers.delete(key));
  }
  return answers.get(key).answer;
}

export const fetchRecord = async (run) => (run.stamps.record ? (await once("record", {}, [run])).record : null);
export const fetchRecords = (runs) => once("records", {}, runs.filter((run) => run.stamps.record));
export const fetchMetrics = async (runs) => (await once("metrics", {}, runs)).metrics;
export const fetchMetric = async (runs, name) => (await once("metric", { name }, runs)).curves;

// Every record, streamed; of some layers only where they are given.
export const csvUrl = (runs, topic, layers = []) => addressOf("csv", { topic, run: runs.map((run) => run.name), layer: layers });
