// Colours of exits from cheap to dear, as in the report: apart by their brightness too.

const LIGHT = [[0.25, 0.62, 0.36], [0.10, 0.50, 0.53], [0.19, 0.32, 0.58], [0.29, 0.04, 0.37]];
const DARK = [[0.82, 0.95, 0.68], [0.38, 0.80, 0.71], [0.36, 0.62, 0.90], [0.64, 0.47, 0.85]];

export function shades(names) {
  const last = Math.max(names.length - 1, 1);
  return new Map(names.map((name, number) => {
    const share = number / last;
    return [name, `light-dark(${mixed(LIGHT, share)}, ${mixed(DARK, share)})`];
  }));
}

function mixed(ramp, share) {
  const at = share * (ramp.length - 1), below = Math.min(Math.floor(at), ramp.length - 2);
  const parts = ramp[below].map((a, part) => a + (at - below) * (ramp[below + 1][part] - a));
  return `#${parts.map(part => Math.round(255 * part).toString(16).padStart(2, "0")).join("")}`;
}

// What a colour of the style sheet is now, for canvases: `light-dark()` and variables resolved.
export function resolved(colour) {
  const probe = document.createElement("i");
  probe.style.color = colour;
  document.body.append(probe);
  const found = getComputedStyle(probe).color;
  probe.remove();
  return found;
}
