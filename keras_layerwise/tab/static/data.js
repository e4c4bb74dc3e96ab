// Requests to the server side, and what was already answered.

const REMEMBERED = 128;
const matrices = new Map();
const records = new Map();

async function asked(route, parameters = {}) {
  const url = new URL(route, import.meta.url);
  for (const [key, value] of Object.entries(parameters)) url.searchParams.set(key, value);
  const response = await fetch(url);
  if (!response.ok) throw new Error((await response.text()) || response.statusText);
  return response;
}

export async function fetchRuns() {
  return (await (await asked("runs")).json()).runs;
}

function unpacked(buffer) {
  const size = new DataView(buffer).getUint32(0, true);
  const header = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 4, size)));
  const width = header.first.length;
  const values = new Float32Array(buffer, 4 + size);
  const place = new Map(header.rows.map((name, i) => [name, i]));
  const row = (name) => {
    const i = place.get(name);
    return i === undefined ? null : values.subarray(i * width, (i + 1) * width);
  };
  return { ...header, row };
}

// A quick matrix is asked for first; `exact` says whether it is the whole truth already.
export async function fetchMatrix(run, topic, columns, quick) {
  const key = JSON.stringify([run.name, topic, columns]);
  const stamp = JSON.stringify(run.stamps[topic]);
  const known = matrices.get(key);
  if (known?.stamp === stamp) return known.matrix;
  const response = await asked("matrix", { run: run.name, topic, columns, quick: quick ? 1 : 0 });
  const matrix = unpacked(await response.arrayBuffer());
  if (matrix.exact) {
    matrices.delete(key);
    matrices.set(key, { stamp, matrix });
    if (matrices.size > REMEMBERED) matrices.delete(matrices.keys().next().value);
  }
  return matrix;
}

export async function fetchRecord(run) {
  const stamp = JSON.stringify(run.stamps.record);
  if (!run.stamps.record) return null;
  const known = records.get(run.name);
  if (known?.stamp === stamp) return known.record;
  const { record } = await (await asked("record", { run: run.name })).json();
  records.set(run.name, { stamp, record });
  return record;
}

export function csvUrl(runs, topic) {
  const url = new URL("csv", import.meta.url);
  url.searchParams.set("topic", topic);
  for (const run of runs) url.searchParams.append("run", run.name);
  return url.href;
}
