// Numbers as the page writes them: minus signs, prefixes, and units that stay on their line.

const MINUS = "\u2212", SPACE = "\u00a0", NONE = "–";
const PREFIXES = [[1e18, "E"], [1e15, "P"], [1e12, "T"], [1e9, "G"], [1e6, "M"], [1e3, "k"]];
const whole = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const time = new Intl.DateTimeFormat("en-GB", { timeStyle: "medium" });
const moment = new Intl.DateTimeFormat("en-CA", {
  year: "numeric", month: "2-digit", day: "2-digit",
  hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23",
});

const known = value => typeof value === "number" && Number.isFinite(value);
const signed = text => text.replace(/(^|\s)-(?=[\d.])/g, `$1${MINUS}`);

// "12.3" of 12.345: three digits, and no exponent where it can be read without.
export function figure(value, digits = 3) {
  if (!known(value)) return NONE;
  const size = Math.abs(value);
  if (size >= 1000 && size < 1e7) return signed(whole.format(value));
  if (size && (size < 1e-4 || size >= 1e7)) return signed(value.toExponential(digits - 1));
  return signed(String(Number(value.toPrecision(digits))));
}

export function count(value) {
  return known(value) ? signed(whole.format(value)) : NONE;
}

export function percent(share) {
  return known(share) ? `${signed((100 * share).toFixed(1))}${SPACE}%` : NONE;
}

export function milliseconds(seconds) {
  return known(seconds) ? `${figure(1000 * seconds)}${SPACE}ms` : NONE;
}

export const isTime = unit => unit === "ms" || unit.startsWith("ms@");

// A cost in its unit: operations with a prefix, long times in seconds, minutes, hours or days.
export function amount(value, unit) {
  if (!known(value)) return NONE;
  if (unit === "MACs") return operations(value);
  if (isTime(unit)) return Math.abs(value) < 1000 ? `${figure(value)}${SPACE}ms` : duration(value / 1000);
  return `${figure(value)}${SPACE}${unit}`;
}

export const withUnit = (value, unit) => `${amount(value, unit)}${unit === "MACs" && known(value) ? `${SPACE}MACs` : ""}`;

function operations(value) {
  const prefix = PREFIXES.find(([size]) => Math.abs(value) >= 0.9995 * size);
  return prefix ? `${figure(value / prefix[0])}${SPACE}${prefix[1]}` : figure(value);
}

export function duration(seconds) {
  if (!known(seconds)) return NONE;
  const size = Math.abs(seconds);
  for (const [length, name] of [[86400, "days"], [3600, "h"], [60, "min"]]) {
    if (size >= 2 * length) return `${figure(seconds / length)}${SPACE}${name}`;
  }
  return `${figure(seconds)}${SPACE}s`;
}

const cents = new Intl.NumberFormat("en", { minimumFractionDigits: 2, maximumFractionDigits: 2 });

export const money = value => known(value) ? signed(cents.format(value)) : NONE;

export const clock = seconds => known(seconds) ? time.format(1000 * seconds) : NONE;

export const dateTime = seconds => known(seconds) ? moment.format(1000 * seconds).replace(", ", " ") : NONE;

export const points = value => known(value) ? `${figure(value)} ${value === 1 ? "point" : "points"}` : NONE;
