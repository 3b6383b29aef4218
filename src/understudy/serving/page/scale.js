// Axes with round values, as many as there is room for.

export function around(values, length, margin = 0.08) {
  const low = Math.min(...values), high = Math.max(...values);
  const room = margin * (high - low) || Math.max(Math.abs(high), 1) * margin;
  return axis(low - room, high + room, length);
}

// Logarithmic where costs span a factor of 20, else from zero.
export function ofCosts(values, length) {
  const low = Math.min(...values), high = Math.max(...values);
  if (low > 0 && high / low >= 20) {
    const room = (high / low) ** 0.06;
    return axis(low / room, high * room, length, Math.log10);
  }
  return axis(Math.min(0, low), 1.08 * high || 1, length);
}

export function axis(low, high, length, flat = value => value) {
  const pixel = value => length * (flat(value) - flat(low)) / (flat(high) - flat(low));
  return { low, high, length, log: flat === Math.log10, pixel };
}

// Round values that lie at least `room` pixels apart.
export function ticks(scale, room) {
  let found = [];
  for (found of scale.log ? decades(scale) : steps(scale)) {
    const places = found.map(scale.pixel);
    if (places.every((place, index) => !index || place - places[index - 1] >= room)) break;
  }
  return found;
}

function* steps({ low, high }) {
  const first = Math.floor(Math.log10(high - low)) - 2;
  for (let power = first; power < first + 4; power += 1) {
    for (const size of [1, 2, 5]) {
      const step = size * 10 ** power, from = Math.ceil(low / step), to = Math.floor(high / step);
      yield Array.from({ length: Math.max(0, to - from + 1) }, (_, at) => Number(((from + at) * step).toPrecision(12)));
    }
  }
}

function* decades({ low, high }) {
  const first = Math.floor(Math.log10(low)), last = Math.ceil(Math.log10(high));
  for (const [sizes, every] of [[[1, 2, 5], 1], [[1], 1], [[1], 2], [[1], 4]]) {
    const found = [];
    for (let decade = first; decade <= last; decade += every) found.push(...sizes.map(size => Number(`${size}e${decade}`)));
    yield found.filter(value => low <= value && value <= high);
  }
}
