"use strict";
// One prompt at a time: rank, save, next. What models wrote is set as text, never as markup.

const $ = (id) => document.getElementById(id);
const ask = document.body.dataset.ask.split(" ");
const FLAGS = document.body.dataset.flags.split("|");
const RETRY = 2000;
const DAY = 86400; // the most seconds that the journal takes for one item

let item = null; // what is on the page
let groups = []; // places of the answers, best first; those in one group are tied
let steps = []; // earlier groups and scores, for undo
let scores = [];
let flagged = false; // whether a flag was changed since the item was shown
let note = ""; // as it was when the item was shown
let tie = false;
let leaving = false; // whether B was pressed on an item with work that is not saved
let given = false; // whether an annotation that stands is open again
let paused = false;
let busy = false;
let active = 0; // seconds of work on this item so far
let since = null; // when the clock last started

const say = (text) => { $("status").textContent = text; };
const problem = (text) => { $("problem").textContent = text; $("problem").hidden = !text; };
const ordinal = (n) => `${n}${["th", "st", "nd", "rd"][n % 100 > 10 && n % 100 < 14 ? 0 : n % 10] ?? "th"}`;
const placed = () => groups.flat();
const rankOf = (place) => 1 + groups.slice(0, groups.findIndex((g) => g.includes(place))).flat().length;
const tied = (place) => groups.find((g) => g.includes(place))?.length > 1;
const unplaced = () => item.answers.map((_, place) => place).filter((place) => !placed().includes(place));
const scoring = () => ask.includes("score") && unplaced().length === 0 && scores.includes(null);
const ready = () => item !== null && unplaced().length < 2 && item.answers.length > 0 &&
  !(ask.includes("score") && scores.includes(null) && unplaced().length === 0);

const clock = () => {
  const running = item !== null && !paused && !document.hidden;
  const now = performance.now() / 1000;
  if (since !== null) active += now - since;
  since = running ? now : null;
};

const element = (tag, className, text) => {
  const made = document.createElement(tag);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
};

const words = (text) => {
  const made = element("p", "words", text);
  made.dir = "auto";
  return made;
};

const minutes = (seconds) => {
  if (seconds === null) return "";
  if (seconds < 90) return "about a minute left";
  const whole = Math.round(seconds / 60);
  return whole < 90 ? `about ${whole} minutes left` : `about ${Math.round(whole / 60)} hours left`;
};

const showProgress = (progress) => {
  $("count").textContent = `${progress.done} of ${progress.total}`;
  $("left").textContent = progress.done < progress.total ? minutes(progress.seconds) : "";
  $("bar").value = progress.total ? progress.done / progress.total : 1;
};

// After a click with the mouse, Enter is for saving and not for the same button again.
const release = (event) => { if (event.detail) event.currentTarget.blur(); };

const legend = (text, more) => {
  const made = element("legend", "", `${text} `);
  made.append(element("span", "heard", more));
  return made;
};

const card = (text, place) => {
  const number = place + 1;
  const made = element("article", "answer");
  const button = element("button", "rank");
  button.type = "button";
  const digit = element("kbd", "", String(number));
  digit.setAttribute("aria-hidden", "true");
  button.append(digit, element("span", "", `Answer ${number}`), element("span", "place", ""), element("span", "heard", ""));
  button.addEventListener("click", (event) => { put(place); release(event); });
  const text_ = words(text);
  text_.addEventListener("click", () => { if (!String(getSelection())) put(place); });
  made.append(button, text_);
  if (ask.includes("score")) {
    const set = element("fieldset", "score");
    set.append(legend("Score", `of answer ${number}`));
    for (let value = 1; value <= 7; value += 1) {
      const label = element("label");
      const input = element("input");
      Object.assign(input, { type: "radio", name: `score-${place}`, value: String(value) });
      input.addEventListener("change", () => { if (!busy) { remember(); scores[place] = value; } draw(); });
      label.append(input, String(value));
      set.append(label);
    }
    made.append(set);
  }
  if (ask.includes("flags")) {
    const set = element("fieldset", "flags");
    set.append(legend("Is", `answer ${number}`));
    for (const flag of FLAGS) {
      const label = element("label");
      const input = element("input");
      Object.assign(input, { type: "checkbox", value: flag });
      input.addEventListener("change", () => { flagged = true; });
      label.append(input, flag);
      set.append(label);
    }
    made.append(set);
  }
  return made;
};

const draw = () => {
  const last = unplaced().length === 1 && groups.length > 0;
  document.querySelectorAll(".answer").forEach((made, place) => {
    const ranked = placed().includes(place);
    made.classList.toggle("ranked", ranked);
    made.classList.toggle("current", scoring() && scores.indexOf(null) === place);
    const where = ranked ? `${tied(place) ? "tied " : ""}${ordinal(rankOf(place))}` : last ? (tie ? "tied" : "last") : "";
    made.querySelector(".place").textContent = where;
    const next = tie ? "tied with the one before" : ordinal(placed().length + 1);
    made.querySelector(".heard").textContent = ranked ? "(take it out)" : `(rank it ${next})`;
    made.querySelectorAll("input[type=radio]").forEach((input) => { input.checked = scores[place] === Number(input.value); });
  });
  $("tie").setAttribute("aria-pressed", String(tie));
  $("save").setAttribute("aria-disabled", String(!ready()));
};

const announce = () => {
  if (scoring()) say(`Score answer ${scores.indexOf(null) + 1} from 1 (worst) to 7 (best).`);
  else if (tie && unplaced().length === 1) say("Enter ties the last answer with the one before, and saves.");
  else if (ready()) say("Enter saves.");
  else if (tie) say(`Which answer is tied with answer ${groups.at(-1).map((place) => place + 1).join(" and ")}?`);
  else say(groups.length ? `Which answer is next, ${ordinal(placed().length + 1)}?` : "Which answer is best?");
};

const remember = () => steps.push(JSON.stringify([groups, scores]));
const update = () => { leaving = false; draw(); announce(); };

const touched = () => steps.length > 0 || tie || flagged || Boolean($("note") && $("note").value !== note);

const put = (place) => {
  if (!item || busy || paused || place >= item.answers.length) return;
  remember();
  if (placed().includes(place)) {
    groups = groups.map((g) => g.filter((one) => one !== place)).filter((g) => g.length);
  } else if (tie && groups.length) {
    groups.at(-1).push(place);
  } else {
    groups.push([place]);
  }
  tie = false;
  update();
};

const toggleTie = () => {
  if (!item || busy || paused || !groups.length) return;
  tie = !tie;
  update();
};

const allSame = () => {
  if (!item || busy || paused) return;
  remember();
  groups = [item.answers.map((_, place) => place)];
  tie = false;
  update();
};

const undo = () => {
  if (!item || busy || paused) return;
  if (tie) tie = false;
  else if (steps.length) [groups, scores] = JSON.parse(steps.pop());
  else return say("There is nothing to undo here. B opens the previous prompt.");
  update();
};

const score = (value) => {
  if (busy || value < 1 || value > 7) return;
  remember();
  scores[scores.indexOf(null)] = value;
  update();
};

const show = (answer) => {
  clock();
  [active, since, steps, groups, tie, leaving, flagged] = [0, null, [], [], false, false, false];
  showProgress(answer.progress);
  item = answer.item;
  given = Boolean(answer.given);
  $("work").hidden = !item;
  $("rest").hidden = Boolean(item);
  if (!item) {
    $("rest-text").textContent = answer.progress.total ? "All done. Thank you. You can close this page." : "There is nothing to rank.";
    say("");
    $("save").setAttribute("aria-disabled", "true");
    return;
  }
  scores = item.answers.map(() => null);
  $("prompt").replaceChildren(...item.prompt.map((turn) => {
    const made = element("div", "turn");
    made.append(element("span", "role", turn.role), words(turn.content));
    return made;
  }));
  $("answers").replaceChildren(...item.answers.map(card));
  if ($("note")) $("note").value = "";
  if (given) reopen(answer.given);
  note = $("note") ? $("note").value : "";
  update();
  scrollTo(0, 0);
  $("title").focus({ preventScroll: true });
  clock();
};

const reopen = (given) => {
  const ranks = [...new Set(given.ranks)].sort((a, b) => a - b);
  groups = ranks.map((rank) => given.ranks.flatMap((one, place) => (one === rank ? [place] : [])));
  if (given.scores.length) scores = given.scores;
  active = given.seconds;
  if ($("note")) $("note").value = given.note;
  document.querySelectorAll(".answer").forEach((made, place) => {
    made.querySelectorAll("input[type=checkbox]").forEach((input) => {
      input.checked = Boolean(given.flags[place]?.includes(input.value));
    });
  });
};

const get = async (path) => {
  for (;;) {
    try {
      const answer = await fetch(path, { cache: "no-store" });
      problem("");
      return answer;
    } catch {
      problem("The server does not answer. Start the same command again; this page goes on by itself if the address is the same.");
      await new Promise((done) => { setTimeout(done, RETRY); });
    }
  }
};

const next = async () => {
  const answer = await get("next");
  const found = await answer.json().catch(() => ({}));
  if (answer.ok) return show(found);
  problem(found.error ?? "This link is not known any more. Open the link that alignbench printed.");
};

const back = async () => {
  if (busy || paused) return;
  if (item && touched() && !leaving) {
    leaving = true;
    return say("This prompt is not saved. B again leaves it.");
  }
  busy = true;
  const at = item ? `?item=${encodeURIComponent(item.id)}&round=${item.round}` : "";
  const answer = await get(`before${at}`);
  const found = await answer.json().catch(() => ({}));
  busy = false;
  if (answer.ok) show(found);
  else say(found.error ?? "The previous prompt cannot be opened.");
};

const save = async () => {
  if (busy || paused || !item) return;
  if (unplaced().length === 1 && groups.length) put(unplaced()[0]);
  if (!ready() || unplaced().length) return announce();
  busy = true;
  clock();
  const annotation = {
    ticket: item.ticket,
    item: item.id,
    round: item.round,
    ranks: item.answers.map((_, place) => rankOf(place)),
    seconds: Math.min(DAY, Math.round(active * 10) / 10),
    replace: given,
  };
  if (ask.includes("score")) annotation.scores = scores;
  if (ask.includes("flags")) {
    annotation.flags = [...document.querySelectorAll(".answer")].map((made) =>
      [...made.querySelectorAll("input[type=checkbox]:checked")].map((input) => input.value));
  }
  if ($("note")) annotation.note = $("note").value;
  const body = JSON.stringify(annotation);
  for (;;) {
    try {
      const answer = await fetch("annotation", { method: "POST", headers: { "Content-Type": "application/json" }, body });
      const found = await answer.json().catch(() => ({}));
      if (answer.ok || answer.status === 409) {
        problem("");
        await next();
        busy = false;
        say(answer.ok ? `Saved. ${$("status").textContent}` : `Not saved: ${found.error}`);
        return;
      }
      busy = false;
      problem(`Not saved: ${found.error ?? "the link is not known any more; open the link that alignbench printed"}`);
      return;
    } catch {
      problem("Not saved yet: the server does not answer. Start the same command again; this page keeps trying.");
      await new Promise((done) => { setTimeout(done, RETRY); });
    }
  }
};

const pause = () => {
  if (!item && !paused) return;
  paused = !paused;
  clock();
  $("work").hidden = paused;
  $("rest").hidden = !paused;
  $("rest-text").textContent = "Paused. P goes on.";
  $("pause").setAttribute("aria-pressed", String(paused));
  say("");
  if (!paused) announce();
};

const LETTERS = { KeyU: undo, KeyB: back, KeyP: pause }; // for keyboards of other scripts
const KEYS = { "=": toggleTie, "0": allSame, u: undo, backspace: undo, b: back, p: pause, enter: save };

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey && event.key === "z") { event.preventDefault(); undo(); return; }
  if (event.ctrlKey || event.metaKey || event.altKey || event.isComposing) return;
  const field = event.target.closest("textarea, input");
  if (field && (field.type === "textarea" || event.key === " " || event.key.startsWith("Arrow"))) {
    if (event.key === "Escape") field.blur();
    return;
  }
  const pressed = event.target.closest("button, summary, a");
  if (pressed && (event.key === " " || (event.key === "Enter" && pressed.id !== "save"))) return;
  const other = event.key.length === 1 && event.key > "\u007f"; // a character of another script
  const digit = /^[1-9]$/.test(event.key) ? event.key : other ? (/^(?:Digit|Numpad)([1-9])$/.exec(event.code) ?? [])[1] : "";
  const action = KEYS[event.key.toLowerCase()] ?? (other ? LETTERS[event.code] : undefined);
  if (event.repeat && (digit || action)) { event.preventDefault(); return; }
  if (digit) {
    event.preventDefault();
    if (item && !paused && scoring()) score(Number(digit));
    else put(Number(digit) - 1);
    return;
  }
  if (action) { event.preventDefault(); action(); }
});
document.addEventListener("visibilitychange", clock);
for (const [id, action] of Object.entries({ save, tie: toggleTie, same: allSame, undo, back, pause })) {
  $(id).addEventListener("click", (event) => { action(); release(event); });
}
next();
