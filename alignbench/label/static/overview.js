"use strict";
// The overview of all raters: numbers only, read again every few seconds.

const share = (one) => {
  if (!one) return "n/a";
  const digits = (value) => `${Math.round(100 * value)}%`;
  return digits(one.value) + (one.ci95 ? ` (${digits(one.ci95[0])} to ${digits(one.ci95[1])})` : "");
};

const row = (name, one, below) => {
  const line = document.createElement("tr");
  const cells = [
    below ? `${name} (left out: ${below})` : name, `${one.done ?? 0} of ${one.total ?? 0}`,
    share(one.agreement), share(one.consistency), share(one.checks), share(one.first),
  ];
  cells.forEach((text, place) => {
    const cell = document.createElement(place ? "td" : "th");
    if (!place) cell.scope = "row";
    cell.textContent = text;
    line.append(cell);
  });
  return line;
};

const refresh = async () => {
  try {
    const answer = await fetch("numbers", { cache: "no-store" });
    const found = await answer.json();
    const alpha = found.alpha === null ? "n/a" : found.alpha.toFixed(2);
    document.getElementById("together").textContent =
      `${found.items} items ranked. Two raters agree on ${share(found.agreement)} of pairs; Krippendorff's alpha ${alpha}.`;
    document.getElementById("raters").replaceChildren(
      ...Object.entries(found.raters).map(([name, one]) => row(name, one, found.left_out[name])));
  } catch {
    document.getElementById("together").textContent = "The server does not answer.";
  }
};

refresh();
setInterval(refresh, 5000);
