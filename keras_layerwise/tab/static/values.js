// Values of a row of the tree: those of its layer, or of what a closed group has in it.

const further = {
  rising: (a, b) => b > a,
  falling: (a, b) => b < a,
  signed: (a, b) => Math.abs(b) > Math.abs(a),
};

// The value in each column that means the most movement among several rows.
export function telling(rows, reads) {
  const present = rows.filter(Boolean);
  if (present.length < 2) return present[0] ?? null;
  const beyond = further[reads];
  const found = Float32Array.from(present[0]);
  for (const row of present.slice(1)) {
    for (let i = 0; i < found.length; i++) {
      if (Number.isNaN(found[i]) || beyond(found[i], row[i])) found[i] = row[i];
    }
  }
  return found;
}

// A row in at most `count` columns, each the value among those it joins that means the most movement.
export function narrowed(row, count, reads) {
  if (!row || row.length <= count) return row;
  const beyond = further[reads];
  const found = new Float32Array(count).fill(NaN);
  row.forEach((value, i) => {
    const j = Math.floor((i * count) / row.length);
    if (Number.isNaN(found[j]) || beyond(found[j], value)) found[j] = value;
  });
  return found;
}

// {weights, averages} of a row of the tree in one run's matrix; null where it has none.
export function halves(matrix, row, reads) {
  const of = (half) => telling(row.members.map((leaf) => leaf[half] && matrix.row(leaf[half])), reads);
  return { weights: of("weights"), averages: of("averages") };
}

export function columnAt(matrix, step) {
  let low = 0, high = matrix.last.length - 1;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (matrix.last[middle] < step) low = middle + 1;
    else high = middle;
  }
  return Math.max(low, 0);
}

// How far a run has moved as a whole, in each column: rows add up as their squares. A row that
// was a number and is none any more leaves no total.
export function total(matrix, leaves) {
  const sums = new Float64Array(matrix.first.length);
  for (const leaf of leaves) {
    const row = leaf.weights && matrix.row(leaf.weights);
    let began = false;
    row?.forEach((value, i) => {
      if (Number.isFinite(value)) sums[i] += value * value;
      else if (began) sums[i] = NaN;
      began ||= Number.isFinite(value);
    });
  }
  return sums.map(Math.sqrt);
}

// Whether some column has several records in it.
export const joins = (matrix) => matrix.first.some((step, i) => step !== matrix.last[i]);

// A matrix of those columns only that lie between two steps.
export function between(matrix, span) {
  if (!span) return matrix;
  const from = matrix.last.findIndex((step) => step >= span[0]);
  let to = matrix.first.findLastIndex((step) => step <= span[1]) + 1;
  if (from < 0 || to <= from) return matrix;
  const cut = (list) => list.slice(from, to);
  return {
    ...matrix, began: matrix.times[0], first: cut(matrix.first), last: cut(matrix.last), times: cut(matrix.times),
    row: (name) => matrix.row(name)?.subarray(from, to) ?? null,
  };
}
